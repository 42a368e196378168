"""Helpers for byte streams: exact, bounded, in constant memory, however the source is cut."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import BodyTooLarge, DecodeError
from hgwire_wsgi.streams import (
    BoundedReader,
    Prefixed,
    ProportionalReader,
    Readable,
    close_source,
    coalesce,
    iter_pieces,
    read_exactly,
)

PIECE = 64 * 1024


class Dribble:
    """A source that returns at most ``step`` bytes a read, and records the sizes it is asked for."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        self._file = io.BytesIO(data)
        self._step = step
        self.asked: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.asked.append(size)
        return self._file.read(min(size, self._step))


def drain(source: Readable, size: int) -> bytes:
    return b"".join(iter_pieces(source, size))


class TestReadExactly:
    @given(data=st.binary(max_size=50), step=st.integers(1, 20), size=st.integers(-1, 60))
    def test_size(self, data: bytes, step: int, size: int) -> None:
        source = Dribble(data, step)
        assert read_exactly(source, size) == data[: max(size, 0)]
        assert drain(source, 7) == data[max(size, 0) :], "nothing more was read"

    def test_never_asks_for_much_at_once(self) -> None:
        """A size may come from a peer; a server may allocate what it is asked for."""
        source = Dribble(bytes(200_000))
        assert len(read_exactly(source, 1 << 40)) == 200_000
        assert max(source.asked) <= PIECE


class TestIterPieces:
    @given(data=st.binary(max_size=50), step=st.integers(1, 20), size=st.integers(1, 20))
    def test_pieces(self, data: bytes, step: int, size: int) -> None:
        pieces = list(iter_pieces(Dribble(data, step), size))
        assert b"".join(pieces) == data
        assert all(0 < len(piece) <= size for piece in pieces)

    def test_default_size(self) -> None:
        assert [len(piece) for piece in iter_pieces(io.BytesIO(bytes(PIECE + 1)))] == [PIECE, 1]

    def test_reads_as_it_is_iterated(self) -> None:
        source = Dribble(b"abcdef")
        pieces = iter_pieces(source, 2)
        assert next(pieces) == b"ab"
        assert source.asked == [2]


class TestPrefixed:
    @given(front=st.binary(max_size=20), rest=st.binary(max_size=20), size=st.integers(1, 30), step=st.integers(1, 30))
    def test_front_and_rest(self, front: bytes, rest: bytes, size: int, step: int) -> None:
        assert drain(Prefixed(front, Dribble(rest, step)), size) == front + rest

    def test_rest_is_not_read_before_its_turn(self) -> None:
        rest = Dribble(b"rest")
        source = Prefixed(b"front", rest)
        assert source.read(10) == b"front"
        assert rest.asked == []
        assert source.read(10) == b"rest"

    def test_returns_bytes(self) -> None:
        assert type(Prefixed(b"front", io.BytesIO()).read(2)) is bytes


class TestBoundedReader:
    @given(data=st.binary(max_size=40), limit=st.integers(0, 40), size=st.integers(1, 50))
    def test_limit(self, data: bytes, limit: int, size: int) -> None:
        reader = BoundedReader(io.BytesIO(data), limit)
        if len(data) <= limit:
            assert drain(reader, size) == data
        else:
            with pytest.raises(BodyTooLarge, match=f"decompresses to more than {limit} bytes"):
                drain(reader, size)

    def test_stays_refused(self) -> None:
        reader = BoundedReader(io.BytesIO(b"abcdef"), 2)
        for _ in range(3):
            with pytest.raises(BodyTooLarge):
                reader.read(3)


class TestCoalesce:
    @given(chunks=st.lists(st.binary(max_size=12), max_size=20), size=st.integers(1, 16))
    def test_chunks(self, chunks: list[bytes], size: int) -> None:
        joined = list(coalesce(chunks, size))
        assert b"".join(joined) == b"".join(chunks)
        assert all(len(chunk) >= size for chunk in joined[:-1])
        assert all(joined), "an empty chunk would end a chunked response"

    def test_large_chunks_are_not_copied(self) -> None:
        large = bytes(100)
        assert next(coalesce([large], 10)) is large

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_gives_bytes(self, kind: type) -> None:
        """WSGI servers refuse anything else."""
        for size in (1, 100):
            assert [(type(chunk), chunk) for chunk in coalesce([kind(b"data")], size)] == [(bytes, b"data")]

    def test_holds_no_more_than_it_must(self) -> None:
        made = []

        def chunks() -> Iterator[bytes]:
            for number in range(10):
                made.append(number)
                yield b"abc"

        joined = coalesce(chunks(), 6)
        assert next(joined) == b"abcabc"
        assert made == [0, 1]

    def test_empty_chunks_are_not_collected(self) -> None:
        """However many there are: they may come without end."""

        class Watched(bytes):
            alive = 0

            def __init__(self, _: bytes = b"") -> None:
                Watched.alive += 1

            def __del__(self) -> None:
                Watched.alive -= 1

        most = 0

        def chunks() -> Iterator[bytes]:
            nonlocal most
            for _ in range(1000):
                yield Watched()
                most = max(most, Watched.alive)

        assert list(coalesce(chunks(), 10)) == []
        assert most < 10


class TestCloseSource:
    def test_with_close(self) -> None:
        file = io.BytesIO()
        close_source(file)
        close_source(file)
        assert file.closed

    @pytest.mark.parametrize("source", [None, [b"data"], iter([b"data"])])
    def test_without(self, source: object) -> None:
        close_source(source)


class TestProportional:
    def test_in_proportion(self) -> None:
        reader = ProportionalReader(io.BytesIO(bytes(70_000)), lambda: 1000, 5)
        assert len(read_exactly(reader, 100_000)) == 70_000

    def test_beyond(self) -> None:
        taken = 10
        reader = ProportionalReader(io.BytesIO(bytes(70_000)), lambda: taken, 5)
        assert len(reader.read(65_536 + 50)) == 65_586
        with pytest.raises(DecodeError, match="decode to more than 5 times their size"):
            reader.read(1)
        taken = 1000
        assert reader.read(1) == b"\0"
