"""The version 1 transport: turns a request into a command, and the command's response into an HTTP response.

The policy is asked as soon as the command's name is known: before arguments are parsed, and before anything of the body
is read.  It may read the arguments itself, which are then parsed once (:class:`_Asked`).  A ``batch`` is first one
command of that name; the policy is asked again when its sub-commands are known.

A cached short reply is found before anything is parsed, and so is a stored bundle that the same request got before.
The policy is still asked, and the repository's state is still checked.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import cast

import attrs

from ..._version import __version__
from ...access.request import CommandCall
from ...cache.keys import digest
from ...cache.responses import CachedResponse, ResponseCache
from ...commands.classify import WireRequest, named_command
from ...commands.registry import Command
from ...dispatch import BoundCommand, Dispatcher, Resolved
from ...errors import RequestError
from ...negotiation import MEDIA_TYPE_02, ClientProtocol, ServerCapabilities, read_client_protocol, vary
from ...repositories.base import Lease, Repository, RepositoryProvider
from ...streams import Readable, coalesce
from ..message import NO_STORE, NOSNIFF, PRIVATE, FileBody, FrontEndBody, Request, Response
from ..refusals import refuse_cross_site
from .bundles import LONG, KnownBundle, LongReplies, Question
from .input import read_payload, read_request
from .renderers import OK, Encodings, Rendered
from .repeats import Repeats

__all__ = ["V1Transport"]

_BATCH = "batch"
_HANDSHAKE = "capabilities"
"""Clients send these before they know the server's capabilities, so every client must be able to read the answer."""


_LONGEST_QUESTION = 64 * 1024
"""Maximum length of a query string whose reply is cached: it is part of the key."""


def _read_calls(dispatcher: Dispatcher, request: Request, repository: Repository) -> tuple[CommandCall, ...]:
    return _Asked(dispatcher, request, repository).calls()


def _unseen() -> tuple[CommandCall, ...]:
    raise RequestError("posted arguments cannot be checked without the body")


@attrs.define(eq=False)
class _Asked:
    """The arguments of a request, read when they are first needed: by the policy, or to run the command."""

    dispatcher: Dispatcher
    request: Request
    repository: Repository
    _resolved: Resolved | None = attrs.field(default=None, init=False)

    def resolved(self) -> Resolved:
        """Read the arguments, and find the sub-commands.

        Raises:
            HgWireError: if the arguments are malformed, or exceed the limits.
        """
        if self._resolved is None:
            dispatcher, request = self.dispatcher, self.request
            # The route says that the query string names a command.
            wire = cast("WireRequest", read_request(request, dispatcher.commands, dispatcher.server, dispatcher.limits))
            request.commands = wire.names
            self._resolved = dispatcher.resolve(wire, self.repository, "v1")
        return self._resolved

    def calls(self) -> tuple[CommandCall, ...]:
        """The command and its sub-commands, for the policy."""
        return self.resolved().calls()

    def own_call(self) -> tuple[CommandCall, ...]:
        """The command without its sub-commands, for the policy."""
        return self.calls()[:1]


@attrs.frozen(kw_only=True)
class V1Transport:
    """Runs commands for HTTP version 1.

    Attributes:
        dispatcher: prepares commands.
        provider: leases repositories.
        responses: the cache of short replies.
        long_replies: long replies.
        repeats: the short replies that were sent lately.
        identity: all properties of the application that short replies depend on; applications may share a store.
    """

    dispatcher: Dispatcher
    provider: RepositoryProvider
    responses: ResponseCache
    long_replies: LongReplies
    repeats: Repeats = attrs.field(init=False)
    identity: str = attrs.field(init=False)

    @repeats.default
    def _(self) -> Repeats:
        return Repeats(self.dispatcher, self.provider)

    @identity.default
    def _(self) -> str:
        server = self.dispatcher.server
        engines = [engine.identity for engine in (*server.engines, server.legacy_engine)]
        handlers = {name: command.handler_name for name, command in self.dispatcher.commands.items()}
        return digest("application", __version__, server.capabilities(), engines, handlers)

    def respond(self, request: Request, name: str, lease: Lease) -> Response:
        """Answer a command, from the cache if possible.

        Args:
            request: the HTTP request; its query string names a command.
            name: of the repository.
            lease: of the repository; the response releases it, unless this raises.

        Raises:
            HgWireError: if the request is refused, or fails before its response begins.
        """
        repository = lease.repository
        view = self.dispatcher.view_of(request, name, repository)
        question = self._question(request, view)
        if question is not None:
            known = self._known(request, name, repository, view, question)
            if known is not None:
                calls = partial(_read_calls, self.dispatcher, request, repository)
                self.dispatcher.authorize(request, name, repository, known.commands, "pull", calls)
                body: bytes | FileBody | FrontEndBody | None
                if isinstance(known, CachedResponse):
                    self.repeats.remember(request, name, repository.change_stamp(), known)
                    body = known.body
                else:
                    body = self._open(request, known)
                if body is not None:
                    request.cache = "hit"
                    lease.release()
                    return Response(OK, [*known.headers], body)
        asked = _Asked(self.dispatcher, request, repository)
        found = self.authorize(request, name, repository, asked.own_call)
        return self._run(request, asked, found, name, lease, question)

    def authorize(
        self,
        request: Request,
        name: str,
        repository: Repository,
        own_call: Callable[[], tuple[CommandCall, ...]],
    ) -> Command:
        """Decide by its name whether a command may run.  Neither its arguments nor the body has been read.

        Args:
            request: the HTTP request.
            name: of the repository.
            repository: leased for the request.
            own_call: reads the arguments, if the policy wants them.

        Raises:
            HgWireError: if it may not.
        """
        command = named_command(request.query)
        request.commands = (command,)
        found = self.dispatcher.require(request, command, name, repository)
        self.dispatcher.authorize(request, name, repository, (command,), found.permission, own_call)
        if found.permission == "push":
            refuse_cross_site(request)
        return found

    def decide(self, request: Request, name: str, repository: Repository) -> None:
        """Decide whether a command may run, without reading the body.

        Posted arguments may hold anything, so a ``batch`` that has them needs ``push``.

        Args:
            request: the HTTP request; its query string names a command.
            name: of the repository.
            repository: leased for the request.

        Raises:
            HgWireError: if it may not.
        """
        asked = _Asked(self.dispatcher, request, repository)
        posted = "X-HgArgs-Post" in request.headers
        found = self.authorize(request, name, repository, _unseen if posted else asked.own_call)
        if found.name != _BATCH:
            return
        names, permission, calls = request.commands, "push", _unseen
        if not posted:
            resolved = asked.resolved()
            names, permission, calls = request.commands, resolved.permission, resolved.calls
        self.dispatcher.authorize(request, name, repository, names, permission, calls)
        if permission == "push":
            refuse_cross_site(request)

    def _known(
        self, request: Request, name: str, repository: Repository, view: tuple[str, ...] | None, question: Question
    ) -> CachedResponse | KnownBundle | None:
        """Find the reply to the same request in the repository's present state."""
        known = self.responses.get((name, repository.content_token(), question)) or self.long_replies.find(
            name, question, repository.change_stamp()
        )
        if known is None or not (view or repository.is_same_for_all()):
            # The reply may have been made before something was loaded that gives users different ones.
            return None
        request.commands = known.commands
        if request.observed is not None:
            request.observed.clone = known.clone
        return known

    def _open(self, request: Request, known: KnownBundle) -> FileBody | FrontEndBody | None:
        """Open a stored bundle; ``None`` if it is gone."""
        request.enter("send")
        return self.long_replies.open(request, known)

    def _run(
        self,
        request: Request,
        asked: _Asked,
        command: Command,
        name: str,
        lease: Lease,
        question: Question | None,
    ) -> Response:
        """Read the arguments of an allowed command, and run it."""
        body: Readable = io.BytesIO() if request.is_plain_get else request.body.check()
        repository = lease.repository
        if command.permission == "push":
            # With or without a body, it may wait for a lock.
            request.enter("receive")
        resolved = asked.resolved()
        if command.reply in LONG:
            request.enter("send")
        wire = resolved.request
        client = read_client_protocol(request.headers)
        server = repository.adjust_capabilities(self.dispatcher.server)
        encodings = _negotiate(wire, server, client)
        bound = self.dispatcher.bind(
            resolved,
            request,
            name,
            repository,
            server=server,
            client=client,
            body=body,
            version="v1",
            authorized=not resolved.batch,
        )
        if bound.permission != command.permission:
            refuse_cross_site(request)
        if bound.command.body or wire.posted:
            bound = bound.reading(read_payload(request, wire.posted, server, self.dispatcher.limits))
        if request.observed is not None:
            request.observed.clone = bound.is_clone
        rendered = self.long_replies.get(request, bound, name, lease, encodings, client)
        private = NO_STORE if rendered.error or bound.permission == "push" else PRIVATE
        headers = [("Content-Type", rendered.media_type), ("Vary", vary(request.headers)), private, NOSNIFF]
        if question is not None and question[-1] == bound.view:
            self._remember(request, question, bound, name, headers, rendered)
        return self._response(request, headers, rendered, lease)

    def _response(self, request: Request, headers: list[tuple[str, str]], rendered: Rendered, lease: Lease) -> Response:
        if isinstance(rendered.body, (bytes, FileBody, FrontEndBody)):
            lease.release()
            return Response(OK, headers, rendered.body, error=rendered.error)
        size = self.dispatcher.limits.chunk
        chunks = coalesce(rendered.body, size)
        try:
            # The first chunk is made before the status is sent, so that an early failure gets its own status.
            first = next(chunks, b"")
        except BaseException:
            rendered.close()
            raise
        if len(first) < size and rendered.media_type == MEDIA_TYPE_02:
            # It is also the last one, and occupies no thread while it is sent.  In 0.1, clients that do not know a
            # command take a reply without a length for a compressed stream.
            rendered.close()
            lease.release()
            whole = Response(OK, headers, first)
            if whole.is_short:
                request.leave()
            return whole
        return Response(OK, headers, chain([first], chunks), (rendered.close, lease.release))

    def _remember(
        self,
        request: Request,
        question: Question,
        bound: BoundCommand,
        name: str,
        headers: list[tuple[str, str]],
        rendered: Rendered,
    ) -> None:
        """Remember how a request was answered; cache a short reply if that is allowed and nothing has changed."""
        body = rendered.body
        if rendered.stored_as:
            known = KnownBundle(bound.stamp, rendered.stored_as, request.commands, tuple(headers), bound.is_clone)
            self.long_replies.remember(name, question, known)
        elif (
            self.responses.enabled
            and isinstance(body, bytes)
            and not rendered.error
            and rendered.may_be_cached()
            and bound.cacheable
            and self.provider.change_stamp(name) == bound.stamp
        ):
            request.cache = "miss"
            found = CachedResponse(request.commands, tuple(headers), body, bound.is_clone)
            self.responses.put((name, bound.token, question), found)

    def _question(self, request: Request, view: tuple[str, ...] | None) -> Question | None:
        """Everything that a reply can depend on, except the repository.

        Returns:
            Plain values; ``None`` if the request is not cacheable: it is no ``GET``, has a body or no view, or a query
            string that no client sends.
        """
        if view is None or not request.is_plain_get or len(request.query) > _LONGEST_QUESTION:
            return None
        numbered = request.headers.numbered
        return (self.identity, request.query), numbered("X-HgArg-"), numbered("X-HgProto-"), view


def _negotiate(wire: WireRequest, server: ServerCapabilities, client: ClientProtocol) -> Encodings:
    if wire.command == _HANDSHAKE and "0.2" not in client.media_types:
        server = attrs.evolve(server, send=("0.1", "0.2"))
    return Encodings.negotiate(server, client)
