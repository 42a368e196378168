"""The WSGI application and middleware: the single entry of all requests, and the single exit of all responses.

A request goes through :meth:`WireApp._respond`: routing finds its target, and a transport turns it into a response
value.  Errors on the way become responses too.  :func:`~hgwire_wsgi.http.wsgi.send` is the exit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast
from urllib.parse import quote

import webob

from ..access.policy import Policy, hgweb_policy, is_hidden
from ..cache.bundles import BundleCache
from ..cache.settings import CacheSettings, PerProcess, open_bundle_cache, open_response_cache
from ..commands.classify import WireRequest
from ..commands.registry import CommandRegistry
from ..dispatch import Dispatcher
from ..errors import HgWireError, RepositoryNotFound, RequestError
from ..events import Observer
from ..limits import Limits
from ..logcontext import CURRENT
from ..negotiation import MEDIA_TYPE_01, ServerCapabilities
from ..repositories.base import Lease, RepositoryProvider, SubresourceRequest, Subresources
from ..streams import close_source
from .message import NOSNIFF, Request, Response, text_response
from .refusals import refuse
from .routing import Route, Router
from .v1.bundles import LongReplies
from .v1.input import classify, read_request
from .v1.transport import V1Transport
from .v2.api import ApiSettings, url_access
from .v2.transport import V2Transport
from .wsgi import Observation, StartResponse, send

__all__ = ["WireApp", "WireMiddleware"]

_WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]

_LISTED = 1000
"""Maximum number of repositories in the list at ``/``.  The policy is asked about each of them."""


class WireApp:
    """Serves repositories to Mercurial clients, as a WSGI application.

    It can be mounted at any prefix and is shared by all threads of a process.  Two ``WireApp`` objects share no state.

    Args:
        provider: finds the repositories.
        commands: the registry (default: the standard commands).  A copy is taken.
        policy: the access policy (default: hgweb's rules).
        capabilities: the capabilities to negotiate (default: those of the provider).
        limits: bounds on what a peer controls.
        challenge: the ``WWW-Authenticate`` header of a 401.  The host, or the server in front, checks the credentials
            and sets ``REMOTE_USER``.
        api: the frame-based API (default: off).
        cache: sizes and locations of the reply caches.
        observers: called when a request starts and when its response is closed; see :mod:`hgwire_wsgi.events`.
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
        observers: Sequence[Observer] = (),
    ) -> None:
        registry = CommandRegistry.standard() if commands is None else commands.copy()
        registry.add_backend_commands(provider.commands(), provider.known_permissions())
        self.provider = provider
        self.commands = registry.freeze()
        self.policy = policy
        self.capabilities = provider.adjust_capabilities(ServerCapabilities()) if capabilities is None else capabilities
        self.limits = limits or Limits()
        self.api = api or ApiSettings()
        settings, chunk = cache or CacheSettings(), self.limits.chunk
        self._bundles: PerProcess[BundleCache | None] = PerProcess(lambda: open_bundle_cache(settings, chunk=chunk))
        self.observers = tuple(observers)
        self._challenge = challenge
        self._dispatcher = Dispatcher(
            commands=self.commands, policy=policy, server=self.capabilities, limits=self.limits
        )
        self._router = Router(provider, self.commands, self.api)
        self._v1 = V1Transport(
            dispatcher=self._dispatcher,
            provider=provider,
            responses=open_response_cache(settings),
            long_replies=LongReplies(provider=provider, settings=settings, bundles=self._bundles.get),
        )
        self._v2 = V2Transport(self._dispatcher, provider, self.api, challenge)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ, self.limits)
        CURRENT.set(request)
        observation = Observation(request, self.observers) if self.observers else None
        try:
            response = self._respond(request)
        except Exception as error:
            response = refuse(error, request, self._challenge)
        return send(request, response, start_response, observation=observation)

    def respond(self, request: webob.BaseRequest) -> webob.Response:
        """Answer a WebOb request with a WebOb response, for hosts that route requests themselves.

        A Pyramid view can return it.  The response streams: iterate it once, and close it.

        Args:
            request: its ``path_info`` is the path below the place where the repositories are mounted.
        """
        status, headers, body = request.call_application(self)
        return webob.Response(status=status, headerlist=headers, app_iter=body)

    def classify(self, environ: dict[str, Any]) -> WireRequest | None:
        """Find out what a request asks for, as this application sees it; see :func:`hgwire_wsgi.classify`.

        Requests without a command in their query string are classified by URL and method: commands in frames need what
        the URL permits (``ro`` or ``rw``), and large files need ``push`` for every method but ``GET`` and ``HEAD``.

        Raises:
            HgWireError: if the request is malformed.
        """
        wire = classify(environ, self.commands, capabilities=self.capabilities, limits=self.limits)
        if wire is not None:
            return wire
        request = Request(environ, self.limits)
        route = self._router.route(request)
        if route.kind == "api":
            access, command = url_access(route.rest)
            return WireRequest(command, {}, (), access)
        if route.kind == "resource" and self.provider.is_subresource(route.rest):
            return WireRequest("resource", {}, (), "pull" if request.method in ("GET", "HEAD") else "push")
        return None

    def handles(self, environ: dict[str, Any]) -> bool:
        """Whether a request is for this application.

        True if it names a command, a large file or an API of one of its repositories, even if it is malformed.
        """
        try:
            return self._router.handles(Request(environ, self.limits))
        except RequestError:
            return True

    @property
    def bundles(self) -> BundleCache | None:
        """The bundle cache of this process; ``None`` if there is none."""
        return self._bundles.get()

    def _respond(self, request: Request) -> Response:
        route = self._router.route(request)
        request.repository = route.name
        if route.kind == "api":
            return self._v2.respond(request, route.name, route.rest)
        if route.kind == "command":
            return self._command(request, route.name)
        wire = read_request(request, self.commands, self.capabilities, self.limits)
        if wire is not None:
            request.commands = wire.names
        if route.kind == "nothing":
            raise RepositoryNotFound("no such repository")
        if route.kind == "index":
            return self._list(request)
        if route.kind == "below":
            return _below()
        lease = self.provider.lease(route.name)
        try:
            return self._other(request, route, lease)
        except BaseException:
            lease.release()
            raise

    def _command(self, request: Request, name: str) -> Response:
        lease = self.provider.lease(name)
        try:
            again = self._v1.repeat(request, name, lease.repository)
            if again is not None:
                lease.release()
                return again
            # The route says that the query string names a command.
            wire = cast("WireRequest", read_request(request, self.commands, self.capabilities, self.limits))
            request.commands = wire.names
            return self._v1.respond(request, wire, name, lease)
        except BaseException:
            lease.release()
            raise

    def _other(self, request: Request, route: Route, lease: Lease) -> Response:
        """Serve requests other than commands: large files, and a text for browsers that open a repository's URL."""
        authorize = partial(self._dispatcher.authorize, request, route.name, lease.repository, ())
        body = request.body.check()
        if route.kind == "greeting":
            authorize("pull")
            lease.release()
            return _greet(request)
        repository = lease.repository
        if isinstance(repository, Subresources) and self.provider.is_subresource(route.rest):
            asked = SubresourceRequest(environ=_shift(request, route.rest), path=route.rest, body=body)
            reply = repository.subresource(asked, authorize)
            if reply is not None:
                close = partial(close_source, reply.chunks)
                return Response(reply.status, [*reply.headers], iter(reply.chunks), (close, lease.release))
        raise RepositoryNotFound("not found")

    def _list(self, request: Request) -> Response:
        """The repositories that the user may pull from, as plain text."""
        if request.method not in ("GET", "HEAD"):
            raise RequestError("the request names no command")
        base = request.webob.application_url
        lines = [
            f"{base}/{quote(name, encoding='latin-1')}\n"
            for name in self.provider.names(_LISTED)
            if self._shows(request, name)
        ]
        if not lines:
            raise RepositoryNotFound("no such repository")
        return text_response("200 OK", "".join(lines))

    def _shows(self, request: Request, name: str) -> bool:
        try:
            with self.provider.lease(name) as repository:
                self._dispatcher.authorize(request, name, repository, (), "pull")
                return not is_hidden(repository)
        except HgWireError:
            return False


def _below() -> Response:
    """A command belongs to a repository's own URL; below it, hgweb answers the same."""
    return Response("404 Not Found", [("Content-Type", MEDIA_TYPE_01), NOSNIFF], b"0\nNot Found\n", error="Not Found")


def _greet(request: Request) -> Response:
    if request.method not in ("GET", "HEAD"):
        raise RequestError("the request names no command")
    url = request.webob.path_url
    return text_response("200 OK", f"This is a Mercurial repository.  Clone it with\n\n    hg clone {url}\n")


def _shift(request: Request, rest: str) -> dict[str, Any]:
    """Copy the environ, with the repository as ``SCRIPT_NAME`` and a body that is safe to read to its end."""
    path = request.path
    mount = path[: len(path) - len(rest)].rstrip("/") if path.endswith(rest) else ""
    return {
        **request.environ,
        "SCRIPT_NAME": (request.environ.get("SCRIPT_NAME") or "") + mount,
        "PATH_INFO": "/" + rest,
        "wsgi.input": request.body,
    }


class WireMiddleware:
    """Serves wire protocol requests, and passes all others on to another application unchanged.

    The other application may be hgweb, for its pages.

    Args:
        app: serves all other requests, including unknown commands.
        wire: serves the wire protocol requests.
    """

    def __init__(self, app: _WSGIApplication, *, wire: WireApp) -> None:
        self.app = app
        self.wire = wire

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return (self.wire if self.wire.handles(environ) else self.app)(environ, start_response)
