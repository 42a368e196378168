"""The server's side of an exchange of frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from ..errors import BadRequestId, HgWireError, LimitExceeded, LocalProtocolError
from ..limits import Limits
from ..streams import close_source
from .actions import NOOP, WANT_FRAME, Action, CommandData, RunCommand, SendFrames, Signal
from .data import Data, Objects, as_bytes
from .frame import DEFAULT_LIMITS, Frame
from .reactor import Reactor
from .revision import Request, Revision
from .streams import OutgoingStream
from .textoutput import Atom

__all__ = ["ServerReactor"]


class ServerReactor(Reactor):
    """Receives commands and frames their responses.

    A command is returned as :class:`~.actions.RunCommand` once its arguments are complete.  Its data follow as
    :class:`~.actions.CommandData` while it runs.  The response may be sent before the data have ended; the rest of
    them is dropped then, and the request ID stays taken until they have.

    Args:
        revision: the framing revision.
        limits: bounds on what the client may do.
        defer_output: for transports where the client sends everything before it reads.  Responses wait, not yet
            made, until :meth:`receive_eof` or :meth:`send_failure` returns them in the order they were given here.
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
        """True while a command is incomplete."""
        return any(not request.complete for request in tuple(self.requests.values()))

    def receive_eof(self) -> Action:
        """Take the end of the input: the deferred responses, or ``NOOP``.

        Input that ends inside a frame or a command is the client's error; no input at all is not.

        Raises:
            LocalProtocolError: some actions of :meth:`receive_data` were not taken.
        """
        error = self._end_input("received end of input inside a command: request {}")
        return error or self.flush()

    # For the owner.

    def send_response(
        self,
        stream: OutgoingStream,
        request_id: int,
        data: Data | Objects,
        *,
        encode: bool = True,
        end_stream: bool = False,
    ) -> SendFrames | Signal:
        """Answer a command.

        Each frame is made when it is taken.  If the iterable raises an :class:`~hgwire_wsgi.errors.HgWireError`, the
        response ends with an error frame.  Any other exception, and a
        :class:`~hgwire_wsgi.errors.LocalProtocolError`, passes through to the caller that takes the frames; the
        response is cut short then.

        Args:
            stream: an even-numbered stream.
            request_id: a command that was returned and has no answer yet.
            data: bytes, or an iterable of bytes, which is closed after use; or :class:`.Objects` if the revision has
                them.
            encode: pass the data through the encoding of the stream, if it has one.
            end_stream: close the stream with the last frame, whichever that turns out to be.

        Returns:
            The frames to send, or ``NOOP`` if they are deferred.

        Raises:
            LocalProtocolError: an odd stream, a request that is not running or was answered, or data that the revision
                cannot send.  The request is not answered then, and ``data`` was not touched.  What an iterable yields
                is only checked while the frames are taken.
        """
        request = self._running_request(stream, request_id)
        response = self.revision.encode_response(stream, request, data, encode, end_stream)
        request.answered = True
        return self._send(stream, request, self._response_frames(stream, request, response, data, end_stream), data)

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
            request_id: a command that was returned and has no answer yet.
            message: text for the user who waits; cut to what fits in one frame.
            kind: ``application`` if the command failed, ``protocol`` if the request was wrong, ``server`` if the server
                has a fault.  A revision may know more, or show some of them alike.
            end_stream: close the stream with this frame.

        Returns:
            The frames to send, or ``NOOP`` if they are deferred.

        Raises:
            LocalProtocolError: an odd stream, a request that is not running or was answered, or a kind that the
                revision does not know.  The request is not answered then.
        """
        request = self._running_request(stream, request_id)
        error = self._encode_error(stream, request, message, kind, end_stream)
        request.answered = True
        return self._send(stream, request, error)

    def send_text(self, stream: OutgoingStream, request_id: int, atoms: Iterable[Atom]) -> SendFrames | Signal:
        """Send text for the user who waits for a running command.

        Raises:
            LocalProtocolError: as :meth:`send_error`, or the text breaks a rule of the format, or the revision has no
                text output (:attr:`.Revision.has_text_output`).
        """
        request = self._running_request(stream, request_id)
        encode = self.revision.encode_text
        if encode is None:
            raise LocalProtocolError(f"{self.revision.name} has no text output")
        return self._send(stream, request, encode(stream, request, atoms))

    def send_failure(self, stream: OutgoingStream, *, end_stream: bool = False) -> SendFrames | Signal:
        """Tell the client about the terminal error.

        An error frame belongs to a request, so each request that can no longer become complete gets one, and so does
        the request whose frame was wrong.  Commands that were complete before the error still run: answer them as
        usual, before or after this call; with ``defer_output``, before it.

        Args:
            stream: an even-numbered stream.
            end_stream: close the stream with the last of the error frames.

        Returns:
            What is left to send: the deferred responses, then the error frames.  ``NOOP`` if there is nothing, as
            when the input was no frame at all: only the transport can tell the client then.

        Raises:
            LocalProtocolError: an odd stream, or there is no terminal error.
        """
        if self._failure is None:
            raise LocalProtocolError("there is no terminal error to send")
        self._check_stream(stream, "server", "even")
        message, kind = self._failure.message, self._failure.error.wire_kind
        lost = self._lost_requests()
        for number, request in enumerate(lost, start=1):
            request.answered = request.complete = True
            error = self._encode_error(stream, request, message, kind, end_stream and number == len(lost))
            self._deferred.append(SendFrames(self._announced(stream, request.request_id, error)))
        return self.flush()

    def flush(self) -> SendFrames | Signal:
        """Return what was deferred so far, once; ``NOOP`` if nothing was."""
        deferred, self._deferred = self._deferred, []
        if not deferred:
            return NOOP
        return SendFrames(itertools.chain.from_iterable(action.frames for action in deferred), deferred)

    def close(self) -> None:
        """Drop the deferred responses and close what they would have come from."""
        deferred = self.flush()
        if isinstance(deferred, SendFrames):
            deferred.close()

    def _lost_requests(self) -> list[Request]:
        """The requests that only an error can answer, each once."""
        requests = tuple(self.requests.values())
        lost = [each for each in requests if not (each.answered or (each.running and each.complete))]
        culprit, self._culprit = self._culprit, None
        if culprit is not None and culprit not in self.requests:
            lost.append(Request(culprit, self.state))
        return lost

    def _running_request(self, stream: OutgoingStream, request_id: int) -> Request:
        self._check_stream(stream, "server", "even")
        request = self.requests.get(request_id)
        if request is None or not request.running:
            raise LocalProtocolError(f"no command of request {request_id} is running")
        if request.answered:
            raise LocalProtocolError(f"request {request_id} has been answered")
        return request

    def _send(
        self, stream: OutgoingStream, request: Request, frames: Iterator[Frame], source: object = None
    ) -> SendFrames | Signal:
        action = SendFrames(self._announced(stream, request.request_id, frames), (source,))
        if not self._defer or self._ended:
            return action
        self._deferred.append(action)
        return NOOP

    def _response_frames(
        self, stream: OutgoingStream, request: Request, response: Iterator[Frame], source: object, end_stream: bool
    ) -> Iterator[Frame]:
        try:
            yield from response
        except LocalProtocolError:
            # A bug of the owner's; its text is not for the peer.
            raise
        except HgWireError as error:
            yield from self._encode_error(stream, request, error.message, error.wire_kind, end_stream)
        else:
            self.finish_sending(request)
        finally:
            close_source(source)

    def _encode_error(
        self, stream: OutgoingStream, request: Request, message: str | bytes, kind: str, end_stream: bool
    ) -> Iterator[Frame]:
        text = message.encode("utf-8", "replace") if isinstance(message, str) else as_bytes(message, "an error message")
        return self._last_frames(request, self.revision.encode_error(stream, request, text, kind, end_stream))

    def _last_frames(self, request: Request, frames: Iterator[Frame]) -> Iterator[Frame]:
        yield from frames
        self.finish_sending(request)

    def size_of(self, command: RunCommand) -> int:
        """How many bytes the arguments of a command take that was just returned.

        Values that are no bytes are measured by the frames they came in.
        """
        strings = (string for item in command.arguments.items() for string in item if isinstance(string, bytes))
        return max(sum(map(len, strings)), self.requests[command.request_id].held)

    # For the handlers of a revision.

    def _unknown_request(self, request_id: int) -> Request:
        # > Odd numbered requests are client-initiated.
        if not request_id & 1:
            raise BadRequestId(f"received frame with even numbered request ID: {request_id}")
        return Request(request_id, self.state)

    def register(self, request: Request, name: bytes) -> None:
        """Open a request for a command.

        Raises:
            LimitExceeded: too many open requests, or the name is too long.
        """
        if len(self.requests) >= self.limits.open_requests:
            raise LimitExceeded(f"more than {self.limits.open_requests} requests are open")
        if len(name) > self.limits.command_name:
            raise LimitExceeded(f"command name is longer than {self.limits.command_name} bytes")
        request.name = name
        self.requests[request.request_id] = request

    def hold(self, request: Request, size: int) -> None:
        """Count ``size`` bytes of arguments that are kept until the command runs.

        Raises:
            LimitExceeded: the commands being received keep too many.
        """
        request.held += size
        self._held += size
        if self._held > self.limits.command_argument_bytes:
            raise LimitExceeded(f"command arguments exceed {self.limits.command_argument_bytes} bytes")

    def run(self, request: Request, data_state: str, complete_state: str) -> RunCommand:
        """Return a command whose arguments are complete.

        Args:
            request: its request.
            data_state: the request's next state if data follow.
            complete_state: its next state if none do.
        """
        self._held -= request.held
        request.complete = not request.has_data
        request.state = data_state if request.has_data else complete_state
        request.running = True
        # The owner has them from here on, so a request that waits for its answer keeps nothing.
        arguments, request.arguments = request.arguments, {}
        return RunCommand(request.request_id, request.name, arguments, request.has_data, None, request.redirect)

    def pass_data(self, request: Request, data: bytes, final: bool) -> CommandData | Signal:
        """Return data of a running command, unless it was answered and needs none."""
        return WANT_FRAME if request.answered else CommandData(request.request_id, data, final)
