"""Bundles in a folder that all processes of a host share.

Layout: ``<folder>/<two digits>/<key>`` is a complete entry, ``<key>.part`` one that is being made, ``<key>.sum`` the
size and the digest of a complete bundle.  A new file briefly has a unique name, ``<key>.<random>.new``.

The digest is beside the bundle, because front-end servers send the file as it is, and find it by its name.  It is
the BLAKE2b of the key and the content, so that no bundle can take the place of another.  The thread that writes the
bundle computes it (at 0.8 GB/s on any processor of 64 bits).  A small entry starts with its own digest.

What is always true:

- An entry is complete if and only if its file is not writable.  An open descriptor shows that, even if the name is
  gone.  Only complete entries get a final name, by ``rename``: a final name leads to a complete entry or to nothing.
- The maker of an entry holds an exclusive ``flock`` on it until it finishes or gives up.  The kernel drops the lock
  when a process dies, so a part without a lock has no maker.
- The part of a dead maker is never written again, because others may still read it.  The next maker replaces it with a
  new file.
- A digest gets its name before its bundle, and is removed after it.  So a bundle without a digest is damaged.
- A process checks a bundle when it first opens it, and again if the file has changed since (device, inode, size, time
  of the last modification).  A damaged one is removed.  If the disk changes a bundle later, that process does not find
  it again; the checksum in zstd and zlib data shows it to the client.
- Only this user can write to the folder, and entries belong to this user: no one else can put anything into it.
- Removing an entry does not affect those who have it open, so the folder can be emptied at any time.
- Files with other names are not ours and stay.  A writable file under a final name (for example from a backup that was
  restored without permissions) may be incomplete; it is deleted.

Eviction: the time of the last access says when an entry was last used, and the owner's execute permission says that
several clients have requested it.  Others are evicted first while they take more than a quarter of the capacity.  So
a client that requests many bundles which nobody else needs cannot evict those that are needed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import attrs

from .base import DamagedEntry, GrowingEntry, PendingEntry, StoredFile
from .memory import MemoryStore

__all__ = ["CheckedEntry", "FolderStore"]

_log = logging.getLogger("hgwire_wsgi")

_COMPLETE_MODE = 0o400
_SHARED_MODE = 0o500
"""Of a complete entry that several clients have requested."""

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A symbolic link is an error, and opening a named pipe does not wait."""

_STALE_SECONDS = 3600
"""A ``.new`` file of this age belongs to a dead process: live ones rename it at once."""

_SHELF = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{64}(\.part|\.sum|\..+\.new)?")

_KEY_LENGTH = 64
_DIGEST_SIZE = 32
_SUM = re.compile(rb"blake2b ([0-9a-f]{64}) ([0-9]+)\n")
_SUM_USAGE = 4096
"""Bytes on the disk that the digest of a bundle occupies: a block."""

_PIECE = 1 << 20
"""Bytes that are read at a time when a bundle is checked."""

_CHECKED_USAGE = 400
_CHECKED = 10_000 * _CHECKED_USAGE
"""Maximum size in memory of what is known about checked bundles: ten thousand of them."""

_SYNCED_SIZE = 64 * 1024
"""Smaller entries are not synced to the disk.  A power failure leaves them empty, and empty files are ignored."""

_SHARE = 8
"""Each process scans the folder when it has added an eighth of the free space that its last scan left."""

_RESERVE = 16
"""A scan leaves a sixteenth of the capacity free.  Otherwise each small bundle added to a full folder would start
another scan, which takes a second for some hundred thousand entries."""


_LONELY_SHARE = 4
"""Entries that only one client has requested are evicted first while they take more than a quarter of the capacity."""


@attrs.frozen(order=True)
class _Entry:
    """A complete entry: time of its last use, bytes on the disk, path, whether several clients have requested it."""

    used: float
    usage: int
    path: str
    shared: bool


@attrs.frozen
class CheckedEntry:
    """A complete entry that was checked.

    Attributes:
        key: of the entry.
        size: in bytes.
        problem: what was wrong with it; empty if nothing was.
    """

    key: str
    size: int
    problem: str


def _is_complete(descriptor: int) -> bool:
    return not os.fstat(descriptor).st_mode & stat.S_IWUSR


def _new_digest(path: str) -> hashlib.blake2b:
    """Start the digest of an entry."""
    return hashlib.blake2b(os.path.basename(path).encode(), digest_size=_DIGEST_SIZE)


def _open(path: str) -> int:
    """Open an entry or a part for reading.

    Raises:
        FileNotFoundError: if there is none.
        DamagedEntry: if it is not a regular file of this user; it has been removed.
    """
    try:
        descriptor = os.open(path, _READ_FLAGS)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            raise
        os.unlink(path)
        raise DamagedEntry(os.strerror(error.errno), path) from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    os.unlink(path)
    raise DamagedEntry("not a file of this user", path)


def _open_complete(path: str) -> tuple[int, os.stat_result]:
    """Open a complete entry.

    Raises:
        FileNotFoundError: if there is none.
        DamagedEntry: if the file is not complete; it has been removed.
    """
    descriptor = _open(path)
    try:
        found = os.fstat(descriptor)
        if not found.st_size or found.st_mode & stat.S_IWUSR:
            _reject("it is not complete", path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found


def _reject(problem: str, path: str, descriptor: int) -> NoReturn:
    """Remove a damaged entry that is open.

    Raises:
        FileNotFoundError: if the entry is gone, or another one has taken its place.
        DamagedEntry: otherwise.
    """
    if not _names(path, descriptor):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    os.unlink(path)
    raise DamagedEntry(problem, path)


def _touch(descriptor: int, found: os.stat_result, used: int) -> None:
    """Set the time of the last use, and keep that of the last modification, which shows whether the content changed."""
    with contextlib.suppress(OSError):
        os.utime(descriptor, ns=(used, found.st_mtime_ns))


def _require_private(folder: Path) -> None:
    """Check that nobody else can put anything into a folder.

    A parent that a group can write to is accepted: with the usual umask of 002, that group is the user alone.

    Raises:
        PermissionError: if it belongs to another user, if its group or others can write to it, or if anyone can rename
            it, because they can write to one of its parents.
    """

    def refuse(problem: str, place: Path) -> None:
        raise PermissionError(errno.EACCES, problem, str(place))

    found = os.stat(folder)
    if found.st_uid != os.geteuid():
        refuse("the folder belongs to another user", folder)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        refuse("other users can write to the folder (chmod go-w)", folder)
    for parent in Path(os.path.realpath(folder)).parents:
        mode = os.stat(parent).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            refuse(f"any user can replace the folder {folder}, because any user can write to its parent", parent)


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


def _write(path: str, name: str, data: bytes) -> int:
    """Write a complete small file of an entry.

    Args:
        path: of the entry.
        name: of the file.
        data: its content.

    Returns:
        The bytes that it occupies on the disk.

    Raises:
        OSError: for example on a full disk; no file is left behind.
    """
    descriptor, own = _create(path)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, _COMPLETE_MODE)
        usage = _usage(os.stat(own))
        os.rename(own, name)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(own)
        raise
    return usage


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
    _digest: hashlib.blake2b = attrs.field(init=False)

    @_digest.default
    def _(self) -> hashlib.blake2b:
        return _new_digest(self.path)

    def _open(self) -> int:
        if self.descriptor is None:
            raise OSError(errno.EBADF, "the entry has ended", self.path)
        return self.descriptor

    def write(self, data: bytes) -> None:
        descriptor, view = self._open(), memoryview(data)
        while view:
            written = os.write(descriptor, view)
            self._digest.update(view[:written])
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
            _write(self.path, self.path + ".sum", b"blake2b %s %d\n" % (self._digest.hexdigest().encode(), self.size))
            os.rename(self.path + ".part", self.path)
        except FileNotFoundError:  # the folder was emptied just now
            return False
        self.store.account(_usage(os.fstat(descriptor)) + _SUM_USAGE)
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
        OSError: if the folder cannot be created or written, or is not private.
    """

    def __init__(self, folder: str | os.PathLike[str], capacity: int) -> None:
        self.folder = Path(folder)
        self.capacity = capacity
        self._trimming = threading.Lock()
        self._room = 0
        self._added = 0
        self._checking = threading.Lock()
        self._checked: MemoryStore[tuple[int, ...]] = MemoryStore(_CHECKED)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(self.folder)
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))

    def __str__(self) -> str:
        """The folder, for messages."""
        return str(self.folder)

    def path(self, key: str) -> str:
        """Return the path of a complete entry."""
        return f"{self.folder}/{_name(key)}"

    def open(self, key: str, *, shared: bool = False) -> StoredFile | None:
        """Open a complete bundle, which becomes the most recently used one.

        Args:
            key: of the bundle.
            shared: True if several clients have requested it.

        Raises:
            DamagedEntry: if it was damaged; it has been removed.
        """
        path = self.path(key)
        try:
            descriptor, found = _open_complete(path)
        except FileNotFoundError:
            return None
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, descriptor)
            try:
                self._check(path, descriptor, found)
            except FileNotFoundError:
                return None
            _touch(descriptor, found, time.time_ns())
            if shared and not found.st_mode & stat.S_IXUSR:
                with contextlib.suppress(OSError):
                    os.fchmod(descriptor, _SHARED_MODE)
            closing.pop_all()
        return StoredFile(descriptor, found.st_size, _name(key))

    def get(self, key: str) -> bytes | None:
        """Read a small entry.

        Raises:
            DamagedEntry: if it was damaged; it has been removed.
        """
        path = self.path(key)
        try:
            descriptor, found = _open_complete(path)
            with open(descriptor, "rb") as file:
                _touch(descriptor, found, time.time_ns())
                return _read_small(path, file)
        except FileNotFoundError:
            return None

    def _check(self, path: str, descriptor: int, found: os.stat_result) -> None:
        """Check a bundle, unless this process has checked it before.

        Only one thread checks, so that a bundle which many clients request at once is read once.

        Raises:
            FileNotFoundError: if it is gone.
            DamagedEntry: if it is damaged; it has been removed.
        """
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if self._checked.get(path) == identity:
            return
        with self._checking:
            if self._checked.get(path) != identity:
                _verify(path, descriptor, found.st_size)
                self._checked.put(path, identity, _CHECKED_USAGE)

    def check(self) -> Iterator[CheckedEntry]:
        """Check all complete entries, and remove those that are damaged."""
        for entry in self._entries():
            problem = ""
            try:
                descriptor, found = _open_complete(entry.path)
                with open(descriptor, "rb") as file:
                    if os.path.lexists(entry.path + ".sum"):
                        _verify(entry.path, descriptor, found.st_size)
                    else:
                        _read_small(entry.path, file)
                    # Reading is not a use.
                    _touch(descriptor, found, found.st_atime_ns)
            except FileNotFoundError:
                continue
            except DamagedEntry as error:
                problem = str(error.strerror)
            yield CheckedEntry(os.path.basename(entry.path), entry.usage, problem)

    def put(self, key: str, data: bytes) -> None:
        """Store or replace a small entry.

        Raises:
            OSError: for example on a full disk; no file is left behind.
        """
        path = self.path(key)
        digest = _new_digest(path)
        digest.update(data)
        self.account(_write(path, path, digest.digest() + data))

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
            descriptor = _open(part)
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
            total = self._evict(sorted(self._entries()))
            self._room, self._added = max(self.capacity - total, 0), 0
        except OSError as error:
            _log.warning("the bundle cache in %s cannot be trimmed: %s", self.folder, error)
        finally:
            self._trimming.release()

    def _evict(self, entries: Sequence[_Entry]) -> int:
        """Remove entries, given in the order of their last use, until the reserve is free.

        Returns:
            The bytes that the others occupy.
        """
        total = sum(entry.usage for entry in entries)
        lonely = sum(entry.usage for entry in entries if not entry.shared)
        # The most recently used entry of all stays.
        shared = deque(entry for entry in entries[:-1] if entry.shared)
        others = deque(entry for entry in entries[:-1] if not entry.shared)
        while total > self.capacity - self.capacity // _RESERVE and (shared or others):
            crowded = lonely * _LONELY_SHARE > self.capacity
            victims = others if others and (crowded or not shared or others[0] < shared[0]) else shared
            victim = victims.popleft()
            for path in (victim.path, victim.path + ".sum"):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            total -= victim.usage
            lonely -= 0 if victim.shared else victim.usage
        return total

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
    with contextlib.suppress(FileNotFoundError, PermissionError, DamagedEntry):
        if entry.name.endswith(".part"):
            _sweep(entry.path)
            return None
        found = entry.stat(follow_symlinks=False)
        if len(entry.name) == _KEY_LENGTH:
            shared = bool(found.st_mode & stat.S_IXUSR)
            return _Entry(found.st_atime, _usage(found) + _SUM_USAGE, entry.path, shared)
        if found.st_mtime < time.time() - _STALE_SECONDS and not _is_needed(entry):
            os.unlink(entry.path)
    return None


def _is_needed(entry: os.DirEntry[str]) -> bool:
    """Return True for the digest of a bundle that exists."""
    return entry.name.endswith(".sum") and os.path.lexists(entry.path.removesuffix(".sum"))


def _verify(path: str, descriptor: int, size: int) -> None:
    """Compare a bundle with its digest.

    Raises:
        FileNotFoundError: if it is gone.
        DamagedEntry: if it is damaged; it has been removed.
    """
    try:
        with open(_open(path + ".sum"), "rb") as file:
            expected = _SUM.fullmatch(file.read(_PIECE))
    except FileNotFoundError:
        _reject("its digest is missing", path, descriptor)
    if expected is None:
        _reject("its digest is damaged", path, descriptor)
    if int(expected[2]) != size:
        _reject(f"it has {size} bytes instead of {int(expected[2])}", path, descriptor)
    digest, position = _new_digest(path), 0
    try:
        while piece := os.pread(descriptor, _PIECE, position):
            digest.update(piece)
            position += len(piece)
    except OSError as error:
        _reject(f"it cannot be read: {error.strerror}", path, descriptor)
    if digest.hexdigest().encode() != expected[1]:
        _reject("its content has changed", path, descriptor)


def _read_small(path: str, file: BinaryIO) -> bytes:
    """Read a small entry, which starts with its digest.

    Raises:
        FileNotFoundError: if it is gone.
        DamagedEntry: if it is damaged; it has been removed.
    """
    expected, data = file.read(_DIGEST_SIZE), file.read()
    digest = _new_digest(path)
    digest.update(data)
    if digest.digest() != expected:
        _reject("its content has changed", path, file.fileno())
    return data


def _sweep(part: str) -> None:
    """Remove a part without a maker, even a complete one: it will never get its final name."""
    descriptor = _open(part)
    try:
        if not _has_maker(descriptor) and _names(part, descriptor):
            os.unlink(part)
    finally:
        os.close(descriptor)
