"""Mercurial before 2.3, which sends ``pushkey`` as a form: our application against hgweb, with the same client.

It needs Python 2.7.  Set ``HGWIRE_HG22`` to the command that runs it, for instance ``/opt/python2.7/bin/python
/opt/mercurial-2.2.3/hg`` after ``python setup.py build_ext -i`` in its sources.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from live_hg import Outcome
from live_pair import Pair, Served, Side
from live_wait import PATIENCE

HG = shlex.split(os.environ.get("HGWIRE_HG22", ""))

pytestmark = pytest.mark.skipif(not HG, reason="HGWIRE_HG22 is not set: the command that runs a Mercurial before 2.3")


def old(side: Side, *args: str, cwd: Path, ok: tuple[int, ...] = (0,)) -> Outcome:
    """Run the old client and record the result in the transcript."""
    done = subprocess.run([*HG, *args], env=side.environ, cwd=cwd, capture_output=True, timeout=PATIENCE)
    said = [side.plain(stream.decode()) for stream in (done.stdout, done.stderr)]
    outcome = Outcome(tuple(map(side.plain, args)), done.returncode, said[0], said[1])
    side.transcript.append(outcome)
    assert outcome.code in ok, f"{outcome}\n{side.server.log()[-3000:]}"
    return outcome


def cloned(side: Side, served: Served) -> Path:
    """Let the old client clone and commit, and return the clone."""
    old(side, "clone", served.url, "clone", cwd=side.folder)
    clone = side.folder / "clone"
    (clone / "new").write_text("new\n")
    old(side, "commit", "-A", "-q", "-d", "0 0", "-m", "new", cwd=clone)
    return clone


def test_an_old_client_pushes_bookmarks(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve()
        clone = cloned(side, served)
        old(side, "bookmark", "-i", "-r", "tip", "mark", cwd=clone)
        old(side, "push", "-B", "mark", cwd=clone)
        old(side, "bookmark", "-i", "-f", "-r", "0", "other", cwd=clone)
        old(side, "push", "-B", "other", cwd=clone, ok=(0, 1))
        old(side, "bookmark", "-d", "mark", cwd=clone)
        old(side, "push", "-B", "mark", cwd=clone, ok=(0, 1))
        return side.state(served.path)

    state = pair.same(scenario)
    assert state["changesets"][-1].endswith("new")
    assert [line.split()[0] for line in state["bookmarks"]] == ["main", "old", "other", "ключ/é"]


def test_an_old_client_pushes_phases(pair: Pair) -> None:
    """First with a changeset, to a server that does not publish, then alone."""

    def scenario(side: Side) -> Any:
        served = side.serve(hgrc="[phases]\npublish = no\n")
        clone = cloned(side, served)
        old(side, "push", cwd=clone)
        phases = [side.state(served.path)["changesets"][-1].split()[2]]
        old(side, "phase", "-p", "tip", cwd=clone)
        old(side, "push", cwd=clone, ok=(0, 1))
        return [*phases, side.state(served.path)["changesets"][-1].split()[2]]

    assert pair.same(scenario) == ["draft", "public"]
