"""Complete entries on disk, and entries that grow, shared by all processes of a host.

Layout: ``<folder>/<two digits>/<digest>`` is a complete entry, ``<digest>.part`` one that is being made.

Rules:

- Whoever makes an entry holds an exclusive ``flock`` on it until it is done, either way.  The kernel drops the
  lock when a process dies, so a part without a lock has no maker.
- An entry is complete when its write permission is gone; that shows through any open descriptor, whatever has become of
  the name.  Only complete entries get their final name, by ``rename``.  So a file is complete or it is not there.
- A part of a dead maker is never written again: others may still read it.  A new maker puts a new file in its place.
- Removing an entry harms nobody who has it open.
- What has another kind of name is not ours, and left alone.  What has the name of a complete entry but may be written
  is a copy that somebody made, and nobody knows whether it is whole: it goes.
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
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Part", "Store"]

_log = logging.getLogger("hgwire_wsgi")

_COMPLETE_MODE = 0o400
_STALE_SECONDS = 3600
"""After this time a file that has no name yet is one whose process died; it takes a moment to give it one."""

_SHELF = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{64}(\.part|\..+\.new)?")


def is_complete(descriptor: int) -> bool:
    """Whether an open entry is complete."""
    return not os.fstat(descriptor).st_mode & stat.S_IWUSR


def has_maker(descriptor: int) -> bool:
    """Whether somebody is still making an open entry."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return True
        raise
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


_SYNCED_SIZE = 64 * 1024
"""Smaller entries are not worth waiting for the disk; a loss of power makes empty files of them, which do not count."""

_SHARE = 8
"""The folder is looked through each time an eighth of its free room has been added, by each process for itself."""

_RESERVE = 16
"""Looking through the folder leaves a sixteenth of it free.  A full one would be looked through for each small bundle
that is added, and that takes a second where there are some hundred thousand."""


def _usage(found: os.stat_result) -> int:
    """What a file takes of the disk."""
    return max(found.st_size, found.st_blocks * 512)


def _create(path: str) -> tuple[int, str]:
    """Create a file that is to be at a path, under a name that nobody else uses."""
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return tempfile.mkstemp(dir=folder, prefix=name + ".", suffix=".new")


class Part:
    """An entry that this process makes.

    One of :meth:`finish` and :meth:`abandon` ends it; nothing may be written after.
    """

    def __init__(self, store: Store, path: str, descriptor: int) -> None:
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self.size = 0

    def open(self) -> int:
        """A descriptor to ``pread`` what is written; it shares the lock, so never ask :func:`has_maker` of it."""
        return os.dup(self._descriptor)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OSError: such as a full disk.
        """
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self.size += written
            view = view[written:]

    def finish(self, *, keep: bool) -> None:
        """Mark as complete for whoever follows; give it its name, unless it is not worth keeping.

        Raises:
            OSError: such as a full disk; :meth:`abandon` must follow.
        """
        if not keep or self.size > self._store.capacity:
            # First, so that whoever kills this process does not leave a complete part.
            self._remove()
        os.fchmod(self._descriptor, _COMPLETE_MODE)
        if self._is_named():
            if self.size >= _SYNCED_SIZE:
                # Else a loss of power could leave a short file under the name of a complete one.
                os.fdatasync(self._descriptor)
            with contextlib.suppress(FileNotFoundError):  # the folder was emptied just now
                os.rename(self._path + ".part", self._path)
                self._store.account(_usage(os.fstat(self._descriptor)))
        self.abandon()

    def abandon(self) -> None:
        """Give up: whoever follows finds out, and makes another."""
        with contextlib.suppress(OSError):
            self._remove()
        # Other descriptors have the lock too, also those of a process that was forked meanwhile.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def _remove(self) -> None:
        if self._is_named():
            os.unlink(self._path + ".part")

    def _is_named(self) -> bool:
        """Whether the name of the part is still that of this one; not so after the folder was emptied."""
        try:
            return os.path.samestat(os.stat(self._path + ".part"), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False


class Store:
    """A folder of entries.

    Args:
        folder: made if it is missing, readable for this user only.
        capacity: bytes that complete entries may take in all; the least recently used ones go.

    Raises:
        OSError: if the folder cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str], capacity: int) -> None:
        self.folder = Path(folder)
        self.capacity = capacity
        self._trimming = threading.Lock()
        self._room = 0
        self._added = 0
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.stat(self.folder).st_uid != os.geteuid():
            # Whoever owns it could put anything into it.
            raise PermissionError(errno.EACCES, "the folder belongs to another user", str(self.folder))
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))

    def path(self, digest: str) -> str:
        """Where a complete entry is."""
        return f"{self.folder}/{digest[:2]}/{digest}"

    def open(self, digest: str) -> int | None:
        """Open a complete entry for reading; it counts as used."""
        path = self.path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if not (is_complete(descriptor) and os.fstat(descriptor).st_size):
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return descriptor

    def get(self, digest: str) -> bytes | None:
        """A small complete entry as a whole."""
        descriptor = self.open(digest)
        if descriptor is None:
            return None
        with open(descriptor, "rb") as file:
            return file.read()

    def put(self, digest: str, data: bytes) -> None:
        """Make or replace a small entry.

        Raises:
            OSError: such as on a full disk.
        """
        path = self.path(digest)
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

    def join(self, digest: str) -> Part | int:
        """Make an entry, or follow whoever makes it.

        Returns:
            A part to fill, or a descriptor to read of one that grows or is complete.

        Raises:
            OSError: if neither can be had, such as on a full disk.
        """
        path = self.path(digest)
        part = path + ".part"
        while True:
            if (descriptor := self.open(digest)) is not None:
                return descriptor
            if (made := self._make(path, part)) is not None:
                # The last maker may have finished since we looked.
                if (descriptor := self.open(digest)) is None:
                    return made
                made.abandon()
                return descriptor
            try:
                descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if is_complete(descriptor) or has_maker(descriptor):
                return descriptor
            # Its maker died, or has just finished.
            self._remove(part, descriptor)
            os.close(descriptor)

    def _make(self, path: str, part: str) -> Part | None:
        """Make a new part under a name of its own, locked, and give it its name if that is free."""
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
        return Part(self, path, descriptor)

    def _remove(self, part: str, descriptor: int) -> None:
        """Remove a dead part, unless another one has taken its place already."""
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(part), os.fstat(descriptor)) and not is_complete(descriptor):
                os.unlink(part)

    def account(self, usage: int) -> None:
        """Note that an entry was added, and trim when what this process has added may fill the room there was."""
        self._added += usage
        if self._added * _SHARE >= self._room:
            self.trim()

    def trim(self) -> None:
        """Remove the least recently used entries until a reserve is free, and parts whose makers died.

        The entry that was used last stays: alone it may be larger than what the reserve leaves.
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
            _log.warning("the bundle cache cannot be trimmed: %s", error)
        finally:
            self._trimming.release()

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        for shelf in os.scandir(self.folder):
            if not (_SHELF.fullmatch(shelf.name) and shelf.is_dir()):
                continue
            for entry in os.scandir(shelf.path):
                if not _ENTRY.fullmatch(entry.name):
                    continue
                try:
                    if entry.name.endswith(".part"):
                        self._remove_dead(entry.path)
                        continue
                    found = entry.stat()
                    if not entry.name.endswith(".new"):
                        yield found.st_mtime, _usage(found), entry.path
                    elif found.st_mtime < time.time() - _STALE_SECONDS:
                        os.unlink(entry.path)
                except (FileNotFoundError, PermissionError):
                    continue

    def _remove_dead(self, part: str) -> None:
        """Remove a part without a maker, also one that was complete when its maker died: nobody will name it."""
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not has_maker(descriptor) and os.path.samestat(os.stat(part), os.fstat(descriptor)):
                os.unlink(part)
        finally:
            os.close(descriptor)
