"""Limits of pushes: hooks that do not end or print without end, and locks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.hooks import KeptOutput, PushLimits, kept_output, run_hook

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def run(command: str, **limits: Any) -> tuple[int, bytes, float]:
    """Run a hook; return its exit code, its output, and how long it took."""
    out, start = KeptOutput(PushLimits()), time.monotonic()
    code = run_hook(command.encode(), os.environ, None, out, PushLimits(**limits))
    return code, out.getvalue(), time.monotonic() - start


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_hook_runs_as_before() -> None:
    assert run("echo one; echo two >&2; cat; exit 3")[:2] == (3, b"one\ntwo\n")
    assert run("exit 0", hook_timeout=None)[:2] == (0, b"")


@pytest.mark.parametrize("ending", ["sleep 60", "exec >&- 2>&-; sleep 60", "trap '' TERM; sleep 60; sleep 60", "yes"])
def test_a_hook_that_does_not_end_is_killed_with_all_its_processes(ending: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code, output, seconds = run(
        f"sleep 60 & echo $! $$ > {pids}; echo before; {ending}", hook_timeout=0.5, hook_output=99
    )
    assert (code, seconds < 10) == (-15 if "trap" not in ending else -9, True)
    assert output.startswith(b"before\n")
    assert output.endswith(b"\nthe hook ran for more than 0 seconds and was stopped\n")
    if sys.platform.startswith("linux"):
        # The signal was sent to all; how soon each one is gone is up to the system.
        deadline = time.monotonic() + 10
        while any(map(is_alive, map(int, pids.read_text().split()))):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_hook_that_ended_is_not_killed_for_what_it_left_behind() -> None:
    """A process in the background holds its output open."""
    code, output, seconds = run("sleep 3 & echo done; exit 0", hook_timeout=0.5)
    assert (code, output, seconds < 2.9) == (0, b"done\n", True)


def test_a_hook_may_close_its_output_and_go_on() -> None:
    assert run("exec >&- 2>&-; sleep 0.1; exit 4", hook_timeout=20)[0] == 4
    assert run("exec >&- 2>&-; sleep 0.1; exit 4", hook_timeout=None)[0] == 4


def test_output_without_end_is_not_kept() -> None:
    code, output, _ = run("head -c 20000000 /dev/zero; exit 2", hook_output=1000)
    assert (code, output) == (2, bytes(1000) + b"\n(output truncated after 1000 bytes)\n")


def test_kept_output() -> None:
    kept = KeptOutput(PushLimits(hook_output=5))
    assert [kept.write(data) for data in (b"abc", memoryview(b"de"), b"", b"fg", b"h")] == [3, 2, 0, 2, 1]
    assert kept.getvalue() == b"abcde\n(output truncated after 5 bytes)\n"


@pytest.mark.parametrize("wrong", [{"lock_timeout": -1}, {"hook_timeout": 0}, {"hook_output": -1}])
def test_settings_are_checked(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MercurialProvider(tmp_path, **wrong)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    subprocess.run([sys.executable, "-m", "mercurial", "init", path], check=True, timeout=60)
    return path


def ui_of(repo: Path, *config: str, **limits: Any) -> Any:
    lease = MercurialProvider(repo, config=config, **limits).lease("")
    return lease.repository.local.ui  # type: ignore[attr-defined]  # the Mercurial backend has it


def test_the_wait_for_a_lock(repo: Path) -> None:
    """The operator's setting counts unless the host has given one."""
    assert ui_of(repo).configint(b"ui", b"timeout") == 10
    assert ui_of(repo, "ui.timeout=60").configint(b"ui", b"timeout") == 60
    assert ui_of(repo, "ui.timeout=60", lock_timeout=0).configint(b"ui", b"timeout") == 0


def test_hooks_of_a_repository_are_limited(repo: Path) -> None:
    ui = ui_of(repo, hook_timeout=0.3)
    ui.fout = ui.ferr = output = kept_output(ui)
    assert ui.system(b"echo begun; sleep 60", cwd=os.fsencode(repo)) == -15
    assert output.getvalue() == b"begun\nthe hook ran for more than 0 seconds and was stopped\n"


def test_output_while_a_bundle_is_applied_is_limited(repo: Path) -> None:
    """Whether a shell hook prints it or code in this process."""
    ui = ui_of(repo, hook_output=10)
    ui.pushbuffer(error=True, subproc=True)
    for _ in range(3):
        ui.write(b"1234", b"56")
    assert ui.system(b"echo hook") == 0
    assert ui.popbuffer() == b"1234561234\n(output truncated after 10 bytes)\n"
    ui.pushbuffer()
    ui.write(b"123456789012")
    assert ui.popbuffer() == b"123456789012"
