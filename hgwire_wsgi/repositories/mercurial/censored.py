"""Which file revisions of a repository are censored.

``hg censor`` replaces the content of a revision and keeps its identity, so nothing in the history shows it, and anyone
with access to the disk may do it with an extension that the server does not enable.  What shows it is a flag in the
index of the file.  A bundle made before would bring the content back, so bundles depend on these flags.

All indexes are read once, which takes about ten microseconds for each, and one for every five revisions.  Later, only
those in folders that have changed are read: Mercurial replaces an index that it rewrites.  For each other folder there
is one system call.  Flags of revisions that clients push may be noticed late, which does not matter, because the history
has changed then, too.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping
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


_Flags = tuple[tuple[bytes, bytes], ...]
"""Path and censored revisions of each index that has some."""


@attrs.frozen
class _Folder:
    """A folder of the store: the folders in it, and its censored indexes."""

    folders: tuple[bytes, ...]
    indexes: _Flags


@attrs.frozen
class Censored:
    """The censored file revisions of a repository.

    Attributes:
        indexes: path and censored revisions of each index that has some, sorted.
        time: when they were read, in nanoseconds.
    """

    indexes: _Flags = ()
    time: int = 0
    _folders: Mapping[bytes, _Folder] = attrs.field(factory=dict, eq=False, repr=False)

    def read(self, root: bytes, now: int) -> Censored:
        """Read the flags that may have changed.

        Args:
            root: the ``.hg`` folder with the store.
            now: the present time in nanoseconds, or earlier by the precision of the file system's clock.
        """
        folders: dict[bytes, _Folder] = {}
        waiting = [root + folder for folder in _FOLDERS]
        for path in waiting:
            try:
                folder = self._folders.get(path)
                if os.stat(path).st_ctime_ns >= self.time or folder is None:
                    folder = _read_folder(path)
            except OSError:
                continue
            folders[path] = folder
            waiting += folder.folders
        return Censored(tuple(sorted(itertools.chain(*[each.indexes for each in folders.values()]))), now, folders)


def _read_folder(path: bytes) -> _Folder:
    folders, names = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(b".i"):
                names.append(entry.path)
            elif entry.is_dir():
                folders.append(entry.path)
    found = ((name, _flags(name)) for name in names)
    return _Folder(tuple(folders), tuple([(name, flags) for name, flags in found if flags]))


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
