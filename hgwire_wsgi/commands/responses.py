"""Responses of commands: inert values, which each transport renders with its own table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

__all__ = [
    "RESPONSE_TYPES",
    "BytesResponse",
    "LegacyStreamResponse",
    "OutOfBandError",
    "PushError",
    "PushResponse",
    "Response",
    "StreamResponse",
    "short_reply",
]


@attrs.frozen
class BytesResponse:
    """A short reply.

    Attributes:
        data: the whole reply.
    """

    data: bytes


def _always() -> bool:
    return True


@attrs.frozen
class StreamResponse:
    """A long reply, compressed as negotiated.

    Attributes:
        chunks: the reply in pieces; closed when the response ends, if it has ``close``.
        prefer_uncompressed: true for incompressible data.
        may_be_cached: returns whether the reply may be cached if its command is cacheable; called when all chunks were
            taken.  A reply that contains a failure may not.
    """

    chunks: Iterable[bytes]
    prefer_uncompressed: bool = False
    may_be_cached: Callable[[], bool] = _always


@attrs.frozen
class LegacyStreamResponse:
    """A long reply that version 1 never compresses: ``stream_out``, and the bundle2 reply to a push.

    Attributes:
        chunks: as for :class:`StreamResponse`.
    """

    chunks: Iterable[bytes]


@attrs.frozen
class PushResponse:
    """The reply to a push of the first bundle format.

    Attributes:
        result: 0 for failure, else 1 plus the number of heads added, or -1 minus those removed.
        output: the server's messages, including the output of hooks.
    """

    result: int
    output: bytes = b""


@attrs.frozen
class PushError:
    """A push that failed before anything was read.

    Attributes:
        message: one line for the user.
        output: the server's messages until then.
    """

    message: bytes
    output: bytes = b""


@attrs.frozen
class OutOfBandError:
    """A refusal that replaces the reply, and aborts a whole ``batch``.

    Attributes:
        message: shown to the user as it is.
    """

    message: bytes


Response = BytesResponse | StreamResponse | LegacyStreamResponse | PushResponse | PushError | OutOfBandError

RESPONSE_TYPES: tuple[type[Response], ...] = (
    BytesResponse,
    StreamResponse,
    LegacyStreamResponse,
    PushResponse,
    PushError,
    OutOfBandError,
)
"""All response types: every transport's table has exactly these keys."""


def _bytes_reply(response: BytesResponse) -> bytes:
    return response.data


def _push_reply(response: PushResponse) -> bytes:
    return b"%d\n%s" % (response.result, response.output)


def _push_error_reply(response: PushError) -> bytes:
    return b"0\n%s\n" % response.message


_SHORT_REPLIES: dict[type[Any], Callable[[Any], bytes]] = {
    BytesResponse: _bytes_reply,
    PushResponse: _push_reply,
    PushError: _push_error_reply,
}


def short_reply(response: Response) -> bytes | None:
    """A response that is short as bytes, as version 1 and ``batch`` carry it; ``None`` for streams and refusals."""
    render = _SHORT_REPLIES.get(type(response))
    return None if render is None else render(response)
