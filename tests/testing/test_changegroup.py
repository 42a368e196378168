"""The codec of changegroups: what is written is read back, however it comes; and one error for whatever is wrong."""

from __future__ import annotations

import bz2
import io
import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import CommandFailed, DecodeError
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.testing.changegroup import (
    END,
    Chunk,
    Reader,
    apply_delta,
    encode_group,
    encode_path,
    full_delta,
    open_bundle,
)

LIMIT = 1 << 20

NODES = st.binary(min_size=20, max_size=20)
CHUNKS = st.lists(st.builds(Chunk, NODES, NODES, NODES, NODES, st.binary(max_size=60)), max_size=4)
FILES = st.lists(st.tuples(st.binary(min_size=1, max_size=10), CHUNKS), max_size=4)


def encode(changesets: list[Chunk], manifests: list[Chunk], files: list[tuple[bytes, list[Chunk]]]) -> bytes:
    pieces = [*encode_group(changesets), *encode_group(manifests)]
    for path, chunks in files:
        pieces += [encode_path(path), *encode_group(chunks)]
    return b"".join([*pieces, END])


def decode(source: Any, limit: int = LIMIT) -> tuple[list[Chunk], list[Chunk], list[tuple[bytes, list[Chunk]]]]:
    reader = Reader(source, limit)
    changesets, manifests = list(reader.group()), list(reader.group())
    files = []
    while (path := reader.path()) is not None:
        files.append((path, list(reader.group())))
    reader.end()
    return changesets, manifests, files


class Trickle:
    """Gives as many bytes a read as it is told to."""

    def __init__(self, data: bytes, sizes: Any) -> None:
        self.stream = io.BytesIO(data)
        self.sizes = sizes

    def read(self, size: int, /) -> bytes:
        return self.stream.read(min(size, self.sizes()))


class TestChangegroup:
    @given(changesets=CHUNKS, manifests=CHUNKS, files=FILES, seed=st.integers())
    def test_round_trip(self, changesets: Any, manifests: Any, files: Any, seed: int) -> None:
        data = encode(changesets, manifests, files)
        assert decode(io.BytesIO(data)) == (changesets, manifests, files)
        assert decode(Trickle(data, lambda: 1)) == (changesets, manifests, files)
        sizes = random.Random(seed)
        assert decode(Trickle(data, lambda: sizes.randint(1, 50))) == (changesets, manifests, files)

    def test_layout(self) -> None:
        chunk = Chunk(b"n" * 20, b"1" * 20, b"2" * 20, b"l" * 20, b"delta")
        revision = b"\0\0\0\x59" + b"n" * 20 + b"1" * 20 + b"2" * 20 + b"l" * 20 + b"delta"
        assert encode([chunk], [], [(b"path", [])]) == revision + END + END + b"\0\0\0\x08path" + END + END

    @given(changesets=CHUNKS, files=FILES, end=st.integers(0, 1000))
    def test_cut_short(self, changesets: Any, files: Any, end: int) -> None:
        data = encode(changesets, [], files)
        with pytest.raises(CommandFailed, match="cut short"):
            decode(io.BytesIO(data[: end % len(data)]))

    def test_something_follows(self) -> None:
        with pytest.raises(CommandFailed, match="after the end of the bundle"):
            decode(io.BytesIO(encode([], [], []) + b"\0"))

    @pytest.mark.parametrize("size", [-(2**31), -1, 1, 4])
    def test_impossible_length(self, size: int) -> None:
        with pytest.raises(CommandFailed, match=f"has an invalid length: {size}"):
            decode(io.BytesIO(struct.pack(">i", size) + bytes(100)))

    def test_short_revision(self) -> None:
        with pytest.raises(CommandFailed, match="too short"):
            decode(io.BytesIO(b"\0\0\0\x53" + bytes(79)))

    def test_claimed_length_is_not_allocated(self) -> None:
        class Counting(io.BytesIO):
            largest = 0

            def read(self, size: int | None = -1, /) -> bytes:
                self.largest = max(self.largest, size or 0)
                return super().read(size)

        source = Counting(b"\x7f\xff\xff\xff" + bytes(10))
        with pytest.raises(CommandFailed, match="cut short"):
            decode(source, 1 << 32)
        assert source.largest <= 1 << 16

    def test_limit(self) -> None:
        data = encode([], [], [(b"path", [])])
        assert decode(io.BytesIO(data), len(data))
        with pytest.raises(CommandFailed, match=f"exceeds {len(data) - 1} bytes"):
            decode(io.BytesIO(data), len(data) - 1)

    @given(data=st.binary(max_size=200))
    def test_chunks_or_the_documented_error(self, data: bytes) -> None:
        with pytest.raises(CommandFailed):
            decode(io.BytesIO(data + b"\xff" * 4))


class TestDelta:
    @given(base=st.binary(max_size=50), text=st.binary(max_size=50))
    def test_full(self, base: bytes, text: bytes) -> None:
        assert apply_delta(base, full_delta(len(base), text)) == text

    def test_hunks(self) -> None:
        delta = b"".join(struct.pack(">III", *at, len(new)) + new for at, new in (((1, 2), b"xyz"), ((4, 4), b"!")))
        assert apply_delta(b"abcdef", delta) == b"axyzcd!ef"
        assert apply_delta(b"abcdef", b"") == b"abcdef"

    @given(base=st.binary(max_size=40), places=st.lists(st.integers(0, 40)), news=st.lists(st.binary(max_size=5)))
    def test_any_hunks(self, base: bytes, places: list[int], news: list[bytes]) -> None:
        places = sorted(place % (len(base) + 1) for place in places)
        delta, expected, done = b"", b"", 0
        for start, end, new in zip(places[::2], places[1::2], news, strict=False):
            delta += struct.pack(">III", start, end, len(new)) + new
            expected += base[done:start] + new
            done = end
        assert apply_delta(base, delta) == expected + base[done:]

    @pytest.mark.parametrize(
        ("hunks", "tail"),
        [
            ([(0, 7, 0)], b""),
            ([(2, 1, 0)], b""),
            ([(2, 3, 0), (1, 1, 0)], b""),
            ([(0, 3, 0), (2, 3, 0)], b""),
            ([(0, 0, 2)], b"x"),
            ([(0, 0, 2**32 - 1)], b"x"),
        ],
        ids=str,
    )
    def test_does_not_fit(self, hunks: list[tuple[int, int, int]], tail: bytes) -> None:
        with pytest.raises(CommandFailed, match="does not fit"):
            apply_delta(b"abcdef", b"".join(struct.pack(">III", *hunk) for hunk in hunks) + tail)

    def test_cut_short(self) -> None:
        with pytest.raises(CommandFailed, match="cut short"):
            apply_delta(b"", bytes(13))

    @given(base=st.binary(max_size=20), delta=st.binary(max_size=40))
    def test_text_or_the_documented_error(self, base: bytes, delta: bytes) -> None:
        try:
            assert len(apply_delta(base, delta)) <= len(base) + len(delta)
        except CommandFailed as error:
            assert error.message.startswith("a delta in the bundle")


class TestBundle:
    DATA = encode([], [], [(b"path", [Chunk(*[b"n" * 20] * 4, b"delta")])])

    @pytest.mark.parametrize(
        "bundle",
        [
            b"HG10UN" + DATA,
            b"HG10GZ" + zlib.compress(DATA),
            b"HG10" + bz2.compress(DATA),
            DATA,
        ],
        ids=["UN", "GZ", "BZ", "bare"],
    )
    @pytest.mark.parametrize("size", [1, 3, 1000])
    def test_open(self, bundle: bytes, size: int) -> None:
        source = open_bundle(Trickle(bundle, lambda: size), Limits())
        assert decode(source) == decode(io.BytesIO(self.DATA))

    @pytest.mark.parametrize(
        ("bundle", "words"),
        [
            (b"", "accepts only bundles of the format HG10"),
            (b"HG20\0\0\0\0", "accepts only bundles of the format HG10"),
            (b"HG10", "unknown compression"),
            (b"HG10ZS", "unknown compression"),
            (b"garbage", "accepts only bundles of the format HG10"),
        ],
    )
    def test_foreign(self, bundle: bytes, words: str) -> None:
        with pytest.raises(CommandFailed, match=words):
            open_bundle(io.BytesIO(bundle), Limits())

    @pytest.mark.parametrize("magic", [b"HG10GZ", b"HG10BZ"])
    def test_damaged_compression(self, magic: bytes) -> None:
        with pytest.raises(DecodeError):
            open_bundle(io.BytesIO(magic + b"damaged"), Limits()).read(1)

    def test_compression_cut_at_its_checksum(self) -> None:
        with pytest.raises(DecodeError, match="end early"):
            decode(open_bundle(io.BytesIO(b"HG10GZ" + zlib.compress(self.DATA)[:-1]), Limits()))
