"""Reading revlogs: index entries, and the data of many revisions at once.

A revlog is an index of fixed-size entries and the data of its revisions, one after the other; a small one has the data
between the entries, in one file (*inline*).  The data of a revision is a full text, or a delta against an earlier
revision, and is compressed by itself (``hg help internals.revlogs``).

The changelog and the manifest are read through Mercurial's revlogs, which are open anyway.  A file's revlog is mostly
tiny, and there are thousands, so its files are read directly, and only the index object is Mercurial's: making a whole
revlog costs more than copying its revisions.  An index object holds the bytes of the index, and makes the tuple of an
entry when it is asked for, which costs about 400 bytes of memory and 0.2 microseconds.  So entries are taken in
batches, and nobody keeps them.

A number in an index that would lead outside of the files raises :class:`Surprise`; the caller then leaves the revlog to
Mercurial, which reports what is wrong.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import attrs
from mercurial import error, mdiff
from mercurial import revlog as mercurial_revlog

__all__ = ["BASE", "LINK", "NODE", "OFFSET_FLAGS", "P1", "P2", "SIZE", "Batch", "Entry", "Revlog", "Surprise"]
__all__ += ["opened", "opened_file"]

Entry = tuple[Any, ...]
"""An index entry, as Mercurial's index objects give it; the constants below name its items."""

OFFSET_FLAGS, LENGTH, SIZE, BASE, LINK, P1, P2, NODE = range(8)

_ENTRY_SIZE = 64
_LINK_FIELD = 5
"""Of the 16 fields of 4 bytes that an entry has."""

_HEADER = struct.Struct(">I")
_VERSION_1 = 1
_INLINE = 1 << 16
_GENERAL_DELTA = 1 << 17
_DELTA_INFO = 1 << 19

_LONG_INDEX = 1024 * 1024
"""Bytes of an index above which Mercurial's revlog reads it, which maps the file into memory."""

_BATCH = 1024
"""Maximum number of entries that are held at once."""

_WINDOW = 1024 * 1024
"""Maximum number of bytes of stored data that are read at once, except for a single revision."""

_GAP = 64 * 1024
"""Maximum number of unwanted bytes between two revisions that are read together."""

_PARSE_ARGUMENTS = mercurial_revlog.parse_index_v1.__code__.co_argcount
"""The data, whether it is inline, whether bases are general; since Mercurial 7.1, whether deltas are described."""

_DIFF: Callable[[bytes, bytes], bytes] = getattr(mdiff, "storage_diff", mdiff.textdiff)
"""What computes the deltas of files; since Mercurial 7.2 not the same as for manifests."""

_COMPARED: Mapping[str, bool] = {"validate": False} if hasattr(mdiff, "storage_diff") else {}
"""How Mercurial reads texts that it compares: since version 7.2, it does not check them."""


class Surprise(Exception):
    """A revlog has something in it that is left to Mercurial: damage, or a flag."""


Batch = tuple[Sequence[int], list[Entry], int, bytes, int]
"""Revisions that are read together: their numbers and entries; where in the file the bytes that follow begin; and the
size of the index entry that precedes the data of each revision there."""


@attrs.define(eq=False)
class Revlog:
    """A revlog, open for reading.

    Attributes:
        index: Mercurial's index object; an ``index[rev]`` is an :data:`Entry`, and ``index[-1]`` has the null node.
        general_delta: whether the base of a delta may be any revision, or always is the one before.
        inline: whether the data is between the entries.
        swaps_parents: whether a null parent counts as the second one.
        read: returns an offset and the bytes of the data file from there, for a first and a last revision; the whole
            file, if it was read with the index.
        store: opens Mercurial's own object for the revlog.
        diff: computes a delta between two texts, as Mercurial does for this revlog.
        is_file: whether it is the revlog of a file.
        sparse: whether a full text or a delta against a snapshot is a snapshot; otherwise only a full text is one.
    """

    index: Any
    general_delta: bool
    inline: bool
    swaps_parents: bool
    read: Callable[[int, int], tuple[int, bytes]] | bytes
    store: Callable[[], Any]
    diff: Callable[[bytes, bytes], bytes]
    is_file: bool = False
    sparse: bool = False

    def links(self) -> Sequence[int]:
        """The changesets that introduced the revisions, for all of them."""
        links: list[int] = []
        # Much cheaper than to make the tuples.
        entry_of = self.index.entry_binary
        for first in range(0, len(self.index), _BATCH):
            last = min(first + _BATCH, len(self.index))
            # The first entry is without its first 4 bytes, which are the header of the file.
            entries = b"".join(map(entry_of, range(first, last))).rjust((last - first) * _ENTRY_SIZE, b"\0")
            links += struct.unpack(f">{last - first}i", array("i", entries)[_LINK_FIELD::16])
        return links

    def delta_parent(self, rev: int, entry: Entry) -> int:
        """The revision that the stored delta applies to; -1 for a full text."""
        base: int = entry[BASE]
        if base == rev:
            return -1
        return base if self.general_delta else rev - 1

    def snapshot_level(self, rev: int, entry: Entry) -> int:
        """The number of snapshots below a snapshot; -1 for another delta.

        Raises:
            Surprise: if Mercurial's index object cannot tell.
        """
        try:
            is_snapshot = self.index.issnapshot(rev) if self.sparse else self.delta_parent(rev, entry) == -1
            return len(self.index.deltachain(rev, None)[0]) - 1 if is_snapshot else -1
        except AttributeError as failure:
            raise Surprise from failure

    def text(self, rev: int) -> bytes:
        """The full text of a revision, checked, from Mercurial."""
        return bytes(_revlog(self.store()).rawdata(rev))

    def compared_text(self, rev: int) -> bytes:
        """The full text of a revision, from Mercurial; checked if Mercurial does that before it computes a delta."""
        return bytes(_revlog(self.store()).rawdata(rev, **_COMPARED))

    def stored(self, rev: int) -> bytes:
        """The full text or delta that is stored, decompressed by Mercurial."""
        return bytes(_revlog(self.store())._inner._chunk(rev))

    def computed_delta(self, base: int, rev: int) -> bytes:
        """A delta between two revisions, from Mercurial: the stored one if there is one."""
        return bytes(_revlog(self.store()).revdiff(base, rev))

    def ancestors_among(self, revs: Set[int], heads: Set[int]) -> Set[int]:
        """Those of some revisions that are ancestors of some heads, or heads."""
        # With everything on the paths to them: otherwise, the walk ends at the first that it finds.
        return revs & set(_revlog(self.store()).reachableroots(min(revs), list(heads), list(revs), True))

    def batches(self, revs: Sequence[int]) -> Iterator[Batch]:
        """Read revisions.

        Args:
            revs: their numbers, ascending.

        Raises:
            Surprise: if the index leads outside of the data.
        """
        entry_of, read = self.index.__getitem__, self.read
        per_entry = _ENTRY_SIZE if self.inline else 0
        for first in range(0, len(revs), _BATCH):
            batch = revs[first : first + _BATCH]
            entries = list(map(entry_of, batch))
            if isinstance(read, bytes):
                yield batch, entries, 0, read, per_entry
                continue
            for begin, end in _windows(batch, entries):
                # Held by nobody but the caller.
                yield batch[begin:end], entries[begin:end], *read(batch[begin], batch[end - 1]), per_entry


def _windows(revs: Sequence[int], entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """Divide revisions into runs whose data is read at once; positions of their first ones and of their ends."""
    last = entries[-1]
    size = (last[OFFSET_FLAGS] >> 16) + last[LENGTH] - (entries[0][OFFSET_FLAGS] >> 16)
    if revs[-1] - revs[0] == len(revs) - 1 and size <= _WINDOW:
        yield 0, len(revs)
        return
    first = start = end = 0
    for position, entry in enumerate(entries):
        begin = entry[OFFSET_FLAGS] >> 16
        stop = begin + entry[LENGTH]
        if position > first and (stop - start > _WINDOW or begin - end > _GAP):
            yield first, position
            first = position
        if position == first:
            start = begin
        end = stop
    yield first, len(revs)


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
        try:
            start, segment = inner.get_segment_for_revs(first, last)
        except error.RevlogError as failure:
            # The data is cut off: what comes before can still be sent.
            raise Surprise from failure
        return start, bytes(segment)

    with revlog.reading():
        # Mercurial counts the entries before an inline revision into the start of a segment.
        yield Revlog(
            revlog.index,
            revlog.delta_config.general_delta,
            revlog._inline,
            revlog.feature_config.canonical_parent_order,
            read,
            lambda: store,
            getattr(revlog, "_diff_fn", mdiff.textdiff),
            hasattr(store, "has_meta"),
            revlog.delta_config.sparse_revlog,
        )


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
    # One object for all deltas of a file: each reads the whole index.
    store = functools.cache(store)
    data = svfs.tryread(radix + b".i")
    if len(data) > _LONG_INDEX:
        del data
        with opened(store()) as revlog:
            yield revlog
        return
    (header,) = _HEADER.unpack_from(data) if len(data) >= _ENTRY_SIZE else (0,)
    if header & 0xFFFF != _VERSION_1 or header & ~(0xFFFF | _INLINE | _GENERAL_DELTA | _DELTA_INFO):
        yield None
        return
    general, inline = bool(header & _GENERAL_DELTA), bool(header & _INLINE)
    sparse = general and getattr(svfs.options.get(b"delta-config"), "sparse_revlog", False)
    arguments = (data, inline, general, bool(header & _DELTA_INFO))
    try:
        index, _ = mercurial_revlog.parse_index_v1(*arguments[:_PARSE_ARGUMENTS])
    except ValueError:
        yield None
        return
    if inline:
        yield Revlog(index, general, inline, False, data, store, _DIFF, True, sparse)
        return
    with contextlib.closing(_DataFile(index, lambda: svfs(radix + b".d"))) as file:
        yield Revlog(index, general, inline, False, file.read, store, _DIFF, True, sparse)


@attrs.define(eq=False)
class _DataFile:
    """The data of a revlog that is not inline; opened when something is read."""

    index: Any
    opener: Callable[[], Any]
    file: Any = None
    size: int = 0

    def read(self, first: int, last: int) -> tuple[int, bytes]:
        if self.file is None:
            try:
                self.file = self.opener()
            except OSError as failure:
                raise Surprise from failure
            self.size = os.fstat(self.file.fileno()).st_size
        start: int = self.index[first][OFFSET_FLAGS] >> 16
        end = self.index[last]
        stop = (end[OFFSET_FLAGS] >> 16) + end[LENGTH]
        # A wrong length must not reserve gigabytes.
        if not start <= stop <= self.size:
            raise Surprise
        self.file.seek(start)
        return start, self.file.read(stop - start)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
