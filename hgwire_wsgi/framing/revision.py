"""A framing revision as a value.

Revisions use the same numbers for different things (0x08 is stream settings in 0002, sender settings in 0006), so
nothing is shared but the header and the stream flags: each revision is one :class:`Revision` with its own types,
flags, tables and encoders, made of plain functions in a module of its own.

Two tables drive the reactors, ``(state, frame type) -> handler``.  A state is that of the frame's request, or that of
the reactor when the request ID is unknown.  A key that is missing *is* the "unexpected frame" error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from ..errors import RemoteProtocolError
from .actions import Action
from .frame import Frame
from .streams import OutgoingStream
from .textoutput import Atom

if TYPE_CHECKING:
    from .client import ClientReactor
    from .reactor import Reactor
    from .server import ServerReactor

__all__ = ["ClientHandler", "Data", "Request", "Revision", "ServerHandler", "StreamHandler"]

Data: TypeAlias = bytes | Iterable[bytes]
"""Bytes to send: at once, or as they are made."""


@attrs.define(eq=False)
class Request:
    """One request, from its first frame to the end of its response.

    The reactor keeps the flags about each half; all else belongs to the handlers of the revision.
    """

    request_id: int
    state: str
    """First part of the key into the table."""
    name: bytes = b""
    arguments: dict[bytes, Any] = attrs.Factory(dict)
    has_data: bool = False
    complete: bool = False
    """Nothing more is to come from the peer."""
    running: bool = False
    """Server: its command was handed to the owner of the reactor."""
    answered: bool = False
    """Server: its response was given to the reactor."""
    sent: bool = False
    """Its last frame of ours was taken."""
    held: int = 0
    """Bytes that count against ``Limits.command_argument_bytes``."""
    partial: Any = None
    """Whatever is incomplete."""


ServerHandler: TypeAlias = "Callable[[ServerReactor, Request, Frame], Action]"
ClientHandler: TypeAlias = "Callable[[ClientReactor, Request, Frame], Action]"
StreamHandler: TypeAlias = "Callable[[Reactor, Frame], Action]"


@attrs.frozen(kw_only=True, eq=False)
class Revision:
    """Everything that tells one framing revision from another.

    Handlers get the reactor, the request and a decoded frame.  They return an action, or raise a
    :class:`~hgwire_wsgi.errors.RemoteProtocolError`, which the reactor makes its terminal ``Error``.  A handler of
    the table is called with a request that is not registered yet when its ID is unknown; it registers it with
    ``reactor.register`` if that is what the frame does.
    """

    name: str
    """Such as ``exp-framing-0002``."""
    media_type: str
    frame_types: Mapping[str, int]
    """Number of every frame type."""
    flags: Mapping[int, Mapping[str, int]]
    """Flags by name, of every frame type."""

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
    """Frame types about streams, consumed whatever the state of their request."""

    encode_settings: Callable[[OutgoingStream, int], Frame]
    """The frame that announces the profile of a stream: ``(stream, request ID)``."""
    encode_command: Callable[
        [ClientReactor, OutgoingStream, int, bytes, Mapping[bytes, Any], Data | None, bool], Iterator[Frame]
    ]
    """Frames of a command: ``(reactor, stream, request ID, name, arguments, data, end of stream)``.

    Raises :class:`~hgwire_wsgi.errors.LocalProtocolError` at once for what the revision cannot express.
    """
    encode_response: Callable[[OutgoingStream, int, Data, bool], Iterator[Frame]]
    """Frames of a response: ``(stream, request ID, data, end of stream)``, each made when it is asked for."""
    encode_error: Callable[[OutgoingStream, int, bytes, str, bool], Frame]
    """The frame that ends a request in failure: ``(stream, request ID, message, kind, end of stream)``."""
    encode_text: Callable[[OutgoingStream, int, Iterable[Atom]], Iterator[Frame]]
    """Frames with text for a person: ``(stream, request ID, atoms)``.  Raises at once, as ``encode_command``."""

    _type_names: Mapping[int, str] = attrs.field(init=False)

    @_type_names.default
    def _(self) -> Mapping[int, str]:
        return {number: name for name, number in self.frame_types.items()}

    def type_name(self, type_id: int) -> str:
        """Name of a frame type, or its number in digits."""
        return self._type_names.get(type_id, str(type_id))
