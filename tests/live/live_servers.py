"""Starting, finding ready, and stopping the WSGI servers of the live tests.

Rules: a port is free when it is chosen; a server is ready when the page ``/.live`` answers with the token of this
very start, so that a process of somebody else on the same port is never taken for ours; everything a server prints
is kept in a file; a server is asked to stop, and killed with its whole process group only when it does not.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_SECONDS = 20
STOP_SECONDS = 10

SIDES = ("ours", "hgweb")

#: With HGWIRE_LIVE_OURS=hgweb the reference runs on both sides: a test that still fails is itself at fault.
OURS = os.environ.get("HGWIRE_LIVE_OURS", "ours")


def beside_python(program: str) -> str | None:
    """Return the program installed with this interpreter, else the one on PATH, else None."""
    here = Path(sys.executable).parent / program
    return str(here) if here.exists() else shutil.which(program)


def _module(name: str) -> str | None:
    return name if importlib.util.find_spec(name) else None


PROGRAMS = {
    "hg": lambda: beside_python("hg") and _module("mercurial"),
    "gunicorn": lambda: _module("gunicorn"),
    "uwsgi": lambda: beside_python("uwsgi"),
    "waitress": lambda: _module("waitress"),
}


def require(*programs: str) -> None:
    """Skip the test when one of the programs is missing; fail it when HGWIRE_REQUIRE_LIVE=1 says so."""
    missing = [name for name in programs if not PROGRAMS[name]()]
    if missing:
        reason = f"not installed here: {', '.join(missing)}"
        if os.environ.get("HGWIRE_REQUIRE_LIVE") == "1":
            pytest.fail(f"{reason} (HGWIRE_REQUIRE_LIVE=1)")
        pytest.skip(reason)


@attrs.frozen(kw_only=True)
class Site:
    """What a server serves."""

    side: str
    """``ours``, ``hgweb``, or ``middleware`` for the first before the second."""
    root: str | dict[str, str]
    """One repository, a folder of repositories, or name to path."""
    config: tuple[str, ...] = ()
    """``section.name=value``, given to the application; the rest comes from the server's HGRCPATH file."""
    post_args: bool = False
    """Offer ``httppostargs``."""
    mount: str = ""
    """SCRIPT_NAME of the application."""
    workers: int = 1
    """Processes; threads are more than enough in each."""
    cache: dict[str, Any] | None = None
    """Settings of the caches of ours."""


def _gunicorn(port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", "live_wsgi:application"),
        *("--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--workers", "1", "--threads", "8"),
        *("--limit-request-line", "8190", "--limit-request-fields", "1000"),
        *("--keep-alive", "30", "--graceful-timeout", "2", "--no-control-socket"),
    ]


def _uwsgi(port: int) -> list[str]:
    # wsgi-manage-chunked-input belongs here too; only uWSGI 2.1 knows it, and 2.0 does not start with it.
    return [
        *(str(beside_python("uwsgi")), "--module", "live_wsgi:application", "--virtualenv", sys.prefix),
        *("--http", f"127.0.0.1:{port}", "--http-chunked-input"),
        *("--master", "--need-app", "--die-on-term", "--workers", "1", "--threads", "8"),
        *("--buffer-size", "65535", "--http-keepalive=30"),
        *("--lazy-apps", "--single-interpreter", "--http-timeout", "600", "--socket-timeout", "60"),
    ]


def _waitress(port: int) -> list[str]:
    return [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "--threads=8", "live_wsgi:application"]


COMMANDS = {"gunicorn": _gunicorn, "uwsgi": _uwsgi, "waitress": _waitress}


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One running server.

    Args:
        kind: ``gunicorn``, ``uwsgi`` or ``waitress``.
        site: what it serves.
        folder: where its log goes.
        environ: the environment of the server process, before the additions of this class.

    Raises:
        RuntimeError: it did not become ready in time; the message holds its log.
    """

    def __init__(self, kind: str, site: Site, folder: Path, environ: dict[str, str]) -> None:
        self.kind = kind
        self.site = site
        self.port = free_port()
        token = f"{os.getpid()}-{self.port}-{time.monotonic_ns()}"
        described = {**attrs.asdict(site), "token": token}
        if site.side == "ours":
            described["side"] = OURS
        self.log_path = folder / f"{site.side}-{kind}-{self.port}.log"
        environ = {
            **environ,
            "HGWIRE_LIVE": json.dumps(described),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
            "PYTHONUNBUFFERED": "1",
        }
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*COMMANDS[kind](self.port), *([f"--workers={site.workers}"] if site.workers > 1 else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=folder,
                start_new_session=True,
            )
        try:
            self.worker = self._wait(token)
        except BaseException:
            self.stop()
            raise

    def _wait(self, token: str) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                seen = self._who()
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.05)
                continue
            if seen.get("token") == token:
                return int(seen["pid"])
            break
        raise RuntimeError(f"{self.kind} for {self.site} did not start:\n{self.log()}")

    def _who(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/.live")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    @property
    def base(self) -> str:
        """Address of the site, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}{self.site.mount}"

    def log(self, start: int = 0) -> str:
        """Return what the server printed, from an octet on."""
        return self.log_path.read_bytes()[start:].decode(errors="replace")

    def resident(self) -> int:
        """Return the resident memory of the worker process, in octets."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def terminate(self) -> None:
        """Ask the server to stop, and do not wait for it."""
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> int:
        """Stop the server and return its exit code; -9 when it had to be killed."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode
