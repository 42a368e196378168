from __future__ import annotations

import ast
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gunicorn")

from gunicorn import config

from hgwire_wsgi.cli import CommandLineError, gunicorn_app, gunicorn_hooks, gunicorn_settings
from hgwire_wsgi.cli.gunicorn_app import Server

SETTINGS = {
    name: value
    for name, value in vars(gunicorn_settings).items()
    if not name.startswith("_") and not isinstance(value, ModuleType)
}


def load() -> None:
    raise AssertionError("nothing is loaded before a worker asks")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_name_is_a_setting_of_gunicorn(name: str) -> None:
    # Releases before 25 have no control socket to disable.
    assert name in config.Config().settings or name == "control_socket_disable"


def test_every_setting_has_its_reason_beside_it() -> None:
    body = ast.parse(Path(gunicorn_settings.__file__).read_text()).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign):
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant), ast.unparse(statement)


def test_the_server_takes_them_and_what_the_caller_changes() -> None:
    server = Server(load, {"workers": 5, "bind": "127.0.0.1:1"})
    for name, value in {**SETTINGS, "workers": 5}.items():
        if name in server.cfg.settings and name != "worker_class":
            assert getattr(server.cfg, name) == value, name
    assert server.cfg.worker_class_str == "gthread"
    assert server.cfg.address == [("127.0.0.1", 1)]


def test_neither_environment_nor_command_line_nor_file_changes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("threads = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--threads=4")
    monkeypatch.setattr("sys.argv", ["hgwire", "--threads=5"])
    assert Server(load, {}).cfg.threads == gunicorn_settings.threads


def test_the_application_is_made_when_a_worker_asks() -> None:
    made = object()
    assert Server(lambda: made, {}).wsgi() is made  # type: ignore[arg-type, return-value]  # Any object will do.


def test_an_application_that_cannot_be_made_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Any:
        raise CommandLineError("no can do")

    with pytest.raises(SystemExit) as caught:
        Server(fail, {}).wsgi()
    assert caught.value.code == 3, "gunicorn stops if a worker ends with this code"
    assert capsys.readouterr().err == "hgwire: no can do\n"


def test_the_hooks() -> None:
    cfg = Server(load, {}).cfg
    assert cfg.post_fork is gunicorn_hooks.complete_logs
    assert cfg.post_worker_init is gunicorn_hooks.stop_quietly


class Master:
    """What the server needs of gunicorn's master."""

    LISTENERS = ("http://127.0.0.1:80",)
    cfg = SimpleNamespace(graceful_timeout=7)

    def __init__(self) -> None:
        self.killed: list[int] = []

    def kill_workers(self, number: int) -> None:
        self.killed.append(number)


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """The interrupts that gunicorn itself handles."""
    handled: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: handled.append(number))
    yield handled
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_is_passed_on(
    interrupts: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gunicorn_app, "_PATIENCE", 0.0)
    listening: list[object] = []
    master = Master()
    Server(load, {}, listening.append).cfg.when_ready(master)
    assert listening == ["http://127.0.0.1:80"]
    os.kill(os.getpid(), signal.SIGINT)
    assert (interrupts, master.killed) == ([signal.SIGINT], [])
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    assert (interrupts, master.killed) == ([signal.SIGINT], [signal.SIGALRM] * 2)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    said = "Waiting up to 7 seconds for transfers to end; press Ctrl-C again to stop them\n"
    assert capsys.readouterr().out == said
    Server(load, {}).cfg.when_ready(master)
