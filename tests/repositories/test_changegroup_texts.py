"""Deltas against the revision that was sent before, as version 01 has them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import mdiff

from hgwire_wsgi.repositories.mercurial.changegroups import texts
from hgwire_wsgi.repositories.mercurial.changegroups.texts import Texts

NULL = bytes(20)
BRANCHES = [b"".join(b"%d\n" % (line * 1000 + rev % 2) for line in range(50)) + b"%d\n" % rev for rev in range(8)]
"""Two branches in turns; each revision is stored as a delta against the one before the last."""


class Log:
    """A revlog of these texts."""

    diff = staticmethod(mdiff.textdiff)

    def __init__(self) -> None:
        self.index: dict[int, Any] = {-1: (0, 0, 0, 0, 0, -1, -1, NULL)}
        self.asked: list[int] = []
        for rev, text in enumerate(BRANCHES):
            node = hashlib.sha1(NULL + NULL + text).digest()
            self.index[rev] = (0, 0, 0, 0, 0, -1, -1, node)

    def compared_text(self, rev: int) -> bytes:
        self.asked.append(rev)
        return BRANCHES[rev]


def stored(rev: int) -> tuple[int, bytes]:
    """The base and the delta, or the revision itself and its text."""
    return (rev, BRANCHES[rev]) if rev < 2 else (rev - 2, mdiff.textdiff(BRANCHES[rev - 2], BRANCHES[rev]))


def apply(before: bytes, delta: bytes) -> bytes:
    return bytes(mdiff.patches(before, [delta]))


@pytest.mark.parametrize("checked", [False, True])
def test_a_history_of_two_branches(checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_IS_CHECKED", checked)
    log = Log()
    made = Texts(log)  # type: ignore[arg-type]  # what of a Revlog is used
    before = -1
    for rev, text in enumerate(BRANCHES):
        delta = made.delta(before, rev, *stored(rev))
        assert delta == mdiff.textdiff(BRANCHES[before] if rev else b"", text)
        before = rev
    assert log.asked == []


def test_stored_deltas_are_copied_and_texts_made_later() -> None:
    log = Log()
    made = Texts(log)  # type: ignore[arg-type]  # as above
    assert apply(b"", made.delta(-1, 0, 0, BRANCHES[0])) == BRANCHES[0]
    for rev in (2, 4, 6):
        base, delta = stored(rev)
        assert made.delta(base, rev, base, delta) is delta
    assert made.kept[6] == stored(6)
    assert apply(BRANCHES[6], made.delta(6, 7, 7, BRANCHES[7])) == BRANCHES[7]
    assert made.kept[6] == (6, BRANCHES[6])
    assert log.asked == []


def test_mercurial_makes_the_text_of_a_revision_that_was_not_read() -> None:
    log = Log()
    made = Texts(log)  # type: ignore[arg-type]  # as above
    assert apply(BRANCHES[3], made.delta(3, 4, *stored(4))) == BRANCHES[4]
    assert apply(BRANCHES[4], made.delta(4, 5, *stored(5))) == BRANCHES[5]
    assert log.asked == [3, 4]


def test_a_base_that_no_revlog_has() -> None:
    log = Log()
    made = Texts(log)  # type: ignore[arg-type]  # as above
    assert apply(b"", made.delta(-1, 0, -1, b"delta against nothing")) == BRANCHES[0]
    assert log.asked == [0]


@pytest.mark.parametrize("data", [b"no delta", mdiff.textdiff(BRANCHES[0], BRANCHES[3])])
def test_mercurial_reports_damage(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_IS_CHECKED", True)
    log = Log()
    made = Texts(log)  # type: ignore[arg-type]  # as above
    made.delta(-1, 0, 0, BRANCHES[0])
    made.delta(0, 1, 1, BRANCHES[1])
    made.delta(1, 2, 0, data)
    assert log.asked == [2]


@pytest.mark.parametrize("limit", [0, 2500, 10_000])
def test_memory(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_KEPT", limit)
    made = Texts(Log())  # type: ignore[arg-type]  # as above
    for rev, text in enumerate(BRANCHES):
        assert apply(BRANCHES[rev - 1] if rev else b"", made.delta(rev - 1, rev, *stored(rev))) == text
        assert made.size == sum(len(data) + texts._OVERHEAD for _, data in made.kept.values())
        # Texts replace the deltas of the last two.
        assert made.size <= limit + 2 * 1000 or len(made.kept) <= 3
    assert (len(made.kept) < len(BRANCHES)) == (limit < 10_000)
