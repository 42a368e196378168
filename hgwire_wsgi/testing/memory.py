"""An in-memory backend: for tests, and as an example of a backend.

It speaks the first bundle format, so an unmodified ``hg`` clones from it, pulls from it and pushes to it.

A published history never changes.  A writer changes a copy and publishes it under a lock, all or nothing.  A lease is a
snapshot: it keeps the history of its moment.  So readers never wait, and a request sees one state until it ends.
"""

from __future__ import annotations

import copy
import hashlib
import re
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ..commands.objects import NULL, PushKeyResult
from ..commands.responses import PushError, PushResponse, Response, StreamResponse
from ..errors import CommandFailed, InvalidArgument, RepositoryNotFound
from ..limits import Limits
from ..repositories.base import Lease, Repository, RepositoryProvider
from ..repositories.finder import find_longest, wsgi_name
from ..streams import Readable
from .changegroup import open_bundle
from .history import History, Push, unhex, unknown

__all__ = ["PUSH_BYTES", "MemoryProvider", "MemoryRepository"]

PUSH_BYTES = 256 * 1024 * 1024
"""Maximum size in bytes of one push after decompression, and also of the full texts that it adds.

Both are held in memory, and a delta of twelve bytes can produce a text of any length.
"""

_CAPABILITIES = (
    b"branchmap",
    b"changegroupsubset",
    b"getbundle",
    b"known",
    b"lookup",
    b"pushkey",
    b"unbundle=HG10GZ,HG10BZ,HG10UN",
    b"unbundlehash",
)

_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,8}")
_HEX = re.compile(rb"[0-9a-fA-F]{0,40}")


@attrs.define
class _Shared:
    """State shared by a repository and its snapshots."""

    history: History
    lock: threading.Lock
    identity: str


class MemoryRepository(Repository):
    """A repository in memory.

    Args:
        settings: settings for policies by ``section.name``, as in an ``hgrc``.
        push_bytes: as :data:`PUSH_BYTES`.
    """

    def __init__(self, *, settings: Mapping[str, str] | None = None, push_bytes: int = PUSH_BYTES) -> None:
        self._settings = dict(settings or {})
        self._push_bytes = push_bytes
        self._shared = _Shared(History(), threading.Lock(), secrets.token_hex(8))
        self._pinned: History | None = None

    @classmethod
    def from_bundle(cls, bundle: Readable, *, settings: Mapping[str, str] | None = None) -> MemoryRepository:
        """Make a repository with the history of a bundle or of a bare changegroup.

        Raises:
            CommandFailed: if it cannot be applied.
        """
        repository = cls(settings=settings)
        repository._receive([b"force"], bundle)
        return repository

    def snapshot(self) -> MemoryRepository:
        """Return this repository as it is now, for one request; it sees no changes except its own."""
        snapshot = copy.copy(self)
        snapshot._pinned = self._shared.history
        return snapshot

    @property
    def _history(self) -> History:
        return self._pinned or self._shared.history

    def _publish(self, history: History) -> None:
        """Make a new history the current one.  The lock must be held."""
        self._shared.history = history
        if self._pinned is not None:
            self._pinned = history

    def commit(
        self,
        files: Mapping[str, bytes | None] | None = None,
        *,
        message: str = "",
        branch: str | None = None,
        user: str = "test",
        date: int = 0,
        parents: Sequence[bytes] | None = None,
        close: bool = False,
    ) -> bytes:
        """Add a changeset.

        Args:
            files: contents by path, ``None`` to remove a file.  Other files are those of the first parent; a merge also
                has those that only its second parent has.
            message: the commit message.
            branch: the branch (default: that of the first parent).
            user: the author.
            date: seconds since 1970, in UTC.
            parents: up to two nodes (default: the newest changeset).
            close: whether the changeset closes its branch.

        Returns:
            The node of the changeset.

        Raises:
            CommandFailed: for an unknown parent.
        """
        with self._shared.lock:
            history = self._shared.history.copy()
            p1, p2 = (*([history.tip()] if parents is None else parents), NULL, NULL)[:2]
            node = history.commit(
                {path.encode(): data for path, data in (files or {}).items()},
                parents=(p1, p2),
                branch=None if branch is None else branch.encode(),
                user=user,
                date=date,
                message=message,
                close=close,
            )
            self._publish(history)
        return node

    def files(self, node: bytes) -> dict[str, bytes]:
        """Return the contents of all files of a changeset by path."""
        return {path.decode(): data for path, data in self._history.contents(node).items()}

    def content_token(self) -> bytes:
        return b"%s-%d" % (self._shared.identity.encode(), self._history.version)

    def setting(self, section: str, name: str) -> str | None:
        return self._settings.get(f"{section}.{name}")

    def capabilities(self) -> Iterable[bytes]:
        return _CAPABILITIES

    def heads(self) -> Sequence[bytes]:
        return self._history.heads()

    def parents(self, node: bytes) -> tuple[bytes, bytes]:
        if node == NULL:
            return NULL, NULL
        revision = self._history.changesets.get(node)
        if revision is None:
            raise unknown(node.hex().encode())
        return revision.p1, revision.p2

    def known(self, nodes: Sequence[bytes]) -> Sequence[bool]:
        changesets = self._history.changesets
        return [node == NULL or node in changesets for node in nodes]

    def lookup(self, key: bytes) -> bytes:
        """In Mercurial's order: special names, numbers, hashes, bookmarks, tags, branches, prefixes of hashes."""
        history = self._history
        nodes = list(history.changesets)
        special = {b"null": NULL, b".": NULL, b"tip": history.tip()}
        if key in special:
            return special[key]
        if _NUMBER.fullmatch(key) and -len(nodes) <= int(key) < len(nodes):
            return nodes[int(key)]
        node = unhex(key)
        if node is not None and (node == NULL or node in history.changesets):
            return node
        if key in history.bookmarks:
            return history.bookmarks[key]
        tags = history.tags()
        if key in tags:
            return tags[key]
        heads = history.branches().get(key, ())
        if heads:
            return max(heads, key=lambda head: (not history.changeset(head).closes, nodes.index(head)))
        if _HEX.fullmatch(key):
            prefix = key.decode().lower()
            found = [node for node in (NULL, *nodes) if node.hex().startswith(prefix)]
            if len(found) == 1:
                return found[0]
            if found:
                raise CommandFailed(f"00changelog@{key.decode()}: ambiguous identifier")
        raise unknown(key)

    def branchmap(self) -> Mapping[bytes, Sequence[bytes]]:
        return self._history.branches()

    def listkeys(self, namespace: bytes) -> Mapping[bytes, bytes]:
        """Return bookmarks, namespaces, or the fact that every changeset is public; other namespaces are empty."""
        if namespace == b"bookmarks":
            return {name: node.hex().encode() for name, node in self._history.bookmarks.items()}
        return {
            b"namespaces": {b"bookmarks": b"", b"namespaces": b"", b"phases": b""},
            b"phases": {b"publishing": b"True"},
        }.get(namespace, {})

    def pushkey(self, namespace: bytes, key: bytes, old: bytes, new: bytes) -> PushKeyResult:
        if namespace == b"phases":
            return PushKeyResult(new == b"0" and unhex(key) in self._history.changesets)
        if namespace != b"bookmarks":
            return PushKeyResult(False)
        with self._shared.lock:
            history = self._shared.history.copy()
            current = history.bookmarks.pop(key, None)
            digits = b"" if current is None else current.hex().encode()
            if digits != old or digits == new:
                return PushKeyResult(digits == new)
            if new:
                node = unhex(new)
                if node is None or node not in history.changesets:
                    return PushKeyResult(False)
                history.bookmarks[key] = node
            self._publish(history)
        return PushKeyResult(True)

    def changegroup(self, bases: Sequence[bytes], heads: Sequence[bytes] | None) -> Response:
        history = self._history
        return StreamResponse(history.encode(history.between(bases, history.heads() if heads is None else heads)))

    def getbundle(self, **arguments: Any) -> Response:
        """Return a changegroup, the only content of a bundle for clients without bundle2."""
        if not arguments.get("cg", True):
            raise InvalidArgument("getbundle: a bundle of this repository is a changegroup, and cg asks for none")
        history = self._history
        common = [node for node in arguments.get("common", ()) if node in history.changesets]
        return StreamResponse(history.encode(history.missing(common, arguments.get("heads") or history.heads())))

    def unbundle(self, heads: Sequence[bytes], body: Readable, client: str) -> Response:
        """Apply all of a bundle or nothing.  Errors in it become the output of the failed push."""
        try:
            return self._receive(heads, body)
        except CommandFailed as error:
            return PushResponse(0, f"abort: {error.message}\n".encode("utf-8", "surrogateescape"))

    def _receive(self, heads: Sequence[bytes], body: Readable) -> Response:
        # The body is read before the lock is taken, because a client may be slow.
        push = Push.read(open_bundle(body, Limits()), self._push_bytes)
        with self._shared.lock:
            before = self._shared.history.heads()
            digest = hashlib.sha1(b"".join(sorted(before)), usedforsecurity=False).digest()
            if list(heads) not in ([b"force"], [b"hashed", digest]) and sorted(heads) != sorted(before):
                return PushError(b"somebody else pushed in the meantime; please pull, and push again")
            history = self._shared.history.copy()
            output = history.receive(push, self._push_bytes)
            self._publish(history)
        heads = [head for head in history.heads() if head in before or not history.changeset(head).closes]
        added = len(heads) - len(before)
        return PushResponse(added - 1 if added < 0 else added + 1, output)


class MemoryProvider(RepositoryProvider):
    """Serves repositories in memory.

    Args:
        repositories: repositories by name; the empty name is served at ``/``, and names may hold slashes.
    """

    def __init__(self, repositories: Mapping[str, MemoryRepository]) -> None:
        self._repositories = {wsgi_name(name): repository for name, repository in repositories.items()}

    def locate(self, path: str) -> tuple[str, str] | None:
        return find_longest(path, self._repositories, max(name.count("/") for name in ("", *self._repositories)) + 1)

    def lease(self, name: str) -> Lease:
        """Lease a snapshot; their number is not limited, and there is nothing to give back."""
        repository = self._repositories.get(name)
        if repository is None:
            raise RepositoryNotFound("no such repository")
        return Lease(repository.snapshot())

    def names(self, limit: int) -> list[str]:
        return sorted(self._repositories)[:limit]
