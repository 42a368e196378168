"""What the clients of both versions have in common: calls, replies, and refusals."""

from __future__ import annotations

import abc
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import attrs

from ..commands.standard import STANDARD_COMMANDS
from ..errors import CommandRefused, LimitExceeded
from ..limits import Limits
from ..negotiation import HG_ERROR
from ..streams import read_exactly
from .connection import Address, Connection, Response, Source, printable, utf8

__all__ = ["REPLY_BYTES", "Call", "Client", "Outcome", "Reply", "read_all", "refusal"]

REPLY_BYTES = 64 * 1024 * 1024
"""Most bytes of replies that are held in memory, unless the caller says otherwise.

A ``branchmap`` of 100,000 heads has 5 MB.
"""

_MESSAGE_BYTES = 16 * 1024

COMMANDS = {command.name: command for command in STANDARD_COMMANDS}
"""The standard commands, of which a client knows how they are called and answered."""

_Self = TypeVar("_Self", bound="Client")


@attrs.frozen
class Call:
    """One command to run.

    Attributes:
        name: the command.
        arguments: values by name; text is sent as UTF-8.
        data: what the command reads besides its arguments.
        permission: ``pull`` or ``push``, which version 2 names in its URLs; that of the standard command, and ``pull``
            for a command unknown here.

    Raises:
        LocalProtocolError: for a name, or a value that is text, which cannot be UTF-8.
    """

    name: str
    arguments: Mapping[str, bytes | str] = attrs.Factory(dict)
    data: Source | None = None
    permission: str | None = None

    def __attrs_post_init__(self) -> None:
        for text in (self.name, *self.arguments, *self.arguments.values()):
            if isinstance(text, str):
                utf8(text, "the name or an argument of a command")

    @property
    def encoded_arguments(self) -> dict[str, bytes]:
        """The arguments as they are sent, sorted by name."""
        return {
            name: value.encode() if isinstance(value, str) else value for name, value in sorted(self.arguments.items())
        }

    @property
    def writes(self) -> bool:
        """Whether the command is called as one that may change the repository."""
        if self.permission is not None:
            return self.permission == "push"
        return self.name in COMMANDS and COMMANDS[self.name].permission == "push"


@attrs.frozen
class Outcome:
    """How one of several calls ended.

    Attributes:
        data: the whole reply.
        error: why there is none.
    """

    data: bytes = b""
    error: CommandRefused | None = None

    def result(self) -> bytes:
        """The reply.

        Raises:
            CommandRefused: if there is none.
        """
        if self.error is not None:
            raise self.error
        return self.data


class Reply:
    """The reply to a command, read as it arrives: a file, an iterable of pieces, and a context manager.

    Reading raises what :meth:`Client.call` does where the reply ends early or breaks a rule: one that was read to its
    end without an exception is whole.

    Attributes:
        media_type: its media type.
        engine: name of the compression engine it was sent with, ``None`` for one sent as it is.
    """

    def __init__(
        self, pieces: Iterator[bytes], close: Callable[[], None], *, media_type: str, engine: str | None = None
    ) -> None:
        self._pieces = pieces
        self._close = close
        self._piece = memoryview(b"")
        self.media_type = media_type
        self.engine = engine

    def _advance(self) -> bool:
        """Get another piece; says whether there is one."""
        try:
            self._piece = memoryview(next(self._pieces, b""))
        except BaseException:
            self.close()
            raise
        return bool(self._piece)

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, waiting for the first only; ``b""`` at the end.  Without ``size``, all the rest."""
        if size < 0:
            return b"".join(self)
        if not self._piece and not (size and self._advance()):
            return b""
        data, self._piece = bytes(self._piece[:size]), self._piece[size:]
        return data

    def __iter__(self) -> Iterator[bytes]:
        while self._piece or self._advance():
            piece, self._piece = bytes(self._piece), memoryview(b"")
            yield piece

    def close(self) -> None:
        """Give up what was not read.  A reply that was read to its end leaves the connection for the next call."""
        self._piece, self._pieces = memoryview(b""), iter(())
        self._close()

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_all(reply: Reply, limit: int) -> bytes:
    """All of a reply.

    Raises:
        LimitExceeded: it has more than ``limit`` bytes.
    """
    # Not a list of pieces, which may be of two bytes each and cost twenty times as much as what is in them.
    data = bytearray()
    with reply:
        for piece in reply:
            data += piece
            if len(data) > limit:
                raise LimitExceeded(f"the reply has more than {limit} bytes")
    return bytes(data)


@attrs.define(eq=False, repr=False)
class Client(abc.ABC):
    """A client of one repository, for one thread.  A context manager, which closes the connection.

    Args:
        url: that of the repository.  User and password may stand in it.
        auth: user and password, instead of those in the URL.
        timeout: seconds without a single byte after which to give up; ``None`` waits for ever.
        ssl_context: for ``https``; Python's default checks certificates and names.
        limits: bounds on what the server may make this side hold or decode.

    Attributes:
        connection: what it talks through.

    Raises:
        LocalProtocolError: for what is no HTTP URL.
    """

    _url: str
    _auth: tuple[str, str] | None = attrs.field(default=None, kw_only=True)
    _timeout: float | None = attrs.field(default=60.0, kw_only=True)
    _ssl_context: ssl.SSLContext | None = attrs.field(default=None, kw_only=True)
    limits: Limits = attrs.field(factory=Limits, kw_only=True)
    connection: Connection = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        address = Address.parse(self._url, self._auth)
        self.connection = Connection(address, timeout=self._timeout, ssl_context=self._ssl_context)

    @abc.abstractmethod
    def run(self, call: Call) -> Reply:
        """Run a command, as :meth:`call` does."""

    def call(
        self,
        name: str,
        arguments: Mapping[str, bytes | str] | None = None,
        *,
        data: Source | None = None,
        permission: str | None = None,
    ) -> Reply:
        """Run a command.

        Its reply must be read to the end, or closed, before the next call.

        Args:
            name: the command.
            arguments: values by name; text is sent as UTF-8.
            data: what the command reads besides: bytes, a file or an iterable of pieces.  Of a file that cannot
                tell its size, and of an iterable, the request is sent in chunks, which not every server takes.
            permission: as for :class:`Call`.

        Raises:
            CommandRefused: the server answered with an error.
            ConnectionFailed: it did not answer at all.
            RemoteProtocolError: what it answered is no reply.
            DecodeError: what it answered does not decompress.
        """
        return self.run(Call(name, arguments or {}, data, permission))

    @abc.abstractmethod
    def call_many(self, calls: Sequence[Call], *, limit: int = REPLY_BYTES) -> list[Outcome]:
        """Run several commands, in one request where that is possible.

        Args:
            calls: the commands.
            limit: most bytes of all replies together.

        Returns:
            The outcomes in the order of the calls.

        Raises:
            As :meth:`call`, for what concerns all of them; and LimitExceeded.
        """

    def call_bytes(
        self,
        name: str,
        arguments: Mapping[str, bytes | str] | None = None,
        *,
        data: Source | None = None,
        permission: str | None = None,
        limit: int = REPLY_BYTES,
    ) -> bytes:
        """Run a command and read all of its reply; more than ``limit`` bytes are a ``LimitExceeded``."""
        return read_all(self.call(name, arguments, data=data, permission=permission), limit)

    def close(self) -> None:
        """Close the connection.  The next call opens another."""
        self.connection.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refusal(response: Response, *, kind: str = "") -> CommandRefused:
    """The error that a response stands for, from its body if a person can read that, else from its status line."""
    text = ""
    if response.media_type != "text/html":
        text = printable(read_exactly(response, _MESSAGE_BYTES)).strip()
        if response.status != 200 or response.media_type == HG_ERROR:
            # As the reply to a push this says that nothing was pushed.
            text = text.removeprefix("0\n").strip()
    response.close()
    return CommandRefused(
        text or printable(f"{response.status} {response.reason}").strip(), status=response.status, kind=kind
    )
