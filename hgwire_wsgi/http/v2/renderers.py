"""Responses as frames: a table from response types to data, errors and text; and frames as chunks of a body."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from ...commands.responses import (
    BytesResponse,
    LegacyStreamResponse,
    OutOfBandError,
    PushError,
    PushResponse,
    Response,
    StreamResponse,
    short_reply,
)
from ...errors import HgWireError
from ...framing import HEADER_SIZE, Atom, Frame, OutgoingStream, SendFrames, ServerReactor, Signal, iter_chunks
from ...limits import Limits
from ...stops import FAILURES
from ...streams import close_source
from ..failures import public

__all__ = ["RENDERERS", "Framed", "FramedStream", "join_frames", "send_framed"]

_ATOM_SIZE = 8
"""Bytes that an atom with one argument adds to it: three lengths, and ``%s``."""


class FramedStream:
    """The chunks of a stream.  Any exception of its source becomes an error that is safe to report to the client.

    Args:
        source: the chunks; closed with this object.
    """

    def __init__(self, source: Iterable[bytes]) -> None:
        self.failure: HgWireError | None = None
        self._source = source
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self._source)
            return bytes(next(self._iterator))
        except StopIteration:
            raise
        except FAILURES as error:
            self.failure = public(error)
            raise self.failure from error

    def close(self) -> None:
        """Close the source and its iterator."""
        close_source(self._iterator)
        close_source(self._source)


@attrs.frozen
class Framed:
    """A response in the parts that frames carry.

    Attributes:
        data: the content of the response frames.
        error: a message that replaces the data.
        kind: who caused the error, as :meth:`.ServerReactor.send_error` takes it.
        output: the server's messages to the user in the meantime.
        encode: whether the data are compressible.
    """

    data: bytes | FramedStream = b""
    error: str | bytes | None = None
    kind: str = "application"
    output: bytes = b""
    encode: bool = True

    @classmethod
    def failure(cls, error: BaseException) -> Framed:
        """Return the error of a failed command that is safe to report to a peer."""
        known = public(error)
        return cls(error=known.message, kind=_kind(known))

    @property
    def told(self) -> tuple[str, str]:
        """Kind and message of the error that the client has received so far; both are empty if there was none."""
        error, kind = self.error, self.kind
        if isinstance(self.data, FramedStream) and self.data.failure is not None:
            error, kind = self.data.failure.message, _kind(self.data.failure)
        if error is None:
            return "", ""
        return kind, error if isinstance(error, str) else error.decode("utf-8", "replace")

    def close(self) -> None:
        """Close the source of the data."""
        close_source(self.data)


def _kind(error: HgWireError) -> str:
    return "server" if error.http_status >= 500 else error.wire_kind


def _frame_bytes(response: Any) -> Framed:
    return Framed(short_reply(response) or b"")


def _frame_stream(response: StreamResponse) -> Framed:
    return Framed(FramedStream(response.chunks), encode=not response.prefer_uncompressed)


def _frame_legacy_stream(response: LegacyStreamResponse) -> Framed:
    return Framed(FramedStream(response.chunks))


def _frame_push_error(response: PushError) -> Framed:
    return Framed(error=response.message, output=response.output)


def _frame_out_of_band(response: OutOfBandError) -> Framed:
    return Framed(error=response.message)


RENDERERS: dict[type[Response], Callable[[Any], Framed]] = {
    BytesResponse: _frame_bytes,
    PushResponse: _frame_bytes,
    PushError: _frame_push_error,
    StreamResponse: _frame_stream,
    LegacyStreamResponse: _frame_legacy_stream,
    OutOfBandError: _frame_out_of_band,
}
"""A renderer for every response type.

The reply to a successful push is its result and its output, as in version 1, so that one parser reads both.
"""


def _text_atoms(output: bytes, size: int) -> Iterator[list[Atom]]:
    """Split text into pieces of up to ``size`` bytes, between lines, or between characters of a longer line.

    ``size`` is at least 4, so that any character fits.
    """
    text = output.decode("utf-8", "replace").encode("utf-8")
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.rfind(b"\n", start, end) + 1 or end
            while text[end] & 0xC0 == 0x80:
                end -= 1
        yield [Atom(b"%s", (text[start:end],))]
        start = end


def send_framed(
    reactor: ServerReactor, stream: OutgoingStream, request_id: int, framed: Framed, *, end_stream: bool
) -> list[SendFrames]:
    """Pass a response to the reactor.

    In a revision without text output, the text follows the error message.

    Args:
        reactor: the reactor of the exchange; it must not defer output.
        stream: the stream of the frames.
        request_id: that of a command returned by the reactor.
        framed: the response.
        end_stream: whether the stream ends with it.

    Returns:
        The frames, in this order.

    Raises:
        LocalProtocolError: for text that does not fit into frames of fewer than 12 bytes, or data that the revision
            cannot send.
    """
    error, output = framed.error, framed.output
    actions: list[SendFrames | Signal] = []
    if reactor.revision.has_text_output:
        for atoms in _text_atoms(output, max(stream.frame_size - _ATOM_SIZE, 4)):
            actions.append(reactor.send_text(stream, request_id, atoms))
    elif isinstance(error, bytes) and output:
        error = error + b"\n" + output
    if error is not None:
        actions.append(reactor.send_error(stream, request_id, error, kind=framed.kind, end_stream=end_stream))
    else:
        response = reactor.send_response(stream, request_id, framed.data, encode=framed.encode, end_stream=end_stream)
        actions.append(response)
    return [each for each in actions if isinstance(each, SendFrames)]


def join_frames(frames: Iterable[Frame], limits: Limits) -> Iterator[bytes]:
    """Join whole frames into chunks of at least ``limits.chunk`` bytes; the last one may be shorter."""
    pieces: list[bytes] = []
    size = 0
    for frame in frames:
        pieces += iter_chunks((frame,), limits)
        size += HEADER_SIZE + len(frame.payload)
        if size >= limits.chunk:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)
