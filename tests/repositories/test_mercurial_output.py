"""Where the output of hooks goes.  The live tests have all kinds of hooks, under a server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.output import stdout_to_stderr


def target(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


@contextlib.contextmanager
def apart(folder: Path) -> Iterator[tuple[str, str]]:
    """Standard output and standard error in two files."""
    saved = os.dup(1), os.dup(2)
    names = []
    for descriptor in (1, 2):
        with (folder / f"fd{descriptor}").open("wb") as file:
            os.dup2(file.fileno(), descriptor)
        names.append(target(descriptor))
    try:
        yield names[0], names[1]
    finally:
        for descriptor, before in zip((1, 2), saved, strict=True):
            os.dup2(before, descriptor)
            os.close(before)


def test_the_last_one_restores(tmp_path: Path) -> None:
    """Two that overlap without nesting, as two threads do."""
    first, second = stdout_to_stderr(), stdout_to_stderr()
    seen = []
    with apart(tmp_path) as (output, errors):
        for step in (
            first.__enter__,
            second.__enter__,
            lambda: first.__exit__(None, None, None),
            lambda: second.__exit__(None, None, None),
        ):
            step()
            seen.append((target(1), target(2)))
    assert seen == [(errors, errors)] * 3 + [(output, errors)]


def test_many_threads(tmp_path: Path) -> None:
    seen: set[str] = set()

    def use() -> None:
        for _ in range(200):
            with stdout_to_stderr():
                seen.add(target(1))

    threads = [threading.Thread(target=use) for _ in range(4)]
    with apart(tmp_path) as (output, errors):
        before = len(os.listdir("/proc/self/fd"))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        after, last = len(os.listdir("/proc/self/fd")), target(1)
    assert (seen, last, after) == ({errors}, output, before)


def test_a_failure_restores(tmp_path: Path) -> None:
    with apart(tmp_path) as (output, _):
        try:
            with stdout_to_stderr():
                raise ZeroDivisionError
        except ZeroDivisionError:
            last = target(1)
    assert last == output


def test_closed_descriptors() -> None:
    program = (
        "import os\n"
        "from hgwire_wsgi.repositories.mercurial.output import stdout_to_stderr\n"
        "os.close(CLOSED)\n"
        "with stdout_to_stderr(): pass\n"
        "os.write(3 - CLOSED, b'done')\n"
    )
    for closed in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", program.replace("CLOSED", str(closed))],
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert done.stdout + done.stderr == b"done"


@pytest.mark.parametrize("kind", ["python", "shell"])
def test_hooks_of_pulls(kind: str, demonstration: Path, tmp_path: Path) -> None:
    """In a process of its own, because Mercurial remembers standard error."""
    (tmp_path / "hook.py").write_text("def talk(**kwargs):\n    print('said by python')\n")
    command = {"python": f"python:{tmp_path}/hook.py:talk", "shell": "echo said by shell"}[kind]
    program = (
        "import sys\n"
        "from hgwire_wsgi.repositories.mercurial import MercurialProvider\n"
        "provider = MercurialProvider(sys.argv[1], config=[sys.argv[2]])\n"
        "with provider.lease('') as repository:\n"
        "    assert repository.listkeys(b'namespaces')\n"
        "    repository.local.ui.write(b'said by ui\\n')\n"
        "print('said by the server')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(demonstration), f"hooks.prelistkeys.x={command}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.stdout, done.stderr) == ("said by the server\n", f"said by {kind}\nsaid by ui\n")


def test_redirected_while_a_hook_runs(demonstration: Path, tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text("import os\ndef look(repo, **kwargs):\n    os.stat(1) == os.stat(2) or 1 / 0\n")
    config = [f"hooks.prelistkeys.x=python:{tmp_path}/hook.py:look", "hooks.prelistkeys.y=true"]
    with apart(tmp_path), MercurialProvider(demonstration, config=config).lease("") as repository:
        keys = repository.listkeys(b"namespaces")
    assert keys
