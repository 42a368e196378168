"""The WSGI application and middleware: the only place that knows routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from webob import BaseRequest

from ..access.policy import Policy, hgweb_policy
from ..cache.settings import CacheSettings
from ..commands.classify import WireRequest, classify, names_command
from ..commands.registry import CommandRegistry
from ..errors import HgWireError, RepositoryNotFound, RequestError
from ..limits import Limits
from ..negotiation import MEDIA_TYPE_01, ServerCapabilities
from ..repositories.base import Lease, RepositoryProvider, SubresourceRequest, Subresources
from .answer import NOSNIFF, StartResponse, answer
from .api import ApiSettings, is_api_path
from .body import RequestBody, ResponseBody
from .service import Service
from .v1 import V1Transport
from .v2 import V2Transport

__all__ = ["WireApp", "WireMiddleware"]

_WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]


class WireApp:
    """Serves repositories to Mercurial clients, as a WSGI application.

    It can be mounted anywhere, is shared by all threads of a process, and shares nothing with another ``WireApp``.

    Args:
        provider: finds the repositories.
        commands: the registry; that of the standard commands unless given.  A copy is taken.
        policy: decides who may do what; hgweb's rules unless given.
        capabilities: what to negotiate (default: what the provider says).
        limits: bounds on what a peer controls.
        challenge: the ``WWW-Authenticate`` header of a 401.  The host or the server in front checks the credentials and
            sets ``REMOTE_USER``.
        cache: how much of what is made is kept, and where.
    """

    def __init__(
        self,
        provider: RepositoryProvider,
        *,
        commands: CommandRegistry | None = None,
        policy: Policy = hgweb_policy,
        capabilities: ServerCapabilities | None = None,
        limits: Limits | None = None,
        challenge: str = 'Basic realm="Mercurial"',
        api: ApiSettings | None = None,
        cache: CacheSettings | None = None,
    ) -> None:
        registry = CommandRegistry.standard() if commands is None else commands.copy()
        registry.add_backend_commands(provider.commands())
        self.provider = provider
        self.commands = registry.freeze()
        self.policy = policy
        self.capabilities = provider.adjust_capabilities(ServerCapabilities()) if capabilities is None else capabilities
        self.limits = limits or Limits()
        self.api = api or ApiSettings()
        self._service = Service(
            commands=self.commands, policy=policy, offer=self.capabilities, limits=self.limits, challenge=challenge
        )
        self._v1 = V1Transport(self._service, provider, cache or CacheSettings())
        self._v2 = V2Transport(self._service, provider, self.api)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            located = self.provider.locate(environ.get("PATH_INFO") or "")
            if located is not None and self._is_api(located[1]):
                return self._v2.respond(*located, environ, start_response)
            if located is not None and not located[1]:
                again = self._v1.repeat(located[0], environ, start_response)
                if again is not None:
                    return again
            request = self.classify(environ)
            if located is None:
                raise RepositoryNotFound("no such repository")
            name, rest = located
            if request is not None and rest:
                return self._below_repository(environ, start_response)
            lease = self.provider.lease(name)
        except Exception as error:
            return self._service.refuse(error, environ, start_response)
        if request is not None:
            return self._v1.respond(request, name, lease, environ, start_response)
        return self._other(name, rest, lease, environ, start_response)

    def classify(self, environ: dict[str, Any]) -> WireRequest | None:
        """What a request asks for, as this application sees it; see :func:`hgwire_wsgi.classify`.

        Raises:
            HgWireError: if the request is malformed.
        """
        return classify(environ, self.commands, capabilities=self.capabilities, limits=self.limits)

    def handles(self, environ: dict[str, Any]) -> bool:
        """Whether a request is for this application.

        It is if it names a command, large file or API of one of its repositories.
        """
        located = self.provider.locate(environ.get("PATH_INFO") or "")
        if located is None:
            return False
        rest = located[1]
        if self._is_api(rest):
            return True
        commands = names_command(environ)
        if not commands:
            return self.provider.is_subresource(rest)
        if rest:
            return False
        if any(name in self.commands for name in commands):
            return True
        # It may be one that only this repository's extensions bring.
        try:
            with self.provider.lease(located[0]) as repository:
                from_repository = repository.commands()
        except HgWireError:
            return False
        return any(self.commands.resolve(name, from_repository) is not None for name in commands)

    def _is_api(self, rest: str) -> bool:
        return self.api.server and is_api_path(rest)

    def _below_repository(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """A command belongs to a repository's own URL; below it, Mercurial's server answers just so."""
        content = b"0\nNot Found\n"
        headers = [("Content-Type", MEDIA_TYPE_01), ("Content-Length", str(len(content))), NOSNIFF]
        return answer("404 Not Found", headers, content, environ, start_response, self.limits)

    def _other(
        self, name: str, rest: str, lease: Lease, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        """Serve what is no command: large files, and a line for whoever looks at a repository with a browser."""
        authorize = self._service.authorizer(name, lease.repository, environ, ())
        content: RequestBody | None = None
        try:
            content = RequestBody(environ, self.limits)
            if not rest:
                authorize("pull")
                lease.release()
                return self._greet(environ, start_response)
            body = None
            if self.provider.is_subresource(rest):
                shifted = _shift(environ, rest, content)
                if isinstance(lease.repository, Subresources):
                    reply = lease.repository.subresource(SubresourceRequest(shifted, rest, content), authorize)
                    if reply is not None:
                        start_response(reply.status, list(reply.headers))
                        body = reply.chunks
            if body is None:
                raise RepositoryNotFound("not found")
            close = getattr(body, "close", None)
            return ResponseBody(iter(body), [*filter(None, [close]), lease.release])
        except Exception as error:
            lease.release()
            return self._service.refuse(error, environ, start_response, content)
        except BaseException:
            lease.release()
            raise

    def _greet(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            raise RequestError("the request names no command")
        url = BaseRequest(environ).path_url
        content = f"This is a Mercurial repository.  Clone it with\n\n    hg clone {url}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content))), NOSNIFF]
        return answer("200 OK", headers, content, environ, start_response, self.limits)


def _shift(environ: dict[str, Any], rest: str, body: RequestBody) -> dict[str, Any]:
    """A copy of the environ in which the repository is ``SCRIPT_NAME``, and the body ends where it ends."""
    path = environ.get("PATH_INFO") or ""
    mount = path[: len(path) - len(rest)].rstrip("/") if path.endswith(rest) else ""
    return {
        **environ,
        "SCRIPT_NAME": (environ.get("SCRIPT_NAME") or "") + mount,
        "PATH_INFO": "/" + rest,
        "wsgi.input": body,
    }


class WireMiddleware:
    """Serves wire protocol requests, and hands all others to another application untouched.

    The other application may be hgweb, for its pages.

    Args:
        app: gets what is not for the wire protocol, unknown commands included.
        wire: serves the rest.
    """

    def __init__(self, app: _WSGIApplication, *, wire: WireApp) -> None:
        self.app = app
        self.wire = wire

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return (self.wire if self.wire.handles(environ) else self.app)(environ, start_response)
