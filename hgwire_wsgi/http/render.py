"""Rendering for version 1: a table from response types to headers and bodies, and answers for errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from itertools import chain
from typing import Any

import attrs

from ..cache.single_flight import Whole
from ..commands.responses import (
    BytesResponse,
    LegacyStreamResponse,
    OutOfBandError,
    PushError,
    PushResponse,
    Response,
    StreamResponse,
)
from ..commands.standard import BATCH_RENDERERS
from ..errors import HgWireError
from ..negotiation import (
    HG_ERROR,
    MEDIA_TYPE_02,
    ClientProtocol,
    Encoding,
    ServerCapabilities,
    choose_encoding,
    choose_plain_encoding,
)

__all__ = ["OK", "RENDERERS", "Rendered", "render_error", "status_line"]

OK = "200 Script output follows"
"""The status line of success; Mercurial's own server sends this text since its beginnings as a CGI script."""

_REASON_LENGTH = 160


@attrs.frozen
class Rendered:
    """A response as HTTP.

    Attributes:
        content_type: the media type.
        body: a whole body, sent with its length, in memory or in a file; or chunks of one of unknown length.
        source: what the command gave to iterate, to be closed with the response.
    """

    content_type: str
    body: bytes | Whole | Iterator[bytes]
    source: Iterable[bytes] | None = None


def _encode(encoding: Encoding, chunks: Iterable[bytes]) -> Iterator[bytes]:
    if encoding.engine is None:
        return iter(chunks)
    compressed = encoding.engine.compress(chunks)
    if encoding.media_type == MEDIA_TYPE_02:
        return chain([encoding.engine.prefix], compressed)
    return compressed


def _render_bytes(response: Any, offer: ServerCapabilities, client: ClientProtocol) -> Rendered:
    encoding = choose_plain_encoding(offer, client)
    return Rendered(encoding.media_type, b"".join(_encode(encoding, [BATCH_RENDERERS[type(response)](response)])))


def _render_stream(response: StreamResponse, offer: ServerCapabilities, client: ClientProtocol) -> Rendered:
    encoding = choose_encoding(offer, client, prefer_uncompressed=response.prefer_uncompressed)
    return Rendered(encoding.media_type, _encode(encoding, response.chunks), response.chunks)


def _render_legacy_stream(
    response: LegacyStreamResponse, offer: ServerCapabilities, client: ClientProtocol
) -> Rendered:
    encoding = choose_plain_encoding(offer, client)
    return Rendered(encoding.media_type, _encode(encoding, response.chunks), response.chunks)


def _render_out_of_band(response: OutOfBandError, offer: ServerCapabilities, client: ClientProtocol) -> Rendered:
    return Rendered(HG_ERROR, response.message)


RENDERERS: dict[type[Response], Callable[[Any, ServerCapabilities, ClientProtocol], Rendered]] = {
    BytesResponse: _render_bytes,
    PushResponse: _render_bytes,
    PushError: _render_bytes,
    StreamResponse: _render_stream,
    LegacyStreamResponse: _render_legacy_stream,
    OutOfBandError: _render_out_of_band,
}
"""Every response type has its renderer; short bodies are what a ``batch`` would hold of them."""


def status_line(status: int, reason: str = "") -> str:
    """A status line whose reason is fit for a header; clients show it to their users."""
    text = "".join(character if " " <= character <= "~" else "?" for character in reason.partition("\n")[0])
    return f"{status} {text[:_REASON_LENGTH].strip() or HTTPStatus(status).phrase}"


def render_error(error: HgWireError) -> tuple[str, list[tuple[str, str]], bytes]:
    """An error as status line, headers and body.

    The body is ``0`` and the message, each on a line: what an old client takes for the reply to a failed push.
    """
    body = f"0\n{error.message}\n".encode("utf-8", "replace")
    headers = [("Content-Type", HG_ERROR), ("Content-Length", str(len(body))), *error.headers]
    return status_line(error.http_status, error.message), headers, body
