"""The state of a repository on disk, as a token.

What is always true: two equal tokens mean equal replies.  A token is a hash of the *contents* of everything that
replies depend on, so it is the same in every process, and the same again after a change is undone.

Contents are read only if needed.  Every request checks the stamps of a few inodes.  If they have not changed, and are
old enough that no later change can have the same stamp, the last token is valid.  A file whose own stamp has not
changed is not hashed again.

One :class:`StateReader` serves all threads without a lock.  It caches one tuple, replaced as a whole; if two
threads read at the same time, they read the same files, and the last result is cached.  A result is cached only if the
stamps were the same before and after the contents were read.
"""

from __future__ import annotations

import hashlib
import os
import re
import time

import attrs

__all__ = ["State", "StateReader"]

_CONTENTS = {
    b"": (
        b"bookmarks",
        b"clonebundles.manifest",
        b"dirstate",
        b"hgrc",
        b"hgrc-not-shared",
        b"localtags",
        b"narrowspec",
        b"pullbundles.manifest",
        b"requires",
        b"shared",
        b"sharedpath",
    ),
    b"/store": (b"00changelog.i", b"bookmarks", b"narrowspec", b"obsstore", b"phaseroots", b"requires"),
}
"""The files that replies depend on.  A new changeset always changes the index of the changelog."""

_WRITTEN_IN_PLACE = {
    b"": (b"clonebundles.manifest", b"hgrc", b"hgrc-not-shared", b"localtags", b"pullbundles.manifest"),
    b"/store": (b"00changelog.i",),
}
"""The files whose inodes are checked in addition to those of the two folders.

Mercurial replaces files, or first writes a journal next to them; both change the folder.  People edit files in place.
"""

_SETTLED_NS = 2_100_000_000
"""Nanoseconds after which an unchanged time stamp is trusted: file systems have a resolution of up to two seconds."""

_TAIL = 1 << 20
"""Bytes at the end of a larger file that are hashed: the changelog and the obsolescence store grow and shrink there."""
_HISTORY = b"/00changelog.i"

_SETTINGS = (b"hgrc", b"hgrc-not-shared")
_INCLUDE = re.compile(rb"^%include\s+(\S.*?)\s*$", re.MULTILINE)
_INCLUDES = 32
"""Maximum number of files that a configuration file includes, directly or indirectly; Mercurial has no limit."""


@attrs.frozen
class State:
    """The state of a repository.

    Attributes:
        token: a hash of everything.
        metadata: a hash of everything except the set of changesets.
        stamps: the stamps of the files, which change with every change, even one that is undone.  The folders are
            excluded: a streamed clone takes a lock in one, but changes nothing.
    """

    token: bytes
    metadata: bytes
    stamps: tuple[object, ...] = ()


@attrs.frozen
class _Digest:
    stamp: tuple[int, int, int]
    value: bytes


class StateReader:
    """Reads the state of one repository; shared by all threads.

    Args:
        path: the repository's root.
        salt: a hash of everything else that replies depend on, such as the server's configuration.
    """

    def __init__(self, path: bytes, salt: bytes) -> None:
        self._path = path
        self._salt = salt
        self._looked_at: tuple[bytes, ...] = ()
        self._known: tuple[tuple[object, ...], State] | None = None
        self._digests: dict[bytes, _Digest] = {}

    def read(self) -> State:
        """Read the current state."""
        now = time.time_ns()
        known, paths = self._known, self._looked_at
        stamps, newest = _look(paths)
        if known is not None and known[0] == stamps and newest < now - _SETTLED_NS:
            return known[1]
        roots = self._roots()
        # The list of files is made before they are read, so that a file that appears in the meantime is noticed.
        included = [path for root in roots for name in _SETTINGS for path in _included(b"%s/%s" % (root, name))]
        written = (
            path
            for root in roots
            for folder, names in _WRITTEN_IN_PLACE.items()
            for path in (root + folder, *(b"%s%s/%s" % (root, folder, name) for name in names))
        )
        bundle = (self._path,) if os.path.isfile(self._path) else ()
        paths = (*bundle, *filter(os.path.exists, written), *included)
        stamps, newest = _look(paths)
        state = self._read(roots, included, bundle, now)
        if _look(paths)[0] == stamps:
            self._looked_at, self._known = paths, (stamps, state)
        return state

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
        history, metadata = hashlib.sha256(), hashlib.sha256(self._salt)
        paths = [
            b"%s%s/%s" % (root, folder, name) for root in roots for folder in _CONTENTS for name in _CONTENTS[folder]
        ]
        digests = {}
        for path in (*paths, *included):
            digest = _digest(path, self._digests.get(path), now)
            if digest is not None:
                digests[path] = digest
            (history if path.endswith(_HISTORY) else metadata).update(digest.value if digest else b"-")
        for root in roots:
            history.update(_last_transaction(root))
        history.update(repr(_look(bundle)).encode("ascii"))
        self._digests = digests
        stamps = tuple(digests[path].stamp if path in digests else None for path in paths)
        return State(metadata.digest() + history.digest(), metadata.digest(), stamps)


def _last_transaction(root: bytes) -> bytes:
    """A stamp that every committed transaction changes, even one that only rewrites files, as censoring does."""
    stamps, _ = _look((root + b"/store/undo", root + b"/store/undo.backupfiles"))
    return repr(stamps).encode("ascii")


def _included(path: bytes) -> list[bytes]:
    """The files that a configuration file includes, directly or indirectly."""
    found: list[bytes] = []
    waiting = [path]
    while waiting and len(found) < _INCLUDES:
        including = waiting.pop()
        try:
            with open(including, "rb") as file:
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


def _look(paths: tuple[bytes, ...]) -> tuple[tuple[object, ...], int]:
    """The stamps of some paths, and the newest change time among them in nanoseconds.

    Change times are used, not modification times, because no tool can set them back.
    """
    stamps: list[object] = []
    newest = 0
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            stamps.append(None)
        else:
            changed = found.st_ctime_ns
            stamps.append((changed, found.st_size, found.st_ino))
            if changed > newest:
                newest = changed
    return tuple(stamps), newest


def _digest(path: bytes, known: _Digest | None, now: int) -> _Digest | None:
    try:
        with open(path, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            stamp = found.st_ctime_ns, found.st_size, found.st_ino
            if known is not None and known.stamp == stamp and stamp[0] < now - _SETTLED_NS:
                return known
            if found.st_size > _TAIL:
                file.seek(-_TAIL, os.SEEK_END)
            content = file.read()
    except OSError:
        return None
    return _Digest(stamp, hashlib.sha256(b"%d:" % found.st_size + content).digest())
