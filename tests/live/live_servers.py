"""Starting and stopping the WSGI servers of the live tests.

Rules: a chosen port stays reserved until its server binds it.  A server is ready when the page ``/.live`` answers with
the token of this start, so another process on the same port is never mistaken for it.  Everything that a server prints
goes to a file.  A server is asked to stop, and only if it does not, its whole process group is killed.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from live_wait import PATIENCE
from ports import free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

SIDES = ("ours", "hgweb")

#: With HGWIRE_REQUIRE_LIVE=1 a test fails, instead of being skipped, if a program is missing.
REQUIRED = os.environ.get("HGWIRE_REQUIRE_LIVE") == "1"

#: With HGWIRE_LIVE_OURS=hgweb the reference runs on both sides: a test that fails then is itself wrong.
OURS = os.environ.get("HGWIRE_LIVE_OURS", "ours")


def beside_python(program: str) -> str | None:
    """Return the program installed with this interpreter, else the one on PATH, else None."""
    here = Path(sys.executable).parent / program
    return str(here) if here.exists() else shutil.which(program)


def _module(name: str) -> str | None:
    try:
        return name if importlib.util.find_spec(name) else None
    except ModuleNotFoundError:  # its package is missing
        return None


PROGRAMS = {
    "hg": lambda: beside_python("hg") and _module("mercurial"),
    "evolve": lambda: _module("hgext3rd.evolve"),
    "gunicorn": lambda: _module("gunicorn"),
    "uwsgi": lambda: beside_python("uwsgi"),
    "waitress": lambda: _module("waitress"),
}


def require(*programs: str) -> None:
    """Skip the test if one of the programs is missing, or fail it with HGWIRE_REQUIRE_LIVE=1."""
    missing = [name for name in programs if not PROGRAMS[name]()]
    if missing:
        reason = f"not installed here: {', '.join(missing)}"
        if REQUIRED:
            pytest.fail(f"{reason} (HGWIRE_REQUIRE_LIVE=1)")
        pytest.skip(reason)


@attrs.frozen(kw_only=True)
class Site:
    """What a server serves."""

    side: str
    """``ours``, ``hgweb``, or ``middleware`` for the first before the second."""
    root: str | dict[str, str]
    """One repository, a folder of repositories, or a mapping of names to paths."""
    config: tuple[str, ...] = ()
    """``section.name=value``, passed to the application; other settings are in the server's HGRCPATH file."""
    safe: tuple[str, ...] = ()
    """Extensions that give all users the same replies."""
    post_args: bool = False
    """Offer posted arguments (``httppostargs``)."""
    mount: str = ""
    """SCRIPT_NAME of the application."""
    workers: int = 1
    """Number of processes, with eight threads each."""
    cache: dict[str, Any] | None = None
    """Settings of our caches."""
    deadlines: dict[str, Any] | None = None
    """Minimum rates of transfers, on our side."""
    observed: str | None = None
    """A file that receives our events, one JSON object per line."""
    options: tuple[str, ...] = ()
    """Further options of the server's command line."""


def _gunicorn(port: int, site: Site) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", "live_wsgi:application", *site.options),
        *("--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--workers", str(site.workers), "--threads", "8"),
        *("--limit-request-line", "8190", "--limit-request-fields", "1000"),
        # No timeout of the server may interfere: tests keep connections idle, and stop or starve workers.
        *("--keep-alive", "3600", "--timeout", "3600", "--graceful-timeout", "2", "--no-control-socket"),
    ]


def _uwsgi(port: int, site: Site) -> list[str]:
    # uWSGI 2.1 needs wsgi-manage-chunked-input too; 2.0 does not know it and would not start.
    return [
        *(str(beside_python("uwsgi")), "--module", "live_wsgi:application", "--virtualenv", sys.prefix),
        *("--http", f"127.0.0.1:{port}", "--http-chunked-input"),
        *("--master", "--need-app", "--die-on-term", "--workers", str(site.workers), "--threads", "8"),
        *("--buffer-size", "65535", "--http-keepalive=3600"),
        *("--lazy-apps", "--single-interpreter", "--http-timeout", "3600", "--socket-timeout", "3600", *site.options),
    ]


def _waitress(port: int, site: Site) -> list[str]:
    listen = f"--listen=127.0.0.1:{port}"
    return [sys.executable, "-m", "waitress", listen, "--threads=8", *site.options, "live_wsgi:application"]


COMMANDS = {"gunicorn": _gunicorn, "uwsgi": _uwsgi, "waitress": _waitress}


SERVER_HGRC = """\
[web]
push_ssl = no
allow-push = *
[ui]
timeout = 60
"""
"""The settings for all repositories; the .hg/hgrc of a repository overrides them."""


needs_proc = pytest.mark.skipif(
    not (Path("/proc/locks").exists() or REQUIRED), reason="needs /proc, to see what processes do"
)


def remote_ports(pid: int) -> set[int]:
    """Return the remote ports of the TCP connections of a process, from ``/proc``."""
    return {far for _, far in _connections(pid)}


def local_ports(pid: int) -> set[int]:
    """Return the local ports of the TCP connections of a process, from ``/proc``."""
    return {near for near, _ in _connections(pid)}


def _connections(pid: int) -> Iterator[tuple[int, int]]:
    inodes = {name[8:-1] for name in descriptors(pid) if name.startswith("socket:[")}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[9] in inodes:
            near, far = (int(words[place].partition(":")[2], 16) for place in (1, 2))
            yield near, far


def descriptors(pid: int) -> Iterator[str]:
    """Yield the names of the open files of a process, from ``/proc``; none if it has ended."""
    folder = f"/proc/{pid}/fd"
    # A file may be closed in between, and the process may end.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield os.readlink(f"{folder}/{name}")


class Server:
    """One running server.

    Args:
        kind: ``gunicorn``, ``uwsgi`` or ``waitress``.
        site: what it serves.
        folder: where its log goes.
        environ: the environment of the server process, before the additions of this class.

    Raises:
        RuntimeError: it did not become ready in time; the message contains its log.
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
                COMMANDS[kind](self.port, site),
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
        deadline = time.monotonic() + PATIENCE
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
        """Return what the server printed, starting at a byte offset."""
        return self.log_path.read_bytes()[start:].decode(errors="replace")

    @property
    def logged(self) -> int:
        """How many bytes the server has printed: the offset at which :meth:`log` starts for later output."""
        return self.log_path.stat().st_size

    def workers(self) -> list[int]:
        """Return its child processes, from ``/proc``."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def resident(self) -> int:
        """Return the resident memory of the worker process, in bytes."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def terminate(self) -> None:
        """Ask the server to stop, without waiting."""
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> int:
        """Stop the server and return its exit code, which is -9 if it had to be killed."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode


StartServer = Callable[..., Server]
"""Starts a server; it is stopped at the end of all tests."""
