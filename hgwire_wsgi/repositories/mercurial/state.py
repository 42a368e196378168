"""The state of a repository on disk, as tokens.

What is always true: two equal tokens mean equal replies.  A token is a hash of the *contents* of everything that
replies depend on, so it is the same in every process, and the same again after a change is undone.

Contents are read only if needed.  Every request checks the stamps of a few inodes, each of which costs about a
microsecond.  If they have not changed since the contents were read, and were old enough at that time that no later
change can have the same stamp, the last state is valid.  Such stamps are *settled*.  How old they must be depends on
the clock of the file system, which may have steps of two seconds; on Linux's common local file systems it has steps of
some milliseconds.  Stamps that were younger when the contents were read never become settled, however old they get, so
the contents are read once more.  A file whose own stamp is settled and has not changed is not opened.

Small replies depend on everything.  A bundle does not depend on the parents of the working directory or on local tags,
and only some bundles hold bookmarks.  So :class:`State` has a hash of each part.  There is one exception: hidden
changesets are shown if a bookmark, a local tag, a parent of the working directory or an unfinished merge names them.
:attr:`State.hides` says that there may be such changesets.

One :class:`StateReader` serves all threads without a lock.  It caches one object, replaced as a whole; if two
threads read at the same time, they read the same files, and the last result is cached.  A result is cached only if
every stamp is still the one that the file had when it was read, after the last file was read: then all contents were
there at the same time.  The stamp of a folder is taken before its files are opened, so a file that appears later
changes it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Literal

import attrs

from .censored import Censored

__all__ = ["State", "StateReader"]

_Stamp = tuple[int, int, int]
"""Change time in nanoseconds, size, and inode."""

_Part = Literal["history", "shape", "bookmarks", "others"]

_FILES: tuple[tuple[bytes, _Part], ...] = (
    (b"bookmarks", "bookmarks"),
    (b"clonebundles.manifest", "shape"),
    (b"dirstate", "others"),
    (b"hgrc", "shape"),
    (b"hgrc-not-shared", "shape"),
    (b"localtags", "others"),
    (b"merge/state", "others"),
    (b"merge/state2", "others"),
    (b"narrowspec", "shape"),
    (b"pullbundles.manifest", "shape"),
    (b"requires", "shape"),
    (b"shared", "shape"),
    (b"sharedpath", "shape"),
    (b"store/00changelog.i", "history"),
    (b"store/bookmarks", "bookmarks"),
    (b"store/narrowspec", "shape"),
    (b"store/obsstore", "shape"),
    (b"store/phaseroots", "shape"),
    (b"store/requires", "shape"),
)
"""The files that replies depend on, below ``.hg``, and the part of the state that each belongs to.

A new changeset always changes the index of the changelog.
"""

_FOLDERS = (b"", b"/store", b"/merge")
"""The folders of these files; they change when a file appears or is replaced."""

_DATA = (b"/store/obsstore", b"/store/phaseroots")
"""The files in the part ``shape`` that Mercurial reads anew in an open repository; the others are configuration."""

_ALWAYS_REPLACED = (b"/requires", b"/shared", b"/sharedpath")
"""The files whose own stamps are not checked: only Mercurial writes them, and the folder changes when it does."""

_SETTLED_NS = 2_100_000_000
"""Nanoseconds after which a later change gets another time stamp: file systems have steps of up to two seconds."""

_FINE_NS = 50_000_000
_FINE_SYSTEMS = frozenset({"ext4", "f2fs", "xfs"})
"""The same where stamps come from the clock of this kernel, which has steps of 10 ms at most, and how to know that: by
the type of the file system, on a block device.  Stamps of network file systems come from other clocks."""

_MILLISECOND = 1_000_000
"""A stamp in whole milliseconds may be that of a file system that stores no more, as ext4 with small inodes."""

_MOUNTS = "/proc/self/mountinfo"

_TAIL = 1 << 15
_GROWING = (b"/store/00changelog.i", b"/store/obsstore")
"""Files that grow and shrink at their end: of large ones, only the last 32 KiB and the size are hashed.

That is the last 500 changesets.  Mercurial removes changesets by cutting the file and appending those that stay, so
the end changes in any case.  Each entry has the hash of all ancestors, so the end of another copy differs,
unless the two copies differ only in older heads, of equal sizes.  Even then the last transaction differs, on which
small replies depend; and a bundle that is requested by heads has those."""

_DIRSTATE = b"/dirstate"
_PARENTS = 80
_DIRSTATE_V2 = b"dirstate-v2\n"
_PARENTS_SIZES = {True: len(_DIRSTATE_V2) + 2 * 32, False: 2 * 20}
"""Bytes at the start of a dirstate that name the parents; replies do not depend on the rest.  By whether it is v2."""

_VISIBLE_PHASES = frozenset({b"0", b"1", b"2"})
"""Public, draft and secret; changesets in any other phase are hidden."""

_SETTINGS = (b"hgrc", b"hgrc-not-shared")
_INCLUDE = re.compile(rb"^%include\s+(\S.*?)\s*$", re.MULTILINE)

_REVLOGS = (b"data/", b"dh/", b"meta/")
"""Folders of the store whose files only grow, unless a transaction rewrites them, as censoring does."""


_LARGE = 1 << 20
"""Bytes of the list of files of a large store, about twenty thousand names."""


@attrs.frozen
class State:
    """The state of a repository.

    Attributes:
        token: a hash of everything.
        history: of the set of changesets, and of the last transaction if it rewrote files of the store.
        shape: of everything else that any bundle depends on.
        bookmarks: of the bookmarks.
        others: of what no bundle depends on, except for its effect on hidden changesets.
        transaction: the stamp of the last transaction.
        hides: whether there may be hidden changesets.
        stamps: the stamps of the files, which change with every change, even one that is undone.  The folders are
            excluded: a streamed clone takes a lock in one, but changes nothing.
        configuration: what decides how Mercurial opens the repository: where its folders are, and hashes and stamps of
            files.
    """

    history: bytes
    shape: bytes
    bookmarks: bytes = b""
    others: bytes = b""
    transaction: bytes = b""
    hides: bool = False
    stamps: tuple[object, ...] = ()
    configuration: tuple[object, ...] = ()
    token: bytes = attrs.field(init=False)

    @token.default
    def _(self) -> bytes:
        return _hash(self.history, self.transaction, self.metadata)

    @property
    def metadata(self) -> bytes:
        """A hash of everything except the set of changesets."""
        return _hash(self.shape, self.bookmarks, self.others)


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(repr(parts).encode("ascii")).digest()


@attrs.frozen
class _Digest:
    """What is known about a file.

    Attributes:
        stamp: its stamp.
        settled: whether a later change is certain to have changed the stamp.
        value: a hash of its content.
        hides: whether it may hide changesets.
        includes: of a configuration file, the names of files that it includes.
    """

    stamp: _Stamp
    settled: bool
    value: bytes
    hides: bool
    includes: tuple[bytes, ...] = ()


@attrs.frozen
class _Known:
    """The last state.

    Attributes:
        paths: the files and folders whose stamps show a change.
        stamps: theirs.
        settled: whether a later change is certain to have changed the stamps.
        state: the state.
    """

    paths: tuple[bytes, ...] = ()
    stamps: tuple[_Stamp | None, ...] = ()
    settled: bool = False
    state: State | None = None

    def is_current(self) -> bool:
        """Whether the state is certainly still the same."""
        if not self.settled:
            return False
        try:
            return tuple(map(_stamp, map(os.stat, self.paths))) == self.stamps
        except OSError:
            return _look(self.paths) == self.stamps


class StateReader:
    """Reads the state of one repository; shared by all threads.

    Args:
        path: the repository's root.
        salt: a hash of everything else that replies depend on, such as the server's configuration.
    """

    def __init__(self, path: bytes, salt: bytes) -> None:
        self._path = path
        self._salt = salt
        self._known = _Known()
        self._digests: dict[bytes, _Digest] = {}
        self._censored = Censored()

    def is_current(self, state: State) -> bool:
        """Whether a state that was read is still the last one, and certainly unchanged."""
        known = self._known
        return known.state is state and known.is_current()

    def read(self) -> State:
        """Read the current state."""
        known = self._known
        if known.state is not None and known.is_current():
            return known.state
        now = time.time_ns()
        roots = self._roots()
        folders = [root + folder for root in roots for folder in _FOLDERS]
        if os.path.isfile(self._path):
            folders.append(self._path)
        # Folders come first, so that a file that appears in the meantime is noticed.
        watched: dict[bytes, tuple[_Stamp | None, bool]] = {}
        watched |= {path: found for path in folders if (found := _found(path, now)) is not None}
        parts, digests = self._digest_files(roots, now)
        state = self._state(roots, parts, digests, watched.get(self._path, (None, True))[0])
        for path, digest in digests.items():
            if not path.endswith(_ALWAYS_REPLACED):
                watched[path] = digest.stamp, digest.settled
        # Those in the folders are watched with the folders.
        elsewhere = parts.keys() - digests.keys() - dict(_files(roots)).keys()
        watched |= dict.fromkeys(elsewhere, (None, True))
        paths, stamps = tuple(watched), tuple(stamp for stamp, _ in watched.values())
        if _look(paths) == stamps:
            self._known = _Known(paths, stamps, all(settled for _, settled in watched.values()), state)
        return state

    def _digest_files(self, roots: list[bytes], now: int) -> tuple[dict[bytes, _Part], dict[bytes, _Digest]]:
        """Hash all files, including those that configuration files include, directly or indirectly.

        Returns:
            The part of the state that each file belongs to, and the hashes of those that there are.
        """
        settings = [b"%s/%s" % (root, name) for root in roots for name in _SETTINGS]
        digests: dict[bytes, _Digest] = {}
        for path in settings:
            digest = _digest(path, self._digests.get(path), now, owned=True)
            if digest is not None:
                digests[path] = digest
                # The loop goes on with those.
                settings += [name for name in _included(path, digest) if name not in settings]
        parts = dict(_files(roots))
        parts.update((path, "shape") for path in settings)
        for path in parts.keys() - settings:
            digest = _digest(path, self._digests.get(path), now)
            if digest is not None:
                digests[path] = digest
        self._digests = digests
        return parts, digests

    def censored(self, clone: bool) -> bytes:
        """Read which file revisions are censored; this takes a few milliseconds for each thousand files.

        In a large store that would take longer than making a small bundle.  For these, the stamp of the last
        transaction stands in; it changes more often.

        Args:
            clone: whether it is for a bundle of the whole history.
        """
        root = self._roots()[-1]
        if not clone and _is_large(root):
            return _last_transaction(root)
        self._censored = self._censored.read(root, time.time_ns() - _SETTLED_NS)
        return repr(self._censored.indexes).encode("ascii")

    def _roots(self) -> list[bytes]:
        """The ``.hg`` of the repository, and that of the repository whose store it shares."""
        roots = [self._path + b"/.hg"]
        try:
            with open(roots[0] + b"/sharedpath", "rb") as source:
                roots.append(os.path.normpath(os.path.join(roots[0], source.read().rstrip(b"\n"))))
        except OSError:
            pass
        return roots

    def _state(
        self,
        roots: list[bytes],
        parts: dict[bytes, _Part],
        digests: dict[bytes, _Digest],
        bundle: _Stamp | None,
    ) -> State:
        """Make the state of what was read; ``bundle`` is the stamp of a bundle file, if it is one."""
        hashes = {"history": hashlib.sha256(), "shape": hashlib.sha256(self._salt)}
        hashes |= {"bookmarks": hashlib.sha256(), "others": hashlib.sha256()}
        stamps: list[object] = []
        # Mercurial resolves links once, and another copy may have the same files by hard links.
        configuration: list[object] = [os.path.realpath(root) for root in roots]
        for path, part in parts.items():
            digest = digests.get(path)
            hashes[part].update(digest.value if digest else b"-")
            stamps.append(digest and digest.stamp)
            if part == "shape" and not path.endswith(_DATA):
                configuration.append(digest and (digest.stamp, digest.value))
        for root in roots:
            hashes["history"].update(_last_rewrite(root))
        hashes["history"].update(repr(bundle).encode("ascii"))
        return State(
            **{part: value.digest() for part, value in hashes.items()},
            transaction=b"".join(map(_last_transaction, roots)),
            hides=any(digest.hides for digest in digests.values()),
            stamps=tuple(stamps),
            configuration=tuple(configuration),
        )


def _files(roots: list[bytes]) -> Iterator[tuple[bytes, _Part]]:
    """The files that replies depend on, and their parts of the state."""
    return ((b"%s/%s" % (root, name), part) for root in roots for name, part in _FILES)


def _is_large(root: bytes) -> bool:
    """Whether a store has many files, by the size of their list."""
    try:
        return os.path.getsize(root + b"/store/fncache") > _LARGE
    except OSError:
        return False


def _last_transaction(root: bytes) -> bytes:
    """A stamp that every committed transaction changes, even one that only rewrites files, as censoring does."""
    return repr(_look((root + b"/store/undo", root + b"/store/undo.backupfiles"))).encode("ascii")


def _last_rewrite(root: bytes) -> bytes:
    """The stamp of the last transaction if it rewrote files of the history; empty if it only added to them."""
    try:
        with open(root + b"/store/undo.backupfiles", "rb") as file:
            backups = [line.split(b"\0") for line in file.read().splitlines()]
    except OSError:
        return b""
    if any(len(fields) > 1 and fields[0] != b"plain" and fields[1].startswith(_REVLOGS) for fields in backups):
        return _last_transaction(root)
    return b""


def _included(path: bytes, digest: _Digest) -> list[bytes]:
    """The files that a configuration file includes."""
    folder = os.path.dirname(path)
    return [
        os.path.normpath(os.path.join(folder, os.path.expanduser(os.path.expandvars(name))))
        for name in dict.fromkeys(digest.includes)
    ]


_stamp: Callable[[os.stat_result], _Stamp] = attrgetter("st_ctime_ns", "st_size", "st_ino")
"""Reads a stamp.

Change times are used, not modification times: no tool can set them back, and a new owner changes them."""


def _look(paths: tuple[bytes, ...]) -> tuple[_Stamp | None, ...]:
    """The stamps of some paths; None for those that do not exist."""
    return tuple(map(_stamp_of, paths))


def _stamp_of(path: bytes) -> _Stamp | None:
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _found(path: bytes, now: int) -> tuple[_Stamp, bool] | None:
    """The stamp of a path, and whether it is settled; None if there is nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _stamp(found), _is_settled(found, now)


def _is_settled(found: os.stat_result, now: int) -> bool:
    """Whether a change after a point in time is certain to change a stamp."""
    changed = found.st_ctime_ns
    if changed >= now - _FINE_NS:
        return False
    return changed < now - _SETTLED_NS or (changed % _MILLISECOND != 0 and _is_fine(found.st_dev))


@functools.lru_cache(maxsize=64)
def _is_fine(device: int) -> bool:
    """Whether the stamps of a file system are those of this kernel's clock."""
    if not os.major(device):
        return False
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(_MOUNTS, encoding="utf-8", errors="replace") as mounts:
            found = [line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[2] == name]
    except OSError:
        return False
    return bool(found) and _FINE_SYSTEMS.issuperset(found)


def _digest(path: bytes, known: _Digest | None, now: int, *, owned: bool = False) -> _Digest | None:
    """Hash a file, unless it is known that it has not changed.

    Args:
        path: of the file.
        known: what was known about it.
        now: the time before anything was read, in nanoseconds.
        owned: for a configuration file, whose owner counts: Mercurial trusts settings depending on it.

    Returns:
        None if there is no such file.
    """
    try:
        found = os.stat(path)
        if known is not None and known.settled and known.stamp == _stamp(found):
            return known
        if not stat.S_ISREG(found.st_mode):
            # Opening it could block, as with a named pipe, or have other effects.
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            content = _content(path, descriptor, found)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    # The size stands for the part of a large file that is not read.
    size = len(content) if path.endswith(_DIRSTATE) else found.st_size
    about = (size, found.st_uid, found.st_gid) if owned else (size,)
    value = hashlib.sha256(b"%r:" % (about,))
    value.update(content)
    includes = tuple(_INCLUDE.findall(content)) if owned else ()
    return _Digest(_stamp(found), _is_settled(found, now), value.digest(), _may_hide(path, content), includes)


def _content(path: bytes, descriptor: int, found: os.stat_result) -> bytes:
    """Read the part of a file that replies depend on.

    Raises:
        OSError: if it cannot be read, or is not a regular file.
    """
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    if path.endswith(_DIRSTATE):
        start = os.read(descriptor, _PARENTS)
        return start[: _PARENTS_SIZES[start.startswith(_DIRSTATE_V2)]]
    if found.st_size > _TAIL and path.endswith(_GROWING):
        os.lseek(descriptor, -_TAIL, os.SEEK_END)
        return os.read(descriptor, _TAIL)
    # If it grows meanwhile, its stamp changes.
    chunks, left = [], found.st_size
    while left > 0 and (chunk := os.read(descriptor, left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _may_hide(path: bytes, content: bytes) -> bool:
    """Whether a file may hide changesets: markers do, and phases other than the usual three."""
    if path.endswith(b"/store/obsstore"):
        return bool(content)
    if path.endswith(b"/store/phaseroots"):
        return any(line.split()[0] not in _VISIBLE_PHASES for line in content.splitlines() if line.strip())
    return False
