"""Reading revlogs: index entries, and the data of many revisions at once.

A revlog is an index of fixed-size entries and the data of its revisions, one after the other; a small one has the data
between the entries, in one file (*inline*).  The data of a revision is a full text, or a delta against an earlier
revision, and is compressed by itself (``hg help internals.revlogs``).

The changelog and the manifest are read through Mercurial's index objects, which are open anyway.  A file's revlog is
mostly tiny, and there are thousands, so its index is read from disk directly: making Mercurial's object costs more than
copying the revisions.  Long indexes go through Mercurial's objects, which do not hold an entry for each revision in
memory.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import attrs
import zstandard

__all__ = ["BASE", "LINK", "NODE", "OFFSET_FLAGS", "P1", "P2", "Decompress", "Entry", "Revlog", "opened", "opened_file"]

Entry = tuple[Any, ...]
"""An index entry, as Mercurial's index objects give it; the constants below name its items."""

OFFSET_FLAGS, LENGTH, BASE, LINK, P1, P2, NODE = 0, 1, 3, 4, 5, 6, 7

_ENTRY = struct.Struct(">Qiiiiii20s12x")
_NULL_ENTRY: Entry = (0, 0, 0, -1, -1, -1, -1, bytes(20))
_HEADER = struct.Struct(">I")
_VERSION_1 = 1
_INLINE = 1 << 16
_GENERAL_DELTA = 1 << 17
_DELTA_INFO = 1 << 19

_LONG_INDEX = 512 * 1024
"""Bytes of an index above which Mercurial's object reads it: an entry costs about 400 bytes of memory as a tuple."""

_WINDOW = 1024 * 1024
"""Maximum number of bytes of stored data that are read at once, except for a single revision."""

_GAP = 64 * 1024
"""Maximum number of unwanted bytes between two revisions that are read together."""

Decompress = Callable[[bytes], bytes]
"""Decompresses a zstandard frame."""


@attrs.define(eq=False)
class Revlog:
    """A revlog, open for reading.

    Attributes:
        index: the entries; an ``index[rev]`` is an :data:`Entry`, and ``index[-1]`` has the null node.
        general_delta: whether the base of a delta may be any revision, or always is the one before.
        read: returns an offset and the bytes of the data file from there, for a first and a last revision.
        inline: whether the data is between the entries.
        store: opens Mercurial's own object for the revlog.
    """

    index: Any
    general_delta: bool
    read: Callable[[int, int], tuple[int, bytes]]
    inline: bool
    store: Callable[[], Any]

    def revs(self) -> range:
        """The numbers of all revisions."""
        return range(len(self.index) - isinstance(self.index, list))

    def delta_parent(self, rev: int, entry: Entry) -> int:
        """The revision that the stored delta applies to; -1 for a full text."""
        base: int = entry[BASE]
        if base == rev:
            return -1
        return base if self.general_delta else rev - 1

    def text(self, rev: int) -> bytes:
        """The full text of a revision, checked, from Mercurial."""
        return bytes(_revlog(self.store()).rawdata(rev))

    def computed_delta(self, base: int, rev: int) -> bytes:
        """A delta between two revisions, from Mercurial: the stored one if there is one."""
        return bytes(_revlog(self.store()).revdiff(base, rev))

    def ancestors_among(self, revs: Set[int], heads: Set[int]) -> set[int]:
        """Those of some revisions that are ancestors of some heads, or heads."""
        least = min(revs)
        if not isinstance(self.index, list):
            # Without the paths, the search would stop at the first of them.
            paths = _revlog(self.store()).reachableroots(least, list(heads), list(revs), includepath=True)
            return revs & set(paths)
        found = set(heads)
        for rev in range(max(heads, default=-1), least, -1):
            if rev in found:
                entry = self.index[rev]
                found.add(entry[P1])
                found.add(entry[P2])
        return found & revs

    def data(self, revs: Sequence[int], zstd: Decompress) -> Iterator[tuple[int, Entry, bytes]]:
        """Read revisions: number, entry, and the full text or delta that is stored.

        Args:
            revs: their numbers, ascending.
            zstd: decompresses a zstandard frame.
        """
        inline = 64 if self.inline else 0
        for window, entries in self._windows(revs):
            start, segment = self.read(window[0], window[-1])
            for rev, entry in zip(window, entries, strict=True):
                begin = (entry[0] >> 16) - start + inline * (rev + 1)
                stored = segment[begin : begin + entry[1]]
                kind = stored[:1]
                try:
                    if kind == b"x":
                        stored = zlib.decompress(stored)
                    elif kind == b"(":
                        stored = zstd(stored)
                    elif kind == b"u":
                        stored = stored[1:]
                    elif kind not in b"\0":
                        stored = self._by_mercurial(rev)
                except (zlib.error, zstandard.ZstdError, MemoryError):
                    # A frame without its size, or damaged data, which Mercurial reports.
                    stored = self._by_mercurial(rev)
                yield rev, entry, stored

    def _by_mercurial(self, rev: int) -> bytes:
        return bytes(_revlog(self.store())._inner._chunk(rev))

    def _windows(self, revs: Sequence[int]) -> Iterator[tuple[Sequence[int], list[Entry]]]:
        """Divide revisions into runs whose data is read at once."""
        index = self.index
        first = 0
        entries: list[Entry] = []
        begin = end = 0
        for position, rev in enumerate(revs):
            entry = index[rev]
            start = entry[0] >> 16
            stop = start + entry[1]
            if entries and (stop - begin > _WINDOW or start - end > _GAP):
                yield revs[first:position], entries
                first, entries = position, []
            if not entries:
                begin = start
            entries.append(entry)
            end = stop
        if entries:
            yield revs[first:], entries


def _revlog(store: Any) -> Any:
    """The revlog behind the storage object of the changelog, the manifest or a file."""
    return getattr(store, "_revlog", store)


@contextlib.contextmanager
def opened(store: Any) -> Iterator[Revlog | None]:
    """Read a revlog through Mercurial's object.

    Args:
        store: the storage object of the changelog, the manifest or a file.

    Yields:
        The revlog; ``None`` if its format is not version 1.
    """
    revlog = _revlog(store)
    if revlog._format_version != _VERSION_1:
        yield None
        return
    inner = revlog._inner

    def read(first: int, last: int) -> tuple[int, bytes]:
        start, segment = inner.get_segment_for_revs(first, last)
        return start, bytes(segment)

    with revlog.reading():
        # Mercurial counts the entries before an inline revision into the start of a segment.
        yield Revlog(revlog.index, revlog.delta_config.general_delta, read, revlog._inline, lambda: store)


@contextlib.contextmanager
def opened_file(svfs: Any, radix: bytes, store: Callable[[], Any]) -> Iterator[Revlog | None]:
    """Read the revlog of a file from disk if its index is short, otherwise through Mercurial's object.

    Args:
        svfs: Mercurial's object for the files of a store.
        radix: the path of the revlog without ``.i``.
        store: opens Mercurial's object.

    Yields:
        The revlog; ``None`` if it is empty, damaged or not of version 1.
    """
    index = svfs.tryread(radix + b".i")
    if len(index) > _LONG_INDEX:
        with opened(store()) as revlog:
            yield revlog
        return
    (header,) = _HEADER.unpack_from(index) if index else (0,)
    if header & 0xFFFF != _VERSION_1 or header & ~(0xFFFF | _INLINE | _GENERAL_DELTA | _DELTA_INFO):
        yield None
        return
    general, inline = bool(header & _GENERAL_DELTA), bool(header & _INLINE)
    try:
        entries = _inline_entries(index) if inline else list(_ENTRY.iter_unpack(index))
    except struct.error:
        yield None
        return
    # The header is where the offset of the first revision would be.
    entries[0] = (entries[0][0] & 0xFFFF, *entries[0][1:])
    entries.append(_NULL_ENTRY)
    with contextlib.ExitStack() as files:
        if inline:
            yield Revlog(entries, general, lambda first, last: (0, index), inline, store)
            return
        file: Any = None

        def read(first: int, last: int) -> tuple[int, bytes]:
            nonlocal file
            if file is None:
                file = files.enter_context(svfs(radix + b".d"))
            start: int = entries[first][0] >> 16
            file.seek(start)
            return start, file.read((entries[last][0] >> 16) + entries[last][1] - start)

        yield Revlog(entries, general, read, inline, store)


def _inline_entries(index: bytes) -> list[Entry]:
    entries = []
    position, end = 0, len(index)
    while position < end:
        entry = _ENTRY.unpack_from(index, position)
        entries.append(entry)
        position += _ENTRY.size + entry[LENGTH]
    return entries
