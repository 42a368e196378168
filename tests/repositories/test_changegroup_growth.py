"""Our changegroups are Mercurial's for histories that grow at random, by the commands of ``hg``."""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from changegroup_equality import Comparison, pairs, whole
from changegroup_formats import FORMATS
from changegroup_histories import make_ui, open_repository
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mercurial import dispatch, repair

try:
    from mercurial.main_script import request
except ImportError:  # before Mercurial 7.2
    from mercurial.dispatch import request

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

GROWN = ("usual", "zlib, native deltas", "not general", "not sparse", "short chains", "Mercurial 0.9.2")
"""Formats to grow in."""

FILES = ("a", "b", "Folder/c", "Folder/d")
CONTENTS = (b"", b"one\n", b"one\ntwo\n", b"\1\nmarked\n", bytes(range(256)) * 20, b"x\n" * 3000)


@attrs.define
class Grower:
    """A repository that grows, with its working copy.

    Attributes:
        path: the repository.
        config: of its format.
    """

    path: Path
    config: dict[str, str]

    def hg(self, *arguments: str | Path) -> int:
        """Run a command in this process and return its exit code."""
        wanted = request(
            [os.fsencode(each) for each in ("-R", self.path, "-q", *arguments)],
            ui=make_ui({**self.config, "ui.merge": ":local", "ui.interactive": "no"}),
            fout=io.BytesIO(),
            ferr=io.BytesIO(),
        )
        return int(dispatch.dispatch(wanted) or 0)

    def open(self) -> Any:
        """A new repository object."""
        return open_repository(self.path, self.config)

    def step(self, number: int, action: str, one: int, two: int) -> None:
        """Do something with the working copy or the history; what is not possible now has no effect.

        Args:
            number: of the step.
            action: what to do.
            one: selects a file, or a revision counted from the newest.
            two: selects contents, or another file.
        """
        file, other = (self.path / FILES[each % len(FILES)] for each in (one, two))
        message = ("-m", f"step {number}", "-d", f"{number} 0")
        rev = str(max(0, len(self.open().unfiltered()) - 1 - one))
        if action == "write":
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(CONTENTS[two % len(CONTENTS)])
        elif action == "append" and file.exists():
            with file.open("ab") as stream:
                stream.write(b"%d\n" % number)
        elif action in ("rename", "copy"):
            self.hg(action, "-f", file, other)
        elif action == "remove":
            self.hg("remove", "-f", file)
        elif action == "update":
            self.hg("update", "-C", "--hidden", "-r", rev)
        elif action == "branch":
            self.hg("branch", "-f", f"branch{two}")
        elif action == "merge":
            self.hg("merge", "-r", rev)
        elif action == "backout":
            self.hg("backout", "-r", rev, *message)
        elif action == "graft":
            self.hg("graft", "-f", "-r", rev, "-d", f"{number} 0")
        elif action == "secret":
            self.hg("phase", "-f", "-s", "-r", rev)
        elif action == "public":
            self.hg("phase", "-p", "-r", rev)
        elif action == "strip":
            self._strip(int(rev))
            return
        self.hg("commit", "-A", *(["--amend"] if action == "amend" else []), *message)

    def _strip(self, rev: int) -> None:
        repo = self.open().unfiltered()
        if 0 < rev < len(repo):
            self.hg("update", "-C", "-r", "0")
            with repo.wlock(), repo.lock():
                repair.strip(repo.ui, repo, [repo[rev].node()], backup=False)


ACTIONS = (
    *("write", "append", "rename", "copy", "remove", "update", "branch", "merge", "backout", "graft"),
    *("secret", "public", "strip", "amend"),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write"] * 6 + ["append"] * 3 + ["update"] * 3 + ["merge"] * 3 + list(ACTIONS)),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    min_size=4,
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(GROWN), steps=STEPS, seed=st.integers(0, 1000))
def test_a_history_that_grew(name: str, steps: Sequence[tuple[str, int, int]], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        grower = Grower(Path(folder) / "repo", dict(FORMATS[name].config))
        open_repository(grower.path, grower.config, create=True)
        for number, step in enumerate((("write", 0, 1), ("write", 1, 2), *steps)):
            grower.step(number, *step)
        repo = grower.open()
        comparison = Comparison()
        for request in (*whole(repo), *pairs(repo, 6, random.Random(seed))):
            comparison.check(repo, request)
        assert comparison.is_ours(), comparison


def test_the_steps_are_possible(tmp_path: Path) -> None:
    """Each action changes something, so the histories above are not all alike."""
    grower = Grower(tmp_path / "repo", {})
    open_repository(grower.path, create=True)
    grower.step(0, "write", 0, 1)

    def state() -> object:
        repo = grower.open().unfiltered()
        return [repo[rev].node() for rev in repo], repo.svfs.tryread(b"phaseroots"), repo.dirstate.p1()

    for number, action in enumerate(ACTIONS, 1):
        grower.step(100 + number, "write", 2, 4 + number % 2)
        if action in ("merge", "graft"):
            grower.step(200 + number, "update", 1, 0)
        grower.step(250 + number, "write", 1, number % 3)
        before = state()
        grower.step(300 + number, action, 0 if action == "backout" else 1, 2 + number)
        assert state() != before, action
