"""Every exception this package raises on purpose.

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
    │   ├── BodyTruncated
    │   └── DecodeError               a compressed body that does not decompress
    ├── NegotiationError
    │   ├── NotAcceptable
    │   └── UnsupportedMediaType
    ├── CommandError
    │   ├── UnknownCommand
    │   ├── InvalidArgument
    │   ├── PermissionDenied
    │   └── CommandFailed
    ├── BackendError
    │   ├── RepositoryNotFound
    │   ├── RepositoryBusy
    │   ├── StreamChanged
    │   └── RepositoryUnusable
    ├── ConnectionFailed              our client has no connection to its server, or has lost it
    └── CommandRefused                the server of our client answered with an error

``http_status`` is the status an HTTP transport answers with, ``wire_kind`` the kind an error frame carries
(``protocol`` or ``application``, the two the streams patch knows).  The text of an exception is meant for the
person at the other end: it says what is wrong and never holds a path of the server or a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BackendError",
    "BadEncoding",
    "BadRequestId",
    "BadStream",
    "BodyTooLarge",
    "BodyTruncated",
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
    "PermissionDenied",
    "ProtocolError",
    "RemoteProtocolError",
    "RepositoryBusy",
    "RepositoryNotFound",
    "RepositoryUnusable",
    "RequestError",
    "StreamChanged",
    "TruncatedFrame",
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
    """Flags of a frame exclude each other, or its payload makes no sense."""


class BadStream(RemoteProtocolError):
    """A stream was used without being open, or by the wrong side."""


class BadEncoding(BadStream):
    """The encoding of a stream is unknown, was never announced, or its data do not decode."""


class BadRequestId(RemoteProtocolError):
    """A request ID is in use already, or belongs to the other side."""


class LimitExceeded(RemoteProtocolError):
    """One of the bounds in ``Limits`` was passed."""


class RequestError(HgWireError):
    """The HTTP request is malformed: a header, the query string, or an encoding of arguments."""

    http_status = 400


class LengthRequired(RequestError):
    """The request has a body of unknown length on a server that cannot tell where it ends."""

    http_status = 411


class BodyTooLarge(RequestError):
    """The request body exceeds a bound of ``Limits``."""

    http_status = 413


class BodyTruncated(RequestError):
    """The client went away before it sent the whole body."""


class DecodeError(RequestError):
    """Compressed data is corrupt, cut short, or decompresses to more than ``Limits`` allows."""


class NegotiationError(HgWireError):
    """Client and server share no way to talk."""


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
    """No such command in the registry, or not on this transport."""


class InvalidArgument(CommandError):
    """An argument is missing, or its value is malformed."""


class PermissionDenied(CommandError):
    """The policy refuses the request.

    Args:
        message: what is refused, in hgweb's words where hgweb has some; it becomes the HTTP reason phrase.
        status: 401, 403 or 405.
        headers: as for :class:`HgWireError`.
    """

    http_status = 403

    def __init__(self, message: str, *, status: int = 403, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message, headers=headers)
        self.http_status = status


class CommandFailed(CommandError):
    """The backend refused the command for a reason the person at the other end should read."""


class BackendError(HgWireError):
    """A repository cannot be served."""


class RepositoryNotFound(BackendError):
    """The provider knows no repository of that name."""

    http_status = 404


class RepositoryBusy(BackendError):
    """Every lease of the repository is taken, and none came free in time."""

    http_status = 503


class StreamChanged(BackendError):
    """A stream that was begun again cannot be continued where it broke off; the transfer must break off."""

    http_status = 503


class RepositoryUnusable(BackendError):
    """The repository is there, and cannot be served.  The operator finds the reason in the log.

    Args:
        message: what the client is told.
        headers: as for :class:`HgWireError`.
    """

    def __init__(
        self,
        message: str = "the repository cannot be served; the log of the server says why",
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, headers=headers)


class ConnectionFailed(HgWireError):
    """A server cannot be reached, does not answer in time, or broke off before its answer was whole."""

    http_status = 502


class CommandRefused(HgWireError):
    """A server answered a command with an error.

    Args:
        message: what the server said, or its HTTP status where it said nothing a person could read.
        status: the HTTP status of the answer; errors in frames, and some of version 1, come with 200.
        kind: who is to blame by the error frame: ``application``, ``protocol`` or both with a ``|``; else empty.
    """

    http_status = 502

    def __init__(self, message: str, *, status: int = 200, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
