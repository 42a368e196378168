"""Handing an answer to the WSGI server, once what is left of the request was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import RequestError
from ..limits import Limits
from .body import RequestBody, ResponseBody

__all__ = ["NOSNIFF", "StartResponse", "answer", "send"]

StartResponse = Callable[..., Any]

NOSNIFF = ("X-Content-Type-Options", "nosniff")
"""No browser may guess that a reply is a page; repositories hold what anybody pushed."""


_ANY_BODY = Limits(body=10**18)
"""What is only dropped is bounded by ``drain`` alone: a client that sends too much should learn so."""


def answer(
    status: str,
    headers: list[tuple[str, str]],
    content: bytes,
    environ: dict[str, Any],
    start_response: StartResponse,
    limits: Limits,
    body: RequestBody | None = None,
) -> Iterable[bytes]:
    """Send a short answer, once what is left of the request was read; if it has no end that we know, the last."""
    try:
        cut = not (body or RequestBody(environ, _ANY_BODY)).drain(limits.drain)
    except RequestError:
        cut = True
    return send(status, headers, iter([content]), [], environ, start_response, cut=cut)


def send(
    status: str,
    headers: list[tuple[str, str]],
    chunks: Iterator[bytes],
    closers: list[Callable[[], object]],
    environ: dict[str, Any],
    start_response: StartResponse,
    *,
    cut: bool,
) -> Iterable[bytes]:
    """Start a response.

    Args:
        status: the status line.
        headers: all of its headers.
        chunks: its body; dropped if the request is a ``HEAD``.
        closers: called when the response ends, also if it cannot start.
        environ: the WSGI environ.
        start_response: as in WSGI.
        cut: whether the connection must not be used again.
    """
    if environ.get("REQUEST_METHOD") == "HEAD":
        chunks = iter(())
    response = ResponseBody(chunks, closers, cut=cut)
    try:
        start_response(status, headers)
    except BaseException:
        response.close()
        raise
    return response
