"""Helpers for byte streams: read exactly, bound, put back, join, close.

Everything here works in constant memory, except :func:`read_exactly`, which returns all the requested bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from .errors import BodyTooLarge, DecodeError

__all__ = [
    "BoundedReader",
    "Prefixed",
    "ProportionalReader",
    "Readable",
    "close_source",
    "coalesce",
    "iter_pieces",
    "read_exactly",
]

_PIECE = 64 * 1024
"""Bytes read at a time: enough to make system calls cheap, little enough to hold for every request."""


class Readable(Protocol):
    """Anything with a ``read`` method that returns bytes: a file, ``wsgi.input``, a decoder."""

    def read(self, size: int, /) -> bytes: ...


def read_exactly(source: Readable, size: int) -> bytes:
    """Read ``size`` bytes, or fewer if the source ends earlier.

    It never asks the source for more than 64 KiB at once: a ``size`` declared by a peer must not allocate anything.
    """
    pieces = []
    while size > 0 and (piece := source.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def iter_pieces(source: Readable, size: int = _PIECE) -> Iterator[bytes]:
    """Read a source to its end, in chunks of up to ``size`` bytes."""
    while piece := source.read(size):
        yield piece


class Prefixed:
    """Bytes that were already read from a source, then the rest of the source.

    Args:
        front: what to return first.
        rest: what follows.
    """

    def __init__(self, front: bytes, rest: Readable) -> None:
        self._front = memoryview(front)
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        if not self._front:
            return self._rest.read(size)
        data, self._front = bytes(self._front[:size]), self._front[size:]
        return data


class BoundedReader:
    """A limit on what a source returns in total.

    Args:
        source: usually a decoder, which can turn a few bytes into any number.
        limit: maximum number of bytes.
    """

    def __init__(self, source: Readable, limit: int) -> None:
        self._source = source
        self._left = limit
        self._limit = limit

    def read(self, size: int, /) -> bytes:
        """Read from the source.

        Raises:
            BodyTooLarge: the source exceeds the limit.
        """
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise BodyTooLarge(f"the request body decompresses to more than {self._limit} bytes")
        return data


class ProportionalReader:
    """A limit on what compressed data decode to, in proportion to their size.

    Args:
        source: a decoder.
        taken: returns how many bytes the decoder has taken.
        ratio: maximum number of decoded bytes for each byte taken; 64 KiB may always be decoded.
    """

    def __init__(self, source: Readable, taken: Callable[[], int], ratio: int) -> None:
        self._source = source
        self._taken = taken
        self._ratio = ratio
        self._decoded = 0

    def read(self, size: int, /) -> bytes:
        """Read from the source.

        Raises:
            DecodeError: the data decode to too much.
        """
        data = self._source.read(size)
        self._decoded += len(data)
        if self._decoded > _PIECE + self._ratio * self._taken():
            raise DecodeError(f"compressed data decode to more than {self._ratio} times their size")
        return data


def coalesce(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Join small chunks into chunks of at least ``size`` bytes, except the last one.

    A large chunk passes without a copy if no small one waits before it.  Empty chunks are dropped: in a chunked
    response they would mean the end.
    """
    pending: list[bytes] = []
    total = 0
    for chunk in filter(None, chunks):
        if not pending and len(chunk) >= size:
            yield bytes(chunk)
            continue
        pending.append(chunk)
        total += len(chunk)
        if total >= size:
            yield b"".join(pending)
            pending, total = [], 0
    if pending:
        yield b"".join(pending)


def close_source(source: object) -> None:
    """Close a source of bytes or frames if it has a ``close`` method."""
    close = getattr(source, "close", None)
    if close is not None:
        close()
