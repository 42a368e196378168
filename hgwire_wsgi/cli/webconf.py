"""What an ``hgweb.config`` says about the server itself: its address, prefix, certificate and logs.

``hg serve --web-conf`` takes these from the section ``web``.  Mercurial reads them here, too, in a process of its own:
the one that starts the workers does not import Mercurial.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from . import CommandLineError
from .options import Served

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Mounted", "WebSettings", "read_web"]

_NAMES = ("accesslog", "address", "certificate", "errorlog", "ipv6", "port", "prefix")


@attrs.frozen(kw_only=True)
class WebSettings:
    """The settings of the section ``web`` that concern the server itself.

    Attributes:
        bind: the address for ``--bind``; empty if neither address nor port is set.
        prefix: the path below which everything is served: empty, or with a slash in front and none at the end.
        certificate: the path of a file with a certificate and its key, for TLS.
        access_log, error_log: files for the logs.
    """

    bind: str = ""
    prefix: str = ""
    certificate: str | None = None
    access_log: str | None = None
    error_log: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, str]) -> WebSettings:
        """Read the settings by name.

        An address without a port gets port 8000, as in Mercurial.  A port without an address is opened on the loopback
        address only; Mercurial opens it on all addresses of the machine.
        """
        loopback = "::1" if values.get("ipv6", "").lower() in ("1", "yes", "true", "on", "always") else "127.0.0.1"
        address, port = values.get("address") or loopback, values.get("port") or "8000"
        if ":" in address:
            address = f"[{address}]"
        prefix = values.get("prefix", "").strip("/")
        return cls(
            bind=f"{address}:{port}" if values.keys() & {"address", "ipv6", "port"} else "",
            prefix=f"/{prefix}" if prefix else "",
            certificate=values.get("certificate") or None,
            access_log=values.get("accesslog") or None,
            error_log=values.get("errorlog") or None,
        )


def read_web(served: Served) -> WebSettings:
    """Read the settings of an ``hgweb.config``.

    Args:
        served: has the path of the file, and further configuration.

    Raises:
        CommandLineError: if Mercurial rejects the file.
    """
    command = [sys.executable, "-m", __name__, str(served.root), *served.config]
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode:
        raise CommandLineError(result.stderr.decode("utf-8", "replace").strip(), code=1)
    return WebSettings.of(json.loads(result.stdout))


def answer(path: str, *config: str) -> None:
    """Print the settings as JSON.

    Args:
        path: of the ``hgweb.config``.
        config: further configuration, as ``section.name=value``.

    Raises:
        SystemExit: if Mercurial rejects the file; with the reason.
    """
    from ..repositories.mercurial.hgwebconfig import web_settings

    try:
        print(json.dumps(web_settings(path, _NAMES, config=config)))
    except ValueError as error:
        sys.exit(str(error))


@attrs.frozen
class Mounted:
    """An application below a prefix (``web.prefix``); there is nothing outside.

    Args:
        app: the application.
        prefix: the prefix, with a slash in front.
    """

    app: WSGIApplication
    prefix: str

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path != self.prefix and not path.startswith(self.prefix + "/"):
            start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "10")])
            return [b"Not Found\n"]
        moved: dict[str, Any] = {
            **environ,
            "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + self.prefix,
            "PATH_INFO": path[len(self.prefix) :],
        }
        return self.app(moved, start_response)


if __name__ == "__main__":
    answer(*sys.argv[1:])
