"""Every exception that this package raises deliberately.

The tree::

    HgWireError
    ├── ProtocolError
    │   ├── LocalProtocolError        the caller broke the rules: a bug in the host or in a command
    │   └── RemoteProtocolError       the peer broke the rules of the protocol, mostly that of frames
    │       ├── FrameTooLarge
    │       ├── TruncatedFrame
    │       ├── UnexpectedFrame
    │       ├── MalformedFrame
    │       ├── BadStream
    │       │   └── BadEncoding
    │       ├── BadRequestId
    │       └── LimitExceeded
    ├── RequestError                  the HTTP request itself is malformed
    │   ├── LengthRequired
    │   ├── BodyTooLarge
    │   ├── BodyTooSlow
    │   ├── BodyTruncated
    │   └── DecodeError               a compressed body that does not decompress
    ├── NegotiationError
    │   ├── NotAcceptable
    │   └── UnsupportedMediaType
    ├── CommandError
    │   ├── UnknownCommand
    │   ├── InvalidArgument
    │   ├── PermissionDenied
    │   ├── CommandFailed
    │   └── CommandCrashed            a bug in a command or hook, which would have ended the server
    ├── BackendError
    │   ├── RepositoryNotFound
    │   ├── RepositoryMoved
    │   ├── RepositoryBusy
    │   ├── ServerBusy
    │   ├── StreamChanged
    │   ├── AbandonedTransaction
    │   ├── OutOfMemory
    │   ├── StorageFull
    │   └── RepositoryUnusable
    ├── Unavailable                   the server does not serve the request at present
    ├── ConnectionFailed              the client cannot connect to its server, or lost the connection
    └── CommandRefused                the server answered the client with an error

``http_status`` is the status an HTTP transport answers with, ``wire_kind`` the kind an error frame carries
(``protocol`` or ``application``, the two the streams patch knows).  The text of an exception is
sent to the peer: it explains the error and never contains a path of the server or a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AbandonedTransaction",
    "BackendError",
    "BadEncoding",
    "BadRequestId",
    "BadStream",
    "BodyTooLarge",
    "BodyTooSlow",
    "BodyTruncated",
    "CommandCrashed",
    "CommandError",
    "CommandFailed",
    "CommandRefused",
    "ConnectionFailed",
    "DecodeError",
    "FrameTooLarge",
    "HgWireError",
    "InvalidArgument",
    "LengthRequired",
    "LimitExceeded",
    "LocalProtocolError",
    "MalformedFrame",
    "NegotiationError",
    "NotAcceptable",
    "OutOfMemory",
    "PermissionDenied",
    "ProtocolError",
    "RemoteProtocolError",
    "RepositoryBusy",
    "RepositoryMoved",
    "RepositoryNotFound",
    "RepositoryUnusable",
    "RequestError",
    "ServerBusy",
    "StorageFull",
    "StreamChanged",
    "TruncatedFrame",
    "Unavailable",
    "UnexpectedFrame",
    "UnknownCommand",
    "UnsupportedMediaType",
]


class HgWireError(Exception):
    """Base of every exception of this package.

    Args:
        message: one line for a person.
        headers: extra response headers an HTTP transport must send with the error.
    """

    http_status = 500
    wire_kind = "application"

    def __init__(self, message: str, *, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.headers = tuple(headers)


class ProtocolError(HgWireError):
    """A rule of the frame-based protocol was broken.  Abstract: see the two subclasses."""

    wire_kind = "protocol"


class LocalProtocolError(ProtocolError):
    """The caller of this package broke a rule.  A peer can never cause it."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule."""

    http_status = 400


class FrameTooLarge(RemoteProtocolError):
    """A frame's payload exceeds ``Limits.frame_payload``."""


class TruncatedFrame(RemoteProtocolError):
    """The input ended inside a frame or inside a command."""


class UnexpectedFrame(RemoteProtocolError):
    """A frame of this type is not allowed in the state its request is in."""


class MalformedFrame(RemoteProtocolError):
    """Flags of a frame contradict each other, or its payload is malformed."""


class BadStream(RemoteProtocolError):
    """A stream was used while not open, or by the wrong side."""


class BadEncoding(BadStream):
    """The encoding of a stream is unknown, was never announced, or its data do not decode."""


class BadRequestId(RemoteProtocolError):
    """A request ID is already in use, or belongs to the other side."""


class LimitExceeded(RemoteProtocolError):
    """A limit in ``Limits`` was exceeded."""


class RequestError(HgWireError):
    """The HTTP request is malformed: a header, the query string, or an encoding of arguments."""

    http_status = 400


class LengthRequired(RequestError):
    """The request has a body of unknown length, and the server does not report its end."""

    http_status = 411


class BodyTooLarge(RequestError):
    """The request body exceeds a limit in ``Limits``."""

    http_status = 413


class BodyTooSlow(RequestError):
    """The client sends the body more slowly than ``Deadlines`` allows."""

    http_status = 408


class BodyTruncated(RequestError):
    """The client disconnected before it had sent the whole body."""


class DecodeError(RequestError):
    """Compressed data is corrupt, truncated, or decompresses to more than ``Limits`` allows."""


class NegotiationError(HgWireError):
    """Client and server have no media type or engine in common."""


class NotAcceptable(NegotiationError):
    """The client cannot receive any media type that this server sends."""

    http_status = 406


class UnsupportedMediaType(NegotiationError):
    """The request body has a media type that this server does not receive."""

    http_status = 415


class CommandError(HgWireError):
    """A command cannot run, or failed."""

    http_status = 400


class UnknownCommand(CommandError):
    """The command is not in the registry, or not available on this transport."""


class InvalidArgument(CommandError):
    """An argument is missing, or its value is malformed."""


class PermissionDenied(CommandError):
    """The policy refuses the request.

    Args:
        message: the reason, worded as in hgweb where possible; it becomes the HTTP reason phrase.
        status: 401, 403 or 405; a backend may have others.
        headers: as for :class:`HgWireError`.

    Raises:
        ValueError: for a status of success, which a front end would take for permission.
    """

    http_status = 403

    def __init__(self, message: str, *, status: int = 403, headers: Sequence[tuple[str, str]] = ()) -> None:
        if not 300 <= status <= 599:
            raise ValueError(f"{status} is not the status of a refusal")
        super().__init__(message, headers=headers)
        self.http_status = status


class CommandFailed(CommandError):
    """The backend refused the command for a reason that the client's user should see."""


class CommandCrashed(CommandError):
    """A command or hook tried to end the server, or recursed without end."""

    http_status = 500


class BackendError(HgWireError):
    """A repository cannot be served."""


class RepositoryNotFound(BackendError):
    """The provider has no repository of that name, or the policy hides it."""

    http_status = 404

    def __init__(self, message: str = "no such repository", *, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message, headers=headers)


class RepositoryMoved(BackendError):
    """The repository has a new name; an HTTP transport redirects the client.

    Args:
        path: the new path below the mount point, without a leading slash; bytes as latin-1 characters.
    """

    http_status = 301

    def __init__(self, path: str) -> None:
        super().__init__("the repository has moved")
        self.path = path


class RepositoryBusy(BackendError):
    """The repository is locked, or cannot be leased, opened or found in time."""

    http_status = 503


class ServerBusy(BackendError):
    """The server is serving too many other requests; ``Retry-After`` says when to try again."""

    http_status = 503


class StreamChanged(BackendError):
    """A restarted stream differs from the bytes already sent; the transfer must be aborted."""

    http_status = 503


class AbandonedTransaction(BackendError):
    """A process ended in the middle of a transaction.  The repository can be read; nothing can be pushed."""

    http_status = 503


class OutOfMemory(BackendError):
    """The server has not enough memory for the request."""

    http_status = 503


class StorageFull(BackendError):
    """The server has no space left to write to: its disk, a quota, or a limit on the size of files."""

    http_status = 507


class RepositoryUnusable(BackendError):
    """The repository exists but cannot be served.  The log has the reason for the operator.

    Args:
        message: the text for the client.
        headers: as for :class:`HgWireError`.
    """

    def __init__(
        self,
        message: str = "the repository cannot be served; the log of the server says why",
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, headers=headers)


class Unavailable(HgWireError):
    """The server does not serve the request at present, for example because of maintenance.

    Args:
        message: the reason; it becomes the HTTP reason phrase.
        retry_after: seconds until the client should try again (``Retry-After``); ``None`` if unknown.
        headers: as for :class:`HgWireError`.
    """

    http_status = 503

    def __init__(
        self, message: str, *, retry_after: int | None = None, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        retry = () if retry_after is None else (("Retry-After", str(retry_after)),)
        super().__init__(message, headers=(*retry, *headers))


class ConnectionFailed(HgWireError):
    """The server is unreachable, does not answer in time, or closed the connection before its answer was complete."""

    http_status = 502


class CommandRefused(HgWireError):
    """A server answered a command with an error.

    Args:
        message: the server's message, or its HTTP status if it sent no readable text.
        status: the HTTP status of the answer; errors in frames, and some of version 1, come with 200.
        kind: the cause according to the error frame: ``application``, ``protocol`` or both with a ``|``; else empty.
    """

    http_status = 502

    def __init__(self, message: str, *, status: int = 200, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
