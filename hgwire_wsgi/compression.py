"""Compression engines by their wire names, streaming both ways, with bounded output.

The names are those of the ``compression`` capability.  Mercurial knows ``zstd``, ``zlib``, ``bzip2`` and ``none``; a
host adds its own with another :class:`Engine` in ``ServerCapabilities.engines``.

A decoder yields chunks of at most 64 KiB on demand.  The reader stops at its limit, so a decompression bomb costs the
receiver only one chunk.  Nothing is held back: everything that can be decoded from the
input so far has been yielded when ``feed`` ends.
"""

from __future__ import annotations

import bz2
import functools
import importlib
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

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
    "start_zlib",
    "start_zstd",
]

_PIECE = 64 * 1024
_CORRUPT = "compressed data are corrupt"
_TRAILING = "data follow the end of the compressed data"


class Compressor(Protocol):
    """One running compression, as in :mod:`zlib`."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Decompressor(Protocol):
    """One running decompression."""

    def feed(self, data: bytes, /) -> Iterator[bytes]:
        """Decode the next input, lazily, in bounded pieces.

        The iterator must be exhausted before the next call.

        Raises:
            DecodeError: the data are corrupt, or continue after their end.
        """
        ...

    @property
    def at_end(self) -> bool:
        """Whether the input so far is complete, the only point where it may end."""
        ...


@attrs.frozen(kw_only=True)
class Engine:
    """A compression format.

    Attributes:
        name: its name on the wire, 1 to 255 ASCII characters.
        start: makes a :class:`Compressor` for a level.
        start_decoder: makes a :class:`Decompressor` within limits.
        level: passed to ``start``; ``None`` is the default of the format.
    """

    name: str
    start: Callable[[int | None], Compressor]
    start_decoder: Callable[[Limits], Decompressor]
    level: int | None = None
    _token: str = attrs.field(init=False, eq=False, repr=False, factory=lambda: uuid.uuid4().hex)

    def __attrs_post_init__(self) -> None:
        if not (0 < len(self.name) < 256 and self.name.isascii()) or set(self.name) & set(" ,"):
            raise ValueError(f"not an engine name: {self.name!r}")

    @property
    def prefix(self) -> bytes:
        """The start of an ``application/mercurial-0.2`` payload: a length byte and the name."""
        return bytes([len(self.name)]) + self.name.encode("ascii")

    @property
    def identity(self) -> tuple[str, int | None, str]:
        """Everything that determines the compressed bytes, for cache keys: name, level and compressor.

        The compressor is named by where it can be imported from, so processes share cached replies.  A
        :func:`functools.partial` of one counts with its arguments, if these are numbers, text, bytes or ``None``.
        Anything else (a closure, a lambda, a bound method, a function of ``__main__``) could be another function under
        the same name elsewhere; its identity is unique to this object, and its replies are not shared.
        """
        return self.name, self.level, _importable_name(self.start) or self._token

    def compress(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Compress a stream.  Output is yielded as the format makes it, never empty."""
        compressor = self.start(self.level)
        for chunk in chunks:
            if data := compressor.compress(chunk):
                yield data
        if data := compressor.flush():
            yield data


_PLAIN_TYPES = (str, bytes, int, float, bool, type(None))


def _importable_name(start: Callable[..., object]) -> str | None:
    """Name a callable by its module and qualified name; ``None`` if these do not lead to this very object."""
    if type(start) is functools.partial:
        name = _importable_name(start.func)
        if name is None or any(type(value) not in _PLAIN_TYPES for value in (*start.args, *start.keywords.values())):
            return None
        keywords = (f"{key}={value!r}" for key, value in sorted(start.keywords.items()))
        return f"{name}({', '.join([*map(repr, start.args), *keywords])})"
    module, name = getattr(start, "__module__", None), getattr(start, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is start else None


class DecodingReader:
    """A readable view of compressed data.

    It reads no more of its source than the next piece requires.

    Args:
        source: the compressed data.
        engine: their format.
        limits: ``decode_window`` bounds the memory of the decoder.
    """

    def __init__(self, source: Readable, engine: Engine, limits: Limits) -> None:
        self._source = source
        self._decoder = engine.start_decoder(limits)
        self._pieces: Iterator[bytes] = iter(())
        self._piece = b""
        self._start = 0

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, fewer at the end of a piece, none at the end of the data.

        Raises:
            DecodeError: the data are corrupt, end early, or require too large a window.
        """
        while self._start >= len(self._piece):
            piece = next(self._pieces, None)
            if piece is not None:
                self._piece, self._start = piece, 0
            elif data := self._source.read(_PIECE):
                self._pieces = self._decoder.feed(data)
            elif self._decoder.at_end:
                return b""
            else:
                raise DecodeError("compressed data end early")
        # A whole piece is returned without a copy.
        data = self._piece[self._start : self._start + size]
        self._start += len(data)
        return data


class _Identity:
    """Both directions of the ``none`` engine."""

    at_end = True

    def __init__(self, _: object = None) -> None:
        pass

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data


class _Decoder:
    """Decodes a format whose library bounds its output.

    Args:
        decoder: that of the library.
        decode: yields what the next input decodes to, in bounded pieces.
        corrupt: the exception of the library.
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
            raise DecodeError(_CORRUPT) from error
        if self._decoder.unused_data:
            raise DecodeError(_TRAILING)


def _decode_zlib(decoder: Any, data: bytes) -> Iterator[bytes]:
    while piece := decoder.decompress(data, _PIECE):
        yield piece
        data = decoder.unconsumed_tail


def _decode_bzip2(decoder: Any, data: bytes) -> Iterator[bytes]:
    while piece := decoder.decompress(data, _PIECE):
        yield piece
        if decoder.eof:
            break
        data = b""


class _ZstdBlocks:
    """Finds the blocks of a zstd frame while its bytes pass by (RFC 8878, section 3.1.1).

    The library cannot bound its output without holding data back.  The format has a bound: a block decodes to at most
    128 KiB.  So the library gets one compressed block at a time, or 64 KiB of those blocks whose header states their
    decoded size, and a call returns less than 192 KiB however long the input is.

    A frame is 4 bytes of magic number and a header, then blocks with a header of 3 bytes each, then perhaps a checksum.
    Each of these is a field of known size: ``_field`` collects ``_size`` bytes, which may come in several reads,
    and ``_parse`` gets them.  The content of a block is only passed on: ``_content`` counts how much of it is still to
    come.

    Attributes:
        ended: whether the frame has ended.
        length: decoded size that the frame states, in bytes.
    """

    _MAGIC = b"\x28\xb5\x2f\xfd"
    _MAX_BLOCK = 128 * 1024
    _RAW, _RLE = 0, 1

    def __init__(self) -> None:
        self.ended = False
        self.length: int | None = None
        self._content_size = 0
        self._field = b""
        self._size = len(self._MAGIC) + 1
        self._parse = self._read_descriptor
        self._checksum = False
        self._content = 0
        self._raw = False
        self._decoded = 0
        self._last = False

    def take(self, data: memoryview) -> int:
        """How many bytes of ``data`` to decode in one call, at least 1.

        Raises:
            DecodeError: the frame has ended before, or cannot continue with ``data``.
        """
        if self.ended:
            raise DecodeError(_TRAILING)
        taken, room = 0, _PIECE
        while taken < len(data) and room > 0 and not self.ended:
            if self._content:
                size, decoded = self._pass_content(len(data) - taken, room)
                room -= decoded
            else:
                size = self._collect(data[taken:])
            taken += size
        return taken

    def _pass_content(self, available: int, room: int) -> tuple[int, int]:
        """Count content of a block: how many bytes are taken, and how many they decode to at most."""
        size = min(self._content, available, room if self._raw else available)
        self._content -= size
        if self._content:
            return size, size if self._raw else 0
        self._end_block()
        return size, size if self._raw else self._decoded

    def _collect(self, data: memoryview) -> int:
        part = bytes(data[: self._size - len(self._field)])
        self._field += part
        if len(self._field) == self._size:
            field, self._field = self._field, b""
            self._parse(field)
        return len(part)

    def _read_descriptor(self, field: bytes) -> None:
        if not field.startswith(self._MAGIC):
            raise DecodeError(_CORRUPT)
        descriptor = field[-1]
        single_segment = descriptor >> 5 & 1
        dictionary_id = (0, 1, 2, 4)[descriptor & 3]
        self._content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
        self._checksum = bool(descriptor & 4)
        # A single segment states its content size, all others their window, so at least one byte follows.
        self._size, self._parse = 1 - single_segment + dictionary_id + self._content_size, self._read_header

    def _read_header(self, field: bytes) -> None:
        if self._content_size:
            # Two bytes start where one byte ends.
            self.length = int.from_bytes(field[-self._content_size :], "little") + 256 * (self._content_size == 2)
        self._size, self._parse = 3, self._read_block

    def _read_block(self, field: bytes) -> None:
        header = int.from_bytes(field, "little")
        kind, size = header >> 1 & 3, header >> 3
        if size > self._MAX_BLOCK:
            raise DecodeError(_CORRUPT)
        self._last = bool(header & 1)
        self._raw = kind == self._RAW
        self._content, self._decoded = (1, size) if kind == self._RLE else (size, self._MAX_BLOCK)
        if not self._content:
            self._end_block()

    def _end_block(self) -> None:
        if self._last and self._checksum:
            self._size, self._parse = 4, self._read_checksum
        elif self._last:
            self.ended = True

    def _read_checksum(self, field: bytes) -> None:
        self.ended = True


class _ZstdDecoder:
    """Decodes one zstd frame, in pieces; see :class:`_ZstdBlocks` for how they are bounded."""

    def __init__(self, limits: Limits) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=limits.decode_window).decompressobj()
        self._blocks = _ZstdBlocks()
        self._length = 0

    @property
    def at_end(self) -> bool:
        return self._decoder.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        rest = memoryview(data)
        while rest:
            size = self._blocks.take(rest)
            try:
                decoded = self._decoder.decompress(rest[:size])
            except zstandard.ZstdError as error:
                raise DecodeError(_CORRUPT) from error
            rest = rest[size:]
            self._length += len(decoded)
            # The library checks this too, but not if the last block is empty and arrives alone.
            if self._blocks.ended and self._blocks.length not in (None, self._length):
                raise DecodeError(_CORRUPT)
            for start in range(0, len(decoded), _PIECE):
                yield decoded[start : start + _PIECE]


def _start_bzip2_decoder(limits: Limits) -> Decompressor:
    return _Decoder(bz2.BZ2Decompressor(), _decode_bzip2, OSError)


_ZLIB_NG = "zlib_ng.zlib_ng"


def _fastest_zlib() -> str:
    """zlib-ng if the extra ``fast`` is installed, else the standard library's zlib.

    ``benchmarks/engines.py`` with a bundle of 15 MB at the default level: zlib-ng takes 0.17 s of CPU time, zlib 0.32
    s, and the output of zlib-ng is no larger; decoding takes 0.03 s instead of 0.05 s.  ISA-L takes 0.04 s to compress,
    but its smallest output is 7% larger.  A bundle is compressed once and sent many times.
    """
    try:
        importlib.import_module(_ZLIB_NG)
    except ImportError:
        return "zlib"
    return _ZLIB_NG


def start_zlib(level: int | None, *, module: str = "zlib") -> Compressor:
    """Start a zlib compression.

    Args:
        level: ``None`` is the default of the module, 6 for zlib.  The output of zlib-ng is at most 1.3% larger than
            that of zlib at the same level, except at level 1: there it is 13% larger, so level 2 stands in, which is
            faster than zlib's level 1, and whose output is smaller.
        module: the module whose ``compressobj`` is used.
    """
    level = 2 if level == 1 and module == _ZLIB_NG else level
    compressor: Compressor = importlib.import_module(module).compressobj(-1 if level is None else level)
    return compressor


def _start_zlib_decoder(limits: Limits, *, module: str = "zlib") -> Decompressor:
    library = importlib.import_module(module)
    return _Decoder(library.decompressobj(), _decode_zlib, library.error)


def _start_bzip2(level: int | None) -> Compressor:
    return bz2.BZ2Compressor(9 if level is None else level)


def start_zstd(level: int | None, *, threads: int = 0) -> Compressor:
    """Start a zstd compression.

    Args:
        level: ``None`` is 3, as in Mercurial's own server, and the size is the same.  With a bundle of 15 MB, which
            takes 0.15 s of CPU time to generate (0.6 s if Mercurial does it), ``benchmarks/engines.py`` shows for the
            levels 1, 2, 3, 4 and 5: 0.033, 0.038, 0.056, 0.076 and 0.103 s; 5.12, 4.88, 4.73, 4.68 and 4.56 MB.  A
            bundle is compressed once and sent many times, so a few hundredths of a second are not worth 3% of the
            size.  Larger blocks, a larger window, a stated size or a reused compressor change the size by less than 1%,
            and the time not measurably.
        threads: additional threads that compress; 0 compresses in the calling thread.  In the same benchmark one or two
            take the same CPU time.  On idle processors the last byte leaves earlier; but the first leaves after 0.2 s
            instead of 0.06 s, and 13 to 47 MiB more memory are used.  A thread that compresses beside the one that
            generates takes the same CPU time, too.
    """
    return _ZstdCompression(3 if level is None else level, threads)


_REUSED_LEVELS = 3
"""The highest level whose compressors are kept; those of the highest ones take hundreds of megabytes."""


class _ZstdCompression:
    """One compression.  At its end, it leaves its compressor to the next one: to make one takes 30 microseconds."""

    _unused: ClassVar[dict[int, Any]] = {}
    """By level: at most one, without threads, which would not survive a fork.  Level 3 takes 1.3 MB."""

    def __init__(self, level: int, threads: int) -> None:
        self._level = level
        self._reused = not threads and level <= _REUSED_LEVELS
        self._compressor = self._unused.pop(level, None) if self._reused else None
        if self._compressor is None:
            # With the checksum (4 bytes, no measurable time), a client notices data that were damaged on their way.
            self._compressor = zstandard.ZstdCompressor(level=level, threads=threads, write_checksum=True)
        self._stream = self._compressor.compressobj()
        self.compress = self._stream.compress

    def flush(self) -> bytes:
        """End the compression; it must not be used again."""
        data: bytes = self._stream.flush()
        if self._reused:
            self._unused[self._level] = self._compressor
        return data


ZSTD = Engine(name="zstd", start=start_zstd, start_decoder=_ZstdDecoder)
ZLIB = Engine(
    name="zlib",
    start=functools.partial(start_zlib, module=_fastest_zlib()),
    start_decoder=functools.partial(_start_zlib_decoder, module=_fastest_zlib()),
)
BZIP2 = Engine(name="bzip2", start=_start_bzip2, start_decoder=_start_bzip2_decoder)
NONE = Engine(name="none", start=_Identity, start_decoder=_Identity)

ENGINES = {engine.name: engine for engine in (ZSTD, ZLIB, BZIP2, NONE)}
"""Every engine this package knows.  All of them are decoded."""

DEFAULT_ENGINES = (ZSTD, ZLIB)
"""The engines a server offers by default, best first: the same order as Mercurial's."""
