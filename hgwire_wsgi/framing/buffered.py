"""Commands with all of their data, as the reference reactor gives them."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import LimitExceeded, RemoteProtocolError, UnexpectedFrame
from .actions import WANT_FRAME, Action, CommandData, Error, RunCommand
from .frame import Frame
from .server import ServerReactor

__all__ = ["BufferedCommands"]


class BufferedCommands:
    """Collects the data of every command of a :class:`~.server.ServerReactor` before it hands the command out.

    It answers as the reference does in the recorded exchanges, which differs from the reactor in two respects.

    - One ``RunCommand`` holds all data.  Together with the arguments of the commands that wait for theirs, they are
      bounded, for all commands, by ``Limits.command_data``.
    - After the terminal error, :meth:`receive_frame` answers ``server already errored`` (or what is wrong about the
      stream of the frame), and :meth:`receive_eof` gives the responses that were deferred.

    Args:
        reactor: the reactor to feed; responses are sent through it directly.
    """

    def __init__(self, reactor: ServerReactor) -> None:
        self._reactor = reactor
        # Each with the size of its arguments.
        self._waiting: dict[int, tuple[RunCommand, bytearray, int]] = {}
        self._size = 0

    def receive_data(self, data: bytes | bytearray | memoryview) -> Iterator[Action]:
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
            size = sum(len(name) + len(value) for name, value in action.arguments.items())
            self._waiting[action.request_id] = action, bytearray(), size
            return self._hold(size) or WANT_FRAME
        if isinstance(action, CommandData):
            return self._add(action)
        if isinstance(action, Error):
            self._waiting.clear()
        return action

    def _add(self, part: CommandData) -> Action:
        command, collected, size = self._waiting[part.request_id]
        collected += part.data
        if error := self._hold(len(part.data)):
            return error
        if not part.final:
            return WANT_FRAME
        del self._waiting[part.request_id]
        self._size -= size + len(collected)
        command.data = bytes(collected)
        return command

    def _hold(self, size: int) -> Error | None:
        self._size += size
        most = self._reactor.limits.command_data
        if self._size <= most:
            return None
        self._waiting.clear()
        return self._reactor.fail(LimitExceeded(f"command data exceed {most} bytes"))

    def _after_failure(self, frame: Frame) -> Error:
        try:
            self._reactor.incoming.accept(frame)
        except RemoteProtocolError as error:
            return Error(error)
        return Error(UnexpectedFrame("server already errored"))
