"""The common part of the two reactors: the receiving half, the same for all revisions.

A reactor is a state machine without I/O.  Its owner feeds it frames or bytes, and does what the actions say.

Contract:

- A peer can never make a reactor raise.  A protocol error by the peer becomes one terminal :class:`~.actions.Error`,
  and every later event is answered with that same object.  What was received before it stays valid: commands can still
  be answered, and deferred responses still be sent.
- A mistake of the owner raises :class:`~hgwire_wsgi.errors.LocalProtocolError` from the call at fault, which then has
  no effect.  The one exception is a wrong item from an iterable of data: the error is raised when the frames are taken.
- One exchange has one owner: there are no locks.  Only the iterators in ``SendFrames`` may be used in other threads,
  with one thread per outgoing stream, because each frame is encoded after the one before it.
- Data from the peer are stored only within the limits of :class:`~hgwire_wsgi.limits.Limits`.

The way of a frame: stream rules and decoding (:mod:`.streams`), the request of its ID, then the handler that the
revision's table has for the request's state and the frame's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError, TruncatedFrame
from ..limits import Limits
from .actions import Action, Error
from .data import BytesLike
from .frame import Frame, FrameBuffer, too_large
from .revision import Request, Revision
from .streams import IncomingStreams, OutgoingStream

__all__ = ["Reactor"]

# The table of a revision is typed for one of the two reactors; here either will do.
_Handler: TypeAlias = Callable[[Any, Request, Frame], Action]
_Unexpected: TypeAlias = Callable[[Any, Request, Frame], RemoteProtocolError]


class Reactor:
    """The receiving half of a reactor; use one of its two subclasses.

    Attributes:
        revision: what the frames mean.
        limits: bounds on what the peer may do.
        state: first part of the key into the table for frames of unknown requests.  Handlers may change it.
        scratch: whatever else the handlers and encoders of the revision remember about this exchange.
        requests: the open requests by ID.
        incoming: the open streams of the peer.
    """

    def __init__(
        self,
        revision: Revision,
        limits: Limits,
        *,
        state: str,
        table: Mapping[tuple[str, int], _Handler],
        unexpected: _Unexpected,
        own_parity: int,
    ) -> None:
        self.revision = revision
        self.limits = limits
        self.state = state
        self.scratch: dict[str, Any] = {}
        self.requests: dict[int, Request] = {}
        self.incoming = IncomingStreams(1 - own_parity, limits)
        self._open_streams = self.incoming.open
        self._own_parity = own_parity
        self._table = table
        self._unexpected = unexpected
        self._buffer = FrameBuffer(limits)
        self._failure: Error | None = None
        # The request ID of the frame that was wrong.
        self._culprit: int | None = None
        self._ended = False

    @property
    def failure(self) -> Error | None:
        """The terminal error, once there is one."""
        return self._failure

    def receive_data(self, data: BytesLike) -> Iterator[Action]:
        """Take bytes; returns an action for every frame they complete.

        The iterator is lazy: a frame is parsed when its action is taken, so the owner can run a command before it
        looks at the next frame.  Actions that are not taken are kept for the next call.

        Raises:
            LocalProtocolError: ``data`` is not bytes, or this is called after :meth:`receive_eof`.
        """
        if self._failure is not None:
            return iter((self._failure,))
        self._check_open()
        self._buffer.feed(data)
        return self._drain()

    def _drain(self) -> Iterator[Action]:
        while self._failure is None:
            try:
                frame = self._buffer.next_frame()
            except RemoteProtocolError as error:
                header = self._buffer.refused
                yield self.fail(error, None if header is None else header.request_id)
                return
            if frame is None:
                return
            yield self._handle(frame)

    def receive_frame(self, frame: Frame) -> Action:
        """Take one frame.

        Raises:
            LocalProtocolError: ``frame`` is something else, or this is called after :meth:`receive_eof`.
        """
        if self._failure is not None:
            return self._failure
        self._check_open()
        if not isinstance(frame, Frame) or not isinstance(frame.payload, bytes):
            raise LocalProtocolError("input must be a frame with a payload of bytes")
        if len(frame.payload) > self.limits.frame_payload:
            return self.fail(too_large(len(frame.payload), self.limits.frame_payload), frame.request_id)
        return self._handle(frame)

    def _check_open(self) -> None:
        if self._ended:
            raise LocalProtocolError("received input after its end")

    def _handle(self, frame: Frame) -> Action:
        try:
            # The stream rules only concern frames that have stream flags or belong to an unknown stream: few of them.
            if frame.stream_flags or frame.stream_id not in self._open_streams:
                frame = self.incoming.accept(frame)
            request = self.requests.get(frame.request_id)
            if request is None:
                request = self._unknown_request(frame.request_id)
            handler = self._table.get((request.state, frame.type_id))
            if handler is not None:
                return handler(self, request, frame)
            handle_stream = self.revision.stream_table.get(frame.type_id)
            if handle_stream is not None:
                return handle_stream(self, frame)
            raise self._unexpected(self, request, frame)
        except RemoteProtocolError as error:
            return self.fail(error, frame.request_id)

    def _end_input(self, unfinished: str) -> Error | None:
        if self._failure is not None:
            return self._failure
        try:
            self._buffer.end()
            # A copy, because frames that are taken in other threads end requests meanwhile.
            for request in tuple(self.requests.values()):
                if not request.complete:
                    raise TruncatedFrame(unfinished.format(request.request_id))
        except RemoteProtocolError as error:
            return self.fail(error)
        self._ended = True
        return None

    def _unknown_request(self, request_id: int) -> Request:
        return Request(request_id, self.state)

    def fail(self, error: RemoteProtocolError, request_id: int | None = None) -> Error:
        """Enter the terminal state, as if the peer had caused ``error``.  The first error stays.

        Args:
            error: what is wrong.
            request_id: the request it was found in, if it was found in one.
        """
        if self._failure is None:
            self._failure = Error(error)
            self._culprit = request_id
        return self._failure

    # For sending.

    def _check_stream(self, stream: OutgoingStream, owner: str, number: str) -> None:
        if stream.stream_id & 1 != self._own_parity:
            raise LocalProtocolError(
                f"{owner} should only write to {number} numbered streams; {stream.stream_id} is not {number}"
            )

    def _announced(self, stream: OutgoingStream, request_id: int, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The frames, after the settings of their stream if those are due."""
        if stream.must_announce:
            yield self.revision.encode_settings(stream, request_id)
        yield from frames

    def finish_sending(self, request: Request) -> None:
        """Note that the last of our frames of a request was taken."""
        request.sent = True
        if request.complete:
            self.requests.pop(request.request_id, None)

    # For the handlers of a revision.

    def finish_receiving(self, request: Request, state: str) -> None:
        """Note that the peer has nothing more to send for a request, which enters ``state``."""
        request.complete = True
        request.state = state
        if request.sent:
            self.requests.pop(request.request_id, None)
