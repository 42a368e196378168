"""The frames of a request, read on demand, and the data of its commands."""

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
    """The actions of a reactor that receives a request body.

    The body is read on demand, 64 KiB at a time, so memory use is constant.  An error is final: every later call raises
    it again, so that no command mistakes it for the end of its data.

    Args:
        body: the request body.
        revision: the framing revision.
        limits: bounds on what the client may send.
    """

    def __init__(self, body: Readable, revision: Revision, limits: Limits) -> None:
        self.reactor = ServerReactor(revision, limits)
        self._body = body
        self._actions: Iterator[Action] = iter(())
        self._at_end = False
        self._failure: HgWireError | None = None

    def next(self) -> RunCommand | CommandData | None:
        """Return the next command or chunk of data; ``None`` after the last.

        Raises:
            RemoteProtocolError: the frames are invalid, or end inside a command.
            RequestError: the body cannot be read.
            HgWireError: the error that :meth:`fail` was called with.
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
        """Return the next chunk of data; ``None`` after the last.

        Raises:
            PlainRefusal: another command begins.
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
            # A command that reads while its response is sent must not mistake this for the end of its data.
            self.fail(BodyTruncated("the rest of the request body was dropped"))


class CommandBody:
    """The data of the only command of a request, read through the reactor as the command reads.

    The end is returned only after the whole request has been read and found valid.  So a command that reads to the end
    first has no effect if the request is truncated or continues with another command.

    Args:
        frames: the request, starting at the command.
    """

    def __init__(self, frames: FrameInput) -> None:
        self._frames = frames
        self._piece = b""
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; an empty string is the end.

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
    """The data of the commands of a ``multirequest``, stored until the whole request has been read.

    Frames of several commands may come in any order, and no command runs before the last frame.

    Args:
        limits: ``spool`` and ``spool_memory`` in bytes, ``spooled_commands``.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._files: dict[int, IO[bytes]] = {}
        self._left = limits.spool

    def open(self, request_id: int) -> IO[bytes]:
        """Start to store the data of a request; returns the file, to be read after :meth:`rewind`.

        Raises:
            LimitExceeded: too many requests have data.
        """
        if len(self._files) >= self._limits.spooled_commands:
            raise LimitExceeded(f"more than {self._limits.spooled_commands} commands of one request have data")
        # Closed with the response.
        file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=self._limits.spool_memory)
        self._files[request_id] = file
        return file

    def write(self, request_id: int, data: bytes) -> None:
        """Store data of an opened request; drop data of others.

        Raises:
            BodyTooLarge: the data of all requests together exceed the limit.
        """
        file = self._files.get(request_id)
        if file is None:
            return
        self._left -= len(data)
        if self._left < 0:
            raise BodyTooLarge(f"command data of one request exceed {self._limits.spool} bytes")
        file.write(data)

    def rewind(self) -> None:
        """Move to the beginning of each file."""
        for file in self._files.values():
            file.seek(0)

    def close(self) -> None:
        """Close the files, which removes them."""
        for file in self._files.values():
            file.close()
