"""The frames of a request, read as they are wanted, and the data of its commands."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

from ...errors import BodyTooLarge, BodyTruncated, HgWireError, LimitExceeded
from ...framing import Action, CommandData, Error, Revision, RunCommand, ServerReactor
from ...limits import Limits
from ...streams import Readable
from .api import PlainRefusal

__all__ = ["CommandBody", "FrameInput", "Spool"]

_READ_SIZE = 64 * 1024

MULTIPLE_COMMANDS = "multiple commands cannot be issued to this URL"


class FrameInput:
    """The actions that a request body makes of a reactor.

    The body is read when an action is asked for, so whoever runs a command meanwhile holds no more than one read.
    An error is final: it is raised again whenever more is asked for, so nobody takes it for the end.

    Args:
        body: the request body.
        revision: of the frames.
        limits: bounds.
    """

    def __init__(self, body: Readable, revision: Revision, limits: Limits) -> None:
        self.reactor = ServerReactor(revision, limits)
        self._body = body
        self._actions: Iterator[Action] = iter(())
        self._at_end = False
        self._failure: HgWireError | None = None

    def next(self) -> RunCommand | CommandData | None:
        """The next command or piece of data; ``None`` after the last.

        Raises:
            RemoteProtocolError: the frames are wrong, or end inside a command.
            RequestError: the body cannot be read.
            PlainRefusal: by :meth:`fail`.
        """
        if self._failure is not None:
            raise self._failure
        while not self._at_end:
            for action in self._actions:
                if isinstance(action, Error):
                    raise self.fail(action.error)
                if isinstance(action, RunCommand | CommandData):
                    return action
            self._read()
        return None

    def _read(self) -> None:
        try:
            data = self._body.read(_READ_SIZE)
        except HgWireError as error:
            raise self.fail(error) from None
        if data:
            self._actions = self.reactor.receive_data(data)
            return
        end = self.reactor.receive_eof()
        if isinstance(end, Error):
            raise self.fail(end.error)
        self._at_end = True

    def fail(self, error: HgWireError) -> HgWireError:
        """Make ``error`` the end of this input, and return it to be raised."""
        self._failure = error
        return error

    def data(self) -> CommandData | None:
        """The next piece of data where no other command may come.

        Raises:
            PlainRefusal: one does.
            HgWireError: as :meth:`next`.
        """
        action = self.next()
        if isinstance(action, RunCommand):
            raise self.fail(PlainRefusal(200, MULTIPLE_COMMANDS))
        return action

    def finish(self, limit: int) -> None:
        """Read and drop up to ``limit`` bytes of data.

        Raises:
            HgWireError: as :meth:`data`; it replaces the answer.
        """
        dropped = False
        while (action := self.data()) is not None:
            dropped = True
            limit -= len(action.data)
            if limit < 0:
                break
        if dropped:
            # A response that is made while it is sent must not take this for the end of its data.
            self.fail(BodyTruncated("the rest of the request body was dropped"))


class CommandBody:
    """The data of the only command of a request, pulled through the reactor as the command reads.

    Its end is told only when the whole request has been read and was right, so that a command that reads to the end
    changes nothing on behalf of a request that is cut short, or goes on with something else.
    """

    def __init__(self, frames: FrameInput) -> None:
        self._frames = frames
        self._piece = b""
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; none at the end.

        Raises:
            HgWireError: as :meth:`FrameInput.data`.
        """
        while self._offset == len(self._piece):
            action = self._frames.data()
            if action is None:
                return b""
            self._piece, self._offset = action.data, 0
        start = self._offset
        self._offset = min(start + max(size, 0), len(self._piece))
        return self._piece[start : self._offset]


class Spool:
    """The data of the commands of a ``multirequest``, kept until all of it was read.

    Frames of several commands may come in any order, and nothing may run before the last was seen.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._files: dict[int, IO[bytes]] = {}
        self._left = limits.spool

    def open(self, request_id: int) -> IO[bytes]:
        """Keep the data of a request from now on.

        Raises:
            LimitExceeded: too many requests have data.
        """
        if len(self._files) >= self._limits.spooled_commands:
            raise LimitExceeded(f"more than {self._limits.spooled_commands} commands of one request bring data")
        # Closed with the response.
        file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=self._limits.spool_memory)
        self._files[request_id] = file
        return file

    def write(self, request_id: int, data: bytes) -> None:
        """Keep data of a request that was opened; those of others are dropped.

        Raises:
            BodyTooLarge: the data of all requests exceed their bound.
        """
        file = self._files.get(request_id)
        if file is None:
            return
        self._left -= len(data)
        if self._left < 0:
            raise BodyTooLarge(f"command data of one request exceed {self._limits.spool} bytes")
        file.write(data)

    def rewind(self) -> None:
        """Let everything be read from its beginning."""
        for file in self._files.values():
            file.seek(0)

    def close(self) -> None:
        """Drop everything."""
        for file in self._files.values():
            file.close()
