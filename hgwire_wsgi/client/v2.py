"""The client of HTTP version 2: commands and replies as frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from urllib.parse import quote

import attrs

from ..errors import CommandRefused, LimitExceeded, RemoteProtocolError
from ..framing import (
    EXP_0002,
    HEADER_SIZE,
    Action,
    Atom,
    ClientReactor,
    Error,
    OutgoingStream,
    Profile,
    ResponseData,
    ResponseError,
    Revision,
    SendFrames,
    TextOutput,
    encode_frame,
)
from .base import REPLY_BYTES, Call, Client, Outcome, Reply, refusal
from .connection import PIECE, Response, Source, pieces_of, printable, size_of

__all__ = ["APIS", "TEXT_BYTES", "Exchange", "Part", "V2Client"]

APIS = {"exp-http-v2-0001": EXP_0002}
"""The framing revision of each API, by the name that the API has in URLs."""

TEXT_BYTES = 16 * 1024 * 1024
"""Maximum text output of one exchange, in bytes: without it, a server could keep a client reading forever."""

_IDLE_FRAMES = 10_000
"""Maximum number of consecutive frames without content, for the same reason."""

_ATOM_OVERHEAD = 64
"""Bytes counted for an atom in addition to its text, because even an empty one takes time to decode."""


@attrs.define
class Part:
    """A part of the reply to one call of an exchange.

    Attributes:
        call: the index of the call.
        data: bytes of its reply.
        final: true for the last part of this call.
        error: why the call failed; such a part is always ``final``.
    """

    call: int
    data: bytes
    final: bool
    error: CommandRefused | None = None


class Exchange:
    """The replies to several calls as they arrive: an iterator of :class:`Part`, in the server's order.

    It raises the errors that :meth:`Client.call` documents.  If it ends without one, all replies are complete.
    """

    def __init__(
        self,
        response: Response,
        reactor: ClientReactor,
        calls: Mapping[int, int],
        on_text: Callable[[Atom], object],
    ) -> None:
        self._response = response
        self._reactor = reactor
        self._calls = calls
        self._on_text = on_text
        self._text = 0
        self._parts = self._receive()

    def __iter__(self) -> Iterator[Part]:
        return self

    def __next__(self) -> Part:
        try:
            return next(self._parts)
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the unread rest."""
        self._response.close()

    def _receive(self) -> Iterator[Part]:
        idle = 0
        for action in self._actions():
            if isinstance(action, Error):
                raise action.error
            idle += 1
            if isinstance(action, TextOutput) and action.atoms:
                self._show(action)
                idle = 0
            part = self._part(action)
            if part is not None:
                # Empty frames are valid, but too many of them are an attack.
                if part.data or part.final:
                    idle = 0
                yield part
            if idle > _IDLE_FRAMES:
                raise LimitExceeded(f"the server sent {idle} frames in a row without data")

    def _actions(self) -> Iterator[Action]:
        while data := self._response.read(PIECE):
            yield from self._reactor.receive_data(data)
        yield self._reactor.receive_eof()

    def _part(self, action: Action) -> Part | None:
        if isinstance(action, ResponseData):
            return Part(self._calls[action.request_id], action.data, action.final)
        if isinstance(action, ResponseError):
            error = CommandRefused(printable(action.message), kind=action.kind)
            return Part(self._calls[action.request_id], b"", True, error)
        return None

    def _show(self, action: TextOutput) -> None:
        for atom in action.atoms:
            strings = (atom.formatting, *atom.arguments, *atom.labels)
            self._text += _ATOM_OVERHEAD + sum(map(len, strings))
            if self._text > TEXT_BYTES:
                raise LimitExceeded(f"the server sent more than {TEXT_BYTES} bytes of text output")
            self._on_text(atom)


def _drop(atom: Atom) -> None:
    """Ignore text output, which is the default."""


@attrs.define(eq=False, repr=False)
class V2Client(Client):
    """Speaks HTTP version 2.

    Args:
        url, auth, timeout, ssl_context, limits: as for :class:`Client`; ``url`` is that of the repository.
        api: one of :data:`APIS`.
        on_text: called with each piece of text for the user, while a reply is read.
        profile: the encoding of command data; ``None`` sends them unencoded.
        encodings: names of the profiles that are accepted for replies, best first.
    """

    api: str = attrs.field(default="exp-http-v2-0001", validator=attrs.validators.in_(APIS), kw_only=True)
    _on_text: Callable[[Atom], object] = attrs.field(default=_drop, kw_only=True)
    _profile: Profile | None = attrs.field(default=None, kw_only=True)
    _encodings: Sequence[str] = attrs.field(default=("zstd-8mb", "zlib"), kw_only=True)

    @property
    def _revision(self) -> Revision:
        return APIS[self.api]

    def run(self, call: Call) -> Reply:
        exchange = self._send([call], call.name)
        pieces = _single(exchange)
        # A refusal must be raised here, not when the reply is read.
        first = next(pieces, b"")
        return Reply(chain([first], pieces), exchange.close, media_type=self._revision.media_type)

    def exchange(self, calls: Sequence[Call]) -> Exchange:
        """Run several commands in one request and return their replies as they arrive, in constant memory.

        Raises:
            HgWireError: as :meth:`Client.call`, for what concerns all of them.
        """
        return self._send(calls, "multirequest")

    def call_many(self, calls: Sequence[Call], *, limit: int = REPLY_BYTES) -> list[Outcome]:
        """Run several commands in one request; if one fails, the others still return their replies."""
        if not calls:
            return []
        collected = [bytearray() for _ in calls]
        errors: dict[int, CommandRefused] = {}
        room = limit
        exchange = self.exchange(calls)
        try:
            for part in exchange:
                room -= len(part.data)
                if room < 0:
                    raise LimitExceeded(f"the replies have more than {limit} bytes")
                if part.error is not None:
                    errors[part.call] = part.error
                else:
                    collected[part.call] += part.data
        finally:
            exchange.close()
        return [
            Outcome(error=errors[number]) if number in errors else Outcome(bytes(data))
            for number, data in enumerate(collected)
        ]

    def _send(self, calls: Sequence[Call], dispatch: str) -> Exchange:
        writes = any(call.writes for call in calls)
        reactor = ClientReactor(self._revision, self.limits)
        body, numbers = self._frames(reactor, calls)
        media_type = self._revision.media_type
        headers = [("Accept", media_type), ("Content-Type", media_type)]
        if self._encodings:
            # The patch does not say how a client asks for encodings; our server uses the header of version 1.
            headers.append(("X-HgProto-1", f"comp={','.join(self._encodings)}"))
        response = self.connection.request(
            "POST",
            f"/api/{self.api}/{'rw' if writes else 'ro'}/{quote(dispatch, safe='')}",
            headers,
            [body],
            length=self._length(calls),
            repeatable=isinstance(body, bytes) and not writes,
        )
        if response.status != 200 or response.media_type == "text/plain":
            # The server reports errors in frames as text, with a success status.
            raise refusal(response, kind="protocol" if response.status in (200, 400) else "")
        if response.media_type != media_type:
            response.close()
            shown = response.media_type or "no media type"
            raise RemoteProtocolError(f"{self.connection.address.url}: the reply is {shown}, not {media_type}")
        return Exchange(response, reactor, {request: number for number, request in enumerate(numbers)}, self._on_text)

    def _frames(self, reactor: ClientReactor, calls: Sequence[Call]) -> tuple[Source, list[int]]:
        """The request body, and the request ID of each call."""
        stream = OutgoingStream(1, self._profile)
        actions: list[SendFrames] = []
        numbers = []
        for left, call in enumerate(calls, start=1 - len(calls)):
            data = None if call.data is None else pieces_of(call.data)
            # > the last frame of a stream MUST set end-of-stream
            number, action = reactor.send_command(
                stream, call.name.encode(), _arguments(call), data, end_stream=left == 0
            )
            actions.append(action)
            numbers.append(number)
        chunks = (encode_frame(frame, self.limits) for action in actions for frame in action.frames)
        return b"".join(chunks) if all(call.data is None for call in calls) else chunks, numbers

    def _length(self, calls: Sequence[Call]) -> int | None:
        """The length of the body, found by framing zeros instead of the data.

        ``None`` if data are encoded or of unknown size.
        """
        if self._profile is not None:
            return None
        reactor, stream = ClientReactor(self._revision, self.limits), OutgoingStream(1)
        length = 0
        for call in calls:
            size = None if call.data is None else size_of(call.data)
            if size is None and call.data is not None:
                return None
            data = None if size is None else _blank(size)
            _, action = reactor.send_command(stream, call.name.encode(), _arguments(call), data)
            length += sum(HEADER_SIZE + len(frame.payload) for frame in action.frames)
        return length


def _arguments(call: Call) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in call.encoded_arguments.items()}


def _blank(size: int) -> Iterator[bytes]:
    block = bytes(PIECE)
    for _ in range(size // PIECE):
        yield block
    yield block[: size % PIECE]


def _single(exchange: Exchange) -> Iterator[bytes]:
    """The chunks of the only reply."""
    for part in exchange:
        if part.error is not None:
            exchange.close()
            raise part.error
        if part.data:
            yield part.data
