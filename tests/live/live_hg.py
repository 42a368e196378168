"""Running real ``hg``: each client as a new process, and one command server that prepares and inspects repositories.

Starting ``hg`` costs 150 ms, a command in the command server 5 ms.  What a client does is always a fresh process;
the command server (the *scribe*) only makes the repositories that scenarios begin with, and reads their state.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import attrs
from live_servers import beside_python
from live_wait import PATIENCE

LOG = (
    "{node} p={p1.node|short},{p2.node|short} {phase} branch={branch} bookmarks={bookmarks} tags={tags}"
    "{if(obsolete, ' obsolete')} {desc}\\n"
)

_FIGURES = re.compile(r"(transferred) .*")
# A streamed clone includes those caches that the server had written by then.
_FILES = re.compile(r"\d+ files(?= to transfer)")
# The name of a backup ends with a random hash.
_BACKUP = re.compile(r"(strip-backup/)[0-9a-f]{12}-[0-9a-f]{8}")
_SECONDS = re.compile(r"in \d+\.\d+ seconds")
_SIZES = re.compile(r"\d+(\.\d+)? (bytes|KB|MB|GB)( of data)?")


def environment(home: Path, hgrc: str) -> dict[str, str]:
    """Return an environment in which ``hg`` sees nothing of this machine's configuration.

    Args:
        home: the home folder; the configuration file is written there.
        hgrc: contents of that file.
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / "hgrc").write_text(hgrc)
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "HGRCPATH": str(home / "hgrc"),
        "HGPLAIN": "1",
        "HGENCODING": "utf-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


@attrs.frozen
class Outcome:
    """The result of one run of ``hg``."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str


def run_hg(args: Sequence[str], *, environ: dict[str, str], cwd: Path, code_ok: Sequence[int] | None = None) -> Outcome:
    """Run a client to its end.

    Raises:
        AssertionError: its exit code is not in ``code_ok``.
        subprocess.TimeoutExpired: it hangs.
    """
    done = subprocess.run(
        [str(beside_python("hg")), *args],
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )
    outcome = Outcome(tuple(args), done.returncode, done.stdout.decode(), done.stderr.decode())
    assert code_ok is None or done.returncode in code_ok, outcome
    return outcome


@contextlib.contextmanager
def running_hg(args: Sequence[str], *, environ: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a client whose output and errors come through one pipe; it is killed at the end of the block."""
    with subprocess.Popen(
        [str(beside_python("hg")), *args],
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        try:
            yield client
        finally:
            client.kill()


def normalise(text: str, names: dict[str, str]) -> str:
    """Replace what differs between two correct runs: addresses, folders, transfer times and sizes."""
    for found, name in names.items():
        text = text.replace(found, name)
    text = _BACKUP.sub(r"\1...", _SECONDS.sub("in N seconds", text))
    return _FILES.sub("N files", _SIZES.sub("N bytes", _FIGURES.sub(r"\1 ...", text)))


class Scribe:
    """``hg serve --cmdserver pipe``, for preparing and inspecting repositories."""

    def __init__(self, environ: dict[str, str], cwd: Path) -> None:
        self._errors = open(cwd / "scribe.log", "wb")
        self._process = subprocess.Popen(
            [str(beside_python("hg")), "serve", "--cmdserver", "pipe"],
            env=environ,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._process.stdin and self._process.stdout
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> tuple[bytes, bytes]:
        head = self._out.read(5)
        assert len(head) == 5, f"the command server has ended; see {self._errors.name}"
        channel, length = struct.unpack(">cI", head)
        return channel, b"" if channel in b"IL" else self._out.read(length)

    def __call__(self, *args: str, repo: Path | None = None, code_ok: Sequence[int] = (0,)) -> str:
        """Run one command and return what it prints.

        Args:
            args: the command and its arguments.
            repo: repository to run it in; it is the working directory too.
            code_ok: exit codes that count as success.
        """
        words = ["--cwd", str(repo), *args] if repo else list(args)
        block = b"\0".join(word.encode() for word in words)
        self._in.write(b"runcommand\n" + struct.pack(">I", len(block)) + block)
        self._in.flush()
        printed = {b"o": b"", b"e": b""}
        while True:
            channel, data = self._read()
            if channel == b"r":
                (code,) = struct.unpack(">i", data)
                assert code in code_ok, (words, code, printed)
                return printed[b"o"].decode()
            if channel in printed:
                printed[channel] += data
            else:
                self._in.write(struct.pack(">I", 0))
                self._in.flush()

    def state(self, repo: Path) -> dict[str, list[str]]:
        """Return everything that a clone, pull or push may change in a repository."""
        return {
            "changesets": self("log", "--hidden", "-r", "all()", "-T", LOG, repo=repo).splitlines(),
            "bookmarks": self("bookmarks", "-T", "{bookmark} {node}\\n", repo=repo).splitlines(),
            "markers": self("debugobsolete", repo=repo).splitlines(),
        }

    def close(self) -> None:
        """End the command server."""
        self._in.close()
        self._process.wait()
        self._out.close()
        self._errors.close()


def file_contents(repo: Path) -> dict[str, bytes]:
    """Return every file below ``.hg/store`` and the bookmarks, no caches.  Equal results mean nothing was written."""
    store = repo / ".hg" / "store"
    found = [path for path in store.rglob("*") if path.is_file()]
    found += [path for path in [repo / ".hg" / "bookmarks"] if path.exists()]
    # By design, an aborted transaction of Mercurial leaves its description and backups behind.
    return {
        str(path.relative_to(repo)): path.read_bytes()
        for path in sorted(found)
        if not path.name.startswith("undo") and path.stat().st_size
    }
