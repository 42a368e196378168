"""Reading revlogs."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from changegroup_formats import Workshop

from hgwire_wsgi.repositories.mercurial.changegroups import revlogs
from hgwire_wsgi.repositories.mercurial.changegroups.revlogs import BASE, LINK, NODE, Surprise, opened, opened_file

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

PATH = b"folder/file1"
RADIX = b"data/" + PATH


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def opened_in(repo: Any) -> Any:
    return opened_file(repo.svfs, RADIX, functools.partial(repo.file, PATH))


@pytest.mark.parametrize("form", ["committed", "all split", "not general"])
def test_a_file_is_read_as_mercurial_reads_it(workshop: Workshop, form: str) -> None:
    repo = workshop.open("straight", form)
    theirs = repo.file(PATH)._revlog
    with opened_in(repo) as log:
        assert len(log.index) == len(theirs)
        assert list(log.links()) == [theirs.linkrev(rev) for rev in theirs]
        for rev in theirs:
            assert log.index[rev][:8] == theirs.index[rev][:8]
            assert log.delta_parent(rev, log.index[rev]) == theirs.deltaparent(rev)
            assert log.text(rev) == theirs.rawdata(rev)
            assert log.stored(rev) == theirs._inner._chunk(rev)
        assert log.computed_delta(1, 3) == theirs.revdiff(1, 3)


def test_mercurials_object_is_made_once_if_at_all(workshop: Workshop) -> None:
    """It reads the whole index, so one for each delta would take quadratic time."""
    repo = workshop.open("straight", "not general")
    made = []

    def store() -> Any:
        made.append(repo.file(PATH))
        return made[-1]

    with opened_file(repo.svfs, RADIX, store) as log:
        assert log is not None and not made
        for rev in range(3, 6):
            assert log.computed_delta(1, rev) == repo.file(PATH)._revlog.revdiff(1, rev)
            log.text(rev)
    assert len(made) == 1


@pytest.mark.parametrize("form", ["committed", "all split"])
@pytest.mark.parametrize("log", ["changelog", "manifest", "file", "long file"])
@pytest.mark.parametrize(("batch", "window", "gap"), [(1024, 1 << 20, 1 << 16), (4, 1 << 20, 1 << 16), (1024, 300, 10)])
def test_data_are_read_together(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, form: str, log: str, batch: int, window: int, gap: int
) -> None:
    repo = workshop.open("straight", form).unfiltered()
    stores = {"changelog": repo.changelog, "manifest": repo.manifestlog.getstorage(b"")}
    monkeypatch.setattr(revlogs, "_BATCH", batch)
    monkeypatch.setattr(revlogs, "_WINDOW", window)
    monkeypatch.setattr(revlogs, "_GAP", gap)
    if log == "long file":
        monkeypatch.setattr(revlogs, "_LONG_INDEX", 0)
    with opened(stores[log]) if log in stores else opened_in(repo) as found:
        assert found is not None
        theirs: Any = getattr(found.store(), "_revlog", found.store())
        for revs in ([*range(len(theirs))], [0, 1, 5, 6, 10], [9]):
            seen = []
            for numbers, entries, start, data, step in found.batches(revs):
                for rev, entry in zip(numbers, entries, strict=True):
                    at = (entry[0] >> 16) - start + step * (rev + 1)
                    seen.append((rev, data[at : at + entry[1]]))
            assert seen == [(rev, bytes(theirs._inner.get_segment_for_revs(rev, rev)[1])) for rev in revs]


def test_an_index_that_does_not_know_snapshots() -> None:
    """Those written in Python and in Rust lack the methods that this asks."""
    log = revlogs.Revlog(object(), True, False, False, b"", object, lambda old, new: b"", sparse=True)
    with pytest.raises(Surprise):
        log.snapshot_level(0, (0, 0, 0, 0))


def test_windows() -> None:
    def windows(*places: tuple[int, int], revs: Sequence[int] = ()) -> list[tuple[int, int]]:
        entries = [(begin << 16, length) for begin, length in places]
        return list(revlogs._windows(revs or range(len(entries)), entries))

    kilo = 1024
    assert windows((0, 10), (10, 10)) == [(0, 2)]
    assert windows((0, 600 * kilo), (600 * kilo, 600 * kilo)) == [(0, 1), (1, 2)]
    assert windows((0, 3000 * kilo), (3000 * kilo, 1)) == [(0, 1), (1, 2)]
    assert windows((0, 10), (70 * kilo, 10), (70 * kilo + 10, 1), revs=[0, 8, 9]) == [(0, 1), (1, 3)]
    assert windows((0, 10), (60 * kilo, 10), revs=[0, 8]) == [(0, 2)]


def test_ancestors_of_each_other_are_found(workshop: Workshop) -> None:
    repo = workshop.open("merges").unfiltered()
    with opened(repo.changelog) as log:
        assert log is not None
        last = len(log.index) - 1
        line = {rev for rev in range(last) if repo.changelog.isancestorrev(rev, last)}
        assert log.ancestors_among(line, {last}) == line
        assert log.ancestors_among({last, 0}, {0}) == {0}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1\0\1",
        struct.pack(">I", 1 << 16) + bytes(60),
        struct.pack(">I", 2) + bytes(60),
        struct.pack(">I", 1 << 25 | 1) + bytes(60),
        struct.pack(">I", 1) + bytes(61),
        struct.pack(">I", 1 << 16 | 1) + bytes(4) + struct.pack(">i", 1000) + bytes(52),
    ],
    ids=["empty", "short", "version 0", "version 2", "unknown flags", "a byte too many", "inline, too short"],
)
def test_files_that_are_left_to_mercurial(workshop: Workshop, tmp_path: Path, data: bytes) -> None:
    repo = workshop.open("straight")
    (tmp_path / "a.i").write_bytes(data)
    with opened_file(type(repo.svfs.vfs)(bytes(tmp_path)), b"a", lambda: None) as log:
        assert log is None


def test_an_unknown_format(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    log = workshop.open("straight").unfiltered().manifestlog.getstorage(b"")
    monkeypatch.setattr(log._revlog, "_format_version", 0xDEAD)
    with opened(log) as found:
        assert found is None


def test_what_leads_out_of_the_data_is_not_read(workshop: Workshop, tmp_path: Path) -> None:
    repo = workshop.open("straight")
    files = type(repo.svfs.vfs)(bytes(tmp_path))
    entry = struct.Struct(">Qiiiiii20s12x")
    index = b"".join(
        entry.pack(1 if rev == 0 else rev * 10 << 16, 10, 10, rev, rev, -1, -1, bytes(20)) for rev in range(3)
    )
    index = struct.pack(">I", 1) + index[4:]
    (tmp_path / "a.i").write_bytes(index)
    with opened_file(files, b"a", lambda: None) as log:
        assert log is not None
        with pytest.raises(Surprise):
            list(log.batches([0]))
    (tmp_path / "a.d").write_bytes(bytes(25))
    with opened_file(files, b"a", lambda: None) as log:
        assert log is not None
        assert [len(data) for _, _, _, data, _ in log.batches([0, 1])] == [20]
        assert log.index[1][LINK] == log.index[1][BASE] == 1
        assert log.index[-1][NODE] == bytes(20)
        with pytest.raises(Surprise):
            list(log.batches([2]))


def test_a_data_file_that_is_cut_off_is_a_surprise(tmp_path: Path) -> None:
    path = Workshop(tmp_path).path("straight", "all split")
    (path / ".hg/store/00changelog.d").write_bytes(b"")
    with opened(Workshop(tmp_path).open("straight", "all split").unfiltered().changelog) as log:
        assert log is not None
        with pytest.raises(Surprise):
            list(log.batches([0, 1]))
