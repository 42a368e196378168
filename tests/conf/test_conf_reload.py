"""No transfer breaks while a server reloads with the files of ``conf/``, or stops as they say."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from ports import free_port
from transfers import Clone, clone_request, start_clones, uwsgi_request

pytestmark = pytest.mark.slow

CONF = Path(__file__).resolve().parents[2] / "conf"
PATIENCE = 60

CLONES = 24
"""More than the sixteen threads of two workers: some begin while the server reloads."""

SECONDS = 5
"""How long each clone takes."""

SIZE = 12_000_000
"""Bytes of the repository: more than all buffers between a worker and its client."""

APP = """\
import os

from hgwire_wsgi import WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider

wire = WireApp(MercurialProvider(os.environ["ROOT_FOLDER"]))


def app(environ, start_response):
    if environ["PATH_INFO"] != "/.worker":
        return wire(environ, start_response)
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

Beside = Callable[[str], str]
HG = Callable[..., str]
Start = Callable[..., int]


@attrs.frozen
class Served:
    """A server with a repository that takes a while to clone."""

    process: int
    port: int
    request: bytes = clone_request("/large")

    def workers(self) -> set[int]:
        """The two processes that answer now."""
        found: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(found) < 2:
            assert time.monotonic() < deadline
            with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
                connection.request("GET", "/.worker")
                found.add(int(connection.getresponse().read()))
        return found

    def begin(self, count: int = CLONES) -> list[Clone]:
        """Start clones, and wait until those that get a thread at once are on their way."""
        clones = start_clones(count, self.port, self.request, rate=SIZE / SECONDS)
        deadline = time.monotonic() + PATIENCE
        while sum(clone.received > 0 for clone in clones) < min(count, 16) and time.monotonic() < deadline:
            time.sleep(0.05)
        return clones


@pytest.fixture
def site(project: Path, hg: HG) -> Path:
    """A folder with ``project.py`` and the repository ``repos/large``."""
    large = project / "repos" / "large"
    hg("init", large)
    (large / "file").write_bytes(os.urandom(SIZE))
    hg("-R", large, "commit", "-A", "-q", "-m", "large", "-u", "tester")
    (project / "project.py").write_text(APP)
    return project


@pytest.fixture
def uwsgi(site: Path, start: Start, beside: Beside) -> Callable[[bool], Served]:
    """Start uWSGI with the shipped file, with its own router or without."""

    def run(router: bool) -> Served:
        port, direct = free_port(), free_port()
        ini = (CONF / "uwsgi.ini").read_text()
        changes = {"\nhttp = 127.0.0.1:8000": f"\nhttp = 127.0.0.1:{port}"}
        if not router:
            changes["\nhttp = 127.0.0.1:8000"] += f"\nsocket = 127.0.0.1:{direct}"
            changes["\n#hook-master-start"] = "\nhook-master-start"
        for old, new in changes.items():
            assert ini.count(old) == 1
            ini = ini.replace(old, new)
        (site / "uwsgi.ini").write_text(ini)
        process = start([beside("uwsgi"), "--ini", "uwsgi.ini"], port, HGWIRE_APP="project:app")
        return Served(process, port) if router else Served(process, direct, uwsgi_request("/large"))

    return run


def finish(clones: list[Clone]) -> None:
    """Wait for all clones, which must be complete and equal."""
    for clone in clones:
        clone.join(2 * PATIENCE)
    assert [clone for clone in clones if not clone.complete] == []
    assert len({clone.digest for clone in clones}) == 1


def wait_for_end(processes: set[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := {process for process in processes if _runs(process)}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        # One that nobody has waited for yet is a zombie.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("trigger", ["signal", "touch"])
def test_uwsgi_reloads_while_clones_run(uwsgi: Callable[[bool], Served], site: Path, trigger: str) -> None:
    served = uwsgi(True)
    before = served.workers()
    clones = served.begin()
    if trigger == "signal":
        os.kill(served.process, signal.SIGHUP)
    else:
        (site / "uwsgi.ini").touch()
    finish(clones)
    wait_for_end(before)
    deadline = time.monotonic() + PATIENCE
    while "chain reloading complete" not in (site / "server.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not served.workers() & before


def test_uwsgi_behind_a_front_end_stops_when_its_clones_have_ended(uwsgi: Callable[[bool], Served]) -> None:
    served = uwsgi(False)
    clones = served.begin(12)
    os.kill(served.process, signal.SIGTERM)
    finish(clones)
    wait_for_end({served.process})


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["gunicorn", "serve"])
def test_gunicorn_finishes_its_clones(site: Path, start: Start, beside: Beside, kind: str, number: int) -> None:
    port = free_port()
    if kind == "gunicorn":
        command = [
            beside("gunicorn"),
            "-c",
            str(CONF / "gunicorn.conf.py"),
            "--bind",
            f"127.0.0.1:{port}",
            "project:app",
        ]
    else:
        command = [
            beside("hgwire"),
            "serve",
            "--bind",
            str(port),
            "--cache-dir",
            str(site / "cache"),
            str(site / "repos"),
        ]
    served = Served(start(command, port), port)
    before = _children(served.process)
    clones = served.begin(12)
    os.kill(served.process, number)
    finish(clones)
    wait_for_end(before)
    if number == signal.SIGTERM:
        wait_for_end({served.process})
    else:
        assert len(_children(served.process) - before) == 2


def _children(process: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()}
