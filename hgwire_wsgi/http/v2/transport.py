"""The version 2 transport: turns a request for the API server into a response."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain

import attrs
from webob.acceptparse import Accept

from ...dispatch import Dispatcher
from ...errors import (
    BadEncoding,
    FrameTooLarge,
    LimitExceeded,
    MalformedFrame,
    PermissionDenied,
    RemoteProtocolError,
    RepositoryNotFound,
    TruncatedFrame,
)
from ...framing import Profile
from ...negotiation import ClientProtocol, read_client_protocol
from ...repositories.base import Repository, RepositoryProvider
from ..message import NO_STORE, NOSNIFF, Request, Response
from ..refusals import challenged, public, refuse_cross_site
from ..v1.renderers import status_line
from .api import ApiSettings, PlainRefusal, Target, plain, route
from .debugreflect import reflect
from .input import FrameInput, Spool
from .multirequest import MultiRequest
from .workers import Workers

__all__ = ["V2Transport"]

_MULTIREQUEST = "multirequest"

_MALFORMED = (TruncatedFrame, FrameTooLarge, LimitExceeded, MalformedFrame, BadEncoding)
"""Errors in frames where the reference crashes or notices nothing.  It answers all others with 200 and text."""


@attrs.frozen
class V2Transport:
    """Runs commands for HTTP version 2.

    Attributes:
        dispatcher: prepares commands.
        provider: leases repositories.
        settings: the enabled APIs.
        challenge: the ``WWW-Authenticate`` header of a 401; ``None`` for none.
        workers: threads for commands that may run in parallel; ``None`` to run one after the other.
    """

    dispatcher: Dispatcher
    provider: RepositoryProvider
    settings: ApiSettings
    challenge: str | None
    workers: Workers | None = attrs.field(init=False)

    @workers.default
    def _(self) -> Workers | None:
        return Workers(self.settings.workers) if self.settings.workers else None

    def respond(self, request: Request, name: str, rest: str) -> Response:
        """Answer a request for the API server; its leases are released when the response is closed.

        Args:
            request: the HTTP request.
            name: the repository's name.
            rest: the path below the repository, which begins with ``api``.
        """
        with ExitStack() as stack:
            try:
                response = self._respond(request, name, rest, stack)
            except RepositoryNotFound:
                # Answered like a URL without a repository.
                raise
            except Exception as error:
                return self._refuse(error)
            response.release = (*response.release, stack.pop_all().close)
            return response

    def _respond(self, request: Request, name: str, rest: str, stack: ExitStack) -> Response:
        limits = self.dispatcher.limits
        lease = self.provider.lease(name)
        stack.callback(lease.release)
        target = self._target(request, name, rest, lease.repository)
        if isinstance(target, Response):
            return target
        body = request.body.check()
        if target.command == "debugreflect":
            if not self.settings.debugreflect:
                raise PlainRefusal(404, "debugreflect service not available")
            return plain(reflect(body, target.api.revision, limits).decode("latin-1"))
        self._check(request, target, lease.repository)
        spool = Spool(limits)
        stack.callback(spool.close)
        client = read_client_protocol(request.headers)
        commands = MultiRequest(
            dispatcher=self.dispatcher,
            provider=self.provider,
            workers=self.workers,
            profile=self._choose_profile(client),
            target=target,
            request=request,
            name=name,
            lease=lease,
            client=client,
            frames=FrameInput(body, target.api.revision, limits),
            spool=spool,
        )
        chunks = commands.multiple() if target.command == _MULTIREQUEST else commands.single()
        stack.callback(chunks.close)
        first = next(chunks, b"")
        headers = [("Content-Type", target.api.revision.media_type), NO_STORE, NOSNIFF]
        return Response("200 OK", headers, chain([first], chunks))

    def _target(self, request: Request, name: str, rest: str, repository: Repository) -> Target | Response:
        """Find what a URL selects, and ask the policy.  Nothing of the body has been read.

        The policy is asked for the permission in the URL, without commands: it is asked about each command of the
        request when its frame, with its arguments, has been read.
        """
        try:
            target = route(request, rest, self.settings)
        except PlainRefusal:
            self.dispatcher.require_visible(request, name, repository)
            raise
        if isinstance(target, Response):
            self.dispatcher.require_visible(request, name, repository)
            return target
        request.commands = (target.command,)
        self.dispatcher.authorize(request, name, repository, (), target.access)
        return target

    def _check(self, request: Request, target: Target, repository: Repository) -> None:
        """Check what the reference checks before it reads the body, in its order."""
        media_type, name = target.api.revision.media_type, target.command
        if name != _MULTIREQUEST and self.dispatcher.find(name, repository, target.api.version) is None:
            if name in self.dispatcher.commands:
                raise PlainRefusal(404, f"invalid wire protocol command: {name}")
            raise PlainRefusal(404, f"unknown wire protocol command: {name}\n")
        if not _accepts(request.headers.get("Accept") or "", media_type):
            raise PlainRefusal(406, f"client MUST specify Accept header with value: {media_type}\n")
        if (request.headers.get("Content-Type") or "").partition(";")[0].strip().lower() != media_type:
            raise PlainRefusal(415, f"client MUST send Content-Type header with value: {media_type}\n")
        if target.access == "push":
            refuse_cross_site(request)

    def _choose_profile(self, client: ClientProtocol) -> Profile | None:
        """Return the best encoding that the client accepts; ``None`` if it accepts none."""
        if not any(token.startswith("comp=") for token in client.tokens):
            return None
        return next((profile for profile in self.settings.encodings if profile.name in client.engines), None)

    def _refuse(self, error: Exception) -> Response:
        """Answer with a status and text."""
        known = public(error)
        code, headers = challenged(known, self.challenge)
        status, text = status_line(code), f"{known.message}\n".encode("utf-8", "replace")
        if isinstance(known, PlainRefusal):
            text = known.message.encode("latin-1", "replace")
        elif isinstance(known, PermissionDenied):
            status, text = status_line(code, known.message), b"permission denied"
        elif isinstance(known, RemoteProtocolError) and not isinstance(known, _MALFORMED):
            status = status_line(200)
        headers = [("Content-Type", "text/plain"), *headers, NO_STORE, NOSNIFF]
        return Response(status, headers, text, error=known.message)


def _accepts(header: str, media_type: str) -> bool:
    """Whether an ``Accept`` header names a media type, and not only a range, with a weight other than 0."""
    try:
        ranges = list(Accept.parse(header))
    except ValueError:
        return False
    return any(weight and name.partition(";")[0].strip().lower() == media_type for name, weight, _, _ in ranges)
