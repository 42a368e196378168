"""The version 1 transport: turns a request into a command, and the command's response into an HTTP response.

A cached short reply is found before anything is parsed (:meth:`V1Transport.repeat`).  The policy is still asked, and
the repository's state is still checked.
"""

from __future__ import annotations

from itertools import chain

import attrs

from ..._version import __version__
from ...cache.keys import digest
from ...cache.responses import CachedResponse, ResponseCache
from ...commands.classify import WireRequest
from ...dispatch import BoundCommand, Dispatcher
from ...negotiation import ClientProtocol, ServerCapabilities, read_client_protocol, vary
from ...repositories.base import Lease, Repository, RepositoryProvider
from ...streams import coalesce
from ..message import NOSNIFF, FileBody, FrontEndBody, Request, Response
from ..refusals import refuse_cross_site
from .bundles import LongReplies
from .input import read_payload
from .renderers import OK, Encodings, Rendered

__all__ = ["V1Transport"]

_HANDSHAKE = "capabilities"
"""Clients send these before they know the server's capabilities, so every client must be able to read the answer."""


_LONGEST_QUESTION = 64 * 1024
"""Maximum length of a query string whose reply is cached: it is part of the key."""


@attrs.frozen(kw_only=True)
class V1Transport:
    """Runs commands for HTTP version 1.

    Attributes:
        dispatcher: prepares commands.
        provider: leases repositories.
        responses: the cache of short replies.
        long_replies: long replies.
        identity: all properties of the application that short replies depend on; applications may share a store.
    """

    dispatcher: Dispatcher
    provider: RepositoryProvider
    responses: ResponseCache
    long_replies: LongReplies
    identity: str = attrs.field(init=False)

    @identity.default
    def _(self) -> str:
        server = self.dispatcher.server
        engines = [engine.identity for engine in (*server.engines, server.legacy_engine)]
        handlers = {name: command.handler_name for name, command in self.dispatcher.commands.items()}
        return digest("application", __version__, server.capabilities(), engines, handlers)

    def repeat(self, request: Request, name: str, repository: Repository) -> Response | None:
        """Answer from the cache, if the same request was answered in the repository's present state.

        Args:
            request: the HTTP request.
            name: of the repository.
            repository: leased for the request.

        Returns:
            The response; ``None``, without any effect, if it is not cached.

        Raises:
            HgWireError: by the policy.
        """
        question = self._question(request)
        if question is None:
            return None
        known = self.responses.get((name, repository.content_token(), question))
        if known is None:
            return None
        request.commands, request.cache = known.commands, "hit"
        if request.observed is not None:
            request.observed.clone = known.clone
        self.dispatcher.authorize(request, name, repository, known.commands, "pull")
        return Response(OK, [*known.headers], known.body)

    def respond(self, request: Request, wire: WireRequest, name: str, lease: Lease) -> Response:
        """Run a command.

        Args:
            request: the HTTP request.
            wire: the command and its arguments.
            name: of the repository.
            lease: of the repository; the response releases it, unless this raises.

        Raises:
            HgWireError: if the request is refused, or fails before its response begins.
        """
        body = request.body.check()
        client = read_client_protocol(request.headers)
        repository = lease.repository
        server = repository.adjust_capabilities(self.dispatcher.server)
        encodings = _negotiate(wire, server, client)
        bound = self.dispatcher.bind(
            self.dispatcher.resolve(wire, repository, "v1"),
            request,
            name,
            repository,
            server=server,
            client=client,
            body=body,
            version="v1",
        )
        if bound.permission == "push":
            refuse_cross_site(request)
        if bound.command.body or wire.posted:
            bound = bound.reading(read_payload(request, wire.posted, server, self.dispatcher.limits))
        if request.observed is not None:
            request.observed.clone = bound.is_clone
        rendered = self.long_replies.get(request, bound, name, lease, encodings, client)
        headers = [("Content-Type", rendered.media_type), ("Vary", vary(request.headers)), NOSNIFF]
        if isinstance(rendered.body, bytes) and not rendered.error:
            self._remember(request, bound, name, headers, rendered.body)
        return self._response(headers, rendered, lease)

    def _response(self, headers: list[tuple[str, str]], rendered: Rendered, lease: Lease) -> Response:
        if isinstance(rendered.body, (bytes, FileBody, FrontEndBody)):
            lease.release()
            return Response(OK, headers, rendered.body, error=rendered.error)
        chunks = coalesce(rendered.body, self.dispatcher.limits.chunk)
        try:
            # The first chunk is made before the status is sent, so that an early failure gets its own status.
            first = next(chunks, b"")
        except BaseException:
            rendered.close()
            raise
        return Response(OK, headers, chain([first], chunks), (rendered.close, lease.release))

    def _remember(
        self, request: Request, bound: BoundCommand, name: str, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        """Cache a short reply, if that is allowed and the repository has not changed."""
        question = self._question(request)
        if question is None or not bound.cacheable or self.provider.change_stamp(name) != bound.stamp:
            return
        request.cache = "miss"
        self.responses.put(
            (name, bound.token, question), CachedResponse(request.commands, tuple(headers), body, bound.is_clone)
        )

    def _question(self, request: Request) -> tuple[tuple[str, ...], ...] | None:
        """Everything that a reply can depend on, except the repository.

        Returns:
            Plain values; ``None`` if the request is not cacheable: it is no ``GET``, has a body, or a query string
            that no client sends.
        """
        if not request.is_plain_get or len(request.query) > _LONGEST_QUESTION:
            return None
        numbered = request.headers.numbered
        return (self.identity, request.query), numbered("X-HgArg-"), numbered("X-HgProto-")


def _negotiate(wire: WireRequest, server: ServerCapabilities, client: ClientProtocol) -> Encodings:
    if wire.command == _HANDSHAKE and "0.2" not in client.media_types:
        server = attrs.evolve(server, send=("0.1", "0.2"))
    return Encodings.negotiate(server, client)
