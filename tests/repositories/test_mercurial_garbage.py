"""Garbage is collected during a long stream, but only if Mercurial has made some."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import pytest

pytest.importorskip("mercurial")

from mercurial import hg
from mercurial import ui as uimod

from hgwire_wsgi.repositories.mercurial import garbage
from hgwire_wsgi.repositories.mercurial.garbage import collected, count_files


@attrs.define(slots=False)
class FakeRepository:
    """A repository object that counts nothing; it gets another class, as Mercurial's can."""

    requirements: frozenset[bytes] = frozenset()

    def file(self, path: bytes, writable: bool = False) -> tuple[bytes, bool]:
        return path, writable


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an item for each collection."""
    found: list[int] = []
    monkeypatch.setattr(garbage, "_COLLECT_EVERY", 8)
    monkeypatch.setattr(gc, "collect", lambda: found.append(1))
    return found


CHUNKS = (b"1234", b"5678") * 4


def read(chunks: Iterable[bytes]) -> bytes:
    return b"".join(chunks)


def test_a_repository_that_counts_nothing_is_always_cleaned_up(collections: list[int]) -> None:
    assert read(collected(CHUNKS, FakeRepository())) == b"".join(CHUNKS)
    assert len(collections) == 4


def test_streams_without_files_are_not_interrupted(collections: list[int]) -> None:
    repo = FakeRepository()
    count_files(repo)
    assert read(collected(CHUNKS, repo)) == b"".join(CHUNKS)
    assert collections == []


def test_files_make_garbage(collections: list[int]) -> None:
    repo = FakeRepository()
    count_files(repo)
    seen: list[int] = []

    def chunks() -> Iterator[bytes]:
        for chunk in CHUNKS:
            if len(seen) == 3:
                assert repo.file(b"path", writable=True) == (b"path", True)
            yield chunk

    for _ in collected(chunks(), repo):
        seen.append(len(collections))
    assert seen == [0, 0, 0, 0, 1, 1, 1, 1]


def test_folders_with_revlogs_make_garbage(collections: list[int]) -> None:
    repo = FakeRepository(frozenset({b"treemanifest"}))
    count_files(repo)
    read(collected(CHUNKS, repo))
    assert len(collections) == 4


def test_a_real_repository_counts_in_every_view(tmp_path: Path, collections: list[int]) -> None:
    repo = hg.repository(uimod.ui.load(), bytes(tmp_path), create=True).unfiltered()
    count_files(repo)
    for number, view in enumerate((repo, repo.filtered(b"served"), repo.filtered(b"visible")), start=1):
        assert len(view.file(b"path")) == 0
        assert view.hgwire_files.made == number
