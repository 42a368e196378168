"""What the two reactors share: the receiving side, revision-neutral.

A reactor is a state machine without I/O.  Its owner feeds frames or bytes and does what the actions say.

Contract:

- A peer can never make it raise.  What the peer does wrong becomes one terminal :class:`~.actions.Error`, and every
  later event is answered with that same object.  What was received before the error stays valid.
- Whatever the owner does wrong is a :class:`~hgwire_wsgi.errors.LocalProtocolError`.
- One exchange, one owner: no locks.  Only the iterators in ``SendFrames`` may be used from another thread, one
  thread per outgoing stream.
- Nothing that the peer sends is kept beyond a bound of :class:`~hgwire_wsgi.limits.Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError, TruncatedFrame
from ..limits import Limits
from .actions import Action, Error
from .frame import Frame, FrameBuffer, too_large
from .revision import Request, Revision
from .streams import IncomingStreams, OutgoingStream

__all__ = ["Reactor"]

# The table of a revision is typed for one of the two reactors; here either will do.
_Handler: TypeAlias = Callable[[Any, Request, Frame], Action]
_Unexpected: TypeAlias = Callable[[Any, Request, Frame], RemoteProtocolError]


class Reactor:
    """The half of a reactor that receives.  Not for use by itself.

    Attributes:
        revision: what the frames mean.
        limits: bounds on what the peer may do.
        state: first part of the key into the table, for frames of unknown requests.  Handlers may change it.
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
        self._ended = False

    @property
    def failure(self) -> Error | None:
        """The terminal error, once there is one."""
        return self._failure

    def receive_data(self, data: bytes | bytearray | memoryview) -> Iterator[Action]:
        """Take bytes; gives an action for every frame they complete.

        The actions come lazily: a frame is parsed when its action is asked for, so the owner can run a command before
        it looks at the next frame.  Those not taken stay for the next call.

        Raises:
            LocalProtocolError: after :meth:`receive_eof`.
        """
        if self._failure is not None:
            return iter((self._failure,))
        if self._ended:
            raise LocalProtocolError("received input after its end")
        self._buffer.feed(data)
        return self._drain()

    def _drain(self) -> Iterator[Action]:
        while self._failure is None:
            try:
                frame = self._buffer.next_frame()
            except RemoteProtocolError as error:
                yield self.fail(error)
                return
            if frame is None:
                return
            yield self._handle(frame)

    def receive_frame(self, frame: Frame) -> Action:
        """Take one frame.

        Raises:
            LocalProtocolError: after :meth:`receive_eof`.
        """
        if self._failure is not None:
            return self._failure
        if self._ended:
            raise LocalProtocolError("received input after its end")
        if len(frame.payload) > self.limits.frame_payload:
            return self.fail(too_large(len(frame.payload), self.limits.frame_payload))
        return self._handle(frame)

    def _handle(self, frame: Frame) -> Action:
        try:
            # Nothing about streams concerns a frame without stream flags on an open stream, that is most of them.
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
            return self.fail(error)

    def _end_input(self, unfinished: str) -> Error | None:
        if self._failure is not None:
            return self._failure
        try:
            self._buffer.end()
            # A copy, for frames that are taken in other threads end requests meanwhile.
            for request in tuple(self.requests.values()):
                if not request.complete:
                    raise TruncatedFrame(unfinished.format(request.request_id))
        except RemoteProtocolError as error:
            return self.fail(error)
        self._ended = True
        return None

    def _unknown_request(self, request_id: int) -> Request:
        return Request(request_id, self.state)

    def fail(self, error: RemoteProtocolError) -> Error:
        """Enter the terminal state, as if the peer had caused ``error``.  The first error stays."""
        if self._failure is None:
            self._failure = Error(error)
        return self._failure

    # For the senders.

    def _check_stream(self, stream: OutgoingStream, owner: str, number: str) -> None:
        if stream.stream_id & 1 != self._own_parity:
            raise LocalProtocolError(
                f"{owner} should only write to {number} numbered streams; {stream.stream_id} is not {number}"
            )

    def _announced(self, stream: OutgoingStream, request_id: int, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The frames, behind the settings of their stream if those are due."""
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
        """Note that the peer has nothing more to send for a request, which goes into ``state``."""
        request.complete = True
        request.state = state
        if request.sent:
            self.requests.pop(request.request_id, None)
