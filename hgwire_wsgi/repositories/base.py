"""What the wire protocol asks of a repository, and of whoever finds repositories.

Another backend implements :class:`Repository` and :class:`RepositoryProvider`; ``memory.py`` is the worked example.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import CommandFailed, UnknownCommand
from ..negotiation import ServerCapabilities
from ..streams import Readable

if TYPE_CHECKING:
    from ..commands.registry import Command
    from ..commands.responses import Response

__all__ = ["NULL", "Authorize", "Lease", "PushKeyResult", "Repository", "RepositoryProvider"]

NULL = b"\0" * 20
"""The node that is the parent of roots."""

Authorize = Callable[[str], None]
"""Called with ``pull`` or ``upload``; raises :class:`PermissionDenied` if the policy refuses it."""


@attrs.frozen
class PushKeyResult:
    """What came of a ``pushkey``: whether the key was set, and what hooks printed."""

    success: bool
    output: bytes = b""


class Repository(abc.ABC):
    """One repository, used by one request at a time.

    Nodes are 20 bytes, :data:`NULL` for none.  The methods below :meth:`content_token` stand behind the standard
    commands; a backend implements those it has, and a command whose method is missing is unknown there.  A backend that
    has whole commands instead gives them by :meth:`commands`.
    """

    @abc.abstractmethod
    def content_token(self) -> bytes:
        """A token of the repository's state: two equal ones mean that every reply is the same.

        It must be cheap, and change with anything that can change a reply.
        """

    def change_stamp(self) -> object:
        """Something that is equal only while nothing has happened to the repository.

        :meth:`content_token` may be what it was once a change is undone; this must not be, or a reply that was made between the
        two would pass for one of the state.  A backend whose states never return needs nothing else.
        """
        return self.content_token()

    def metadata_token(self) -> bytes | None:
        """A token of all of the state but which changesets there are; ``None`` from a backend that has none.

        With it, and with :meth:`missing`, a clone of an older state can be the first part of one of the present state.
        """
        return None

    def missing(self, heads: Sequence[bytes], wanted: Sequence[bytes]) -> tuple[int, int] | None:
        """What a clone still lacks that has some heads and their ancestors.

        Args:
            heads: nodes that were heads once.
            wanted: the heads a client asks for.

        Returns:
            How many changesets it lacks, and how many it has; ``None`` unless all of ``heads`` are still here, and
            ``wanted`` are all the heads there are.
        """
        return None

    def setting(self, section: str, name: str) -> str | None:
        """A setting as ``hgrc`` has it, for policies; ``None`` if it is not set."""
        return None

    def settings(self, section: str, name: str) -> Sequence[str]:
        """A setting that is a list."""
        value = self.setting(section, name) or ""
        return value.replace(",", " ").split()

    def is_member(self, user: str, members: Sequence[str]) -> bool:
        """Whether a user is one of those that a setting names; ``*`` alone names everybody."""
        return list(members) == ["*"] or user in members

    def commands(self) -> Mapping[str, Command]:
        """Commands that this repository brings, by name; they replace standard ones.

        It is asked for every request, so it must be cheap.
        """
        return {}

    def may_cache(self, command: str) -> bool:
        """Whether replies of a command whose declaration says so may be kept, here and now.

        Not where a hook must run, or a file is read that :meth:`content_token` does not cover.
        """
        return True

    def adjust_capabilities(self, offer: ServerCapabilities) -> ServerCapabilities:
        """What is offered for this repository, given what the application offers.

        ``post_args`` is the application's alone, or a proxy that classifies requests could read other arguments than
        the transport does.
        """
        return offer

    def subresource(self, environ: dict[str, Any], start_response: Any, authorize: Authorize) -> Iterable[bytes] | None:
        """Serve what is below the repository's URL besides commands, such as the contents of large files.

        Args:
            environ: the WSGI environ; ``SCRIPT_NAME`` is the repository, ``PATH_INFO`` what follows.
            start_response: as in WSGI.
            authorize: to be asked before anything is read or written.

        Returns:
            The response body, or ``None`` if there is nothing of the kind, and nothing was done.
        """
        return None

    def capabilities(self) -> Iterable[bytes]:
        """Tokens of the ``capabilities`` reply, besides those that transports add."""
        return ()

    def heads(self) -> Sequence[bytes]:
        """Nodes without children, newest first."""
        raise _missing("heads")

    def parents(self, node: bytes) -> tuple[bytes, bytes]:
        """The two parents of a changeset.

        Raises:
            CommandFailed: if there is no such changeset.
        """
        raise _missing("parents")

    def known(self, nodes: Sequence[bytes]) -> Sequence[bool]:
        """Whether each of these changesets is here."""
        raise _missing("known")

    def lookup(self, key: bytes) -> bytes:
        """The node a name stands for: a hash or part of one, a revision number, a tag, bookmark or branch.

        Raises:
            CommandFailed: if it stands for none.
        """
        raise _missing("lookup")

    def branchmap(self) -> Mapping[bytes, Sequence[bytes]]:
        """Heads by branch name (UTF-8), closed ones included, oldest first."""
        raise _missing("branchmap")

    def listkeys(self, namespace: bytes) -> Mapping[bytes, bytes]:
        """The keys of a namespace, such as ``bookmarks``; nothing for an unknown one."""
        raise _missing("listkeys")

    def pushkey(self, namespace: bytes, key: bytes, old: bytes, new: bytes) -> PushKeyResult:
        """Set a key that still has its old value."""
        raise _missing("pushkey")

    def changegroup(self, bases: Sequence[bytes], heads: Sequence[bytes] | None) -> Response:
        """A changegroup of version 01: the descendants of ``bases``, themselves included, up to ``heads``."""
        raise _missing("changegroup")

    def getbundle(self, **arguments: Any) -> Response:
        """A bundle of what a client lacks, by the declared arguments of ``getbundle``."""
        raise _missing("getbundle")

    def unbundle(self, heads: Sequence[bytes], body: Readable, client: str) -> Response:
        """Apply a bundle.

        Args:
            heads: those the client saw; or ``[b"force"]``; or ``[b"hashed", sha1 of the sorted heads]``.
            body: the bundle.
            client: who pushes.
        """
        raise _missing("unbundle")

    def stream_out(self) -> Response:
        """The store's files as they are."""
        raise _missing("stream_out")

    def clone_bundles(self, *, legacy: bool) -> bytes:
        """The manifest of bundles to clone from; a legacy one lists those that any client understands."""
        return b""

    def cached_bundle(self, path: bytes) -> Response:
        """A bundle that the manifest listed for inline transfer."""
        raise CommandFailed("no such bundle")


def _missing(command: str) -> UnknownCommand:
    return UnknownCommand(f"this repository does not offer {command}")


class Lease:
    """A repository for the time of one request.

    Released once, however often it is asked to be; also usable in a ``with`` statement.

    Args:
        repository: the repository.
        release: gives it back, if there is anything to give back.
    """

    def __init__(self, repository: Repository, release: Callable[[], None] | None = None) -> None:
        self.repository = repository
        self._release = release

    def transfer(self) -> Lease:
        """Hand the duty to release over to another lease of the same repository; this one has none any more."""
        release, self._release = self._release, None
        return Lease(self.repository, release)

    def release(self) -> None:
        """Give the repository back."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Repository:
        return self.repository

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class RepositoryProvider(abc.ABC):
    """Finds repositories by URL path.  Shared by all threads of a process."""

    @abc.abstractmethod
    def locate(self, path: str) -> tuple[str, str] | None:
        """Find the repository that a path is in.

        Args:
            path: ``PATH_INFO`` as WSGI has it: bytes as latin-1 characters.

        Returns:
            The repository's name (empty for one served at ``/``) and the rest of the path without the slash between
            them; ``None`` if there is no repository.
        """

    @abc.abstractmethod
    def lease(self, name: str) -> Lease:
        """Lease the repository that :meth:`locate` named.

        Raises:
            RepositoryNotFound: if it is gone.
            RepositoryBusy: if no lease came free in time.
        """

    def change_stamp(self, name: str) -> object:
        """The version of a repository, as :meth:`Repository.change_stamp` has it.

        Raises:
            RepositoryNotFound, RepositoryBusy: as :meth:`lease`.
        """
        with self.lease(name) as repository:
            return repository.change_stamp()

    def is_subresource(self, rest: str) -> bool:
        """Whether a path below a repository may be one that ``Repository.subresource`` serves; cheap, and a guess."""
        return False

    def commands(self) -> Mapping[str, Command]:
        """Commands that repositories of this provider may bring, as far as that is known without opening one."""
        return {}

    def adjust_capabilities(self, offer: ServerCapabilities) -> ServerCapabilities:
        """What an application offers if its host gave no offer of its own."""
        return offer
