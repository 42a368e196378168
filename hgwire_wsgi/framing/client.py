"""The client's side of an exchange of frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import LocalProtocolError
from ..limits import Limits
from ..streams import close_source
from .actions import NOOP, Action, SendFrames
from .data import Data, as_bytes
from .frame import DEFAULT_LIMITS, Frame
from .reactor import Reactor
from .revision import Request, Revision
from .streams import OutgoingStream

__all__ = ["ClientReactor"]

_REQUEST_IDS = 1 << 15


class ClientReactor(Reactor):
    """Frames commands and receives their responses.

    Each received frame returns a :class:`~.actions.ResponseData`, :class:`~.actions.ResponseError` or
    :class:`~.actions.TextOutput` of its request, or ``WANT_FRAME``.

    Args:
        revision: the framing revision.
        limits: bounds on what the server may do.
    """

    def __init__(self, revision: Revision, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(
            revision,
            limits,
            state=revision.client_state,
            table=revision.client_table,
            unexpected=revision.client_unexpected,
            own_parity=1,
        )
        self._next_id = 1

    def send_command(
        self,
        stream: OutgoingStream,
        name: bytes,
        arguments: Mapping[bytes, Any] | None = None,
        data: Data | None = None,
        *,
        redirect: Any = None,
        end_stream: bool = False,
    ) -> tuple[int, SendFrames]:
        """Send a command.

        Args:
            stream: an odd-numbered stream.
            name: the command.
            arguments: its arguments.  Values are bytes, or what the types of the revision are.
            data: what follows the arguments: bytes, an iterable of bytes, or ``None`` for a command without data.  An
                iterable is closed after use.
            redirect: which redirects to follow, in a revision that has them.
            end_stream: close the stream with the last frame.

        Returns:
            The ID of the request, and the frames, each made when it is taken.  The ID becomes free once all frames
            were taken and the response has ended.

        Raises:
            LocalProtocolError: an even stream, no free request ID, or something the revision cannot express.  Nothing
                was sent, and ``data`` was not touched.  What an iterable yields is only checked while the frames are
                taken.
        """
        self._check_stream(stream, "client", "odd")
        name = as_bytes(name, "the name of a command")
        request = Request(self._free_id(), self.revision.client_waiting, name=name, redirect=redirect)
        command = self.revision.encode_command(self, stream, request, arguments or {}, data, end_stream)
        self.requests[request.request_id] = request
        frames = self._announced(stream, request.request_id, self._command_frames(request, command, data))
        return request.request_id, SendFrames(frames, (data,))

    def _command_frames(self, request: Request, command: Iterator[Frame], data: Data | None) -> Iterator[Frame]:
        try:
            yield from command
        finally:
            close_source(data)
        self.finish_sending(request)

    def _free_id(self) -> int:
        # > It is RECOMMENDED to start ordering request identifiers at 1 ..., increment by 2, and wrap around.
        for _ in range(_REQUEST_IDS):
            request_id, self._next_id = self._next_id, (self._next_id + 2) % (2 * _REQUEST_IDS)
            if request_id not in self.requests:
                return request_id
        raise LocalProtocolError("no request ID is free")

    def receive_eof(self) -> Action:
        """Take the end of the input: ``NOOP``, or an error if a response is missing or incomplete.

        Raises:
            LocalProtocolError: some actions of :meth:`receive_data` were not taken.
        """
        error = self._end_input("received end of input before the end of the response: request {}")
        return error or NOOP
