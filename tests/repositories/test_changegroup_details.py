"""What version 04 says about each delta."""

from __future__ import annotations

import struct
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import changegroup

from hgwire_wsgi.repositories.mercurial.changegroups import details
from hgwire_wsgi.repositories.mercurial.changegroups.deltas import FORMATS
from hgwire_wsgi.repositories.mercurial.changegroups.details import Details
from hgwire_wsgi.repositories.mercurial.changegroups.revlogs import Revlog, Surprise

NODES = [b"%020d" % number for number in range(4)]
ALL = frozenset((b"\0", b"x", b"("))
GOOD = 1 << 9 | 1 << 8


class Index(dict[int, Any]):
    """An index object that knows snapshots."""

    def issnapshot(self, rev: int) -> bool:
        return rev < 2

    def deltachain(self, rev: int, stop: None) -> tuple[list[int], bool]:
        return list(range(rev + 1)), False


class Store:
    """Mercurial's object for the file."""

    def rawdata(self, rev: int) -> bytes:
        return b"\1\nmetadata"


def entry(rev: int, base: int, *, flags: int = 0, size: int = 10, p1: int = 0) -> tuple[Any, ...]:
    return (flags, 5, size, base, rev, p1, -1, NODES[rev], 0, 0)


def described(
    of: tuple[Any, ...], base: int, chunk: bytes, accepted: frozenset[bytes] = ALL, **options: Any
) -> tuple[tuple[Any, ...], bytes, bool]:
    index = options.pop("index", Index)({-1: (*entry(0, -1)[:7], bytes(20)), 0: entry(0, 0), 1: entry(1, 0)})
    options = {"is_file": True, "sparse": True, **options}
    log = Revlog(index, True, True, False, b"", Store, lambda old, new: b"", **options)
    fields, data, swapped = Details(log, accepted).of(of[4], of, base, b"data", chunk)
    return struct.unpack(">HbIBB20sb", fields), data, swapped


def test_the_version_is_made_where_mercurial_means_the_same() -> None:
    assert details.is_known() == (b"04" in FORMATS) == hasattr(changegroup, "ChangeGroupPacker04") or (
        changegroup._CHANGEGROUPV4_DELTA_HEADER.size != 130
    )


def test_a_stored_delta() -> None:
    stored = entry(2, 1, flags=GOOD)
    quality = GOOD & details._QUALITIES
    assert described(stored, 1, b"(zstd") == ((quality, -1, 10, 3, 0, NODES[1], -1), b"(zstd", False)
    assert described(stored, 1, b"xzlib")[:2] == ((quality, -1, 10, 2, 0, NODES[1], -1), b"xzlib")
    assert described(stored, 1, b"uplain")[:2] == ((quality, -1, 10, 1, 0, NODES[1], -1), b"plain")
    assert described(stored, 1, b"\0plain")[:2] == ((quality, -1, 10, 1, 0, NODES[1], -1), b"\0plain")
    assert described(stored, 1, b"")[:2] == ((quality, -1, 10, 1, 0, NODES[1], -1), b"")
    assert described(stored, 1, b"xzlib", frozenset(b"("))[:2] == ((quality, -1, 10, 0, 0, NODES[1], -1), b"data")


def test_another_delta() -> None:
    assert described(entry(2, 1, flags=GOOD), 0, b"xzlib") == ((0, -1, 10, 0, 0, NODES[1], -1), b"data", False)


def test_snapshots() -> None:
    assert described(entry(1, 0), 0, b"xzlib", frozenset()) == ((0, 1, 10, 0, 0, NODES[0], 1), b"data", False)
    assert described(entry(1, 0), 0, b"x", sparse=False)[0] == (0, -1, 10, 2, 0, NODES[0], -1)
    assert described(entry(0, 0), -1, b"x", sparse=False)[0] == (0, 0, 10, 2, 2, bytes(20), 0)
    assert described(entry(0, 0), -1, b"x")[0] == (0, 0, 10, 2, 2, bytes(20), 0)


@pytest.mark.skipif("not details._HAS_METADATA", reason="this Mercurial has no flag for metadata")
def test_metadata() -> None:
    first = entry(1, 0, p1=-1)
    assert described(first, 0, b"x")[0][0] == details._HAS_METADATA
    assert described(first, 0, b"x")[2]
    assert not described(first, 0, b"x", is_file=False)[2]
    assert not described(entry(1, 0, p1=0), 0, b"x")[2]
    assert not described(entry(0, 0, p1=-1), -1, b"x")[2]


@pytest.mark.parametrize("damaged", [entry(2, 1, size=-1), entry(2, -1)])
def test_damage(damaged: tuple[Any, ...]) -> None:
    with pytest.raises(Surprise):
        described(damaged, 1, b"x")


def test_an_index_in_python() -> None:
    with pytest.raises(Surprise):
        described(entry(2, 1), 1, b"x", index=dict)
