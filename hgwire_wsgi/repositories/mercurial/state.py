"""The state of a repository on disk, as tokens.

What is always true: two equal tokens mean equal replies.  A token is a hash of the *contents* of everything that
replies depend on, so it is the same in every process, and the same again after a change is undone.

Contents are read only if needed.  Every request checks the stamps of a few inodes, each of which costs about a
microsecond.  If they have not changed since the contents were read, and were old enough at that time that no later
change can have the same stamp, the last state is valid.  The clock of the file system may have steps of two seconds:
stamps that were younger when the contents were read never become trustworthy, however old they get, so the contents are
read once more.  A file whose own stamp is trustworthy and has not changed is not hashed again.

Small replies depend on everything.  A bundle does not depend on the parents of the working directory or on local tags,
and only some bundles hold bookmarks.  So :class:`State` has a hash of each part.  There is one exception: hidden
changesets are shown if a bookmark, a local tag, a parent of the working directory or an unfinished merge names them.
:attr:`State.hides` says that there may be such changesets.

One :class:`StateReader` serves all threads without a lock.  It caches one object, replaced as a whole; if two
threads read at the same time, they read the same files, and the last result is cached.  A result is cached only if the
stamps were the same before and after the contents were read.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import BinaryIO, Literal

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

_ALWAYS_REPLACED = (b"/requires", b"/shared", b"/sharedpath")
"""The files whose own stamps are not checked: only Mercurial writes them, and the folder changes when it does."""

_SETTLED_NS = 2_100_000_000
"""Nanoseconds after which a later change gets another time stamp: file systems have steps of up to two seconds."""

_TAIL = 1 << 20
_GROWING = (b"/store/00changelog.i", b"/store/obsstore")
"""Files that grow and shrink at their end: of large ones, only the last mebibyte and the size are hashed."""

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
    """

    history: bytes
    shape: bytes
    bookmarks: bytes = b""
    others: bytes = b""
    transaction: bytes = b""
    hides: bool = False
    stamps: tuple[object, ...] = ()
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
    """

    stamp: _Stamp
    settled: bool
    value: bytes
    hides: bool


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
        # The list of files is made before they are read, so that a file that appears in the meantime is noticed.
        included = [path for root in roots for name in _SETTINGS for path in _included(b"%s/%s" % (root, name))]
        folders = [root + folder for root in roots for folder in _FOLDERS]
        bundle = (self._path,) if os.path.isfile(self._path) else ()
        files = (path for path, _ in _files(roots) if not path.endswith(_ALWAYS_REPLACED))
        paths = (*bundle, *filter(os.path.exists, (*folders, *files)), *included)
        stamps = _look(paths)
        state = self._read(roots, included, bundle, now)
        if _look(paths) == stamps:
            settled = all(stamp is None or stamp[0] < now - _SETTLED_NS for stamp in stamps)
            self._known = _Known(paths, stamps, settled, state)
        return state

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

    def _read(self, roots: list[bytes], included: list[bytes], bundle: tuple[bytes, ...], now: int) -> State:
        parts = {"history": hashlib.sha256(), "shape": hashlib.sha256(self._salt)}
        parts |= {"bookmarks": hashlib.sha256(), "others": hashlib.sha256()}
        digests: dict[bytes, _Digest] = {}
        stamps: list[object] = []
        settings = {root + b"/" + name for root in roots for name in _SETTINGS}.union(included)
        for path, part in (*_files(roots), *((path, "shape") for path in included)):
            digest = _digest(path, self._digests.get(path), now, owned=path in settings)
            if digest is not None:
                digests[path] = digest
            parts[part].update(digest.value if digest else b"-")
            stamps.append(digest.stamp if digest else None)
        for root in roots:
            parts["history"].update(_last_rewrite(root))
        parts["history"].update(repr(_look(bundle)).encode("ascii"))
        self._digests = digests
        return State(
            **{part: value.digest() for part, value in parts.items()},
            transaction=b"".join(map(_last_transaction, roots)),
            hides=any(digest.hides for digest in digests.values()),
            stamps=tuple(stamps),
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


def _included(path: bytes) -> list[bytes]:
    """The files that a configuration file includes, directly or indirectly."""
    found: list[bytes] = []
    waiting = [path]
    while waiting:
        including = waiting.pop()
        try:
            with open(including, "rb", opener=_open_regular) as file:
                names = _INCLUDE.findall(file.read())
        except OSError:
            continue
        folder = os.path.dirname(including)
        for name in names:
            included = os.path.normpath(os.path.join(folder, os.path.expanduser(os.path.expandvars(name))))
            if included not in found:
                found.append(included)
                waiting.append(included)
    return found


def _open_regular(path: str | bytes, flags: int) -> int:
    """Open a regular file; anything else could block, such as a named pipe without a writer."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


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


def _digest(path: bytes, known: _Digest | None, now: int, *, owned: bool) -> _Digest | None:
    """Hash a file, unless it is known that it has not changed.

    Args:
        path: of the file.
        known: what was known about it.
        now: the time before anything was read, in nanoseconds.
        owned: whether the owner counts: Mercurial trusts settings depending on it.

    Returns:
        None if there is no such file.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_regular) as file:
            found = os.fstat(file.fileno())
            stamp = _stamp(found)
            if known is not None and known.settled and known.stamp == stamp:
                return known
            content = _content(path, file, found.st_size)
    except OSError:
        return None
    # The size stands for the part of a large file that is not read.
    size = len(content) if path.endswith(_DIRSTATE) else found.st_size
    about = (size, found.st_uid, found.st_gid) if owned else (size,)
    value = hashlib.sha256(b"%r:" % (about,) + content).digest()
    return _Digest(stamp, stamp[0] < now - _SETTLED_NS, value, _may_hide(path, content))


def _content(path: bytes, file: BinaryIO, size: int) -> bytes:
    """Read the part of a file that replies depend on."""
    if path.endswith(_DIRSTATE):
        start = file.read(_PARENTS)
        return start[: _PARENTS_SIZES[start.startswith(_DIRSTATE_V2)]]
    if size > _TAIL and path.endswith(_GROWING):
        file.seek(-_TAIL, os.SEEK_END)
    return file.read()


def _may_hide(path: bytes, content: bytes) -> bool:
    """Whether a file may hide changesets: markers do, and phases other than the usual three."""
    if path.endswith(b"/store/obsstore"):
        return bool(content)
    if path.endswith(b"/store/phaseroots"):
        return any(line.split()[0] not in _VISIBLE_PHASES for line in content.splitlines() if line.strip())
    return False
