"""Our changegroups are Mercurial's in every format: all histories, whole and in parts, in all versions.

``HGWIRE_HISTORY=REPOSITORY`` compares one more history, such as a large one: whole and in random parts.  ``-rP`` shows
how many revlogs were made by whom.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from changegroup_equality import Comparison, pairs, whole
from changegroup_formats import FORMATS, Workshop
from changegroup_histories import HISTORIES, open_repository

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

KNOWN = [name for name, form in FORMATS.items() if form.known and form.ours]

PAIRS = 2400
"""Random pulls in all."""

LARGE = ("binary", "chains", "snapshots")
"""Histories that take longer than the others."""

PARTS = 60
"""Random pulls of the history that ``HGWIRE_HISTORY`` names."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.parametrize("name", KNOWN)
def test_a_format(workshop: Workshop, name: str) -> None:
    chance = random.Random(name)
    comparison = Comparison()
    # Formats that leave the choice of deltas as it is need no more than a few large histories.
    left_out = set() if FORMATS[name].native else set(chance.sample(LARGE, 2))
    histories = [history for history in HISTORIES if history not in left_out]
    small = [history for history in histories if history not in LARGE]
    for history in histories:
        repo = workshop.open(history, name)
        for request in whole(repo):
            comparison.check(repo, request)
        share = 0.02 if history in LARGE else 1 / len(small)
        for request in pairs(repo, round(PAIRS / len(KNOWN) * share) + 1, chance):
            comparison.check(repo, request)
    print(f"{name}: {comparison}")
    assert comparison.requests >= PAIRS / len(KNOWN)
    assert FORMATS[name].aside or comparison.is_ours(), comparison


@pytest.mark.skipif("HGWIRE_HISTORY" not in os.environ, reason="HGWIRE_HISTORY names no repository")
def test_another_history() -> None:
    repo = open_repository(Path(os.environ["HGWIRE_HISTORY"]))
    comparison = Comparison()
    for request in (*whole(repo), *pairs(repo, PARTS, random.Random(1))):
        comparison.check(repo, request)
    print(comparison)
    assert comparison.is_ours(), comparison
