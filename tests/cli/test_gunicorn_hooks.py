"""What the hooks do in gunicorn's workers; the servers here are real ones, configured as an operator would."""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gunicorn")

from cli_support import PATIENCE, environment
from ports import free_port

from hgwire_wsgi.access.admission import THREADS_VARIABLE
from hgwire_wsgi.cli import gunicorn_hooks

PROJECT = """\
import logging
import os

{configure}

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/log":
        logging.getLogger("hgwire_wsgi").warning("something odd")
        logging.getLogger("hgwire_wsgi").info("nothing special")
    if path != "/file":
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    size = os.path.getsize("big")
    start_response("200 OK", [("Content-Length", str(size))])
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    return environ["wsgi.file_wrapper"](open("big", "rb"), 65536)
"""

BIG = 40 << 20
"""Bytes of the file: more than the buffers of two sockets hold."""

Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start gunicorn in ``tmp_path`` with a configuration file; gives the URL.  Logs are ``access`` and ``error``."""
    started: list[subprocess.Popen[bytes]] = []
    with open(tmp_path / "big", "wb") as big:
        big.truncate(BIG)

    def start(settings: str, configure: str = "") -> str:
        (tmp_path / "project.py").write_text(PROJECT.format(configure=configure))
        (tmp_path / "gunicorn.conf.py").write_text(
            f'workers = 1\naccesslog = "access"\nerrorlog = "error"\naccess_log_format = "%(m)s %(U)s %(B)s %(b)s"\n'
            f'from hgwire_wsgi.cli.gunicorn_settings import post_fork\nworker_class = "gthread"\n{settings}\n'
        )
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "project:app"]
        with open(tmp_path / "output", "wb") as output:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment(), stdout=output, stderr=output, start_new_session=True
            )
        started.append(process)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            try:
                fetch(f"http://127.0.0.1:{port}/ready")
                return f"http://127.0.0.1:{port}"
            except OSError:
                time.sleep(0.05)
        raise AssertionError((tmp_path / "output").read_text() + (tmp_path / "error").read_text())

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def fetch(url: str, method: str = "GET") -> int:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return len(response.read())


def wait_for(path: Path, pattern: str) -> str:
    """The log, once it matches."""
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and re.search(pattern, path.read_text(), re.MULTILINE)):
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.parametrize("more", ["", "sendfile = False", 'worker_class = "sync"', 'statsd_host = "127.0.0.1:9"'])
def test_the_access_log_counts_files(start: Start, tmp_path: Path, more: str) -> None:
    url = start(more)
    assert [fetch(url + "/file") for _ in range(2)] == [BIG, BIG]
    assert fetch(url + "/file", "HEAD") == 0
    assert fetch(url + "/small") == 2
    lines = wait_for(tmp_path / "access", "/small").splitlines()
    assert [line for line in lines if "/ready" not in line] == [
        *[f"GET /file {BIG} {BIG}"] * 2,
        "HEAD /file 0 0",
        "GET /small 2 2",
    ]


def test_the_access_log_does_not_count_what_was_not_sent(start: Start, tmp_path: Path) -> None:
    url = start("")
    with urllib.request.urlopen(url + "/file", timeout=PATIENCE) as response:
        assert response.read(10) == bytes(10)
        response.fp.raw._sock.shutdown(2)
    assert re.search("^GET /file None -$", wait_for(tmp_path / "access", "/file"), re.MULTILINE)


def test_warnings_go_to_the_error_log(start: Start, tmp_path: Path) -> None:
    url = start("")
    fetch(url + "/log")
    assert wait_for(tmp_path / "error", "odd").count("[WARNING] something odd") == 1
    assert "nothing special" not in (tmp_path / "error").read_text()
    assert "odd" not in (tmp_path / "output").read_text()


@pytest.mark.parametrize(
    "configure",
    [
        "logging.basicConfig(filename='own')",
        "log = logging.getLogger('hgwire_wsgi'); log.handlers[:] = [logging.FileHandler('own')]",
    ],
)
def test_an_application_that_configures_logging_has_its_way(start: Start, tmp_path: Path, configure: str) -> None:
    url = start("", configure)
    fetch(url + "/log")
    assert wait_for(tmp_path / "own", "odd").count("odd") == 1
    assert "odd" not in (tmp_path / "error").read_text()


class Log:
    """What the hooks need of gunicorn's logger."""

    def __init__(self) -> None:
        self.error_log = logging.Logger("error")
        self.records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = self.records.append  # type: ignore[method-assign]  # All that a test needs.
        self.error_log.addHandler(handler)
        self.sent: list[Any] = []

    def access(self, response: Any, *others: Any) -> None:
        self.sent.append(response.sent)


class Worker:
    """What the hooks need of gunicorn's worker."""

    def __init__(self) -> None:
        self.log = Log()
        self.cfg = type("cfg", (), {"graceful_timeout": 30, "threads": 5})


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    # The hook changes it; this restores it.
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    yield Worker()
    logging.getLogger("hgwire_wsgi").handlers.clear()


def test_the_application_learns_how_many_threads_there_are(worker: Worker) -> None:
    gunicorn_hooks.complete_logs(None, worker)
    assert os.environ[THREADS_VARIABLE] == "5"


def test_the_heaps_of_a_worker_are_limited(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    limited: list[bool] = []
    monkeypatch.setattr(gunicorn_hooks, "limit_heaps", lambda: limited.append(True))
    gunicorn_hooks.complete_logs(None, worker)
    assert limited == [True]


def test_the_log_hook_in_this_process(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without those that pytest adds.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for _ in range(2):
        gunicorn_hooks.complete_logs(None, worker)
    log = logging.getLogger("hgwire_wsgi")
    log.warning("one")
    log.debug("two")
    with monkeypatch.context() as configured:
        configured.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
        log.warning("three")
    assert [record.getMessage() for record in worker.log.records] == ["one"]


class Reply:
    def __init__(self, **fields: Any) -> None:
        self.headers_sent, self.sent, self.response_length, self.status_code = True, 0, 7, 200
        vars(self).update(fields)


@pytest.mark.parametrize(
    ("fields", "method", "sent"),
    [
        ({}, "GET", 7),
        ({"sent": 3}, "GET", 3),
        ({}, "HEAD", 0),
        ({"headers_sent": False}, "GET", 0),
        ({"response_length": None}, "GET", 0),
        ({"response_length": 0}, "GET", 0),
        ({"status_code": 304}, "GET", 0),
    ],
)
def test_the_count_in_this_process(worker: Worker, fields: dict[str, Any], method: str, sent: int) -> None:
    gunicorn_hooks.complete_logs(None, worker)
    request = type("request", (), {"method": method})
    worker.log.access(Reply(**fields), request, {}, None)
    assert worker.log.sent == [sent]


def test_a_reply_that_broke_off_in_this_process(worker: Worker) -> None:
    gunicorn_hooks.complete_logs(None, worker)
    try:
        raise BrokenPipeError
    except BrokenPipeError:
        worker.log.access(Reply(), type("request", (), {"method": "GET"}), {}, None)
    assert worker.log.sent == [None]


Send = Callable[[int], str]


@pytest.fixture
def send(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Send]:
    """Send this process a signal that the hook handles; tells what came of it."""
    handled = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in handled}
    wakeup = signal.set_wakeup_fd(-1)
    pipe = os.pipe()
    came: queue.SimpleQueue[str] = queue.SimpleQueue()

    monkeypatch.setattr(os, "_exit", lambda code: came.put(f"ends with {code}"))
    monkeypatch.setattr(os, "pipe", lambda: pipe)
    for number in handled:
        signal.signal(number, lambda number, frame: came.put("begins"))
    gunicorn_hooks.stop_quietly(worker)

    def send(number: int) -> str:
        signal.raise_signal(number)
        try:
            return came.get(timeout=0.5)
        except queue.Empty:
            return ""

    yield send
    signal.setitimer(signal.ITIMER_REAL, 0)
    for each, handler in before.items():
        signal.signal(each, handler)
    signal.set_wakeup_fd(wakeup)
    # In a worker the thread ends with the process.
    os.close(pipe[1])
    for thread in threading.enumerate():
        if thread.name == "hgwire-signals":
            thread.join(PATIENCE)
    os.close(pipe[0])


@pytest.mark.parametrize(
    ("signals", "outcomes"),
    [
        # Ctrl-C on a terminal: the second signal is gunicorn's.
        (["INT", "QUIT", "QUIT", "INT"], ["begins", "", "", "ends with 0"]),
        (["QUIT", "QUIT", "INT"], ["begins", "", "ends with 0"]),
        (["TERM", "TERM", "QUIT"], ["begins", "", "ends with 0"]),
        (["TERM", "INT"], ["begins", "ends with 0"]),
        (["INT", "ALRM"], ["begins", "ends with 0"]),
        (["ALRM"], ["ends with 0"]),
    ],
)
def test_which_signals_end_a_worker(send: Send, signals: list[str], outcomes: list[str]) -> None:
    assert [send(getattr(signal, f"SIG{name}")) for name in signals] == outcomes


def test_the_time_for_transfers_ends_before_gunicorn_kills(send: Send) -> None:
    assert send(signal.SIGTERM) == "begins"
    assert 28 < signal.getitimer(signal.ITIMER_REAL)[0] <= 29
