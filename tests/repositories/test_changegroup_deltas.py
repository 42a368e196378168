"""The group of one revlog."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

import pytest
import zstandard

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import error

from hgwire_wsgi.repositories.mercurial.changegroups import deltas, generator
from hgwire_wsgi.repositories.mercurial.changegroups.deltas import FORMATS, Format, Group
from hgwire_wsgi.repositories.mercurial.changegroups.revlogs import Revlog, Surprise

NULL = bytes(20)
FORM = FORMATS[b"03"]
LINKS = [b"%020d" % number for number in range(10)]


class Index(list[tuple[Any, ...]]):
    """An index object of which nothing is asked but entries."""

    def __getitem__(self, rev: Any) -> Any:
        return (0, 0, 0, -1, -1, -1, -1, NULL) if rev == -1 else super().__getitem__(rev)

    def deltachain(self, rev: int, stop: None) -> tuple[list[int], bool]:
        return [rev], False


class Store:
    """Mercurial's object."""

    def __init__(self, **results: Any) -> None:
        self._results = results
        self._inner = self

    def rawdata(self, rev: int) -> bytes:
        return self._result("text", rev)

    def revdiff(self, base: int, rev: int) -> bytes:
        return self._result("delta", base, rev)

    def _chunk(self, rev: int) -> bytes:
        return self._result("stored", rev)

    def _result(self, name: str, *revs: int) -> bytes:
        result = self._results[name]
        if isinstance(result, Exception):
            raise result
        return b"%s of %s" % (result, b" ".join(b"%d" % rev for rev in revs))


def difference(old: bytes, new: bytes) -> bytes:
    return b"%s to %s" % (old, new)


class Maker:
    """Makes a revlog whose data are not inline."""

    def __init__(self, **results: Any) -> None:
        self.index = Index()
        self.data = b""
        self.results = results

    def add(
        self, text: bytes, *, stored: bytes | None = None, base: int = -1, p1: int = -1, p2: int = -1, flags: int = 0
    ) -> bytes:
        """Add a revision: a full text, or, with a base, a delta; as it is, or as it is stored."""
        rev = len(self.index)
        stored = (b"u" + text if text else b"") if stored is None else stored
        parents = sorted((self.index[p1][7], self.index[p2][7]))
        node = hashlib.sha1(b"".join(parents) + text).digest()
        offset = len(self.data) << 16 | flags
        self.index.append((offset, len(stored), len(text), rev if base == -1 else base, rev, p1, p2, node, 0, 0))
        self.data += stored
        return node

    def group(
        self,
        revs: Sequence[int],
        *,
        form: Format = FORM,
        general: bool = True,
        swaps: bool = False,
        full: bool = False,
    ) -> Group:
        log = Revlog(self.index, general, False, swaps, self.data, lambda: Store(**self.results), difference)
        return Group.of(log, form, revs, full=full)


def chunks(blocks: Iterator[bytes]) -> list[tuple[bytes, ...]]:
    """Node, parents, base, link, and delta of each revision."""
    data = b"".join(blocks)
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        chunk, data = data[4:size], data[size:]
        fields = [chunk[start : start + 20] for start in range(0, 100, 20)]
        assert chunk[100:102] == b"\0\0"
        found.append((*fields, chunk[102:]))
    return found


def made(group: Group, **options: Any) -> list[tuple[bytes, ...]]:
    return chunks(group.blocks(LINKS[: len(group.revs)], zstandard.ZstdDecompressor().decompress, **options))


def insert(text: bytes) -> bytes:
    return bytes(8) + len(text).to_bytes(4, "big") + text


def test_a_full_text_and_a_delta() -> None:
    maker = Maker()
    first = maker.add(b"text")
    second = maker.add(b"delta", base=0, p1=0)
    seen: list[tuple[int, bytes]] = []
    found = made(maker.group([0, 1]), look=lambda log, rev, entry, data: seen.append((rev, data)))
    assert found == [
        (first, NULL, NULL, NULL, LINKS[0], insert(b"text")),
        (second, first, NULL, first, LINKS[1], b"delta"),
    ]
    assert seen == [(0, b"text"), (1, b"delta")]


def test_nothing() -> None:
    maker = Maker()
    node = maker.add(b"text")
    assert made(maker.group([])) == []
    assert made(maker.group([-1])) == []
    assert made(maker.group([-1, 0])) == [(node, NULL, NULL, NULL, LINKS[1], insert(b"text"))]


def test_how_data_are_stored() -> None:
    text = b"text" * 100
    unsized = zstandard.ZstdCompressor().compressobj()
    kinds = [
        b"u" + text,
        b"x" + zlib.compress(text)[1:],
        zstandard.compress(text),
        unsized.compress(text) + unsized.flush(),
    ]
    for stored in kinds:
        maker = Maker()
        maker.add(text, stored=stored)
        assert made(maker.group([0]))[0][5] == insert(text)
    maker = Maker()
    maker.add(b"\0text", stored=b"\0text")
    maker.add(b"")
    assert [chunk[5] for chunk in made(maker.group([0, 1]))] == [insert(b"\0text"), b""]


@pytest.mark.parametrize("stored", [b"?text", b"xtext", b"(text", zstandard.compress(b"text")[:-1]])
def test_what_mercurial_decompresses(stored: bytes) -> None:
    maker = Maker(stored=b"delta")
    maker.add(b"text")
    maker.add(b"text", stored=stored, base=0, p1=0)
    assert made(maker.group([0, 1]))[1][5] == b"delta of 1"


def test_a_wrong_hash_is_mercurials_to_report() -> None:
    maker = Maker(text=error.RevlogError(b"integrity check failed"))
    maker.add(b"text")
    maker.add(b"other text", stored=b"uother test")
    group = maker.group([0, 1])
    blocks = group.blocks(LINKS[:2], zlib.decompress)
    assert len(chunks(iter([next(blocks)]))) == 1
    with pytest.raises(error.RevlogError):
        next(blocks)
    assert group.sent == 1


@pytest.mark.parametrize(
    "options",
    [{"flags": 1 << 15}, {"p1": 7}, {"p2": 1}, {"base": 5, "p1": 0}, {"p1": -7}, {"base": -7, "p2": -3}],
)
def test_a_surprise_ends_the_group(options: dict[str, int]) -> None:
    maker = Maker(delta=b"delta")
    maker.add(b"text")
    maker.index.append((len(maker.data) << 16 | options.pop("flags", 0), 0, 0, *_entry(**options)))
    group = maker.group([0, 1])
    blocks = group.blocks(LINKS[:2], zlib.decompress)
    assert next(blocks)
    with pytest.raises(Surprise):
        next(blocks)
    assert group.sent == 1


def _entry(base: int = 1, p1: int = -1, p2: int = -1) -> tuple[Any, ...]:
    return base, 1, p1, p2, b"n" * 20, 0, 0


def test_a_surprise_at_the_first_revision() -> None:
    maker = Maker()
    maker.add(b"text", flags=1 << 15)
    with pytest.raises(Surprise):
        made(maker.group([0]))


def test_a_parent_that_is_not_sent_has_flags() -> None:
    maker = Maker()
    maker.add(b"text")
    maker.add(b"censored", flags=1 << 15)
    maker.add(b"delta", base=1, p1=1)
    with pytest.raises(Surprise):
        made(maker.group([2]))


def test_a_damaged_index_leads_nowhere() -> None:
    class Lost(Store):
        def reachableroots(self, *_: Any) -> list[int]:
            raise ValueError

    maker = Maker()
    for _ in range(3):
        maker.add(b"text")
    maker.add(b"delta", base=1, p1=2)
    log = Revlog(maker.index, True, False, False, maker.data, Lost, difference)
    with pytest.raises(Surprise):
        Group.of(log, FORM, [3])


def test_a_base_that_the_client_lacks() -> None:
    class Known(Store):
        def reachableroots(self, least: int, heads: list[int], roots: list[int], path: bool) -> list[int]:
            assert (least, heads, roots, path) == (1, [2], [1], True)
            return []

    maker = Maker()
    nodes = [maker.add(b"%d" % number) for number in range(3)]
    maker.add(b"delta", base=1, p1=2)
    log = Revlog(maker.index, True, False, False, maker.data, lambda: Known(delta=b"delta"), difference)
    assert made(Group.of(log, FORM, [3]))[0][3:] == (nodes[2], LINKS[0], b"delta of 2 3")


def test_the_null_revision_does_not_stand_for_one_that_the_client_lacks() -> None:
    """As many are asked for as there are, but not all of them."""

    class Known(Store):
        def reachableroots(self, *_: Any) -> list[int]:
            return []

    maker = Maker()
    nodes = [maker.add(b"%d" % number) for number in range(2)]
    maker.add(b"delta", base=1, p1=0)
    log = Revlog(maker.index, True, False, False, maker.data, lambda: Known(delta=b"delta"), difference)
    assert [chunk[3] for chunk in made(Group.of(log, FORM, [-1, 0, 2]))] == [NULL, nodes[0]]


def test_the_base_is_the_one_before() -> None:
    maker = Maker()
    first = maker.add(b"text")
    second = maker.add(b"delta", base=0)
    third = maker.add(b"delta", base=0, p1=0)
    found = made(maker.group([0, 1, 2], general=False))
    assert [(chunk[0], chunk[3]) for chunk in found] == [(first, NULL), (second, first), (third, second)]


def test_version_01() -> None:
    maker = Maker()
    nodes = [maker.add(text) for text in (b"one", b"two")]
    nodes.append(maker.add(b"delta", base=1, p1=0))
    data = b"".join(maker.group([0, 1, 2], form=FORMATS[b"01"]).blocks(LINKS[:3], zlib.decompress))
    expected = [
        (nodes[0], NULL, NULL, LINKS[0], b" to one"),
        (nodes[1], NULL, NULL, LINKS[1], b"one to two"),
        (nodes[2], nodes[0], NULL, LINKS[2], b"delta"),
    ]
    found = [b"".join(chunk) for chunk in expected]
    assert data == b"".join((len(chunk) + 4).to_bytes(4, "big") + chunk for chunk in found)


DETAILED = Format(Struct(">l20s20s20s20s20s"), detailed=True, accepted=frozenset((b"x",)))
"""As version 04, which is not made for all versions of Mercurial."""


def test_version_04() -> None:
    maker = Maker()
    first = maker.add(b"\1\n", p1=-1)
    stored = b"x" + zlib.compress(b"\1\ntext")[1:]
    second = maker.add(b"\1\ntext", stored=stored, p1=-1, p2=0)
    group = maker.group([0, 1], form=DETAILED)
    group.log.is_file = True
    (data,) = group.blocks(LINKS[:2], zlib.decompress)
    at = int.from_bytes(data[:4], "big")
    assert data[4:24] == first and data[138 - 4 : at] == b"\1\n"
    # What begins with metadata and has a null parent has it second.
    assert data[at + 4 : at + 64] == second + first + NULL
    assert data[at + 134 :] == stored


def test_damage_in_version_04_is_left_to_mercurial() -> None:
    maker = Maker(text=error.RevlogError(b"damaged"))
    maker.add(b"text", stored=b"uother")
    with pytest.raises(Surprise):
        list(maker.group([0], form=DETAILED).blocks(LINKS[:1], zlib.decompress))


def test_only_full_texts() -> None:
    maker = Maker(text=b"text")
    maker.add(b"text")
    maker.add(b"delta", base=0, p1=0)
    assert [chunk[5] for chunk in made(maker.group([1], full=True))] == [insert(b"text of 1")]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_null_parent_before_another(swaps: bool) -> None:
    maker = Maker()
    first = maker.add(b"text")
    maker.add(b"text", p2=0)
    maker.add(b"other", p2=0)
    for revs in ([0, 1, 2], [1, 2]):
        parents = (first, NULL) if swaps else (NULL, first)
        assert [chunk[1:3] for chunk in made(maker.group(revs, swaps=swaps))[-2:]] == [parents, parents]


def test_long_texts_come_alone() -> None:
    maker = Maker()
    long = b"long" * deltas.BLOCK
    for text in (b"short", long, b"short", b"delta"):
        maker.add(text, p1=len(maker.index) - 1)
    blocks = list(maker.group(range(4)).blocks(LINKS[:4], zlib.decompress))
    assert blocks[1] == long
    assert len(blocks) == 3


@pytest.mark.parametrize(
    ("flags", "p1", "p2", "base"),
    [(0, 3, -1, 3), (0, -1, 4, 4), (0, -1, -1, 9), (0, 3, 4, 3), (1 << 9 | 1 << 6, 3, 4, 4), (1 << 6, 3, 4, 3)],
)
def test_another_base(flags: int, p1: int, p2: int, base: int) -> None:
    assert deltas._other_base(flags, p1, p2, 9) == base


def test_small_blocks_are_joined() -> None:
    long = bytes(deltas.BLOCK)
    assert list(generator._joined(iter([b"a", b"b", long, b"c"]))) == [b"ab", long, b"c"]
    assert list(generator._joined(iter([long]))) == [long]
