"""A framing revision as a value.

Revisions use the same numbers for different things (0x08 is stream settings in 0002, sender settings in 0006), so they
share only the header and the stream flags.  Each revision is one :class:`Revision` with its own types, flags, tables
and encoders, made of plain functions in a module of its own.

Two tables drive the reactors: ``(state, frame type) -> handler``.  The state is that of the frame's request, or that of
the reactor if the request ID is unknown.  A key that is missing *is* the "unexpected frame" error.

Everything that spans frames has its place in the state of what it belongs to: ``Request.partial`` for a request,
``IncomingStream.partial`` for a stream, ``Reactor.scratch`` for the exchange.

Encoders check their input when they are called, and raise :class:`~hgwire_wsgi.errors.LocalProtocolError` for what the
revision cannot express.  They return an iterator that makes each frame when it is taken, so they must not touch the
stream, and thus must not be generator functions themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from ..errors import RemoteProtocolError
from .actions import Action
from .data import Data, Objects
from .frame import Frame
from .streams import OutgoingStream
from .textoutput import Atom

if TYPE_CHECKING:
    from .client import ClientReactor
    from .reactor import Reactor
    from .server import ServerReactor

__all__ = ["ClientHandler", "Request", "Revision", "ServerHandler", "StreamHandler"]


@attrs.define(eq=False)
class Request:
    """One request, from its first frame to the end of its response.

    The reactor keeps the flags about each half.  Everything else belongs to the functions of the revision.
    """

    request_id: int
    state: str
    """First part of the key into the table."""
    name: bytes = b""
    arguments: dict[bytes, Any] = attrs.Factory(dict)
    redirect: Any = None
    """What the client says about the redirects it follows, in a revision that has them."""
    has_data: bool = False
    complete: bool = False
    """The peer has nothing more to send for it."""
    running: bool = False
    """Server: its command was returned to the owner of the reactor."""
    answered: bool = False
    """Server: its response was given to the reactor."""
    begun: bool = False
    """Server: part of its response was made.  Set by an encoder whose errors look different then."""
    sent: bool = False
    """The last of our frames was taken."""
    held: int = 0
    """Bytes that count towards ``Limits.command_argument_bytes``."""
    partial: Any = None
    """What was received incompletely."""


ServerHandler: TypeAlias = "Callable[[ServerReactor, Request, Frame], Action]"
ClientHandler: TypeAlias = "Callable[[ClientReactor, Request, Frame], Action]"
StreamHandler: TypeAlias = "Callable[[Reactor, Frame], Action]"


@attrs.frozen(kw_only=True, eq=False)
class Revision:
    """Everything that distinguishes one framing revision from another.

    Handlers get the reactor, the request and a decoded frame.  They return an action, or raise a
    :class:`~hgwire_wsgi.errors.RemoteProtocolError`, which becomes the reactor's terminal ``Error``.  If the ID is
    unknown, a handler gets a request that is not registered yet; it calls ``reactor.register`` if the frame opens one.
    """

    name: str
    """For example ``exp-framing-0002``."""
    media_type: str
    frame_types: Mapping[str, int]
    """Numbers of the frame types by name."""
    flags: Mapping[int, Mapping[str, int]]
    """Flags by name, for each frame type."""

    server_state: str
    """State in which a server's reactor starts."""
    server_table: Mapping[tuple[str, int], ServerHandler]
    server_unexpected: Callable[[ServerReactor, Request, Frame], RemoteProtocolError]
    """The error for a frame that is not in the table."""

    client_state: str
    """State in which a client's reactor starts."""
    client_waiting: str
    """State in which a client's request starts."""
    client_table: Mapping[tuple[str, int], ClientHandler]
    client_unexpected: Callable[[ClientReactor, Request, Frame], RemoteProtocolError]

    stream_table: Mapping[int, StreamHandler]
    """Frame types that concern streams; they are handled in every state of their request."""

    encode_settings: Callable[[OutgoingStream, int], Frame]
    """Make the frame that announces the profile of a stream, now: ``(stream, request ID)``."""
    encode_command: Callable[
        [ClientReactor, OutgoingStream, Request, Mapping[bytes, Any], Data | None, bool], Iterator[Frame]
    ]
    """Frames of a command: ``(reactor, stream, request, arguments, data, end of stream)``.

    The request has the name of the command and its ``redirect``.
    """
    encode_response: Callable[[OutgoingStream, Request, Data | Objects, bool, bool], Iterator[Frame]]
    """Frames of a response: ``(stream, request, data, encode, end of stream)``.

    Data that need not be encoded go into frames without the flag ``encoded``.

    The last frame flushes the encoder of the stream, so the next response can go on with it.
    """
    encode_error: Callable[[OutgoingStream, Request, bytes, str, bool], Iterator[Frame]]
    """Frames that end a request in failure: ``(stream, request, message, kind, end of stream)``.

    They may follow some frames of :attr:`encode_response`; what the encoder still holds of those must be flushed first.
    """
    encode_text: Callable[[OutgoingStream, Request, Iterable[Atom]], Iterator[Frame]] | None = None
    """Frames with text for the user: ``(stream, request, atoms)``.  ``None`` if the revision has no such frames, or its
    clients break when they see one."""

    _type_names: Mapping[int, str] = attrs.field(init=False)

    @_type_names.default
    def _(self) -> Mapping[int, str]:
        return {number: name for name, number in self.frame_types.items()}

    def type_name(self, type_id: int) -> str:
        """The name of a frame type, or its number in digits."""
        return self._type_names.get(type_id, str(type_id))

    @property
    def has_text_output(self) -> bool:
        """True if a server can send text for the user in addition to its responses."""
        return self.encode_text is not None
