"""Fixtures: a folder of repositories, a module that serves it, and servers as processes."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hgwire_wsgi.cli.demo import clean_environment, hg_command

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60
"""Seconds until a test gives up on a process; reached only when something hangs."""

PROJECT = """\
import os

from hgwire_wsgi import WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider

config = ["web.allow-push=*", "web.push_ssl=" + os.environ.get("PUSH_SSL", "no")]
app = WireApp(MercurialProvider(os.environ["ROOT_FOLDER"], config=config))
"""


@pytest.fixture(scope="session")
def beside() -> Callable[[str], str]:
    """Where a program is: beside the interpreter, on PATH, or in a system folder.  Without one the test is skipped.

    Those that the extras install must be there where HGWIRE_REQUIRE_LIVE=1 says so; nginx is never required.
    """

    def find(name: str) -> str:
        script = Path(sys.executable).with_name(name)
        found = str(script) if script.exists() else shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if found is None and name != "nginx" and os.environ.get("HGWIRE_REQUIRE_LIVE") == "1":
            pytest.fail(f"{name} is not installed (HGWIRE_REQUIRE_LIVE=1)")
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


@pytest.fixture
def project(demonstration: Path, tmp_path: Path) -> Path:
    """A folder with ``project.py`` and the repository ``repos/demo``."""
    shutil.copytree(demonstration, tmp_path / "repos" / "demo")
    (tmp_path / "project.py").write_text(PROJECT)
    return tmp_path


@pytest.fixture(scope="session")
def hg() -> Callable[..., str]:
    """Run ``hg``; gives what it printed on standard output."""

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [*hg_command(), *map(str, arguments)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., int]]:
    """Start a server in the project's folder and wait until its port answers HTTP; gives its process ID."""
    started: list[subprocess.Popen[bytes]] = []
    log_path = project / "server.log"

    def start(command: list[str], port: int, **variables: str) -> int:
        environment = {
            **clean_environment(),
            **variables,
            "ROOT_FOLDER": str(project / "repos"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(project)]),
            "PYTHONUNBUFFERED": "1",
        }
        with open(log_path, "ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=project, start_new_session=True
            )
        started.append(process)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            try:
                connection.request("GET", "/demo?cmd=capabilities")
                if connection.getresponse().read():
                    return process.pid
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
        raise AssertionError(f"{command} did not start:\n{log_path.read_text()}")

    yield start
    for process in reversed(started):
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
