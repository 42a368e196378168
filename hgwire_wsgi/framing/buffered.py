"""Commands together with all of their data, as the reference reactor returns them.

The wrapped reactor returns a command as soon as its arguments are complete.  This wrapper holds it back until the last
of its data is there.  Until then the command counts as not running, so the reactor refuses a response to it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import LimitExceeded, RemoteProtocolError, UnexpectedFrame
from .actions import WANT_FRAME, Action, CommandData, Error, RunCommand
from .data import BytesLike
from .frame import Frame
from .server import ServerReactor

__all__ = ["BufferedCommands"]


class BufferedCommands:
    """Collects the data of each command of a :class:`~.server.ServerReactor` before it returns the command.

    It behaves like the reference in the recorded exchanges, which differs from the reactor in two ways:

    - A ``RunCommand`` holds all of its data.  ``Limits.command_data`` bounds what is held for all commands together:
      their data, and the arguments of those that wait for data.
    - After the terminal error, :meth:`receive_frame` answers ``server already errored`` (or what is wrong with the
      stream of the frame), and :meth:`receive_eof` returns the deferred responses.

    Args:
        reactor: the reactor to feed.  Send responses through it directly.
    """

    def __init__(self, reactor: ServerReactor) -> None:
        self._reactor = reactor
        # Each with its data so far, and the size of its arguments.
        self._waiting: dict[int, tuple[RunCommand, bytearray, int]] = {}
        self._size = 0

    def receive_data(self, data: BytesLike) -> Iterator[Action]:
        """As :meth:`.ServerReactor.receive_data`."""
        return map(self._collect, self._reactor.receive_data(data))

    def receive_frame(self, frame: Frame) -> Action:
        """As :meth:`.ServerReactor.receive_frame`."""
        if self._reactor.failure is not None:
            return self._after_failure(frame)
        return self._collect(self._reactor.receive_frame(frame))

    def receive_eof(self) -> Action:
        """As :meth:`.ServerReactor.receive_eof`."""
        if self._reactor.failure is not None:
            return self._reactor.flush()
        return self._collect(self._reactor.receive_eof())

    def _collect(self, action: Action) -> Action:
        if isinstance(action, RunCommand) and action.has_data:
            return self._hold_back(action)
        if isinstance(action, CommandData):
            return self._add(action)
        if isinstance(action, Error):
            self._waiting.clear()
        return action

    def _hold_back(self, command: RunCommand) -> Action:
        request = self._reactor.requests[command.request_id]
        request.running = False
        size = self._reactor.size_of(command)
        self._waiting[command.request_id] = command, bytearray(), size
        return self._hold(size) or WANT_FRAME

    def _add(self, part: CommandData) -> Action:
        command, collected, size = self._waiting[part.request_id]
        collected += part.data
        if error := self._hold(len(part.data)):
            return error
        if not part.final:
            return WANT_FRAME
        del self._waiting[part.request_id]
        self._size -= size + len(collected)
        self._reactor.requests[part.request_id].running = True
        command.data = bytes(collected)
        return command

    def _hold(self, size: int) -> Error | None:
        self._size += size
        limit = self._reactor.limits.command_data
        if self._size <= limit:
            return None
        self._waiting.clear()
        return self._reactor.fail(LimitExceeded(f"command data exceed {limit} bytes"))

    def _after_failure(self, frame: Frame) -> Error:
        try:
            self._reactor.incoming.accept(frame)
        except RemoteProtocolError as error:
            return Error(error)
        return Error(UnexpectedFrame("server already errored"))
