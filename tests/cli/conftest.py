"""Fixtures: a demonstration repository, ``hg``, and ``hgwire serve`` as a process."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# For the servers of the client's tests, which are used here, too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))

from cli_support import PATIENCE, Running, environment

from hgwire_wsgi.cli.demo import hg_command


@pytest.fixture(scope="session", autouse=True)
def _needs() -> None:
    missing = [name for name in ("gunicorn", "mercurial") if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("HGWIRE_REQUIRE_LIVE") == "1":
        pytest.fail(f"not installed: {', '.join(missing)} (HGWIRE_REQUIRE_LIVE=1)")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def hg() -> Callable[..., str]:
    """Run ``hg``; gives what it printed on standard output."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [*hg_command(), *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start ``hgwire serve`` on a free port and read its output until the address."""
    started: list[Running] = []

    def start(*arguments: str | Path) -> Running:
        scratch = tmp_path / "tmp"
        scratch.mkdir(exist_ok=True)
        errors = open(tmp_path / f"stderr-{len(started)}", "w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "hgwire_wsgi", "serve", "--bind", "127.0.0.1:0", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(TMPDIR=str(scratch)),
            cwd=tmp_path,
            start_new_session=True,
        )
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if found := re.search(r"(https?://|unix:)\S+", line):
                break
        else:
            errors.seek(0)
            raise AssertionError(f"exit code {process.wait()}: {printed}{errors.read()}")
        started.append(Running(process, errors, found[0], printed))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
        assert running.process.stdout is not None
        running.process.stdout.close()
        running.errors.close()
