"""What the transports have in common: how a command gets its context, who may run it, and how a failure is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from ..access.policy import AccessRequest, Policy
from ..commands.classify import WireRequest
from ..commands.context import CommandContext
from ..commands.registry import Command, CommandRegistry, stricter
from ..commands.responses import Response
from ..errors import HgWireError, LocalProtocolError, PermissionDenied, UnsupportedMediaType
from ..limits import Limits
from ..negotiation import ClientProtocol, ServerCapabilities
from ..repositories.base import Repository
from ..streams import Readable
from .answer import NOSNIFF, StartResponse, answer
from .body import RequestBody
from .render import render_error

__all__ = ["Call", "Service", "public", "refuse_cross_site"]

_log = logging.getLogger("hgwire_wsgi")


@attrs.frozen(kw_only=True)
class Call:
    """A command with all it needs to run.

    Attributes:
        request: what was asked for.
        command: the command, as its repository has it.
        context: what it will know.
        permission: the strictest that it and its sub-commands need.
        state: of the repository before the command runs.
        version: of the repository, likewise.
        asked: the permissions that the policy was asked for, and granted; a command may ask for more while it runs.
    """

    request: WireRequest
    command: Command
    context: CommandContext
    permission: str
    state: bytes
    version: object
    asked: set[str]

    def with_body(self, body: Readable) -> Call:
        """The same call, reading another body."""
        return attrs.evolve(self, context=attrs.evolve(self.context, body=body))

    def run(self) -> Response:
        """Run the command."""
        return self.context.run(self.command)

    def authorize(self) -> None:
        """Ask the policy, and refuse pushes that a web page makes a browser send.

        Raises:
            PermissionDenied: if either refuses.
            UnsupportedMediaType: for a push whose media type any page could send.
        """
        self.context.authorize(self.permission)
        if self.permission == "push":
            refuse_cross_site(self.context.environ)


@attrs.frozen(kw_only=True)
class Service:
    """The parts of an application that all its transports work with.

    Attributes:
        commands: the registry of the application.
        policy: asked before anything runs.
        offer: what is offered, before a repository adjusts it.
        limits: bounds.
        challenge: the ``WWW-Authenticate`` header that goes with a 401.
    """

    commands: CommandRegistry
    policy: Policy
    offer: ServerCapabilities
    limits: Limits
    challenge: str

    def authorizer(
        self, name: str, repository: Repository, environ: dict[str, Any], commands: tuple[str, ...]
    ) -> Callable[[str], None]:
        """A function that raises :class:`PermissionDenied` unless the request has the permission it is called with.

        Args:
            name: of the repository.
            repository: leased for the request.
            environ: the WSGI environ.
            commands: what is to run.
        """

        def authorize(permission: str) -> None:
            self.policy(
                AccessRequest(
                    permission="push" if permission == "upload" else permission,
                    upload=permission == "upload",
                    user=environ.get("REMOTE_USER") or None,
                    name=name,
                    repository=repository,
                    commands=commands,
                    environ=environ,
                )
            )

        return authorize

    def prepare(
        self,
        request: WireRequest,
        name: str,
        repository: Repository,
        environ: dict[str, Any],
        *,
        body: Readable,
        client: ClientProtocol,
        transport: str,
    ) -> Call:
        """Find the command of a request, and everything it will know.  Nothing is asked and nothing runs.

        Args:
            request: what is asked for.
            name: of the repository.
            repository: leased for the command.
            environ: the WSGI environ.
            body: what the command may read.
            client: what the client understands.
            transport: which transport is asked.

        Raises:
            UnknownCommand: if the command or one of its sub-commands does not exist here.
        """
        ask = self.authorizer(name, repository, environ, request.names)
        asked: set[str] = set()

        def authorize(permission: str) -> None:
            asked.add(permission)
            ask(permission)

        context = CommandContext(
            repository=repository,
            commands=self.commands,
            arguments=request.arguments,
            user=environ.get("REMOTE_USER") or None,
            protocol=client,
            server=repository.adjust_capabilities(self.offer),
            body=body,
            environ=environ,
            authorize=authorize,
            transport=transport,
            batch=request.batch,
            limits=self.limits,
        )
        command = context.resolve(request.command)
        permission = stricter(*{context.resolve(each).permission for each in dict.fromkeys(request.names)})
        return Call(
            request=request,
            command=command,
            context=context,
            permission=permission,
            state=repository.content_token(),
            version=repository.change_stamp(),
            asked=asked,
        )

    def refuse(
        self, error: Exception, environ: dict[str, Any], start_response: StartResponse, body: RequestBody | None = None
    ) -> Iterable[bytes]:
        """Answer with an error, as clients of version 1 take it."""
        known = public(error)
        status, headers, content = render_error(known)
        headers += [*self.challenges(known), NOSNIFF]
        return answer(status, headers, content, environ, start_response, self.limits, body)

    def challenges(self, error: HgWireError) -> list[tuple[str, str]]:
        """The header that a 401 must have, unless the error brings it."""
        if error.http_status != 401 or any(name.lower() == "www-authenticate" for name, _ in error.headers):
            return []
        return [("WWW-Authenticate", self.challenge)]


def public(error: Exception) -> HgWireError:
    """What the person at the other end may know of a failure.

    That is the error itself if it is one of this package's and not a bug; else nothing, and the log has a traceback.
    """
    if isinstance(error, HgWireError) and not isinstance(error, LocalProtocolError):
        return error
    _log.error("a command failed", exc_info=error)
    return HgWireError("internal server error")


def refuse_cross_site(environ: Mapping[str, Any]) -> None:
    """Refuse a push that a web page made a browser send with the user's ambient credentials.

    Mercurial sends its own media type and no ``Origin``; a page can send that media type to another site only if a
    preflight allows it, which no answer of ours does.
    """
    content_type = environ.get("CONTENT_TYPE")
    if content_type and not content_type.lower().startswith("application/mercurial-"):
        raise UnsupportedMediaType("a push must be sent as application/mercurial-0.1 or application/mercurial-0.2")
    if "HTTP_ORIGIN" in environ or environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        raise PermissionDenied("pushes from web pages are refused")
