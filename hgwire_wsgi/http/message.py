"""A request and a response as values.

A :class:`Request` is made once, when the application is called; nothing else is made from a WSGI environ.  A
:class:`Response` holds the data to send and the resources to release afterwards; ``wsgi.py`` alone turns it into a WSGI
answer.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO
from urllib.parse import quote

import attrs
from webob import BaseRequest

from ..events import CacheOutcome, CommandReport, PushChanges
from ..limits import Limits
from ..logcontext import printable, short_list
from .body import RequestBody
from .headers import Headers

__all__ = ["NOSNIFF", "FileBody", "FrontEndBody", "Observed", "Request", "Response", "text_response"]

NOSNIFF = ("X-Content-Type-Options", "nosniff")
"""Browsers must not guess that a reply is a page: repositories contain untrusted data."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@attrs.define(eq=False)
class Observed:
    """Facts collected for observers while a request is served.

    Attributes:
        clone: whether the client asked for the whole history.
        changes: the changes made by pushes, one item for each transaction.
        reports: how the commands of a ``multirequest`` ended.
    """

    clone: bool = False
    changes: list[PushChanges] = attrs.Factory(list)
    reports: list[CommandReport] = attrs.Factory(list)


class Request:
    """One HTTP request.

    Args:
        environ: the WSGI environ.
        limits: bounds on what the client controls.

    Attributes:
        environ: the environ, to be passed to policies, hooks and backends as a value.
        headers: the headers by name.
        method: the HTTP method.
        path: the URL path below the mount point; bytes as latin-1 characters, as in WSGI.
        query: the query string, likewise.
        repository: the repository's name, once routing has found it.
        commands: the command and its sub-commands, once known.
        cache: the cache outcome, as in :class:`~hgwire_wsgi.events.RequestClosed`.
        observed: collects facts for the observers; ``None`` without observers.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_limits",
        "_request_id",
        "cache",
        "commands",
        "environ",
        "headers",
        "method",
        "observed",
        "path",
        "query",
        "repository",
    )

    def __init__(self, environ: dict[str, Any], limits: Limits) -> None:
        self.environ = environ
        self.headers = Headers(environ)
        self.method: str = environ.get("REQUEST_METHOD") or "GET"
        self.path: str = environ.get("PATH_INFO") or ""
        self.query: str = environ.get("QUERY_STRING") or ""
        self.repository = ""
        self.commands: tuple[str, ...] = ()
        self.cache: CacheOutcome = ""
        self.observed: Observed | None = None
        self._limits = limits
        self._body: RequestBody | None = None
        self._request_id: str | None = None

    @property
    def user(self) -> str | None:
        """The authenticated user; ``None`` if unauthenticated."""
        return self.environ.get("REMOTE_USER") or None

    @property
    def address(self) -> str:
        """The client's address; empty if the server does not provide it."""
        return self.environ.get("REMOTE_ADDR") or ""

    @property
    def report_changes(self) -> Callable[[PushChanges], None] | None:
        """Records the changes of a push; ``None`` without observers."""
        return None if self.observed is None else self.observed.changes.append

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self.environ.get("wsgi.url_scheme") or "http"

    @property
    def client(self) -> str:
        """Scheme, address and user as hooks get them: ``remote:<scheme>:<address>:<user>``, quoted."""
        address = self.environ.get("REMOTE_HOST") or self.address
        return f"remote:{self.scheme}:{quote(address)}:{quote(self.user or '')}"

    @property
    def request_id(self) -> str:
        """The front end's ``X-Request-ID`` if it is a plain word, otherwise a random ID."""
        if self._request_id is None:
            given = self.headers.get("X-Request-ID") or ""
            self._request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        return self._request_id

    @property
    def webob(self) -> BaseRequest:
        """The request as a WebOb request, for URLs; names in any encoding keep their bytes."""
        return BaseRequest({**self.environ, "webob.url_encoding": "latin-1"})

    @property
    def body(self) -> RequestBody:
        """The request body.  Call :meth:`RequestBody.check` before a command reads it."""
        if self._body is None:
            self._body = RequestBody(self.environ, self._limits)
        return self._body

    @property
    def may_have_body(self) -> bool:
        """Whether the request declares a body."""
        environ = self.environ
        return environ.get("CONTENT_LENGTH", "0") not in ("0", "") or "HTTP_TRANSFER_ENCODING" in environ

    @property
    def is_plain_get(self) -> bool:
        """Whether the request is a ``GET`` that carries everything in its URL and headers."""
        return self.method == "GET" and "HTTP_X_HGARGS_POST" not in self.environ and not self.may_have_body

    @property
    def bytes_in(self) -> int:
        """Bytes of the body read so far."""
        return 0 if self._body is None else self._body.received

    def drain(self) -> bool:
        """Read the rest of the body, within ``Limits.drain``.

        Mercurial's client reads the answer only after it has sent its whole request.  If the body is not read, an early
        answer is lost.

        Returns:
            True if the connection can be used again.
        """
        return (self._body is None and not self.may_have_body) or self.body.drain(self._limits.drain)

    def describe(self) -> str:
        """Describe the request in one line for log messages."""
        facts = {
            "repository": self.repository,
            "command": short_list(self.commands),
            "user": self.user or "",
            "address": self.address,
            "request": self.request_id,
        }
        return " ".join(f"{name}={printable(value) or '-'}" for name, value in facts.items())


@attrs.frozen
class FileBody:
    """A response body in an open file, from its beginning.

    Attributes:
        file: closed with the response.
        size: bytes of it.
    """

    file: BinaryIO
    size: int


@attrs.frozen
class FrontEndBody:
    """A response body that the front-end server sends instead of this application.

    Attributes:
        header: name and value of the header that names it (``X-Accel-Redirect``, ``X-Sendfile``).
        size: bytes of it.
    """

    header: tuple[str, str]
    size: int


@attrs.define(eq=False)
class Response:
    """The answer to a request.

    Attributes:
        status: the status line without the HTTP version.
        headers: all headers but ``Content-Length``, which follows from the body.
        body: the whole body, a file, a file that the front end sends, or chunks of a body of unknown length.  A file is
            closed with the response; the source of chunks must be in ``release``.
        release: called once, in order, when the response is closed or abandoned.
        error: why the request was refused or failed; empty otherwise.
    """

    status: str
    headers: list[tuple[str, str]]
    body: bytes | FileBody | FrontEndBody | Iterator[bytes]
    release: tuple[Callable[[], object], ...] = ()
    error: str = ""

    @property
    def code(self) -> int:
        """The status as a number."""
        return int(self.status[:3])


def text_response(status: str, text: str | bytes, headers: Iterable[tuple[str, str]] = (), error: str = "") -> Response:
    """A response of plain text."""
    body = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return Response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers, NOSNIFF], body, error=error)
