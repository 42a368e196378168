"""The version 1 transport: one request, one command, one response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import attrs

from ..cache.settings import CacheSettings
from ..cache.single_flight import Whole
from ..commands.classify import WireRequest, open_payload
from ..negotiation import (
    HG_ERROR,
    ClientProtocol,
    ServerCapabilities,
    choose_plain_encoding,
    media_type_version,
    read_client_protocol,
    vary,
)
from ..repositories.base import Lease, Repository, RepositoryProvider
from ..streams import BoundedReader, Readable, coalesce, read_exactly
from .answer import NOSNIFF, StartResponse, send
from .body import RequestBody
from .render import OK, Rendered
from .repeats import Remembered, Repeats
from .replies import Replies, may_be_kept
from .service import Call, Service

__all__ = ["V1Transport"]

_READ_SIZE = 256 * 1024

_HANDSHAKE = "capabilities"
"""Sent before a client knows what the server speaks, so it is always answered in a way that all clients read."""


class V1Transport:
    """Runs commands for HTTP version 1.

    Args:
        service: what it shares with the other transports.
        provider: of the repositories.
        cache: how much is kept of what is made, and where.
    """

    def __init__(self, service: Service, provider: RepositoryProvider, cache: CacheSettings) -> None:
        self.service = service
        self._provider = provider
        self._bundles = Replies(provider, cache, service.limits)
        self._repeats = Repeats(cache.memory)

    def repeat(self, name: str, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes] | None:
        """Answer as before, if the same was asked of the repository in its present state.

        Returns:
            The response, or ``None`` if the answer is not known; then nothing was done.

        Raises:
            HgWireError: by the policy, or if there is no such repository.
        """
        question = self._repeats.question(environ)
        if question is None:
            return None
        with self._provider.lease(name) as repository:
            known = self._repeats.get(name, repository.content_token(), question)
            if known is None:
                return None
            self.service.authorizer(name, repository, environ, known.names)("pull")
        start_response(OK, list(known.headers))
        return [known.body]

    def respond(
        self, request: WireRequest, name: str, lease: Lease, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer a request for a command; the lease is released when the response is closed."""
        limits = self.service.limits
        body: RequestBody | None = None
        try:
            body = RequestBody(environ, limits)
            client = read_client_protocol(environ)
            call, offer = self._prepare(request, name, lease.repository, environ, body, client)
            rendered = self._bundles.get(call, name, lease, offer, client)
            if isinstance(rendered.body, Whole):
                return self._send_file(rendered.content_type, rendered.body, lease, environ, start_response, body)
            first, rest = _begin(rendered.body, limits.chunk)
        except Exception as error:
            lease.release()
            return self.service.refuse(error, environ, start_response, body)
        except BaseException:
            lease.release()
            raise
        headers = [("Content-Type", rendered.content_type), ("Vary", vary(environ)), NOSNIFF]
        if rest is None:
            headers.append(("Content-Length", str(len(first))))
            self._remember(call, name, environ, rendered, headers)
        closers = [getattr(item, "close", None) for item in (rest, rendered.body, rendered.source)]
        chunks = chain([first], rest or ())
        return send(
            OK,
            headers,
            chunks,
            [*filter(None, closers), lease.release],
            environ,
            start_response,
            cut=not body.drain(limits.drain),
        )

    def _remember(
        self, call: Call, name: str, environ: dict[str, Any], rendered: Rendered, headers: list[tuple[str, str]]
    ) -> None:
        """Remember a short reply, if it may be kept and is still what would be said."""
        question = self._repeats.question(environ)
        if question is None or rendered.content_type == HG_ERROR or not isinstance(rendered.body, bytes):
            return
        if may_be_kept(call) and self._bundles.is_current(call, name):
            remembered = Remembered(call.request.names, tuple(headers), rendered.body)
            self._repeats.put(name, call.state, question, remembered)

    def _prepare(
        self,
        request: WireRequest,
        name: str,
        repository: Repository,
        environ: dict[str, Any],
        body: RequestBody,
        client: ClientProtocol,
    ) -> tuple[Call, ServerCapabilities]:
        """The call, authorized, and what the reply may be encoded with."""
        offer = repository.adjust_capabilities(self.service.offer)
        if request.command == _HANDSHAKE and "0.2" not in client.media_types:
            reply_offer = attrs.evolve(offer, send=("0.1", "0.2"))
        else:
            choose_plain_encoding(offer, client)
            reply_offer = offer
        call = self.service.prepare(request, name, repository, environ, body=body, client=client, transport="http-v1")
        call.authorize()
        if call.command.body or request.posted:
            call = call.with_body(self._open_payload(request, environ, body, offer))
        return call, reply_offer

    def _open_payload(
        self, request: WireRequest, environ: dict[str, Any], body: RequestBody, offer: ServerCapabilities
    ) -> Readable:
        """The body behind its posted arguments, decompressed, and bounded."""
        limits = self.service.limits
        version = media_type_version(offer, environ.get("CONTENT_TYPE"), required=not request.posted)
        payload = BoundedReader(open_payload(body, version, offer, limits), limits.body_decoded)
        read_exactly(payload, request.posted)
        return payload

    def _send_file(
        self,
        content_type: str,
        whole: Whole,
        lease: Lease,
        environ: dict[str, Any],
        start_response: StartResponse,
        body: RequestBody,
    ) -> Iterable[bytes]:
        """Send a kept bundle in the cheapest way there is: by the proxy in front, the server, or piece by piece."""
        lease.release()
        file = open(whole.descriptor, "rb", buffering=0)
        cut = not body.drain(self.service.limits.drain)
        headers = [("Content-Type", content_type), ("Vary", vary(environ)), NOSNIFF]
        if (accelerated := self._bundles.accelerated(whole)) is not None:
            file.close()
            return send(OK, [*headers, accelerated], iter(()), [], environ, start_response, cut=cut)
        headers.append(("Content-Length", str(whole.size)))
        wrap = environ.get("wsgi.file_wrapper")
        if wrap is None or cut or environ.get("REQUEST_METHOD") == "HEAD":
            chunks = iter(lambda: file.read(_READ_SIZE), b"")
            return send(OK, headers, chunks, [file.close], environ, start_response, cut=cut)
        start_response(OK, headers)
        wrapped: Iterable[bytes] = wrap(file, _READ_SIZE)
        return wrapped


def _begin(body: bytes | Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes] | None]:
    """The first chunk of a body, and an iterator of the others if its length is not known."""
    if isinstance(body, bytes):
        return body, None
    chunks = coalesce(body, size)
    return next(chunks, b""), chunks
