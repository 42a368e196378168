"""The backend interface: repositories, and the provider that finds them.

A repository is composed of four small interfaces.  :class:`RepositoryState` is required: it is the key of every cached
reply.  The others have defaults: settings for policies, the backend's own commands, and the objects behind the
standard commands.  :class:`Repository` combines all four.

Two features are optional.  The transports detect them with ``isinstance``, so a backend only has to define the
methods: :class:`IncrementalBundles` and :class:`Subresources`.

A repository object serves one request at a time; a provider serves all threads of a process.
``hgwire_wsgi.testing.memory`` is a complete example.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, runtime_checkable

import attrs

from ..commands.objects import RepositoryObjects
from ..commands.registry import Command, Permission
from ..negotiation import ServerCapabilities
from ..streams import Readable

__all__ = [
    "Authorize",
    "IncrementalBundles",
    "Lease",
    "Repository",
    "RepositoryCommands",
    "RepositoryProvider",
    "RepositorySettings",
    "RepositoryState",
    "SubresourceReply",
    "SubresourceRequest",
    "Subresources",
]

Authorize = Callable[[str], None]
"""Called with ``pull`` or ``upload``; raises :class:`PermissionDenied` if the policy refuses."""


class RepositoryState(abc.ABC):
    """The state of a repository, as a key for caches."""

    @abc.abstractmethod
    def content_token(self) -> bytes:
        """Return a token of everything that replies depend on.

        Two equal tokens mean that every reply is the same.  The token may repeat, for example after a change was
        undone.  It is read for every request, so it must be cheap.
        """

    def bundle_token(self, command: str, arguments: Mapping[str, Any]) -> bytes:
        """Return a token of everything that a long reply depends on.

        The default is the content token.  A backend can leave out what the reply does not hold, such as bookmarks that
        the client does not request, so that bundles outlive changes of the rest.

        Args:
            command: the name of the command.
            arguments: its arguments, decoded.
        """
        return self.content_token()

    def change_stamp(self) -> object:
        """Return a value that changes with every change, even if the change is later undone.

        Unlike the content token it never repeats; otherwise a reply built between a change and its reversal could be
        cached under the wrong state.  A backend whose tokens never repeat can keep this default.
        """
        return self.content_token()


class RepositorySettings:
    """Settings of a repository, which policies read."""

    def setting(self, section: str, name: str) -> str | None:
        """Return a setting as in ``hgrc``, ``None`` if it is not set."""
        return None

    def settings(self, section: str, name: str) -> Sequence[str]:
        """Return a setting that is a list, separated by commas or spaces."""
        value = self.setting(section, name) or ""
        return value.replace(",", " ").split()

    def is_member(self, user: str, members: Sequence[str]) -> bool:
        """Whether a setting's list of users includes a user; ``*`` alone includes everybody."""
        return list(members) == ["*"] or user in members

    def read_only_reason(self) -> str | None:
        """Return why the repository does not accept pushes, for the client's user; ``None`` if it does.

        It is called for every push, and never answered from a cache of the state.
        """
        return None


class RepositoryCommands:
    """The repository's own commands, and its changes to caching and negotiation."""

    def commands(self) -> Mapping[str, Command]:
        """Return the repository's own commands by name; they replace standard ones.

        It is called for every request, so it must be cheap, except for the first time.
        """
        return {}

    def knows_commands(self) -> bool:
        """Whether :meth:`commands` returns at once.

        If not, the policy is asked first whether the client may know of the repository.
        """
        return True

    def may_cache(self, command: str) -> bool:
        """Whether replies of a command that is declared cacheable may be cached in the present state.

        They must not be cached if a hook must run for each request, or if they depend on files that
        :meth:`RepositoryState.content_token` does not cover.
        """
        return True

    def is_same_for_all(self) -> bool:
        """Whether all users get the same replies in one state; if not, a reply is cached only for a named view.

        It may become false at any time, for example when a plugin is loaded, so it is asked before a reply is made and
        again before it is cached.
        """
        return True

    def check_access(
        self, permission: str, commands: tuple[str, ...], user: str | None, environ: Mapping[str, Any]
    ) -> None:
        """Make the backend's own checks, after the policy has agreed.  Called for every request.

        Args:
            permission: ``pull``, ``push``, or ``upload`` for the contents of a large file.
            commands: the command and its sub-commands; empty for large files.
            user: the authenticated user; ``None`` if unauthenticated.
            environ: the WSGI environ.

        Raises:
            HgWireError: if the backend refuses.
        """

    def has_subresource(self, path: str) -> bool:
        """Whether to ask for a resource (:class:`Subresources`) at a path where the provider expects one.

        If not, a middleware passes the request on.
        """
        return isinstance(self, Subresources)

    def adjust_capabilities(self, server: ServerCapabilities) -> ServerCapabilities:
        """Return the capabilities to negotiate for this repository.

        Args:
            server: those of the application.  ``post_args`` must not change; otherwise a proxy that classifies requests
                could read different arguments from the transport.
        """
        return server


class Repository(RepositoryState, RepositorySettings, RepositoryCommands, RepositoryObjects):
    """One repository, used by one request at a time."""


@runtime_checkable
class IncrementalBundles(Protocol):
    """A repository whose full clones can be sent in two parts.

    The bundle of an older state is the first part; clients that support partial pulls request the rest with their
    next request.  This works only if nothing but the history has changed since.
    """

    def metadata_token(self) -> bytes | None:
        """Return a token of the state except the set of changesets; ``None`` if these cannot be separated."""

    def clone_family(self, command: str, arguments: Mapping[str, Any]) -> tuple[object, ...] | None:
        """Return everything that a full-clone bundle depends on, except the history and the requested heads.

        Args:
            command: the name of the command.
            arguments: its arguments, decoded.

        Returns:
            A tuple of plain values with a stable ``repr``; two clones with equal tuples belong to one family.
            ``None`` unless the call requests all ancestors of some heads and its reply may be sent in parts.
        """

    def is_full_clone(self, heads: Sequence[bytes]) -> bool:
        """Whether these are all of the repository's heads."""

    def count_missing(self, have: Sequence[bytes]) -> tuple[int, int] | None:
        """Count the changesets missing from a client that has some heads and their ancestors.

        Returns:
            The number of changesets it lacks and the number it has; ``None`` if the repository lacks one of the heads.
        """

    def is_worth_sending(self, have: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
        """Whether to answer a clone of ``wanted`` with a cached bundle that has only ``have`` and its ancestors."""


@attrs.frozen
class SubresourceRequest:
    """A request for a resource below a repository's URL that is not a command.

    Attributes:
        environ: the WSGI environ; ``SCRIPT_NAME`` is the path of the repository's URL.  ``PATH_INFO`` and
            ``wsgi.input`` are not used.
        path: the path below the repository, without the leading slash; bytes as latin-1 characters.
        body: the request body; reading stops at its end.
    """

    environ: Mapping[str, Any] = attrs.field(repr=False)
    path: str
    body: Readable


@attrs.frozen
class SubresourceReply:
    """The answer to a :class:`SubresourceRequest`.

    Attributes:
        status: the status code and reason phrase, as in WSGI.
        headers: the response headers, none of them hop-by-hop.
        chunks: the body; closed when the response ends, if it has ``close``.
    """

    status: str
    headers: tuple[tuple[str, str], ...]
    chunks: Iterable[bytes]


@runtime_checkable
class Subresources(Protocol):
    """A repository that serves resources below its URL in addition to commands, such as the contents of large files."""

    def subresource(self, request: SubresourceRequest, authorize: Authorize) -> SubresourceReply | None:
        """Answer a request.

        Args:
            request: the request.
            authorize: called before anything is read or written.

        Returns:
            The answer; ``None``, without any effect, if there is no resource at that path.
        """


class Lease:
    """A repository for the duration of one request.  Also a context manager.  A second release has no effect.

    Args:
        repository: the repository.
        release: returns the repository to its owner; ``None`` if that is not needed.
    """

    def __init__(self, repository: Repository, release: Callable[[], None] | None = None) -> None:
        self.repository = repository
        self._release = release

    def transfer(self) -> Lease:
        """Transfer the repository to a new lease, which must be released instead of this one."""
        release, self._release = self._release, None
        return Lease(self.repository, release)

    def release(self) -> None:
        """Return the repository to its owner."""
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
    """Finds repositories by URL path.  All threads of a process share it.

    Names of repositories are paths without slashes at either end, bytes as latin-1 characters as in WSGI.  The name
    of a repository that is served at ``/`` is empty.
    """

    @abc.abstractmethod
    def locate(self, path: str) -> tuple[str, str] | None:
        """Find the repository that a path is in.

        Args:
            path: ``PATH_INFO`` of the request.

        Returns:
            The repository's name and the rest of the path, without the slash between them; ``None`` if there is no
            repository.
        """

    @abc.abstractmethod
    def lease(self, name: str) -> Lease:
        """Lease the repository that :meth:`locate` named.

        Raises:
            RepositoryNotFound: if it no longer exists.
            RepositoryBusy: if no lease came free in time.
            RepositoryUnusable: if it is broken.
        """

    def change_stamp(self, name: str) -> object:
        """Return :meth:`RepositoryState.change_stamp` of a repository.

        Raises:
            RepositoryNotFound, RepositoryBusy, RepositoryUnusable: as :meth:`lease`.
        """
        with self.lease(name) as repository:
            return repository.change_stamp()

    def watch(self, name: str, stamp: object) -> Callable[[], bool] | None:
        """Return a function that says whether nothing has changed that a request could notice.

        It is called for every request, so it must be cheap.  It returns true only if all of this holds:

        - :meth:`locate` would find the repository at the same paths as before;
        - :meth:`change_stamp` would return the given stamp;
        - all users get the same replies (:meth:`RepositoryCommands.is_same_for_all`);
        - :meth:`RepositoryCommands.check_access` refuses nothing, and :meth:`RepositorySettings.is_member` depends on
          nothing but its arguments.

        Args:
            name: of the repository.
            stamp: its change stamp in a request that is being served.

        Returns:
            The function, for all threads; ``None``, the default, if all of this must be asked for each request.
        """
        return None

    def is_subresource(self, rest: str) -> bool:
        """Whether a path below a repository may be one of :class:`Subresources`; a cheap guess."""
        return False

    def subresource_permission(self, rest: str, method: str) -> Literal["pull", "push", "upload"]:
        """Return the permission that a request for one of :class:`Subresources` needs, as far as its URL shows it.

        It decides for other servers, which the body does not reach (:class:`~hgwire_wsgi.AuthorizeApp`).  The
        repository itself asks for what it needs.

        Args:
            rest: the path below the repository.
            method: the HTTP method.
        """
        if method in ("GET", "HEAD"):
            return "pull"
        return "upload" if method == "PUT" else "push"

    def commands(self) -> Mapping[str, Command]:
        """Return the commands that every repository may provide, as far as known without opening one."""
        return {}

    def is_command(self, name: str) -> bool:
        """Whether another server in this process, such as hgweb, may run a command of this name."""
        return False

    def known_permissions(self) -> Mapping[str, Permission]:
        """Return the permissions of commands that only some repositories provide, by command name.

        They classify requests without opening a repository.  A name that is in neither this mapping nor
        the registry counts as ``push``.
        """
        return {}

    def adjust_capabilities(self, server: ServerCapabilities) -> ServerCapabilities:
        """Return the default capabilities of an application."""
        return server

    def names(self, limit: int) -> list[str]:
        """Return the names of up to ``limit`` repositories, sorted; none if they cannot be listed."""
        return []
