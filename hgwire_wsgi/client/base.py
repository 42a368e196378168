"""The common part of the clients of both versions: calls, replies, and refusals."""

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
"""Default maximum for replies held in memory, in bytes.  A ``branchmap`` of 100,000 heads has 5 MB."""

_MESSAGE_BYTES = 16 * 1024

COMMANDS = {command.name: command for command in STANDARD_COMMANDS}
"""The standard commands.  A client knows how these are called and answered."""

_Self = TypeVar("_Self", bound="Client")


@attrs.frozen
class Call:
    """One command to run.

    Attributes:
        name: the command.
        arguments: values by name; text is sent as UTF-8.
        data: the request body that the command reads, in addition to its arguments.
        permission: ``pull`` or ``push``.  By default that of the standard command of this name, and ``pull`` for any
            other.  A call with ``push`` is sent as POST, and in version 2 to a URL that allows writing.

    Raises:
        LocalProtocolError: the name, or a value that is text, cannot be encoded as UTF-8.
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
        """The arguments as bytes, sorted by name."""
        return {
            name: value.encode() if isinstance(value, str) else value for name, value in sorted(self.arguments.items())
        }

    @property
    def writes(self) -> bool:
        """Whether the call may change the repository."""
        if self.permission is not None:
            return self.permission == "push"
        return self.name in COMMANDS and COMMANDS[self.name].permission == "push"


@attrs.frozen
class Outcome:
    """The result of one of several calls.

    Attributes:
        data: the whole reply.
        error: the reason if there is no reply.
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
    """The reply to a command, read as it arrives: a file, an iterable of chunks, and a context manager.

    Reading raises the errors of :meth:`Client.call` if the reply ends early or violates the protocol.  A reply that was
    read to its end without an exception is complete.

    Attributes:
        media_type: its media type.
        engine: name of its compression engine; ``None`` if it is not compressed.
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
        """Fetch the next chunk.  Returns false at the end."""
        try:
            self._piece = memoryview(next(self._pieces, b""))
        except BaseException:
            self.close()
            raise
        return bool(self._piece)

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, as soon as there are any; ``b""`` at the end.  Without ``size``, the whole rest."""
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
        """Discard the rest.  A reply that was read to its end keeps the connection open for the next call."""
        self._piece, self._pieces = memoryview(b""), iter(())
        self._close()

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_all(reply: Reply, limit: int) -> bytes:
    """Read a whole reply.

    Raises:
        LimitExceeded: it has more than ``limit`` bytes.
    """
    # Not a list of chunks: these may have two bytes each, and take twenty times the memory of their content.
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
        url: of the repository; may contain user and password.
        auth: user and password, instead of those in the URL.
        timeout: give up after this many seconds without data; ``None`` waits forever.
        ssl_context: for ``https``; Python's default checks certificates and names.
        limits: bounds on the memory and the decoded data that the server can cause.

    Attributes:
        connection: the HTTP connection.

    Raises:
        LocalProtocolError: ``url`` is not an HTTP URL.
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
            data: the request body that the command reads: bytes, a file or an iterable of bytes.  A file of unknown
                size and an iterable are sent in chunks, which not every server accepts.
            permission: as for :class:`Call`.

        Raises:
            CommandRefused: the server answered with an error.
            NegotiationError: client and server have no media type or compression engine in common.
            ConnectionFailed: there was no answer.
            RemoteProtocolError: the answer is not a reply of the protocol.
            DecodeError: the answer cannot be decompressed.
        """
        return self.run(Call(name, arguments or {}, data, permission))

    @abc.abstractmethod
    def call_many(self, calls: Sequence[Call], *, limit: int = REPLY_BYTES) -> list[Outcome]:
        """Run several commands, in one request if possible.

        Args:
            calls: the commands.
            limit: maximum size of all replies together, in bytes.

        Returns:
            The outcomes in the order of the calls.

        Raises:
            As :meth:`call`, if it concerns all of them; and LimitExceeded.
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
        """Run a command and read its whole reply; more than ``limit`` bytes raise ``LimitExceeded``."""
        return read_all(self.call(name, arguments, data=data, permission=permission), limit)

    def close(self) -> None:
        """Close the connection.  The next call opens another one."""
        self.connection.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refusal(response: Response, *, kind: str = "") -> CommandRefused:
    """Turn an error response into an exception, with the text of the body, or of the status line if that is HTML."""
    text = ""
    if response.media_type != "text/html":
        text = printable(read_exactly(response, _MESSAGE_BYTES)).strip()
        if response.status != 200 or response.media_type == HG_ERROR:
            # The line "0" is the reply to a push that failed.
            text = text.removeprefix("0\n").strip()
    response.close()
    return CommandRefused(
        text or printable(f"{response.status} {response.reason}").strip(), status=response.status, kind=kind
    )
