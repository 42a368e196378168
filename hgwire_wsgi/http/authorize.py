"""The decision endpoint: may a request run that another server is about to serve?

A front-end server, such as nginx with ``auth_request``, sends the method and the URI of a request in two headers.  The
answer is that of the application's own classifier and policy; nothing runs, and no body is read.  The headers are
trusted, so only the front end may reach the endpoint.

A front end and a backend may read an unusual URI differently.  Such a URI is refused instead of being interpreted: dot
segments, empty segments, a fragment, a command after a semicolon, or anything but a path with a query string.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import unquote

from ..commands.classify import names_command
from ..errors import HgWireError, RepositoryNotFound, RequestError
from ..stops import FAILURES
from .app import WireApp
from .failures import public
from .headers import Headers
from .message import NO_STORE, NOSNIFF
from .refusals import challenged
from .v1.renderers import status_line
from .wsgi import StartResponse

__all__ = ["AuthorizeApp"]

_METHOD = re.compile(r"[A-Z]{1,32}")
_URI = re.compile(r"(/[!-\"$->@-~]*)(?:\?([!-\"$-~]*))?")
"""A path and a query string of printable ASCII, without ``#``."""

_OWN = re.compile(r"CONTENT_LENGTH$|HTTP_TRANSFER_ENCODING$|hgwire_wsgi\.|webob\.")
"""Variables that belong to the request to the endpoint: its body, and what was concluded from its own URL."""

_UNUSUAL = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|//")


class AuthorizeApp:
    """Answers whether a request may run, as a WSGI application.

    The answer is 204, or the status of the refusal, with its ``WWW-Authenticate``.  ``X-Hgwire-Status`` and
    ``X-Hgwire-Reason`` also have the status and the reason.

    What cannot be seen is decided strictly: a ``batch`` with posted arguments needs ``push``, and posted arguments
    that the policy wants to see are refused.  Commands in frames need what their URL names.  Pages need ``pull``.

    Args:
        wire: the application whose registry and policy decide.
        prefix: the URL path below which the repositories are, as the client sees it.
        statuses: the statuses that the front end passes on to its client; another one becomes 403.  nginx passes on 401
            and 403, and answers 500 for all others.  ``None`` if it passes on all of them.
        method_header: the header with the method.
        uri_header: the header with the path and the query string, as the client sent them.
    """

    def __init__(
        self,
        wire: WireApp,
        *,
        prefix: str = "",
        statuses: Collection[int] | None = None,
        method_header: str = "X-Original-Method",
        uri_header: str = "X-Original-URI",
    ) -> None:
        self.wire = wire
        self.prefix = prefix.rstrip("/")
        self.statuses = None if statuses is None else frozenset(statuses)
        self.method_header = method_header
        self.uri_header = uri_header

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            self.wire.authorize(self._original(environ))
        except FAILURES as error:
            return self._refuse(public(error), start_response)
        start_response("204 No Content", [NO_STORE])
        return []

    def _original(self, environ: dict[str, Any]) -> dict[str, Any]:
        """The environ of the request that is asked about, without its body.

        Raises:
            RequestError: if the headers are missing, or the URI is unusual.
            RepositoryNotFound: if the URI is outside the prefix.
        """
        headers = Headers(environ)
        method = headers.get(self.method_header) or ""
        uri = _URI.fullmatch(headers.get(self.uri_header) or "")
        if _METHOD.fullmatch(method) is None or uri is None:
            raise RequestError(f"{self.method_header} and {self.uri_header} must have a method and a URI")
        path, query = unquote(uri[1], encoding="latin-1"), uri[2] or ""
        if _UNUSUAL.search(path):
            raise RequestError("the path has empty or dot segments")
        if ";" in query and names_command(query.replace(";", "&")) != names_command(query):
            raise RequestError("some servers would find another command in the query string")
        if path != self.prefix and not path.startswith(f"{self.prefix}/"):
            raise RepositoryNotFound
        return {
            **{name: value for name, value in environ.items() if _OWN.match(name) is None},
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": self.prefix,
            "PATH_INFO": path[len(self.prefix) :],
            "QUERY_STRING": query,
            "wsgi.input": io.BytesIO(),
        }

    def _refuse(self, error: HgWireError, start_response: StartResponse) -> Iterable[bytes]:
        status, headers = challenged(error, self.wire.challenge)
        # A front end takes a status of success for permission.
        passed = status if status >= 400 and (self.statuses is None or status in self.statuses) else 403
        line = status_line(passed, error.message)
        body = f"{error.message}\n".encode("utf-8", "replace")
        own = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Hgwire-Status", str(status)),
            ("X-Hgwire-Reason", line.partition(" ")[2]),
        ]
        start_response(line, [*own, *headers, NO_STORE, NOSNIFF])
        return [body]
