"""Who gets SIGHUP in a worker of uWSGI.  ``tests/conf`` has the proof with uWSGI itself."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from hgwire_wsgi.hosts import uwsgi
from hgwire_wsgi.hosts.uwsgi import protect_transfers

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import os, signal, sys, threading, time, types
sys.modules["uwsgi"] = types.SimpleNamespace(version_info={version})
seen = []
read, write = os.pipe()
signal.signal(signal.SIGHUP, lambda number, frame: seen.append(number))
os.set_blocking(write, False)
signal.set_wakeup_fd(write)
import hgwire_wsgi.hosts.uwsgi
blocked = signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, [])
os.kill(os.getpid(), signal.SIGHUP)
assert os.read(read, 1) == bytes([signal.SIGHUP])
print(blocked, [thread.name for thread in threading.enumerate()])
"""


@pytest.mark.parametrize(
    ("version", "printed"),
    [
        ((2, 0, 31, 0, b""), "True ['MainThread', 'hgwire-signals']"),
        ((2, 0, 28, 0, b""), "True ['MainThread', 'hgwire-signals']"),
        ((2, 0, 26, 0, b""), "False ['MainThread']"),
    ],
)
def test_the_signal_reaches_the_process_but_not_its_main_thread(version: tuple[object, ...], printed: str) -> None:
    """Importing the module inside uWSGI is enough; a handler that must not run elsewhere is left alone."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER.format(version=version)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (0, printed), done.stderr


def test_old_versions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not protect_transfers((2, 0, 27, 0, b""))
    before = threading.enumerate()
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(version_info=(2, 0, 26, 0, b"")))
    importlib.reload(uwsgi)
    assert threading.enumerate() == before


def test_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[object] = []
    monkeypatch.setattr("hgwire_wsgi.hosts.uwsgi.signal.pthread_sigmask", lambda *given: masks.append(given))
    monkeypatch.setattr("hgwire_wsgi.hosts.uwsgi.threading.Thread.start", lambda thread: masks.append(thread.name))
    assert protect_transfers((2, 1, 0, 0, b""))
    assert masks[0] == "hgwire-signals" and len(masks) == 2, "the thread starts before the signal is blocked"
