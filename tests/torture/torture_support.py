"""What all torture scripts share: repositories, a server to torture, and checks that decide the exit code.

A script prepares a folder, starts gunicorn with the settings of ``conf/``, does its harm, and says what it found.  With
``--hgweb`` it does the same to hgweb under the same gunicorn, for comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import attrs

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
for _folder in (TESTS, ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from ports import free_port  # noqa: E402  # from one of the folders above

from hgwire_wsgi.cli.demo import clean_environment, hg_command  # noqa: E402  # likewise

PATIENCE = 60
"""Seconds until a script gives up on a server or a client."""

APP = """
import os

CONFIG = ["web.push_ssl=no", "web.allow-push=*", *filter(None, os.environ.get("TORTURE_CONFIG", "").split("|"))]
FOLDER = os.environ["TORTURE_REPOS"]

if os.environ["TORTURE_SIDE"] == "ours":
    from hgwire_wsgi import CacheSettings, WireApp
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    memory = int(os.environ.get("TORTURE_MEMORY") or 16 << 20)
    cache = CacheSettings(folder=os.environ["TORTURE_CACHE"], memory=memory)
    app = WireApp(MercurialProvider(FOLDER, config=CONFIG), cache=cache)
else:
    from mercurial import extensions, ui as uimod
    from mercurial.hgweb import hgweb

    ui = uimod.ui.load()
    for item in CONFIG:
        name, _, value = item.partition("=")
        section, _, key = name.partition(".")
        ui.setconfig(section.encode(), key.encode(), value.encode(), b"torture")
    extensions.loadall(ui)
    extensions.populateui(ui)
    app = hgweb({b"/": os.fsencode(FOLDER) + b"/**"}, baseui=ui)
"""


class Report:
    """The checks of one script."""

    def __init__(self, title: str) -> None:
        self._failed = False
        self._started = time.monotonic()
        print(title, flush=True)

    def figure(self, name: str, value: object) -> None:
        """Print a figure."""
        print(f"  {name}: {value}", flush=True)

    def check(self, passed: bool, promise: str, found: object = "") -> None:
        """Print whether a promise was kept; if not, also what was found."""
        self._failed |= not passed
        print(f"  {'ok' if passed else 'FAILED'}: {promise}{'' if passed else f': {found}'}", flush=True)

    def end(self) -> NoReturn:
        """Exit with 1 if any check failed."""
        print(f"  {time.monotonic() - self._started:.0f} seconds", flush=True)
        sys.exit(int(self._failed))


def parser(description: str | None, **sizes: int) -> argparse.ArgumentParser:
    """Make the parser of a script.

    Args:
        description: the docstring of the script.
        sizes: options with numbers, and their defaults.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--hgweb", action="store_true", help="torture hgweb instead, under the same gunicorn")
    made.add_argument("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    for name, default in sizes.items():
        made.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="default: %(default)s")
    return made


@contextlib.contextmanager
def scratch(parent: str | None = None) -> Iterator[Path]:
    """A temporary folder with an empty folder ``repos``."""
    with tempfile.TemporaryDirectory(prefix="torture-", dir=parent, ignore_cleanup_errors=True) as name:
        (Path(name) / "repos").mkdir()
        yield Path(name)


def hg(*arguments: str | Path, code: Sequence[int] | None = (0,), timeout: float = PATIENCE) -> tuple[int, str]:
    """Run ``hg``.

    Args:
        arguments: its arguments.
        code: the permitted exit codes; ``None`` for any.
        timeout: seconds.

    Returns:
        Its exit code and everything that it printed.
    """
    command = [*hg_command(), "--config", "ui.username=torture", "--config", "ui.timeout=30", *map(str, arguments)]
    done = subprocess.run(
        command, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    if code is not None and done.returncode not in code:
        raise SystemExit(f"hg {' '.join(map(str, arguments))}: {done.returncode}\n{said}")
    return done.returncode, said


def make_repository(path: Path, *, size: int = 200_000, changesets: int = 5) -> Path:
    """Make a repository whose files do not compress.

    Args:
        path: where.
        size: bytes of all files together.
        changesets: how many.
    """
    hg("init", path)
    for number in range(changesets):
        (path / f"file{number}").write_bytes(os.urandom(size // changesets))
        hg("-R", path, "commit", "-q", "-A", "-m", f"changeset {number}", "-d", "0 0")
    hg("-R", path, "phase", "-p", "tip")
    return path


@attrs.define
class Server:
    """A gunicorn with its workers.

    Attributes:
        process: the master.
        port: its port.
        folder: the site's; ``server.log`` and ``cache`` are in it.
    """

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def url(self) -> str:
        """The URL of the folder of repositories."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def cache(self) -> Path:
        """The folder of kept bundles."""
        return self.folder / "cache"

    def log(self) -> str:
        """Everything that the server printed."""
        return (self.folder / "server.log").read_text(errors="replace")

    def workers(self) -> list[int]:
        """The process IDs of its workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def memory(self) -> float:
        """Resident MiB of all workers."""
        return sum(status(worker, "VmRSS") for worker in self.workers()) / 1024

    def threads(self) -> int:
        """Threads of all workers."""
        return sum(status(worker, "Threads") for worker in self.workers())

    def descriptors(self) -> int:
        """Open files of all workers."""
        return sum(len(os.listdir(f"/proc/{worker}/fd")) for worker in self.workers())

    def get(self, path: str, timeout: float = PATIENCE, **headers: str) -> tuple[int, bytes]:
        """Send a request; gives the status and the body.

        Raises:
            OSError, http.client.HTTPException: if there is no complete reply.
        """
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            return reply.status, reply.read()

    def answers(self, path: str, timeout: float = PATIENCE) -> bool:
        """Whether a request gets 200."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get(path, timeout)[0] == 200
        return False


def status(pid: int, field: str) -> int:
    """A number from ``/proc/PID/status``; 0 if the process has ended."""
    try:
        found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) if found else 0


@contextlib.contextmanager
def server(
    folder: Path,
    *,
    hgweb: bool = False,
    workers: int = 1,
    threads: int = 8,
    config: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """Serve ``repos`` in a folder until the end of the block.

    Args:
        folder: the site's folder.
        hgweb: whether to serve with hgweb.
        workers: processes.
        threads: of each.
        config: settings of Mercurial, ``section.name=value``.
        options: further options of gunicorn.
    """
    (folder / "app.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "conf" / "gunicorn.conf.py")]
    command += [
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        str(workers),
        "--threads",
        str(threads),
        *options,
        "app:app",
    ]
    environment = {
        **clean_environment(),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "TORTURE_REPOS": str(folder / "repos"),
        "TORTURE_CACHE": str(folder / "cache"),
        "TORTURE_SIDE": "hgweb" if hgweb else "ours",
        "TORTURE_CONFIG": "|".join(config),
    }
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    made = Server(process, port, folder)
    try:
        names = [path.name for path in (folder / "repos").iterdir()]
        path = f"/{names[0]}?cmd=capabilities" if names else "/"
        wait_for(lambda: process.poll() is not None or made.answers(path), "the server starts", log=made.log)
        if process.poll() is not None:
            raise SystemExit(f"the server did not start\n{made.log()}")
        yield made
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(
    condition: Callable[[], object], what: str, log: Callable[[], str] = str, patience: float = PATIENCE
) -> bool:
    """Call until the result is true.

    Raises:
        SystemExit: if it does not become true in time, with the name of the condition and the log.
    """
    if settles(condition, patience):
        return True
    raise SystemExit(f"timed out waiting until {what}\n{log()[-3000:]}")


def settles(condition: Callable[[], object], patience: float = PATIENCE) -> bool:
    """Whether a condition becomes true in time, in seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def tracebacks(log: str) -> int:
    """Count tracebacks in a log, except those of connections that a client closed."""
    return len(re.findall(r"^Traceback", log, re.MULTILINE))


def copy(repository: Path, name: str) -> Path:
    """Copy a repository to a folder beside it, without its working directory."""
    target = repository.with_name(name)
    shutil.copytree(repository / ".hg", target / ".hg")
    return target
