"""Compression engines by their names on the wire, streaming both ways, with bounded output.

Names come from the ``compression`` capability: ``zstd``, ``zlib``, ``bzip2`` and ``none`` are those that Mercurial
speaks.  A host adds its own by putting another :class:`Engine` into ``ServerCapabilities.engines``.

Decoding yields pieces: whoever consumes them stops when it has had enough, so a bomb costs its sender bandwidth
and us one piece (at most 2 MiB).
"""

from __future__ import annotations

import bz2
import functools
import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import attrs
import zstandard

from .errors import DecodeError
from .limits import Limits
from .streams import Readable

__all__ = [
    "BZIP2",
    "DEFAULT_ENGINES",
    "ENGINES",
    "NONE",
    "ZLIB",
    "ZSTD",
    "Compressor",
    "DecodingReader",
    "Decompressor",
    "Engine",
    "start_zstd",
]

_READ_SIZE = 64 * 1024
# zstd expands four bytes to a block of 128 KiB at most and its decoder takes no bound on its output, so feeding it
# 64 bytes at a time bounds a piece to 2 MiB.  The price: data that did not shrink come in pieces as small as that.
_ZSTD_SLICE = 64


class Compressor(Protocol):
    """One running compression, as in :mod:`zlib`."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Decompressor(Protocol):
    """One running decompression."""

    def feed(self, data: bytes, /) -> Iterator[bytes]:
        """Decode some more input, lazily, in bounded pieces.

        The iterator must be exhausted before the next call.  It raises :class:`DecodeError` for corrupt data.
        """
        ...

    @property
    def at_end(self) -> bool:
        """Whether the input so far is whole: the only point where it may end."""
        ...


@attrs.frozen(kw_only=True)
class Engine:
    """A compression format.

    Attributes:
        name: its name on the wire, 1 to 255 ASCII characters.
        start: makes a :class:`Compressor` for a level.
        start_decoder: makes a :class:`Decompressor` within limits.
        level: what ``start`` is called with; ``None`` is the format's own default.
    """

    name: str
    start: Callable[[int | None], Compressor]
    start_decoder: Callable[[Limits], Decompressor]
    level: int | None = None

    def __attrs_post_init__(self) -> None:
        if not (0 < len(self.name) < 256 and self.name.isascii()) or set(self.name) & set(" ,"):
            raise ValueError(f"not an engine name: {self.name!r}")

    @property
    def prefix(self) -> bytes:
        """What a payload of ``application/mercurial-0.2`` starts with: a length byte and the name."""
        return bytes([len(self.name)]) + self.name.encode("ascii")

    def compress(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Compress a stream; pieces of output appear as the format makes them."""
        compressor = self.start(self.level)
        for chunk in chunks:
            if data := compressor.compress(chunk):
                yield data
        if data := compressor.flush():
            yield data


class DecodingReader:
    """What a source decompresses to, as a file to read from.

    It reads no more of its source than it needs for the next piece.  ``read`` raises :class:`DecodeError` for data
    that are corrupt, end early, or need too large a window.
    """

    def __init__(self, source: Readable, engine: Engine, limits: Limits) -> None:
        self._source = source
        self._decoder = engine.start_decoder(limits)
        self._pieces: Iterator[bytes] = iter(())
        self._piece = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, fewer at the end of a piece, none at the end of the data."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is not None:
                self._piece = memoryview(piece)
            elif data := self._source.read(_READ_SIZE):
                self._pieces = self._decoder.feed(data)
            elif self._decoder.at_end:
                return b""
            else:
                raise DecodeError("compressed data end early")
        data, self._piece = bytes(self._piece[:size]), self._piece[size:]
        return data


class _Identity:
    """The ``none`` engine, which hands on what it gets."""

    at_end = True

    def __init__(self, _: object = None) -> None:
        pass

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data


_TRAILING = "data follow the end of the compressed data"


class _Decoder:
    """Decodes a format that says where its data end; nothing may follow there.

    Args:
        decoder: that of the library.
        decode: gives what the next input decodes to, in bounded pieces.
        corrupt: what the library raises.
    """

    def __init__(self, decoder: Any, decode: Callable[[Any, bytes], Iterator[bytes]], corrupt: type[Exception]) -> None:
        self._decoder = decoder
        self._decode = decode
        self._corrupt = corrupt

    @property
    def at_end(self) -> bool:
        at_end: bool = self._decoder.eof
        return at_end

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder.eof:
            raise DecodeError(_TRAILING)
        try:
            yield from self._decode(self._decoder, data)
        except self._corrupt as error:
            raise DecodeError("compressed data are corrupt") from error
        if self._decoder.unused_data:
            raise DecodeError(_TRAILING)


def _decode_zlib(decoder: Any, data: bytes) -> Iterator[bytes]:
    while piece := decoder.decompress(data, _READ_SIZE):
        yield piece
        data = decoder.unconsumed_tail


def _decode_bzip2(decoder: Any, data: bytes) -> Iterator[bytes]:
    while piece := decoder.decompress(data, _READ_SIZE):
        yield piece
        if decoder.eof:
            break
        data = b""


def _decode_zstd(decoder: Any, data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _ZSTD_SLICE):
        if decoder.eof:
            raise DecodeError(_TRAILING)
        if piece := decoder.decompress(data[start : start + _ZSTD_SLICE]):
            yield piece


def _start_zlib_decoder(limits: Limits) -> Decompressor:
    return _Decoder(zlib.decompressobj(), _decode_zlib, zlib.error)


def _start_bzip2_decoder(limits: Limits) -> Decompressor:
    return _Decoder(bz2.BZ2Decompressor(), _decode_bzip2, OSError)


def _start_zstd_decoder(limits: Limits) -> Decompressor:
    decompressor = zstandard.ZstdDecompressor(max_window_size=limits.decode_window)
    return _Decoder(decompressor.decompressobj(), _decode_zstd, zstandard.ZstdError)


@functools.cache
def _zlib_compressor() -> Callable[[int], Compressor]:
    """zlib-ng's if the extra ``fast`` is installed, else the standard library's.

    Measured by ``benchmarks/engines.py`` with a bundle of 15 MB at the default level: zlib-ng takes 0.15 s of processor
    for what takes zlib 0.27 s, and its output is no larger.  ISA-L takes 0.04 s, but at its best its output is 7%
    larger.  A bundle is compressed once, and sent many times.
    """
    try:
        compressor: Callable[[int], Compressor] = importlib.import_module("zlib_ng.zlib_ng").compressobj
    except ImportError:
        return zlib.compressobj
    return compressor


def _start_zlib(level: int | None) -> Compressor:
    return _zlib_compressor()(-1 if level is None else level)


def _start_bzip2(level: int | None) -> Compressor:
    return bz2.BZ2Compressor(9 if level is None else level)


def start_zstd(level: int | None, *, threads: int = 0) -> Compressor:
    """Start a zstd compression.

    Args:
        level: 3 for ``None``, as in Mercurial's own server.  Measured by ``benchmarks/engines.py`` with bundles of 15
            and 49 MB, which take 0.7 and 2.9 s of processor to make: level 1 takes 0.03 and 0.07 s, level 3 takes 0.06
            and 0.14 s, level 5 takes 0.12 and 0.25 s, level 9 takes 0.24 and 0.74 s.  Level 3 saves 8% and 4% of what
            level 1 sends, level 5 another 3% and 1%, level 9 10% and 3%.  So 3 is the last one that a first clone does
            not notice; where nearly all that is sent comes from the cache, a higher one pays.
        threads: that compress beside the one that makes the data; 0 compresses in that one.  Measured there too: with
            two of them the last byte leaves no earlier, as the data are not made fast enough for one; the first
            leaves after 1 s instead of 0.1 s, and 16 to 47 MiB more are used.
    """
    return zstandard.ZstdCompressor(level=3 if level is None else level, threads=threads).compressobj()


ZSTD = Engine(name="zstd", start=start_zstd, start_decoder=_start_zstd_decoder)
ZLIB = Engine(name="zlib", start=_start_zlib, start_decoder=_start_zlib_decoder)
BZIP2 = Engine(name="bzip2", start=_start_bzip2, start_decoder=_start_bzip2_decoder)
NONE = Engine(name="none", start=_Identity, start_decoder=_Identity)

ENGINES = {engine.name: engine for engine in (ZSTD, ZLIB, BZIP2, NONE)}
"""Every engine this package knows; all of them are decoded."""

DEFAULT_ENGINES = (ZSTD, ZLIB)
"""What a server offers unless told otherwise, best first: Mercurial's own default order."""
