"""A codec for changegroups of version 01 and for the first bundle format around them.

A changegroup is a group of changesets, a group of manifests, and for each file a chunk with its path and a group of its
revisions.  An empty chunk ends each group, and another one the files.  A chunk starts with its length in 32 bits,
big-endian, itself included.  A revision is its node, its two parents, the changeset it belongs to, and a delta against
the revision before it in the group; that of the first one is against its first parent.  (Mercurial's
``help internals.changegroups``, and the output of 7.2.)

The texts of revisions are not interpreted here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import attrs

from ..compression import BZIP2, NONE, ZLIB, DecodingReader, Engine
from ..errors import CommandFailed
from ..limits import Limits
from ..streams import Prefixed, Readable, read_exactly

__all__ = [
    "END",
    "Chunk",
    "Reader",
    "apply_delta",
    "encode_group",
    "encode_path",
    "full_delta",
    "open_bundle",
]

END = b"\0\0\0\0"
"""The empty chunk: ends a group, or the files."""

_LENGTH = struct.Struct(">i")
_HEADER = struct.Struct(">20s20s20s20s")
_HUNK = struct.Struct(">III")

_BUNDLES: dict[bytes, tuple[Engine, bytes]] = {
    b"UN": (NONE, b""),
    b"GZ": (ZLIB, b""),
    # The two bytes are both the name of the compression and the start of the compressed data.
    b"BZ": (BZIP2, b"BZ"),
}
"""Compressions of the first bundle format by what follows ``HG10``: the engine, and the start of its stream."""


@attrs.frozen
class Chunk:
    """One revision in a changegroup.

    Attributes:
        node: its hash.
        p1: its first parent.
        p2: its second parent.
        link: the changeset that introduced it; for a changeset, its own node.
        delta: makes its text from the text before it.
    """

    node: bytes
    p1: bytes
    p2: bytes
    link: bytes
    delta: bytes


def full_delta(base_size: int, text: bytes) -> bytes:
    """A delta that replaces all of a base of ``base_size`` bytes."""
    return _HUNK.pack(0, base_size, len(text)) + text


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """Apply a delta to its base.

    A delta is a list of hunks in order.  Each has the start and the end of what is replaced and the length of the
    replacement, 32 bits each, big-endian; the replacement follows.

    Raises:
        CommandFailed: if it is malformed.
    """
    pieces: list[bytes] = []
    done = offset = 0
    while offset < len(delta):
        if len(delta) - offset < _HUNK.size:
            raise CommandFailed("a delta in the bundle is cut short")
        start, end, size = _HUNK.unpack_from(delta, offset)
        offset += _HUNK.size
        if not done <= start <= end <= len(base) or size > len(delta) - offset:
            raise CommandFailed("a delta in the bundle does not fit its base")
        pieces += base[done:start], delta[offset : offset + size]
        done, offset = end, offset + size
    pieces.append(base[done:])
    return b"".join(pieces)


def _encode_chunk(data: bytes) -> bytes:
    return _LENGTH.pack(_LENGTH.size + len(data)) + data


def encode_group(chunks: Iterable[Chunk]) -> Iterator[bytes]:
    """Write a group and its end."""
    for chunk in chunks:
        yield _encode_chunk(_HEADER.pack(chunk.node, chunk.p1, chunk.p2, chunk.link) + chunk.delta)
    yield END


def encode_path(path: bytes) -> bytes:
    """Write the chunk that precedes the group of a file."""
    return _encode_chunk(path)


class Reader:
    """Reads a changegroup: :meth:`group` twice, then :meth:`path` and :meth:`group` until there is no path.

    Args:
        source: the changegroup.
        limit: its maximum size in bytes.

    Every method raises :class:`CommandFailed` for a changegroup that is malformed, ends early, or is too long, and does
    not catch what ``source`` raises.
    """

    def __init__(self, source: Readable, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._left = limit

    def group(self) -> Iterator[Chunk]:
        """Read the revisions of the next group, which must be exhausted before anything else is read."""
        while data := self._chunk():
            if len(data) < _HEADER.size:
                raise CommandFailed("a revision in the bundle is too short")
            node, p1, p2, link = _HEADER.unpack_from(data)
            yield Chunk(node, p1, p2, link, data[_HEADER.size :])

    def path(self) -> bytes | None:
        """Read the path of the next file; ``None`` after the last."""
        return self._chunk() or None

    def end(self) -> None:
        """Make sure that nothing follows; this also makes a decoder check the end of its stream."""
        if self._source.read(1):
            raise CommandFailed("there are extra data after the end of the bundle")

    def _chunk(self) -> bytes:
        size: int = _LENGTH.unpack(self._exactly(_LENGTH.size))[0]
        if size == 0:
            return b""
        if size <= _LENGTH.size:
            raise CommandFailed(f"a chunk of the bundle has an invalid length: {size}")
        return self._exactly(size - _LENGTH.size)

    def _exactly(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise CommandFailed(f"the bundle exceeds {self._limit} bytes")
        data = read_exactly(self._source, size)
        if len(data) < size:
            raise CommandFailed("the bundle is cut short")
        return data


def open_bundle(source: Readable, limits: Limits) -> Readable:
    """Open the changegroup in a bundle of the first format, or a bare changegroup.

    Args:
        source: a bundle that starts with ``HG10`` and a compression, or a changegroup.
        limits: bounds of decompression.

    Raises:
        CommandFailed: if it is neither.
    """
    magic = read_exactly(source, 4)
    if magic != b"HG10":
        if magic.startswith(b"\0"):
            return Prefixed(magic, source)
        raise CommandFailed("this repository accepts only bundles of the format HG10")
    compression = read_exactly(source, 2)
    if compression not in _BUNDLES:
        raise CommandFailed("the bundle has an unknown compression")
    engine, prefix = _BUNDLES[compression]
    return DecodingReader(Prefixed(prefix, source), engine, limits)
