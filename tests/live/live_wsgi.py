"""The WSGI module that every server of the live tests loads: our application, or hgweb as the reference.

What to serve comes as JSON in the environment variable ``HGWIRE_LIVE``; see ``live_servers.Site``.  Around either
application stands one small front end that gives both the same identity (Basic credentials become ``REMOTE_USER``),
the same mount point, and a page that proves which process answers.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

PASSWORD = "pw"


def reference(site: dict[str, Any]) -> Any:
    """Return hgweb, set up as its own documentation says."""
    from mercurial.hgweb import hgweb
    from mercurial.ui import ui

    base = ui.load()
    for item in site["config"]:
        name, _, value = item.partition("=")
        section, _, key = name.partition(".")
        base.setconfig(section.encode(), key.encode(), value.encode(), b"live tests")
    # By default hgweb looks for new repositories at most every 20 seconds.
    base.setconfig(b"web", b"refreshinterval", b"0", b"live tests")
    if site["post_args"]:
        base.setconfig(b"experimental", b"httppostargs", b"yes", b"live tests")
    root = site["root"]
    if isinstance(root, dict):
        return hgweb({name.encode(): os.fsencode(path) for name, path in root.items()}, baseui=base)
    if os.path.isdir(os.path.join(root, ".hg")):
        return hgweb(os.fsencode(root), baseui=base)
    return hgweb({b"/": os.fsencode(root) + b"/**"}, baseui=base)


def ours(site: dict[str, Any]) -> Any:
    """Return the application of this package."""
    from hgwire_wsgi import ServerCapabilities, WireApp
    from hgwire_wsgi.cache.settings import CacheSettings
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    provider = MercurialProvider(site["root"], config=site["config"], safe_extensions=site["safe"])
    cache = CacheSettings(**site["cache"]) if site["cache"] else None
    more: dict[str, Any] = {}
    if site["post_args"]:
        more["capabilities"] = ServerCapabilities(post_args=True)
    if site["deadlines"]:
        from hgwire_wsgi.http.deadlines import Deadlines

        more["deadlines"] = Deadlines(**site["deadlines"])
    if site["observed"]:
        more["observers"] = [writer(site["observed"])]
    return WireApp(provider, cache=cache, **more)


def writer(path: str) -> Callable[[Any], None]:
    """Return an observer that appends each event to a file, as one line of JSON."""
    import attrs

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value.hex() if isinstance(value, bytes) else value

    def write(event: Any) -> None:
        fields = {"event": type(event).__name__, **plain(attrs.asdict(event))}
        with open(path, "a") as file:
            file.write(json.dumps(fields) + "\n")

    return write


def middleware(site: dict[str, Any]) -> Any:
    """Return hgweb for its pages, behind our application for the requests of clients."""
    from hgwire_wsgi import WireMiddleware

    return WireMiddleware(reference(site), wire=ours(site))


SIDES = {"ours": ours, "hgweb": reference, "middleware": middleware}


class FrontEnd:
    """Identity, mount point and the page ``/.live``, the same for both applications."""

    def __init__(self, app: Any, site: dict[str, Any]) -> None:
        self.app = app
        self.mount = site["mount"]
        self.token = site["token"]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/.live":
            body = json.dumps({"token": self.token, "pid": os.getpid()}).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
            return [body]
        if self.mount:
            if path != self.mount and not path.startswith(self.mount + "/"):
                start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
                return []
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + self.mount
            environ["PATH_INFO"] = path[len(self.mount) :]
        # ``hg serve`` sets it, gunicorn does not.  hgweb uses it in HG_URL; ours falls back to the address.
        environ.setdefault("REMOTE_HOST", environ["REMOTE_ADDR"])
        if environ.pop("HTTP_X_LIVE_INTEGER_PORT", None):
            # Some servers reportedly pass the port as an integer, against PEP 3333.
            environ["SERVER_PORT"] = int(environ["SERVER_PORT"])
        scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "basic":
            user, _, password = base64.b64decode(credentials).decode().partition(":")
            if password == PASSWORD:
                environ["REMOTE_USER"] = user

        def challenge(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # hgweb leaves the challenge to its front end, and hg sends credentials only when challenged.
            if status.startswith("401") and not any(name.lower() == "www-authenticate" for name, _ in headers):
                headers = [*headers, ("WWW-Authenticate", 'Basic realm="live"')]
            return start_response(status, headers, *rest)

        return self.app(environ, challenge)


_site = json.loads(os.environ["HGWIRE_LIVE"])
application = FrontEnd(SIDES[_site["side"]](_site), _site)
