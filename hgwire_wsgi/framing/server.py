"""The server's side of an exchange of frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from ..errors import BadRequestId, HgWireError, LimitExceeded, LocalProtocolError
from ..limits import Limits
from ..streams import close_source
from .actions import NOOP, WANT_FRAME, Action, CommandData, RunCommand, SendFrames, Signal
from .frame import DEFAULT_LIMITS, Frame
from .reactor import Reactor
from .revision import Data, Request, Revision
from .streams import OutgoingStream
from .textoutput import Atom

__all__ = ["ServerReactor"]


class ServerReactor(Reactor):
    """Receives commands and frames their responses.

    A command is handed out as :class:`~.actions.RunCommand` once its arguments are complete; its data follow as
    :class:`~.actions.CommandData` while it runs.  Its response may be given before they have ended: the rest of them
    is then dropped, and the request ID stays taken until they have.

    Args:
        revision: the framing revision.
        limits: bounds on what the client may do.
        defer_output: for transports where the client sends everything before it reads: responses wait, unmade, until
            :meth:`receive_eof`, which gives them in the order they were given here.
    """

    def __init__(self, revision: Revision, limits: Limits = DEFAULT_LIMITS, *, defer_output: bool = False) -> None:
        super().__init__(
            revision,
            limits,
            state=revision.server_state,
            table=revision.server_table,
            unexpected=revision.server_unexpected,
            own_parity=0,
        )
        self._defer = defer_output
        self._deferred: list[SendFrames] = []
        self._held = 0

    @property
    def receiving(self) -> bool:
        """Whether a command is incomplete."""
        return any(not request.complete for request in tuple(self.requests.values()))

    def receive_eof(self) -> Action:
        """Take the end of the input: the deferred responses, or ``NOOP``.

        Input that ends inside a frame or a command is the client's error.  No input at all is none.

        Raises:
            LocalProtocolError: some actions of :meth:`receive_data` were not taken.
        """
        error = self._end_input("received end of input inside a command: request {}")
        return error or self.flush()

    # The owner's side.

    def send_response(
        self, stream: OutgoingStream, request_id: int, data: Data, *, end_stream: bool = False
    ) -> SendFrames | Signal:
        """Answer a command.

        The frames are made while they are taken, one at a time.  An :class:`~hgwire_wsgi.errors.HgWireError` out of
        the iterable ends the response with an error frame; any other exception passes through to whoever takes the
        frames, with the response cut short.

        Args:
            stream: an even-numbered stream.
            request_id: a command that was handed out.
            data: bytes, or an iterable of bytes, which is closed after use.
            end_stream: close the stream with the last frame.

        Returns:
            The frames to send, or ``NOOP`` if they are deferred.

        Raises:
            LocalProtocolError: an odd stream, or a request that does not run or has been answered.
        """
        request = self._answer(stream, request_id)
        return self._send(stream, request_id, self._response_frames(stream, request, data, end_stream), data)

    def send_error(
        self,
        stream: OutgoingStream,
        request_id: int,
        message: str | bytes,
        *,
        kind: str = "application",
        end_stream: bool = False,
    ) -> SendFrames | Signal:
        """Answer a command with a failure.

        Args:
            stream: an even-numbered stream.
            request_id: a command that was handed out.
            message: text for the person who waits; cut to what fits one frame.
            kind: ``application`` if the command failed, ``protocol`` if the request was at fault.  One that the
                revision does not know is a :class:`~hgwire_wsgi.errors.LocalProtocolError` when the frame is taken.
            end_stream: close the stream with this frame.

        Returns, Raises:
            As :meth:`send_response`.
        """
        request = self._answer(stream, request_id)
        return self._send(stream, request_id, self._error_frames(stream, request, message, kind, end_stream))

    def send_text(self, stream: OutgoingStream, request_id: int, atoms: Iterable[Atom]) -> SendFrames | Signal:
        """Send text for the person who waits for a command that runs.

        Raises:
            LocalProtocolError: as :meth:`send_response`, or the text breaks a bound of the format.
        """
        self._running_request(stream, request_id)
        return self._send(stream, request_id, self.revision.encode_text(stream, request_id, atoms))

    def flush(self) -> SendFrames | Signal:
        """What was deferred so far, once; ``NOOP`` if nothing was."""
        deferred, self._deferred = self._deferred, []
        if not deferred:
            return NOOP
        return SendFrames(itertools.chain.from_iterable(action.frames for action in deferred), deferred)

    def close(self) -> None:
        """Drop the deferred responses and close what they would have come from."""
        deferred = self.flush()
        if isinstance(deferred, SendFrames):
            deferred.close()

    def _running_request(self, stream: OutgoingStream, request_id: int) -> Request:
        self._check_stream(stream, "server", "even")
        request = self.requests.get(request_id)
        if request is None or not request.running:
            raise LocalProtocolError(f"no command of request {request_id} is running")
        if request.answered:
            raise LocalProtocolError(f"request {request_id} has been answered")
        return request

    def _answer(self, stream: OutgoingStream, request_id: int) -> Request:
        request = self._running_request(stream, request_id)
        request.answered = True
        return request

    def _send(
        self, stream: OutgoingStream, request_id: int, frames: Iterator[Frame], source: object = None
    ) -> SendFrames | Signal:
        action = SendFrames(self._announced(stream, request_id, frames), (source,))
        if not self._defer or self._ended:
            return action
        self._deferred.append(action)
        return NOOP

    def _response_frames(
        self, stream: OutgoingStream, request: Request, data: Data, end_stream: bool
    ) -> Iterator[Frame]:
        try:
            yield from self.revision.encode_response(stream, request.request_id, data, end_stream)
        except LocalProtocolError:
            # A bug of the owner's; its text is not for the peer.
            raise
        except HgWireError as error:
            yield from self._error_frames(stream, request, error.message, error.wire_kind, end_stream)
        else:
            self.finish_sending(request)
        finally:
            close_source(data)

    def _error_frames(
        self, stream: OutgoingStream, request: Request, message: str | bytes, kind: str, end_stream: bool
    ) -> Iterator[Frame]:
        text = message.encode("utf-8", "replace") if isinstance(message, str) else message
        yield self.revision.encode_error(stream, request.request_id, text, kind, end_stream)
        self.finish_sending(request)

    # For the handlers of a revision.

    def _unknown_request(self, request_id: int) -> Request:
        # > Odd numbered requests are client-initiated.
        if not request_id & 1:
            raise BadRequestId(f"received frame with even numbered request ID: {request_id}")
        return Request(request_id, self.state)

    def register(self, request: Request, name: bytes) -> None:
        """Open a request for a command."""
        if len(self.requests) >= self.limits.open_requests:
            raise LimitExceeded(f"more than {self.limits.open_requests} requests are open")
        if len(name) > self.limits.command_name:
            raise LimitExceeded(f"command name is longer than {self.limits.command_name} bytes")
        request.name = name
        self.requests[request.request_id] = request

    def hold(self, request: Request, size: int) -> None:
        """Count bytes of arguments that are kept until the command runs."""
        request.held += size
        self._held += size
        if self._held > self.limits.command_argument_bytes:
            raise LimitExceeded(f"command arguments exceed {self.limits.command_argument_bytes} bytes")

    def run(self, request: Request, data_state: str, complete_state: str) -> RunCommand:
        """Hand out a command whose arguments are complete; its state says whether data are to follow."""
        self._held -= request.held
        request.complete = not request.has_data
        request.state = data_state if request.has_data else complete_state
        request.running = True
        # From here on they are its owner's, so that a request which waits for its answer keeps nothing.
        arguments, request.arguments = request.arguments, {}
        return RunCommand(request.request_id, request.name, arguments, request.has_data)

    def pass_data(self, request: Request, data: bytes, final: bool) -> CommandData | Signal:
        """Hand out data of a running command, unless it has been answered and needs them no more."""
        return WANT_FRAME if request.answered else CommandData(request.request_id, data, final)
