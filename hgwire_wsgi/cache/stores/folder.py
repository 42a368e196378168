"""Bundles in a folder that all processes of a host share.

Layout: ``<folder>/<two digits>/<key>`` is a complete entry, ``<key>.part`` one that is being made.  A new file
briefly has a unique name, ``<key>.<random>.new``.

What is always true:

- An entry is complete if and only if its file is not writable.  An open descriptor shows that, even if the name is
  gone.  Only complete entries get a final name, by ``rename``: a final name leads to a complete entry or to nothing.
- The maker of an entry holds an exclusive ``flock`` on it until it finishes or gives up.  The kernel drops the lock
  when a process dies, so a part without a lock has no maker.
- The part of a dead maker is never written again, because others may still read it.  The next maker replaces it with a
  new file.
- Removing an entry does not affect those who have it open, so the folder can be emptied at any time.
- Files with other names are not ours and stay.  A writable file under a final name (for example from a backup that was
  restored without permissions) may be incomplete; it is deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Hashable, Iterator
from pathlib import Path

import attrs

from .base import GrowingEntry, PendingEntry, StoredFile

__all__ = ["FolderStore"]

_log = logging.getLogger("hgwire_wsgi")

_COMPLETE_MODE = 0o400
_STALE_SECONDS = 3600
"""A ``.new`` file of this age belongs to a dead process: live ones rename it at once."""

_SHELF = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{64}(\.part|\..+\.new)?")

_SYNCED_SIZE = 64 * 1024
"""Smaller entries are not synced to the disk.  A power failure leaves them empty, and empty files are ignored."""

_SHARE = 8
"""Each process scans the folder when it has added an eighth of the free space that its last scan left."""

_RESERVE = 16
"""A scan leaves a sixteenth of the capacity free.  Otherwise each small bundle added to a full folder would start
another scan, which takes a second for some hundred thousand entries."""


_Entry = tuple[float, int, str]
"""A complete entry: time of its last use, bytes on the disk, path."""


def _is_complete(descriptor: int) -> bool:
    return not os.fstat(descriptor).st_mode & stat.S_IWUSR


def _has_maker(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return True
        raise
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _names(path: str, descriptor: int) -> bool:
    """Return True if the path leads to the open file; it does not after the folder was emptied."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _usage(found: os.stat_result) -> int:
    """Return the bytes that a file occupies on the disk."""
    return max(found.st_size, found.st_blocks * 512)


def _create(path: str) -> tuple[int, str]:
    """Create a file for a path, under a temporary unique name."""
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return tempfile.mkstemp(dir=folder, prefix=name + ".", suffix=".new")


@attrs.frozen(eq=False)
class _GrowingFile(GrowingEntry):
    descriptor: int

    @property
    def identity(self) -> Hashable:
        found = os.fstat(self.descriptor)
        return found.st_dev, found.st_ino

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def is_complete(self) -> bool:
        return _is_complete(self.descriptor)

    def has_maker(self) -> bool:
        return _has_maker(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)


@attrs.define(eq=False)
class _PendingFile(PendingEntry):
    """An entry that this process is making.

    Attributes:
        store: its store.
        path: its final name.
        descriptor: open for writing, and locked; None once the entry has ended.
    """

    store: FolderStore
    path: str
    descriptor: int | None
    size: int = 0

    def _open(self) -> int:
        if self.descriptor is None:
            raise OSError(errno.EBADF, "the entry has ended", self.path)
        return self.descriptor

    def write(self, data: bytes) -> None:
        descriptor, view = self._open(), memoryview(data)
        while view:
            written = os.write(descriptor, view)
            self.size += written
            view = view[written:]

    def follow(self) -> GrowingEntry:
        # The copy shares the lock, so it cannot tell whether there is a maker.
        return _GrowingFile(os.dup(self._open()))

    def finish(self, *, keep: bool) -> bool:
        descriptor = self._open()
        if not keep or self.size > self.store.capacity:
            # Do this before marking it: if the process is killed in between, no complete part is left behind.
            self._remove(descriptor)
        os.fchmod(descriptor, _COMPLETE_MODE)
        kept = _names(self.path + ".part", descriptor) and self._rename(descriptor)
        self.abandon()
        return kept

    def _rename(self, descriptor: int) -> bool:
        if self.size >= _SYNCED_SIZE:
            # Otherwise a power failure could leave a truncated file under the name of a complete one.
            os.fdatasync(descriptor)
        try:
            os.rename(self.path + ".part", self.path)
        except FileNotFoundError:  # the folder was emptied just now
            return False
        self.store.account(_usage(os.fstat(descriptor)))
        return True

    def abandon(self) -> None:
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            self._remove(descriptor)
        # Closing is not enough: descriptors of followers and of forked processes share the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def _remove(self, descriptor: int) -> None:
        if _names(self.path + ".part", descriptor):
            os.unlink(self.path + ".part")


class FolderStore:
    """A folder of bundles; a :class:`~hgwire_wsgi.cache.stores.base.BundleStore`.

    Open one in each process: forked processes must not share it.

    Args:
        folder: created if missing, accessible to this user only.  It must be on a local disk.
        capacity: bytes that the complete entries may occupy; the least recently used ones are evicted.

    Raises:
        OSError: if the folder cannot be created or written, or belongs to another user.
    """

    def __init__(self, folder: str | os.PathLike[str], capacity: int) -> None:
        self.folder = Path(folder)
        self.capacity = capacity
        self._trimming = threading.Lock()
        self._room = 0
        self._added = 0
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.stat(self.folder).st_uid != os.geteuid():
            # Its owner could put anything into it.
            raise PermissionError(errno.EACCES, "the folder belongs to another user", str(self.folder))
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))

    def __str__(self) -> str:
        """The folder, for messages."""
        return str(self.folder)

    def path(self, key: str) -> str:
        """Return the path of a complete entry."""
        return f"{self.folder}/{_name(key)}"

    def open(self, key: str) -> StoredFile | None:
        """Open a complete entry, which becomes the most recently used one."""
        path = self.path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        size = os.fstat(descriptor).st_size
        if not (size and _is_complete(descriptor)):
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return StoredFile(descriptor, size, _name(key))

    def get(self, key: str) -> bytes | None:
        """Read a small entry."""
        stored = self.open(key)
        if stored is None:
            return None
        with open(stored.descriptor, "rb") as file:
            return file.read()

    def put(self, key: str, data: bytes) -> None:
        """Store or replace a small entry.

        Raises:
            OSError: for example on a full disk; no file is left behind.
        """
        path = self.path(key)
        descriptor, own = _create(path)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(descriptor, _COMPLETE_MODE)
            usage = _usage(os.stat(own))
            os.rename(own, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(own)
            raise
        self.account(usage)

    def open_or_begin(self, key: str) -> StoredFile | GrowingEntry | PendingEntry:
        """Open an entry, join its maker, or become its maker.

        Raises:
            OSError: if none of these is possible, for example on a full disk.
        """
        path = self.path(key)
        part = path + ".part"
        while True:
            if (stored := self.open(key)) is not None:
                return stored
            if (pending := self._begin(path, part)) is not None:
                # The previous maker may have finished since the last check.
                if (stored := self.open(key)) is None:
                    return pending
                pending.abandon()
                return stored
            if (joined := self._join(part)) is not None:
                return joined

    def _begin(self, path: str, part: str) -> PendingEntry | None:
        """Create a part under a unique name, lock it, and rename it to its path if that is free."""
        descriptor, own = _create(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.link(own, part)
        except FileExistsError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            os.unlink(own)
        return _PendingFile(self, path, descriptor)

    def _join(self, part: str) -> StoredFile | GrowingEntry | None:
        """Open a part with a live maker; None if it is gone.  The part of a dead maker is removed."""
        try:
            # A complete one can no longer be opened for writing.
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, descriptor)
            if _is_complete(descriptor):
                joined: StoredFile | GrowingEntry = StoredFile(descriptor, os.fstat(descriptor).st_size, None)
            elif _has_maker(descriptor):
                joined = _GrowingFile(descriptor)
            else:
                # Its maker died, or has finished just now.
                self._replace(part, descriptor)
                return None
            closing.pop_all()
        return joined

    def _replace(self, part: str, descriptor: int) -> None:
        """Remove a dead part, unless it has already been replaced."""
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(part, descriptor) and not _is_complete(descriptor):
                os.unlink(part)

    def account(self, usage: int) -> None:
        """Record that an entry of ``usage`` bytes was added; trim if the folder may be full."""
        self._added += usage
        if self._added * _SHARE >= self._room:
            self.trim()

    def trim(self) -> None:
        """Remove least recently used entries until the reserve is free, and parts of dead makers.

        The most recently used entry stays: it alone may exceed the capacity minus the reserve.
        """
        if not self._trimming.acquire(blocking=False):
            return
        try:
            entries = sorted(self._entries())
            total = sum(size for _, size, _ in entries)
            for _, size, path in entries[:-1]:
                if total <= self.capacity - self.capacity // _RESERVE:
                    break
                with contextlib.suppress(OSError):
                    os.unlink(path)
                total -= size
            self._room, self._added = max(self.capacity - total, 0), 0
        except OSError as error:
            _log.warning("the bundle cache in %s cannot be trimmed: %s", self.folder, error)
        finally:
            self._trimming.release()

    def _entries(self) -> Iterator[_Entry]:
        """List the complete entries, and remove leftover files."""
        with os.scandir(self.folder) as shelves:
            for shelf in shelves:
                if _SHELF.fullmatch(shelf.name) and shelf.is_dir():
                    with os.scandir(shelf.path) as entries:
                        yield from filter(None, map(_examine, entries))


def _name(key: str) -> str:
    return f"{key[:2]}/{key}"


def _examine(entry: os.DirEntry[str]) -> _Entry | None:
    """Describe a complete entry; remove a file that will never be completed."""
    if not _ENTRY.fullmatch(entry.name):
        return None
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if entry.name.endswith(".part"):
            _sweep(entry.path)
            return None
        found = entry.stat()
        if not entry.name.endswith(".new"):
            return found.st_mtime, _usage(found), entry.path
        if found.st_mtime < time.time() - _STALE_SECONDS:
            os.unlink(entry.path)
    return None


def _sweep(part: str) -> None:
    """Remove a part without a maker, even a complete one: it will never get its final name."""
    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not _has_maker(descriptor) and _names(part, descriptor):
            os.unlink(part)
    finally:
        os.close(descriptor)
