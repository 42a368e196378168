"""Engines: round trips, however the input is cut; bounded output; one error for all faults; identity."""

from __future__ import annotations

import bz2
import contextlib
import functools
import io
import itertools
import random
import subprocess
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import zstandard
from hypothesis import given, settings
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
    start_zlib,
    start_zstd,
)
from hgwire_wsgi.errors import DecodeError
from hgwire_wsgi.limits import Limits

LIMITS = Limits()
MEBIBYTE = 1 << 20
PIECE = 64 * 1024
COMPRESSING = (ZSTD, ZLIB, BZIP2)
SAMPLE = random.Random(1).randbytes(70_000) + b"again and again " * 20_000

every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
every_compressing_engine = pytest.mark.parametrize("engine", COMPRESSING, ids=[each.name for each in COMPRESSING])


class Pieces:
    """A source that returns the given pieces, one per read, and counts the reads."""

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


def test_a_faster_zlib_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng", types.ModuleType("zlib_ng"))
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", types.ModuleType("zlib_ng.zlib_ng"))
    assert compression._fastest_zlib() == "zlib_ng.zlib_ng"
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    assert compression._fastest_zlib() == "zlib"
    assert type(start_zlib(None)) is type(zlib.compressobj())


@pytest.mark.parametrize("level", [None, 0, 1, 9])
def test_zlib_ng_itself(level: int | None) -> None:
    """Standard zlib, also for incompressible data, and for input in tiny chunks."""
    pytest.importorskip("zlib_ng")
    engine = attrs.evolve(ZLIB, level=level)
    assert type(engine.start(level)) is not type(zlib.compressobj())
    for data in (b"", b"a", SAMPLE):
        assert zlib.decompress(compress(engine, data)) == data
    pieces = engine.compress(SAMPLE[start : start + 7] for start in range(0, len(SAMPLE), 7))
    assert zlib.decompress(b"".join(pieces)) == SAMPLE


def test_zlib_ng_decodes_too() -> None:
    module = pytest.importorskip("zlib_ng.zlib_ng")
    decoder = ZLIB.start_decoder(Limits())
    assert type(decoder._decoder) is type(module.decompressobj())
    assert b"".join(decoder.feed(zlib.compress(SAMPLE))) == SAMPLE
    assert decoder.at_end
    with pytest.raises(DecodeError, match="corrupt"):
        list(ZLIB.start_decoder(Limits()).feed(b"no zlib"))


@pytest.mark.parametrize("level", range(1, 10))
def test_zlib_ng_sends_as_little_as_zlib_at_each_level(level: int) -> None:
    pytest.importorskip("zlib_ng")
    data = b"".join(path.read_bytes() for path in sorted(Path(compression.__file__).parent.rglob("*.py")))
    ours = compress(attrs.evolve(ZLIB, level=level), data)
    assert len(ours) < 1.05 * len(zlib.compress(data, level))
    assert zlib.decompress(ours) == data


def test_the_zlib_of_python_decodes_where_nothing_else_is_installed() -> None:
    decoder = compression._start_zlib_decoder(Limits())
    assert b"".join(decoder.feed(compress(ZLIB, SAMPLE))) == SAMPLE


def test_compressors_of_zstd_are_used_again_but_never_at_once() -> None:
    first, second = start_zstd(None), start_zstd(None)
    parts = [(first.compress(SAMPLE), second.compress(b"other")), (first.flush(), second.flush())]
    assert [decompress(ZSTD, b"".join(each)) for each in zip(*parts, strict=True)] == [SAMPLE, b"other"]
    start_zstd(None).compress(b"never ended")
    with pytest.raises(zstandard.ZstdError):
        first.flush()
    assert [compress(ZSTD, SAMPLE) for _ in range(3)] == [compress(ZSTD, SAMPLE)] * 3


def test_threads_of_zstd() -> None:
    threaded = attrs.evolve(ZSTD, start=functools.partial(start_zstd, threads=2), level=1)
    assert decompress(threaded, compress(threaded, SAMPLE)) == SAMPLE
    assert start_zstd(None, threads=2).compress(b"") == b""


def test_level_is_used() -> None:
    def at(engine: Engine, level: int) -> bytes:
        return compress(attrs.evolve(engine, level=level), SAMPLE)

    plain = attrs.evolve(ZLIB, start=start_zlib)
    assert at(plain, 1) == zlib.compress(SAMPLE, 1) and at(plain, 9) == zlib.compress(SAMPLE, 9)
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
    """A reader that takes a little of a bomb has paid for one piece of it."""
    bomb = b"".join(engine.compress(bytes(MEBIBYTE) for _ in range(64)))
    source = Pieces([bomb])
    decoder = engine.start_decoder(LIMITS)
    total = 0
    for piece in decoder.feed(bomb):
        assert 0 < len(piece) <= PIECE
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


class TestZstd:
    """The blocks of zstd, found before the library sees them."""

    HEADER = b"\x28\xb5\x2f\xfd\x00\x58"
    """A frame with a window of 2 MiB, without content size or checksum."""

    END = b"\x01\x00\x00"
    """A last block without data."""

    RAW, RLE, COMPRESSED, RESERVED = range(4)

    @staticmethod
    def block(kind: int, size: int, content: bytes, *, last: bool = False) -> bytes:
        return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content

    def test_window_is_bounded(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=24)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        encoded = compressor.compress(SAMPLE * 60) + compressor.flush()
        assert decompress(ZSTD, encoded) == SAMPLE * 60
        reader = DecodingReader(io.BytesIO(encoded), ZSTD, Limits(decode_window=1 << 20))
        with pytest.raises(DecodeError, match="corrupt"):
            reader.read(1)

    @pytest.mark.parametrize("checksum", [False, True])
    @pytest.mark.parametrize("content_size", [False, True])
    @pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 300_000])
    def test_every_form_of_header(self, size: int, content_size: bool, checksum: bool) -> None:
        """Content sizes of 1, 2 and 4 bytes, a window instead, a checksum behind."""
        data = (SAMPLE * 2)[:size]
        encoded = zstandard.ZstdCompressor(write_content_size=content_size, write_checksum=checksum).compress(data)
        assert decompress(ZSTD, encoded) == data
        places = [*range(40), *range(40, len(encoded), 1009), *range(len(encoded) - 10, len(encoded))]
        assert decompress(ZSTD, *cut(encoded, places)) == data
        if checksum:
            with pytest.raises(DecodeError, match="corrupt"):
                decompress(ZSTD, encoded[:-1] + bytes([encoded[-1] ^ 1]))
        for end in (1, 3, 4, 5):
            with pytest.raises(DecodeError, match="early"):
                decompress(ZSTD, encoded[:-end])
        with pytest.raises(DecodeError, match="data follow the end"):
            decompress(ZSTD, encoded + b"\0")

    @pytest.mark.parametrize("read", [1, 3, 5, 1000, PIECE, MEBIBYTE])
    def test_every_kind_of_block(self, read: int) -> None:
        text = b"again and again " * 1000
        compressor = zstandard.ZstdCompressor().compressobj()
        compressed = compressor.compress(text) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        blocks = [
            (self.block(self.RAW, 70_000, SAMPLE[:70_000]), SAMPLE[:70_000]),
            (self.block(self.RAW, 0, b""), b""),
            (self.block(self.RAW, 5, b"hello"), b"hello"),
            (self.block(self.RLE, 131_072, b"x"), b"x" * 131_072),
            (self.block(self.RLE, 0, b"x"), b""),
            (self.block(self.RLE, 3, b"y"), b"yyy"),
        ] * 2
        frame = compressed + b"".join(block for block, _ in blocks) + self.END
        expected = text + b"".join(data for _, data in blocks)
        pieces: list[bytes] = []
        decoder = ZSTD.start_decoder(LIMITS)
        for start in range(0, len(frame), read):
            assert not decoder.at_end
            pieces += decoder.feed(frame[start : start + read])
        assert b"".join(pieces) == expected and decoder.at_end
        assert all(0 < len(piece) <= PIECE for piece in pieces)

    def test_library_never_makes_much_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The pieces are bounded, and so is the data they are cut from."""
        held = []
        bomb = b"".join(ZSTD.compress(bytes(MEBIBYTE) for _ in range(16)))

        class Spy:
            def __init__(self, **options: Any) -> None:
                self.decoder = zstandard.ZstdDecompressor(**options).decompressobj()

            def decompressobj(self) -> Spy:
                return self

            def decompress(self, data: bytes) -> bytes:
                held.append(len(made := self.decoder.decompress(data)))
                return made

        monkeypatch.setattr(compression, "zstandard", types.SimpleNamespace(ZstdDecompressor=Spy, ZstdError=Exception))
        mixed = self.HEADER + (self.block(self.RAW, 1, b"r") + self.block(self.RLE, 131_072, b"x")) * 1000 + self.END
        for encoded in (bomb, mixed):
            del held[:]
            size = sum(map(len, ZSTD.start_decoder(LIMITS).feed(encoded)))
            assert size == sum(held) and max(held) < 192 * 1024

    def test_flushed_blocks_come_out_at_once(self) -> None:
        """Encoded streams of frames flush each frame; a decoder must not hold back what was flushed."""
        compressor = zstandard.ZstdCompressor().compressobj()
        decoder = ZSTD.start_decoder(LIMITS)
        for size in (1, 10, 0, 100_000, 1, 300_000):
            for data in (SAMPLE[:size], bytes(size)):
                encoded = compressor.compress(data) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
                assert b"".join(decoder.feed(encoded)) == data

    @pytest.mark.parametrize(
        "blocks",
        [
            (RESERVED, 1, b"x"),
            (RAW, 131_073, bytes(131_073)),
            (RLE, 131_073, b"x"),
            (COMPRESSED, 131_073, bytes(131_073)),
            (COMPRESSED, 5, b"xxxxx"),
        ],
    )
    def test_invalid_blocks(self, blocks: tuple[int, int, bytes]) -> None:
        frame = self.HEADER + self.block(*blocks) + self.END
        for read in (1, len(frame)):
            with pytest.raises(DecodeError, match="corrupt"):
                decompress(ZSTD, *(frame[start : start + read] for start in range(0, len(frame), read)))

    @pytest.mark.parametrize("read", [1, 6, 100])
    def test_stated_length(self, read: int) -> None:
        frame = b"\x28\xb5\x2f\xfd\x20\x01" + self.END
        with pytest.raises(DecodeError, match="corrupt"):
            decompress(ZSTD, *(frame[start : start + read] for start in range(0, len(frame), read)))

    @pytest.mark.parametrize("start", [b"\x50\x2a\x4d\x18\0\0\0\0", b"\x27\xb5\x2f\xfd\x30", b"\xfd\x2f\xb5\x28\0"])
    def test_other_formats(self, start: bytes) -> None:
        """The protocol has no skippable frames and no legacy formats."""
        with pytest.raises(DecodeError, match="corrupt"):
            decompress(ZSTD, start, compress(ZSTD, b"data"))

    @settings(max_examples=300)
    @given(
        data=st.binary(max_size=300),
        level=st.sampled_from([1, 3, 19]),
        checksum=st.booleans(),
        place=st.integers(0, 10_000),
        value=st.binary(max_size=3),
        places=st.lists(st.integers(0, 10_000), max_size=5),
    )
    def test_agrees_with_the_library(
        self, data: bytes, level: int, checksum: bool, place: int, value: bytes, places: list[int]
    ) -> None:
        """A frame with changed bytes is read if, and only if, the library alone reads it."""
        encoded = bytearray(zstandard.ZstdCompressor(level=level, write_checksum=checksum).compress(data * 3))
        place %= len(encoded)
        encoded[place : place + len(value)] = value
        library = zstandard.ZstdDecompressor(max_window_size=LIMITS.decode_window).decompressobj()
        expected: bytes | None = None
        with contextlib.suppress(zstandard.ZstdError):
            made = library.decompress(bytes(encoded))
            expected = made if library.eof and not library.unused_data else None
        try:
            assert decompress(ZSTD, *cut(bytes(encoded), places)) == expected
        except DecodeError:
            assert expected is None


def module_level(level: int | None, *arguments: Any, **options: Any) -> Any:
    return zlib.compressobj()


class TestIdentity:
    """Two engines with one identity write the same bytes."""

    @staticmethod
    def of(start: Any, **options: Any) -> tuple[str, int | None, str]:
        return Engine(name="x", start=start, start_decoder=ZLIB.start_decoder, **options).identity

    def test_known_engines(self) -> None:
        assert ZSTD.identity == ("zstd", None, "hgwire_wsgi.compression:start_zstd")
        assert NONE.identity == ("none", None, "hgwire_wsgi.compression:_Identity")
        assert len({engine.identity for engine in ENGINES.values()}) == 4
        assert attrs.evolve(ZSTD).identity == ZSTD.identity != attrs.evolve(ZSTD, level=3).identity

    def test_zlib_names_its_implementation(self) -> None:
        module = compression._fastest_zlib()
        assert ZLIB.identity == ("zlib", None, f"hgwire_wsgi.compression:start_zlib(module={module!r})")

    @pytest.mark.parametrize(
        ("start", "name"),
        [
            (zlib.compressobj, "zlib:compressobj"),
            (Pieces, f"{__name__}:Pieces"),
            (Pieces.read, f"{__name__}:Pieces.read"),
            (functools.partial(start_zstd, threads=2), "hgwire_wsgi.compression:start_zstd(threads=2)"),
            (
                functools.partial(module_level, 1, "a", y=None, x=b"b"),
                f"{__name__}:module_level(1, 'a', x=b'b', y=None)",
            ),
            (functools.partial(functools.partial(module_level, a=1), b=2), f"{__name__}:module_level(a=1, b=2)"),
        ],
    )
    def test_what_can_be_imported(self, start: Any, name: str) -> None:
        assert self.of(start) == self.of(start) == ("x", None, name)
        assert self.of(start, level=5) == ("x", 5, name)

    def test_arguments_of_other_types_differ(self) -> None:
        assert self.of(functools.partial(module_level, 1)) != self.of(functools.partial(module_level, True))

    @pytest.mark.parametrize(
        "start",
        [
            lambda level: zlib.compressobj(),
            functools.partial(lambda level, **_: zlib.compressobj(), a=1),
            functools.partial(start_zstd, threads=[]),
            functools.partial(module_level, object()),
            Pieces([]).read,
            types.SimpleNamespace(),
        ],
        ids=["lambda", "partial of one", "keyword", "argument", "bound method", "instance"],
    )
    def test_anything_else_is_unique_to_its_engine(self, start: Any) -> None:
        engine = Engine(name="x", start=start, start_decoder=ZLIB.start_decoder)
        assert engine.identity == engine.identity
        assert len({engine.identity, attrs.evolve(engine).identity, self.of(start)}) == 3
        assert attrs.evolve(engine) == engine, "identity is no part of equality"

    def test_names_that_lead_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A function of ``__main__``, a replaced one, and one of a module that is gone."""

        def local(level: int | None) -> Any: ...

        for module, name in (("__main__", "module_level"), (__name__, "module_level"), ("gone", "local"), (None, "x")):
            monkeypatch.setattr(local, "__module__", module)
            monkeypatch.setattr(local, "__qualname__", name)
            monkeypatch.setattr(sys.modules["__main__"], "module_level", local, raising=False)
            assert len({self.of(local), self.of(local)}) == 2

    def test_is_the_same_in_every_process(self) -> None:
        """Its text is; a hash would differ."""
        code = "from hgwire_wsgi.compression import ENGINES; print([e.identity for e in ENGINES.values()])"
        shown = {
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
            for _ in range(2)
        }
        assert shown == {f"{[engine.identity for engine in ENGINES.values()]}\n"}


@pytest.mark.parametrize("name", ["", "a" * 256, "ü", "a b", "a,b"])
def test_engine_names_fit_on_the_wire(name: str) -> None:
    with pytest.raises(ValueError, match="not an engine name"):
        Engine(name=name, start=ZLIB.start, start_decoder=ZLIB.start_decoder)


def test_prefix() -> None:
    assert [engine.prefix for engine in ENGINES.values()] == [b"\4zstd", b"\4zlib", b"\5bzip2", b"\4none"]
