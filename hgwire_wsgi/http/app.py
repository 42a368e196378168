"""The WSGI application and middleware: the single entry of all requests, and the single exit of all responses.

A request goes through :meth:`WireApp._respond`: routing finds its target, and a transport turns it into a response
value.  Errors on the way become responses too.  :func:`~hgwire_wsgi.http.wsgi.send` is the exit.  Small replies to
requests that are repeated word for word take a shorter way (:mod:`~hgwire_wsgi.http.v1.repeats`).

The policy is asked before anything of a request's body is read, and before its arguments are parsed.  If it hides a
repository, every answer is the one for a repository that does not exist: both are made by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import webob

from ..access.admission import Admission
from ..access.combine import default_policy
from ..access.hgweb import is_hidden
from ..access.identity import Identify
from ..access.proxies import TrustedProxies
from ..access.request import Policy, View
from ..cache.bundles import BundleCache
from ..cache.settings import CacheSettings, PerProcess, open_bundle_cache, open_response_cache
from ..commands.classify import WireRequest, named_command
from ..commands.registry import CommandRegistry
from ..dispatch import Dispatcher
from ..errors import HgWireError, RepositoryMoved, RepositoryNotFound, RequestError, Unavailable
from ..events import Observer
from ..limits import Limits
from ..logcontext import CURRENT
from ..negotiation import MEDIA_TYPE_01, ServerCapabilities
from ..repositories.base import Lease, RepositoryProvider, SubresourceReply, SubresourceRequest, Subresources
from ..stops import FAILURES
from ..streams import close_source
from .arrival import Arrivals
from .deadlines import Deadlines, Watchdog
from .message import NO_STORE, NOSNIFF, PRIVATE, Request, Response, text_response
from .refusals import refuse
from .routing import Route, Router
from .uwsgi import thread_count
from .v1.bundles import LongReplies
from .v1.input import classify
from .v1.recoding import sources
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
        policy: the access policy (default: hgweb's rules, and the file ``.hg/hgwire-readonly``).
        view: names what identifies a user's view of a repository, if not all users get the same replies.  It becomes
            part of the cache keys; with ``None`` for a user, no reply to that user is cached.
        capabilities: the capabilities to negotiate (default: those of the provider).
        limits: bounds on what a peer controls.
        challenge: the ``WWW-Authenticate`` header of a 401.  The host, or the server in front, checks the credentials
            and sets ``REMOTE_USER``.  With ``None``, no client is asked for credentials: a 401 becomes 403.
        api: the frame-based API (default: off).
        cache: sizes and locations of the reply caches.
        observers: called when a request starts and when its response is closed; see :mod:`hgwire_wsgi.events`.
        identify: finds out who the user is (default: ``REMOTE_USER``); see :mod:`hgwire_wsgi.access.identity`.
        proxies: the proxies that may tell the client's address and scheme (default: none).
        admission: how many requests may occupy threads of a process, so that some always serve small commands.
        deadlines: minimum rates of transfers.
    """

    def __init__(
        self,
        provider: RepositoryProvider,
        *,
        commands: CommandRegistry | None = None,
        policy: Policy = default_policy,
        view: View | None = None,
        capabilities: ServerCapabilities | None = None,
        limits: Limits | None = None,
        challenge: str | None = 'Basic realm="Mercurial"',
        api: ApiSettings | None = None,
        cache: CacheSettings | None = None,
        observers: Sequence[Observer] = (),
        identify: Identify | None = None,
        proxies: TrustedProxies | None = None,
        admission: Admission | None = None,
        deadlines: Deadlines | None = None,
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
        limited, watched = admission or Admission(), deadlines or Deadlines()
        self._control = PerProcess(lambda: limited.for_process(thread_count()))
        self._watchdog = PerProcess(lambda: Watchdog(watched))
        self.observers = tuple(observers)
        self._arrive = Request if identify is None and proxies is None else Arrivals(identify, proxies)
        self.challenge = challenge
        self._dispatcher = Dispatcher(
            commands=self.commands, policy=policy, view=view, server=self.capabilities, limits=self.limits
        )
        self._router = Router(provider, self.commands, self.api)
        self._v1 = V1Transport(
            dispatcher=self._dispatcher,
            provider=provider,
            responses=open_response_cache(settings),
            long_replies=LongReplies(
                provider=provider, settings=settings, bundles=self._bundles.get, sources=sources(self.capabilities)
            ),
        )
        self._v2 = V2Transport(self._dispatcher, provider, self.api, challenge)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        request = self._arrive(environ, self.limits)
        CURRENT.set(request)
        observation = Observation(request, self.observers) if self.observers else None
        try:
            try:
                response = self._v1.repeats.find(request)
                if response is None:
                    response = self._respond(request)
            except FAILURES as error:
                response = refuse(error, request, self.challenge)
            return send(request, response, start_response, observation=observation)
        except BaseException as stop:
            if observation is not None:
                observation.interrupt(stop)
            raise

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
            needed = self.provider.subresource_permission(route.rest, request.method)
            return WireRequest("resource", {}, (), "pull" if needed == "pull" else "push")
        return None

    def authorize(self, environ: dict[str, Any]) -> None:
        """Decide whether a request may run, without running it or reading its body.

        The answer is that of the policy and of the application's own rules for the same request.  Pages below a
        repository need ``pull``, and other methods there ``push``.

        Args:
            environ: of the request.

        Raises:
            HgWireError: if it may not.
        """
        request = self._arrive(environ, self.limits)
        CURRENT.set(request)
        try:
            if request.refusal is not None:
                raise request.refusal
            self._authorize(request)
        finally:
            CURRENT.set(None)

    def _authorize(self, request: Request) -> None:
        route = self._route(request)
        request.repository = route.name
        if route.kind not in ("command", "api"):
            # A query string with two commands is refused everywhere alike.
            named_command(request.query)
        if route.kind == "nothing":
            raise RepositoryNotFound
        if route.kind == "index":
            return
        with self.provider.lease(route.name) as repository:
            if route.kind == "command":
                self._v1.decide(request, route.name, repository)
                return
            permission: str = "pull" if request.method in ("GET", "HEAD") else "push"
            if route.kind == "api":
                permission = url_access(route.rest)[0]
            elif route.kind == "resource" and self.provider.is_subresource(route.rest):
                permission = self.provider.subresource_permission(route.rest, request.method)
            self._dispatcher.authorize(request, route.name, repository, (), permission)
        if route.kind == "below" and self._router.handles(request):
            # Another server may have a repository there, about which the policy was not asked.
            raise RepositoryNotFound("not found")

    def handles(self, environ: dict[str, Any]) -> bool:
        """Whether a request is for this application.

        True if it names a command, a large file or an API of one of its repositories, even if it is malformed,
        and if the repository has moved or cannot be found at the moment.
        """
        try:
            return self._router.handles(Request(environ, self.limits))
        except HgWireError:
            return True

    @property
    def bundles(self) -> BundleCache | None:
        """The bundle cache of this process; ``None`` if there is none."""
        return self._bundles.get()

    def _respond(self, request: Request) -> Response:
        request.watchdog = self._watchdog.get
        if request.environ.get("wsgi.multithread"):
            # A process that serves one request at a time has no thread to spare.
            request.control = self._control.get
        if request.refusal is not None:
            raise request.refusal
        response = self._answer(request)
        if not (response.is_short or request.has_slot):
            _enter_to_send(request, response)
        return response

    def _answer(self, request: Request) -> Response:
        try:
            route = self._route(request)
        except RepositoryMoved as moved:
            return _redirect(request, moved.path)
        request.repository = route.name
        if route.kind == "api":
            return self._v2.respond(request, route.name, route.rest)
        if route.kind != "command":
            command = named_command(request.query)
            if command:
                request.commands = (command,)
            if route.kind == "nothing":
                raise RepositoryNotFound
            if route.kind == "index":
                return self._list(request)
        lease = self.provider.lease(route.name)
        try:
            if route.kind == "command":
                return self._v1.respond(request, route.name, lease)
            return self._other(request, route, lease)
        except BaseException:
            lease.release()
            raise

    def _route(self, request: Request) -> Route:
        """Find the route of a request.

        Raises:
            RepositoryMoved: if the repository has a new name, and the policy does not hide the repository there.
            HgWireError: if it cannot be found.
        """
        try:
            return self._router.route(request)
        except RepositoryMoved as moved:
            with suppress(RepositoryMoved):
                if (located := self.provider.locate(f"/{moved.path}")) is not None:
                    with self.provider.lease(located[0]) as repository:
                        self._dispatcher.require_visible(request, located[0], repository)
            raise

    def _other(self, request: Request, route: Route, lease: Lease) -> Response:
        """Serve requests other than commands: large files, and a text for browsers that open a repository's URL."""
        authorize = partial(self._dispatcher.authorize, request, route.name, lease.repository, ())
        if route.kind == "greeting":
            authorize("pull")
            lease.release()
            return _greet(request)
        repository = lease.repository
        self._dispatcher.require_visible(request, route.name, repository)
        if route.kind == "below":
            lease.release()
            return _below()
        if isinstance(repository, Subresources) and self.provider.is_subresource(route.rest):
            body = request.body.check()
            if request.may_have_body:
                request.enter("receive")
            asked = SubresourceRequest(environ=_shift(request, route.rest), path=route.rest, body=body)
            reply = repository.subresource(asked, authorize)
            if reply is not None:
                close = partial(close_source, reply.chunks)
                headers = _with_cache_control(request, reply)
                return Response(reply.status, headers, iter(reply.chunks), (close, lease.release))
        raise RepositoryNotFound("not found")

    def _list(self, request: Request) -> Response:
        """The repositories that the user may pull from, as plain text."""
        if request.method not in ("GET", "HEAD"):
            raise RequestError("the request names no command")
        base = request.webob.application_url
        lines: list[str] = []
        nothing: HgWireError = RepositoryNotFound()
        for name in self.provider.names(_LISTED):
            try:
                with self.provider.lease(name) as repository:
                    self._dispatcher.authorize(request, name, repository, (), "pull")
                    if is_hidden(repository):
                        continue
            except Unavailable as error:
                nothing = error
            except HgWireError:
                continue
            else:
                lines.append(f"{base}/{quote(name, encoding='latin-1')}\n")
        if not lines:
            raise nothing
        return text_response("200 OK", "".join(lines))


def _enter_to_send(request: Request, response: Response) -> None:
    """Take a slot for a reply that turned out to be long.

    Raises:
        ServerBusy: if there is none; the response is abandoned.
    """
    try:
        request.enter("send")
    except BaseException:
        response.abandon()
        raise


def _below() -> Response:
    """A command belongs to a repository's own URL; below it, hgweb answers the same."""
    headers = [("Content-Type", MEDIA_TYPE_01), NO_STORE, NOSNIFF]
    return Response("404 Not Found", headers, b"0\nNot Found\n", error="Not Found")


def _with_cache_control(request: Request, reply: SubresourceReply) -> list[tuple[str, str]]:
    """The headers of a reply, with ``Cache-Control`` unless the backend has set it."""
    if any(name.lower() == "cache-control" for name, _ in reply.headers):
        return [*reply.headers]
    reads = request.method in ("GET", "HEAD") and reply.status.startswith("2")
    return [*reply.headers, PRIVATE if reads else NO_STORE]


def _redirect(request: Request, path: str) -> Response:
    """Redirect a client to the new name of a repository, with the same query string.

    All versions of Mercurial follow 301, and send the rest of their requests, pushes included, to the new URL.  Few
    follow 308.  But a POST that gets 301 is repeated as a GET, so a push whose repository moved midway gets 308, which
    every version reports as an error.
    """
    environ = request.environ
    status = "301 Moved Permanently" if request.method in ("GET", "HEAD") else "308 Permanent Redirect"
    location = quote(f"{environ.get('SCRIPT_NAME') or ''}/{path}", encoding="latin-1")
    if query := environ.get("QUERY_STRING"):
        location += "?" + quote(query, safe="!$%&'()*+,-./:;=?@_~", encoding="latin-1")
    return text_response(status, "the repository has moved\n", [("Location", location)])


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
        **request.credentials,
        "SCRIPT_NAME": (request.environ.get("SCRIPT_NAME") or "") + mount,
        "PATH_INFO": "/" + rest,
        "wsgi.input": request.body,
    }


class WireMiddleware:
    """Serves wire protocol requests, and passes all others on to another application unchanged.

    The other application may be hgweb, for its pages.  No request that names a command reaches it; see
    :meth:`Router.handles`.

    Args:
        app: serves all other requests.
        wire: serves the wire protocol requests.
    """

    def __init__(self, app: _WSGIApplication, *, wire: WireApp) -> None:
        self.app = app
        self.wire = wire

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return (self.wire if self.wire.handles(environ) else self.app)(environ, start_response)
