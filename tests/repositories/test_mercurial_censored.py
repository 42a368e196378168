from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial.censored import Censored

CENSORED = 1 << 15
INLINE = 1 << 16


def index(*flags: int, inline: bool, version: int = 1) -> bytes:
    """An index with one revision for each flag; revision N has N bytes of data."""
    entries = []
    for revision, flag in enumerate(flags):
        entry = bytearray(flag.to_bytes(8, "big") + revision.to_bytes(4, "big") + bytes(52))
        if revision == 0:
            entry[:4] = (version | INLINE * inline).to_bytes(4, "big")
        entries.append(bytes(entry) + b"\xff" * (revision * inline))
    return b"".join(entries)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store" / "data" / "folder").mkdir(parents=True)
    (tmp_path / "store" / "dh").mkdir()
    return tmp_path


def censored(root: Path) -> dict[str, bytes]:
    found = Censored().read(os.fsencode(root), time.time_ns()).indexes
    return {os.path.relpath(os.fsdecode(path), root / "store"): flags for path, flags in found}


@pytest.mark.parametrize("inline", [True, False])
def test_flags_are_found_in_all_folders(root: Path, inline: bool) -> None:
    store = root / "store"
    (store / "data" / "none.i").write_bytes(index(0, 0x2000, 0, inline=inline))
    (store / "data" / "none.d").write_bytes(index(CENSORED, inline=inline))
    (store / "data" / "empty.i").write_bytes(b"")
    (store / "data" / "first.i").write_bytes(index(CENSORED, inline=inline))
    (store / "data" / "folder" / "some.i").write_bytes(index(0, CENSORED, 0, CENSORED | 1, inline=inline) + b"rest")
    (store / "dh" / "last.i").write_bytes(index(0, 0, 0, CENSORED, inline=inline))
    assert censored(root) == {"data/first.i": b"[0]", "data/folder/some.i": b"[1, 3]", "dh/last.i": b"[3]"}


def test_another_format_counts_as_a_whole(root: Path) -> None:
    path = root / "store" / "data" / "other.i"
    path.write_bytes(index(0, inline=False, version=2))
    before = censored(root)
    assert before
    path.write_bytes(index(0, 0, inline=False, version=2))
    assert censored(root) != before


def test_only_folders_that_have_changed_are_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = root / "store" / "data"
    for folder in (data, data / "folder"):
        (folder / "file.i").write_bytes(index(0, CENSORED, inline=True))
    path = os.fsencode(root)
    unsettled = Censored().read(path, 0)
    before = unsettled.read(path, time.time_ns() + 10**9)
    assert len(before.indexes) == 2 and before.indexes == unsettled.indexes
    scanned: list[str] = []
    scan = os.scandir

    def watch(folder: bytes) -> object:
        scanned.append(os.path.relpath(os.fsdecode(folder), root / "store"))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", watch)
    assert before.read(path, 7) == Censored(before.indexes, 7)
    assert scanned == []
    settled = max(folder.stat().st_ctime_ns for folder in (data, data / "folder", root / "store" / "dh")) + 1
    before = before.read(path, settled)
    while time.time_ns() < settled + 10**7:
        time.sleep(0.01)
    (data / "new").write_bytes(index(CENSORED, CENSORED, inline=True))
    (data / "new").rename(data / "file.i")
    after = before.read(path, settled)
    assert scanned == ["data"]
    assert dict(after.indexes) == {**dict(before.indexes), os.fsencode(data / "file.i"): b"[0, 1]"}
    (data / "file.i").unlink()
    assert [path for path, _ in after.read(path, settled).indexes] == [os.fsencode(data / "folder" / "file.i")]
    (data / "later").mkdir()
    (data / "later" / "file.i").write_bytes(index(CENSORED, inline=True))
    (data / "folder" / "file.i").unlink()
    (data / "folder").rmdir()
    assert [path for path, _ in after.read(path, settled).indexes] == [os.fsencode(data / "later" / "file.i")]


def test_what_cannot_be_read_has_no_flags(root: Path) -> None:
    (root / "store" / "data" / "folder.i").mkdir()
    assert censored(root) == {}
