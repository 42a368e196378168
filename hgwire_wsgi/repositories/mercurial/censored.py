"""Which file revisions of a repository are censored.

``hg censor`` replaces the content of a revision and keeps its identity, so nothing in the history shows it, and anyone
with access to the disk may do it with an extension that the server does not enable.  What shows it is a flag in the
index of the file.  A bundle made before would bring the content back, so bundles depend on these flags.

All indexes are read once, which takes about ten microseconds for each, and one for every five revisions.  Later, only
those in folders that have changed are read: Mercurial replaces an index that it rewrites.  Flags of revisions that
clients push may be noticed late, which does not matter, because the history has changed then, too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from struct import Struct

import attrs

__all__ = ["Censored"]

_FOLDERS = (b"/store/data", b"/store/dh", b"/store/meta")

_ENTRY = Struct(">6xHi")
"""The start of an entry of an index: flags after the offset, and the size of the data, which follow if it is inline."""

_ENTRY_SIZE = 64
_PIECE = 64 * 1024
_VERSION_1 = 1
_INLINE = 1 << 16
_IS_CENSORED = 1 << 15


@attrs.frozen
class Censored:
    """The censored file revisions of a repository.

    Attributes:
        indexes: path and censored revisions of each index that has some, sorted.
        time: when they were read, in nanoseconds.
        store: device and inode of the folder that they were read in.  If another copy of the repository takes its
            place, the times of its folders say nothing.
    """

    indexes: tuple[tuple[bytes, bytes], ...] = ()
    time: int = 0
    store: tuple[int, int] | None = None

    def read(self, root: bytes, now: int) -> Censored:
        """Read the flags that may have changed.

        Args:
            root: the ``.hg`` folder with the store.
            now: the present time in nanoseconds, or earlier by the precision of the file system's clock.
        """
        store = _identity(root + b"/store")
        known, time = (dict(self.indexes), self.time) if store == self.store else ({}, 0)
        found: dict[bytes, bytes] = {}
        for folder in _FOLDERS:
            for path, changed, names in _walk(root + folder):
                for name in names:
                    index = path + b"/" + name
                    flags = known.get(index, b"") if changed < time else _flags(index)
                    if flags:
                        found[index] = flags
        return Censored(tuple(sorted(found.items())), now, store)


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _walk(root: bytes) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """Each folder, its change time in nanoseconds, and the names of the indexes in it."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        names: list[bytes] = []
        try:
            changed = os.stat(folder).st_ctime_ns
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(b".i"):
                        names.append(entry.name)
                    elif entry.is_dir():
                        waiting.append(entry.path)
        except OSError:
            continue
        yield folder, changed, names


def _flags(path: bytes) -> bytes:
    """The numbers of the censored revisions of a file; empty if there are none."""
    try:
        content = _read(path)
    except OSError:
        return b""
    header = int.from_bytes(content[:4], "big")
    if header & 0xFFFF != _VERSION_1:
        # Another format; any change of it counts.
        return hashlib.sha256(content).hexdigest().encode("ascii") if content else b""
    inline = bool(header & _INLINE)
    if not inline and max(content[6::_ENTRY_SIZE], default=0) < _IS_CENSORED >> 8:
        return b""
    censored: list[int] = []
    # One iteration for each revision of the repository: every operation counts.
    revision, position, end, unpack = 0, 0, len(content) - _ENTRY_SIZE, _ENTRY.unpack_from
    while position <= end:
        flags, size = unpack(content, position)
        if flags & _IS_CENSORED:
            censored.append(revision)
        revision += 1
        position += _ENTRY_SIZE
        if inline and size > 0:
            position += size
    return repr(censored).encode("ascii") if censored else b""


def _read(path: bytes) -> bytes:
    """Read a file with half the system calls of a file object."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, _PIECE):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)
