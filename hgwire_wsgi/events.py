"""Events for observers: when a request starts, when its response is closed, and what happened in between.

An observer is a callable that takes any event.  It runs in the thread that serves the request, or in the one that makes
a bundle for the cache, so it should be fast; its exceptions are logged and have no other effect.  Events are values:
they stay valid after the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import attrs

__all__ = [
    "CacheOutcome",
    "Changegroup",
    "ChangegroupMade",
    "CommandReport",
    "Event",
    "Observer",
    "Outcome",
    "PushChanges",
    "RepositoryRecovered",
    "RequestClosed",
    "RequestStarted",
]

CacheOutcome = Literal["", "hit", "miss", "followed"]
"""The cache outcome: not used, the reply was cached, this request made it, or another request was making it."""

Outcome = Literal["ok", "refused", "failed", "cut"]
"""How a request ended: answered; refused with a 4xx or because the server is busy (503), or with an error that the
client caused; failed because of a server error (other 5xx); cut, because the transfer was interrupted."""


@attrs.frozen(kw_only=True)
class PushChanges:
    """The changes of one transaction of a push.

    Attributes:
        changesets: number of changesets added.
        heads_added: nodes that are heads now and were not before.
        heads_removed: nodes that were heads before.
        bookmarks: old and new node by bookmark name, ``None`` where it did not exist, or no longer exists.
        phases: number of changesets whose phase moved.
        obsmarkers: number of obsolescence markers added.
    """

    changesets: int = 0
    heads_added: tuple[bytes, ...] = ()
    heads_removed: tuple[bytes, ...] = ()
    bookmarks: Mapping[bytes, tuple[bytes | None, bytes | None]] = attrs.Factory(dict)
    phases: int = 0
    obsmarkers: int = 0


@attrs.frozen(kw_only=True)
class CommandReport:
    """How one command of a request in frames ended.  A command that never ran has no report.

    Attributes:
        request_id: its request ID in the frames.
        command: its name.
        outcome: how it ended.
        error: the error message to the client; empty if none.
        bytes_out: bytes of its frames.
        wall: seconds from its start to its last frame.
        cpu: seconds of processor time of the thread that ran it; 0 if several did.
    """

    request_id: int
    command: str
    outcome: Outcome
    error: str
    bytes_out: int
    wall: float
    cpu: float


@attrs.frozen(kw_only=True)
class RequestStarted:
    """A request arrived; nothing has been done yet.

    Attributes:
        request_id: the front end's ``X-Request-ID``, or a random one.
        method: the HTTP method.
        path: the URL path below the application's mount point.
        user: the authenticated user, ``None`` if unauthenticated.
        address: the client's address.
    """

    request_id: str
    method: str
    path: str
    user: str | None
    address: str


@attrs.frozen(kw_only=True)
class RequestClosed:
    """A response was sent or abandoned, and all its resources were released.

    Attributes:
        request_id, method, path, user, address: as in :class:`RequestStarted`.
        repository: the repository's name, empty if the request did not get that far.
        commands: the command and its sub-commands.
        status: the HTTP status.
        outcome: how it ended.
        error: the message to the client, or why the transfer was interrupted.
        bytes_in: bytes of the request body that were read.
        bytes_out: bytes of the response body that were handed to the server, or that the front end sends.
        wall: seconds from the start of the request to now.
        cpu: seconds of processor time of the serving thread; a thread that makes a cached bundle is not included.
        cache: the cache outcome.
        clone: whether the client requested the whole history.
        changes: the changes made by pushes, one item for each transaction.
        reports: the commands of a request in frames, in the order in which they ended.
    """

    request_id: str
    method: str
    path: str
    user: str | None
    address: str
    repository: str
    commands: tuple[str, ...]
    status: int
    outcome: Outcome
    error: str
    bytes_in: int
    bytes_out: int
    wall: float
    cpu: float
    cache: CacheOutcome
    clone: bool = False
    changes: tuple[PushChanges, ...] = ()
    reports: tuple[CommandReport, ...] = ()


@attrs.frozen(kw_only=True)
class RepositoryRecovered:
    """A push found the transaction of a process that had died, and rolled it back before it ran.

    Attributes:
        request_id, path, user, address: of the push, as in :class:`RequestStarted`.
        repository: the repository's name.
    """

    request_id: str
    path: str
    user: str | None
    address: str
    repository: str


@attrs.frozen(kw_only=True)
class Changegroup:
    """How a changegroup was made: the part of a bundle that holds the history.

    Attributes:
        generator: what made it: the generator of this package, or Mercurial's own.
        reason: why Mercurial's made all of it; empty if it did not.
        version: of the format, such as ``02``.
        changesets: number of changesets in it.
        aside: the reasons for which Mercurial's generator made the part of a single file, the manifests or the
            changelog, each with the number of these parts.
    """

    generator: Literal["hgwire", "mercurial"]
    reason: str
    version: str
    changesets: int
    aside: Mapping[str, int] = attrs.Factory(dict)


@attrs.frozen(kw_only=True)
class ChangegroupMade(Changegroup):
    """A changegroup is complete.  One that comes from a cache is not made again; one that is abandoned has no event.

    Attributes:
        request_id: of the request that it was made for, as in :class:`RequestStarted`.  Other requests may get it, too,
            and this one may have ended before.
        repository: the repository's name.
        generator, reason, version, changesets, aside: as in :class:`Changegroup`.
    """

    request_id: str
    repository: str


Event = RequestStarted | RequestClosed | RepositoryRecovered | ChangegroupMade

Observer = Callable[[Event], object]
