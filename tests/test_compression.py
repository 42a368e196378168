"""Engines: round trips, however the input is cut; bounded output; and one error for whatever is wrong."""

from __future__ import annotations

import bz2
import functools
import io
import itertools
import random
import sys
import types
import zlib
from collections.abc import Iterator

import attrs
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi import compression
from hgwire_wsgi.compression import (
    BZIP2,
    DEFAULT_ENGINES,
    ENGINES,
    NONE,
    ZLIB,
    ZSTD,
    DecodingReader,
    Engine,
    start_zstd,
)
from hgwire_wsgi.errors import DecodeError
from hgwire_wsgi.limits import Limits

LIMITS = Limits()
MEBIBYTE = 1 << 20
COMPRESSING = (ZSTD, ZLIB, BZIP2)
SAMPLE = random.Random(1).randbytes(70_000) + b"again and again " * 20_000

every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
every_compressing_engine = pytest.mark.parametrize("engine", COMPRESSING, ids=[each.name for each in COMPRESSING])


class Pieces:
    """A source that gives what it is told to, one piece a read, and counts."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.reads = 0

    def read(self, size: int, /) -> bytes:
        self.reads += 1
        if not self.pieces:
            return b""
        piece = self.pieces[0][:size]
        self.pieces[0] = self.pieces[0][size:]
        if not self.pieces[0]:
            del self.pieces[0]
        return piece


def compress(engine: Engine, data: bytes) -> bytes:
    return b"".join(engine.compress([data]))


def iter_read(reader: DecodingReader, size: int = 1 << 16) -> Iterator[bytes]:
    while data := reader.read(size):
        yield data


def decompress(engine: Engine, *pieces: bytes) -> bytes:
    return b"".join(iter_read(DecodingReader(Pieces(list(pieces)), engine, LIMITS)))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def test_tables_agree() -> None:
    assert set(ENGINES) == {"zstd", "zlib", "bzip2", "none"}
    assert all(engine.name == name for name, engine in ENGINES.items())
    assert DEFAULT_ENGINES == (ZSTD, ZLIB)


@every_engine
def test_whole_and_byte_by_byte(engine: Engine) -> None:
    data = SAMPLE[69_000:72_000]
    encoded = compress(engine, data)
    assert decompress(engine, encoded) == data
    assert decompress(engine, *(encoded[index : index + 1] for index in range(len(encoded)))) == data


@every_engine
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_read_gives_no_more_than_asked(engine: Engine, size: int) -> None:
    data = SAMPLE[-5000:]
    pieces = list(iter_read(DecodingReader(io.BytesIO(compress(engine, data)), engine, LIMITS), size))
    assert b"".join(pieces) == data
    assert all(len(piece) <= size for piece in pieces)


@every_engine
@given(chunks=st.lists(st.binary(max_size=300), max_size=20), places=st.lists(st.integers(0, 10_000), max_size=20))
def test_any_chunks_in_any_splits(engine: Engine, chunks: list[bytes], places: list[int]) -> None:
    encoded = b"".join(engine.compress(chunks))
    assert decompress(engine, *cut(encoded, places)) == b"".join(chunks)


@every_engine
def test_large_sample(engine: Engine) -> None:
    assert decompress(engine, compress(engine, SAMPLE)) == SAMPLE


@every_engine
def test_no_empty_pieces_when_compressing(engine: Engine) -> None:
    assert all(engine.compress([b"", b"a", b"", b"b"]))


def test_none_is_the_identity() -> None:
    assert list(NONE.compress([b"a", b"b"])) == [b"a", b"b"]
    assert decompress(NONE) == b""


def test_formats_are_the_ones_that_their_libraries_read() -> None:
    assert zlib.decompress(compress(ZLIB, SAMPLE)) == SAMPLE
    assert bz2.decompress(compress(BZIP2, SAMPLE)) == SAMPLE
    assert zstandard.ZstdDecompressor().decompressobj().decompress(compress(ZSTD, SAMPLE)) == SAMPLE


@pytest.fixture
def zlib_ng(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Something in the place of zlib-ng, which notes the levels it is called with."""
    levels = []

    class Stand:
        @staticmethod
        def compressobj(level: int) -> object:
            levels.append(level)
            return zlib.compressobj(level)

    monkeypatch.setitem(sys.modules, "zlib_ng", types.ModuleType("zlib_ng"))
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", Stand)
    compression._zlib_compressor.cache_clear()
    yield levels
    compression._zlib_compressor.cache_clear()


def test_a_faster_zlib_is_used_where_it_is_installed(zlib_ng: list[int]) -> None:
    assert zlib.decompress(compress(ZLIB, SAMPLE)) == SAMPLE
    assert zlib.decompress(compress(attrs.evolve(ZLIB, level=9), SAMPLE)) == SAMPLE
    assert zlib_ng == [-1, 9]


@pytest.fixture
def plain_zlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where zlib-ng is not installed."""
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    compression._zlib_compressor.cache_clear()
    yield
    compression._zlib_compressor.cache_clear()


@pytest.mark.usefixtures("plain_zlib")
def test_else_that_of_python() -> None:
    assert type(ZLIB.start(None)) is type(zlib.compressobj())


@pytest.mark.parametrize("level", [None, 0, 1, 9])
def test_zlib_ng_itself(level: int | None) -> None:
    """Standard zlib, also of what does not shrink, and in pieces as small as they come."""
    pytest.importorskip("zlib_ng")
    compression._zlib_compressor.cache_clear()
    engine = attrs.evolve(ZLIB, level=level)
    assert type(engine.start(level)) is not type(zlib.compressobj())
    for data in (b"", b"a", SAMPLE):
        assert zlib.decompress(compress(engine, data)) == data
    pieces = engine.compress(SAMPLE[start : start + 7] for start in range(0, len(SAMPLE), 7))
    assert zlib.decompress(b"".join(pieces)) == SAMPLE


def test_threads_of_zstd() -> None:
    threaded = attrs.evolve(ZSTD, start=functools.partial(start_zstd, threads=2), level=1)
    assert decompress(threaded, compress(threaded, SAMPLE)) == SAMPLE
    assert start_zstd(None, threads=2).compress(b"") == b""


@pytest.mark.usefixtures("plain_zlib")
def test_level_is_used() -> None:
    def at(engine: Engine, level: int) -> bytes:
        graded = Engine(name=engine.name, start=engine.start, start_decoder=engine.start_decoder, level=level)
        return compress(graded, SAMPLE)

    assert at(ZLIB, 1) == zlib.compress(SAMPLE, 1) and at(ZLIB, 9) == zlib.compress(SAMPLE, 9)
    assert at(BZIP2, 1) == bz2.compress(SAMPLE, 1) and at(BZIP2, 9) == bz2.compress(SAMPLE, 9)
    assert at(ZSTD, 3) == compress(ZSTD, SAMPLE) != at(ZSTD, 19)


@every_compressing_engine
@given(end=st.integers(0, 10_000))
def test_truncated_anywhere(engine: Engine, end: int) -> None:
    encoded = compress(engine, SAMPLE[69_500:70_500])
    with pytest.raises(DecodeError):
        decompress(engine, encoded[: end % len(encoded)])


@every_compressing_engine
def test_no_data_at_all_is_truncated(engine: Engine) -> None:
    with pytest.raises(DecodeError, match="end early"):
        decompress(engine)


@every_compressing_engine
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_flipped_bit_is_noticed_or_harmless(engine: Engine, place: int, bit: int) -> None:
    """Only zstd writes no checksum here, so a flipped bit may give other data; it never gives another exception."""
    encoded = bytearray(compress(engine, SAMPLE[69_500:70_500]))
    encoded[place % len(encoded)] ^= 1 << bit
    try:
        data = decompress(engine, bytes(encoded))
    except DecodeError:
        return
    assert engine is ZSTD or data == SAMPLE[69_500:70_500]


@every_compressing_engine
@given(data=st.binary(max_size=200))
def test_garbage_gives_data_or_the_documented_error(engine: Engine, data: bytes) -> None:
    try:
        decompress(engine, data)
    except DecodeError as error:
        assert error.message.startswith(("compressed data", "data follow"))


@every_compressing_engine
@pytest.mark.parametrize("cuts", [False, True], ids=["same read", "next read"])
def test_trailing_data(engine: Engine, cuts: bool) -> None:
    encoded = compress(engine, b"data")
    pieces = [encoded, b"x"] if cuts else [encoded + b"x"]
    with pytest.raises(DecodeError, match="data follow the end"):
        decompress(engine, *pieces)


@every_compressing_engine
def test_trailing_data_far_behind_the_end(engine: Engine) -> None:
    with pytest.raises(DecodeError, match="data follow the end"):
        decompress(engine, compress(engine, b"data") + bytes(1000))


def test_second_frame_of_zstd_is_trailing_data() -> None:
    with pytest.raises(DecodeError, match="data follow the end"):
        decompress(ZSTD, compress(ZSTD, b"data") * 2)


@every_compressing_engine
def test_bomb_comes_in_bounded_pieces(engine: Engine) -> None:
    """Whoever reads a little of a bomb has paid for one piece of it."""
    bomb = b"".join(engine.compress(bytes(MEBIBYTE) for _ in range(64)))
    source = Pieces([bomb])
    decoder = engine.start_decoder(LIMITS)
    total = 0
    for piece in decoder.feed(bomb):
        assert len(piece) <= 2 * MEBIBYTE
        total += len(piece)
    assert total == 64 * MEBIBYTE and decoder.at_end
    reader = DecodingReader(source, engine, LIMITS)
    assert reader.read(10) == bytes(10)
    assert source.reads == 1


def test_reader_asks_its_source_for_no_more_than_it_needs() -> None:
    encoded = compress(ZLIB, SAMPLE)
    source = Pieces([encoded])
    DecodingReader(source, ZLIB, LIMITS).read(1)
    assert source.reads == 1 and sum(map(len, source.pieces)) == len(encoded) - (1 << 16)


def test_window_of_zstd_is_bounded() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=24)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    encoded = compressor.compress(SAMPLE * 60) + compressor.flush()
    assert decompress(ZSTD, encoded) == SAMPLE * 60
    reader = DecodingReader(io.BytesIO(encoded), ZSTD, Limits(decode_window=1 << 20))
    with pytest.raises(DecodeError, match="corrupt"):
        reader.read(1)


@pytest.mark.parametrize("name", ["", "a" * 256, "ü", "a b", "a,b"])
def test_engine_names_fit_on_the_wire(name: str) -> None:
    with pytest.raises(ValueError, match="not an engine name"):
        Engine(name=name, start=ZLIB.start, start_decoder=ZLIB.start_decoder)


def test_prefix() -> None:
    assert [engine.prefix for engine in ENGINES.values()] == [b"\4zstd", b"\4zlib", b"\5bzip2", b"\4none"]
