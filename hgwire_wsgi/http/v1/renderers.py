"""Responses of commands as HTTP: a table from response types to media type and body, and the answer to an error.

The encodings of a reply are chosen once per request (:class:`Encodings`), before the command runs: the cache needs them
for its key, and a client with no media type in common must get an error before the command has any effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http.client import responses
from itertools import chain
from typing import Any

import attrs

from ...cache.keys import KeyValue
from ...commands.registry import ReplyKind
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
from ...negotiation import (
    HG_ERROR,
    MEDIA_TYPE_02,
    ClientProtocol,
    Encoding,
    ServerCapabilities,
    choose_encoding,
    choose_plain_encoding,
)
from ...streams import close_source
from ..message import FileBody, FrontEndBody

__all__ = ["OK", "RENDERERS", "Encodings", "Rendered", "encode", "render_error", "status_line"]

OK = "200 Script output follows"
"""The status line of success; Mercurial's own server has sent this text since its beginnings as a CGI script."""

_REASON_LENGTH = 160


@attrs.frozen
class Encodings:
    """How the replies to a request are encoded.

    Attributes:
        plain: a short reply, or a stream that is never compressed.
        stream: a stream.
        incompressible: a stream of incompressible data.
    """

    plain: Encoding
    stream: Encoding
    incompressible: Encoding

    @classmethod
    def negotiate(cls, server: ServerCapabilities, client: ClientProtocol) -> Encodings:
        """Choose the encodings for a server and a client.

        Raises:
            NotAcceptable: if the client accepts only what the server does not send.
        """
        return cls(
            plain=choose_plain_encoding(server, client),
            stream=choose_encoding(server, client),
            incompressible=choose_encoding(server, client, prefer_uncompressed=True),
        )

    def media_type_of(self, reply: ReplyKind) -> str:
        """The media type of a command's long reply."""
        return (self.plain if reply == "legacy" else self.stream).media_type

    @property
    def identity(self) -> tuple[KeyValue, ...]:
        """Plain values that are equal only for encodings that give the same bytes."""
        return tuple(
            (each.media_type, None if each.engine is None else each.engine.identity)
            for each in (self.plain, self.stream, self.incompressible)
        )


def _always() -> bool:
    return True


@attrs.frozen
class Rendered:
    """A response as HTTP.

    Attributes:
        media_type: of the body.
        body: as in :class:`~hgwire_wsgi.http.message.Response`.
        source: the iterable from the command, closed with the response.
        error: the message to the client, if the reply is a refusal.
        may_be_cached: returns whether the reply may be cached; called when the body was read to its end.
        stored_as: the keys under which the body may be stored, in the order in which they are tried, if it is a
            stored bundle.
    """

    media_type: str
    body: bytes | FileBody | FrontEndBody | Iterator[bytes]
    source: object = None
    error: str = ""
    may_be_cached: Callable[[], bool] = _always
    stored_as: tuple[str, ...] = ()

    def close(self) -> None:
        """Close the source of the body."""
        close_source(self.body)
        close_source(self.source)


def encode(encoding: Encoding, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Encode the content of a stream."""
    if encoding.engine is None:
        return iter(chunks)
    compressed = encoding.engine.compress(chunks)
    if encoding.media_type == MEDIA_TYPE_02:
        return chain([encoding.engine.prefix], compressed)
    return compressed


def _whole(encoding: Encoding, data: bytes, error: bytes = b"") -> Rendered:
    body = data if encoding.engine is None else b"".join(encode(encoding, [data]))
    return Rendered(encoding.media_type, body, error=error.decode("utf-8", "replace").strip())


def _render_bytes(response: BytesResponse, encodings: Encodings) -> Rendered:
    return _whole(encodings.plain, response.data)


def _render_push(response: PushResponse, encodings: Encodings) -> Rendered:
    return _whole(
        encodings.plain, short_reply(response) or b"", b"" if response.result else response.output or b"failed"
    )


def _render_push_error(response: PushError, encodings: Encodings) -> Rendered:
    return _whole(encodings.plain, short_reply(response) or b"", response.message)


def _render_stream(response: StreamResponse, encodings: Encodings) -> Rendered:
    encoding = encodings.incompressible if response.prefer_uncompressed else encodings.stream
    body = encode(encoding, response.chunks)
    return Rendered(encoding.media_type, body, response.chunks, may_be_cached=response.may_be_cached)


def _render_legacy_stream(response: LegacyStreamResponse, encodings: Encodings) -> Rendered:
    return Rendered(encodings.plain.media_type, encode(encodings.plain, response.chunks), response.chunks)


def _render_out_of_band(response: OutOfBandError, encodings: Encodings) -> Rendered:
    return Rendered(HG_ERROR, response.message, error=response.message.decode("utf-8", "replace").strip())


RENDERERS: dict[type[Response], Callable[[Any, Encodings], Rendered]] = {
    BytesResponse: _render_bytes,
    PushResponse: _render_push,
    PushError: _render_push_error,
    StreamResponse: _render_stream,
    LegacyStreamResponse: _render_legacy_stream,
    OutOfBandError: _render_out_of_band,
}
"""A renderer for every response type."""


def status_line(status: int, reason: str = "") -> str:
    """Make a status line with a reason that is safe in a header; clients show it to their users."""
    text = "".join(character if " " <= character <= "~" else "?" for character in reason.partition("\n")[0])
    return f"{status} {text[:_REASON_LENGTH].strip() or responses.get(status, 'Error')}"


def render_error(error: HgWireError) -> tuple[str, bytes]:
    """Render an error as media type and body.

    The body is ``0`` and the message, each on a line: old clients read it as the reply to a failed push.
    """
    return HG_ERROR, f"0\n{error.message}\n".encode("utf-8", "replace")
