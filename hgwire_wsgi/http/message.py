"""A request and a response as values.

A :class:`Request` is made once, when the application is called; nothing else is made from a WSGI environ.  A
:class:`Response` holds the data to send and the resources to release afterwards; ``wsgi.py`` alone turns it into a WSGI
answer.
"""

from __future__ import annotations

import functools
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote

import attrs
from webob import BaseRequest

from ..access.admission import AdmissionControl, Lane, Slot
from ..access.identity import user_text
from ..commands.context import Allowance
from ..events import CacheOutcome, Changegroup, CommandReport, PushChanges
from ..limits import Limits
from ..logcontext import LOGGER, printable, short_list
from .body import RequestBody
from .deadlines import Watchdog, client_socket, stop_receiving
from .environ import mend
from .headers import Headers
from .uwsgi import disconnect

__all__ = [
    "NOSNIFF",
    "NO_STORE",
    "PRIVATE",
    "FileBody",
    "FrontEndBody",
    "Observed",
    "Request",
    "Response",
    "text_response",
]

NOSNIFF = ("X-Content-Type-Options", "nosniff")
"""Browsers must not guess that a reply is a page: repositories contain untrusted data."""

PRIVATE = ("Cache-Control", "private, no-cache")
"""For replies that succeeded.

Whether the next user may have the same reply is up to the policy, so no shared cache may store it.  The reply is right
only for the present state of the repository, so a cache of the user must not repeat it without asking; a reply without
this header may be repeated, even with a query string in its URL (RFC 9111, section 4.2.2).
"""

NO_STORE = ("Cache-Control", "no-store")
"""For pushes and errors.  Without it, caches may repeat a 404 (RFC 9110, section 15.1)."""
_NO_CREDENTIALS: Mapping[str, str] = {}

_SHORT = 16 * 1024
_DRAINED = 4 * 1024 * 1024
_LARGEST_BODY = 1 << 63

_RECEIVED = "waitress.client_disconnected"
"""A variable of waitress 2.0 and later."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


_URL_DEFAULTS = {"wsgi.url_scheme": "http", "SERVER_NAME": "localhost", "SERVER_PORT": "80"}
"""What WSGI requires, and WebOb makes URLs from."""


@attrs.define(eq=False)
class Observed:
    """Facts collected for observers while a request is served.

    Attributes:
        clone: whether the client asked for the whole history.
        changes: the changes made by pushes, one item for each transaction.
        reports: how the commands of a ``multirequest`` ended.
        recovered: called when an abandoned transaction was rolled back.
        made: called when a changegroup is complete.
    """

    clone: bool = False
    changes: list[PushChanges] = attrs.Factory(list)
    reports: list[CommandReport] = attrs.Factory(list)
    recovered: Callable[[], None] | None = None
    made: Callable[[Changegroup], None] | None = None


class Request:
    """One HTTP request.

    Args:
        environ: the WSGI environ.
        limits: bounds on what the client controls.

    Attributes:
        environ: the environ, to be passed to policies, hooks and backends as a value.
        fault: why the environ cannot be a request; ``None`` if it can.
        headers: the headers by name.
        method: the HTTP method.
        path: the URL path below the mount point; bytes as latin-1 characters, as in WSGI.
        query: the query string, likewise.
        repository: the repository's name, once routing has found it.
        commands: the command and its sub-commands, once known.
        cache: the cache outcome, as in :class:`~hgwire_wsgi.events.RequestClosed`.
        observed: collects facts for the observers; ``None`` without observers.
        credentials: the variable ``HTTP_AUTHORIZATION``, if an identity has removed it from the environ.
        refusal: why the request was refused on its arrival; ``None`` if it was not.
        control: returns the slots of this process, if requests are limited.
        watchdog: returns the watchdog of this process.
    """

    # Most requests change few of these.
    repository: str = ""
    commands: tuple[str, ...] = ()
    cache: CacheOutcome = ""
    observed: Observed | None = None
    credentials: Mapping[str, str] = _NO_CREDENTIALS
    refusal: BaseException | None = None
    control: Callable[[], AdmissionControl | None] | None = None
    watchdog: Callable[[], Watchdog] | None = None
    _slot: Slot | None = None
    _allowance: Allowance | None = None
    _body: RequestBody | None = None
    _request_id: str | None = None

    def __init__(self, environ: dict[str, Any], limits: Limits) -> None:
        environ, self.fault = mend(environ)
        self.environ = environ
        self.headers = Headers(environ)
        self.method: str = environ.get("REQUEST_METHOD") or "GET"
        self.path: str = environ.get("PATH_INFO") or ""
        self.query: str = environ.get("QUERY_STRING") or ""
        self._limits = limits

    @property
    def user(self) -> str | None:
        """The authenticated user as text; ``None`` if unauthenticated."""
        name = self.environ.get("REMOTE_USER")
        return user_text(name) if name else None

    @property
    def address(self) -> str:
        """The client's address; empty if the server does not provide it."""
        return self.environ.get("REMOTE_ADDR") or ""

    @property
    def report_changes(self) -> Callable[[PushChanges], None] | None:
        """Records the changes of a push; ``None`` without observers."""
        return None if self.observed is None else self.observed.changes.append

    @property
    def allowance(self) -> Allowance:
        """The walks through the history that all commands of the request may still make."""
        if self._allowance is None:
            self._allowance = Allowance(self._limits.walk)
        return self._allowance

    @property
    def report_recovery(self) -> Callable[[], None] | None:
        """Reports that an abandoned transaction was rolled back; ``None`` without observers."""
        return None if self.observed is None else self.observed.recovered

    @property
    def report_changegroup(self) -> Callable[[Changegroup], None] | None:
        """Reports that a changegroup is complete; ``None`` without observers."""
        return None if self.observed is None else self.observed.made

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self.environ.get("wsgi.url_scheme") or "http"

    @property
    def client(self) -> str:
        """Scheme, address and user as hooks get them: ``remote:<scheme>:<address>:<user>``, quoted."""
        address = self.environ.get("REMOTE_HOST") or self.address
        return f"remote:{self.scheme}:{_quote(address)}:{_quote(self.user or '')}"

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
        return BaseRequest({**_URL_DEFAULTS, **self.environ, "webob.url_encoding": "latin-1"})

    @property
    def body(self) -> RequestBody:
        """The request body.  Call :meth:`RequestBody.check` before a command reads it."""
        if self._body is None:
            self._body = RequestBody(self.environ, self._limits)
            self._body.admit = self._enter_to_read
            if self.watchdog is not None:
                self._body.transfer = self.watchdog().receiving(self.connection)
        return self._body

    @property
    def connection(self) -> socket.socket | None:
        """The connection to the client, if the server gives it to the application."""
        return client_socket(self.environ)

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

    @property
    def is_read(self) -> bool:
        """Whether nothing is left to read of the request."""
        return not self.may_have_body if self._body is None else self._body.at_end

    def drain(self) -> bool:
        """Read the rest of the body, within ``Limits.drain`` and ``Deadlines.linger``.

        Mercurial's client reads the answer only after it has sent its whole request, or has failed to.  If the rest is
        large, it is not read: the connection is closed after the answer, and the client reads the answer then.  A
        client that waits for permission to send its body gets the answer instead.  waitress has received the whole
        body before it calls the application.

        Returns:
            True if the connection can be used again, or if the server itself takes care of the rest.
        """
        if self.is_read or (self.bytes_in == 0 and self._is_held_back) or _RECEIVED in self.environ:
            return True
        if self._slot is None and (control := self._control) is not None:
            # Reading it occupies a thread, but the client must not wait for its answer.
            self._slot = control.enter_now("receive", self._clients)
            if self._slot is None:
                return False
        body, connection = self.body, self.connection
        if self.watchdog is not None:
            body.transfer = self.watchdog().lingering(connection)
        return body.drain(self._limits.drain or (_LARGEST_BODY if connection is None else _DRAINED))

    def stop_receiving(self) -> bool:
        """Let the server find the end of the body, so that it closes the connection; False if it cannot be done."""
        connection = self.connection
        if connection is None:
            return disconnect()
        stop_receiving(connection)
        return True

    # Admission

    def enter(self, lane: Lane) -> None:
        """Take a slot, or continue in another lane.

        Raises:
            ServerBusy: if there is none.
        """
        if self._slot is not None:
            slot, self._slot = self._slot, None
            slot.move(lane)
            self._slot = slot
        elif (control := self._control) is not None:
            self._slot = control.enter(lane, self._clients)

    def _enter_to_read(self) -> None:
        if self._slot is None:
            self.enter("receive")

    def enter_making(self) -> Slot | None:
        """Take a slot for making a bundle; ``None`` if their number is not limited.  The caller releases it.

        Raises:
            ServerBusy: if there is none.
        """
        control = self._control
        return None if control is None else control.enter("make", self._clients)

    def leave(self) -> None:
        """Give the slot back."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    @property
    def has_slot(self) -> bool:
        """Whether the request has a slot."""
        return self._slot is not None

    @property
    def _control(self) -> AdmissionControl | None:
        return None if self.control is None else self.control()

    @property
    def _clients(self) -> tuple[str, ...]:
        """Whose limits count: those of the address and of the user."""
        named = {"address": self.address, "user": self.user}
        return tuple(f"{kind} {name}" for kind, name in named.items() if name)

    @property
    def _is_held_back(self) -> bool:
        """Whether the client sends the body only after a ``100 Continue``, which the server has not sent yet.

        PEP 3333 lets servers send it at once, as gunicorn, waitress and Werkzeug do, or when ``wsgi.input`` is read, as
        gevent does.  uWSGI never sends it, unless its router has ``http-manage-expect``.  Observed: if the client sends
        the body after the answer, gevent drops it, and uWSGI closes the connection; neither takes it for a request.
        """
        environ = self.environ
        return (self.headers.get("Expect") or "").lower() == "100-continue" and (
            "uwsgi.version" in environ or environ.get("SERVER_SOFTWARE", "").startswith("gevent/")
        )

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


@functools.lru_cache(maxsize=256)
def _quote(value: str) -> str:
    # A server may have put anything here, and hooks read it.
    return quote(value.encode("utf-8", "surrogatepass"))


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

    @property
    def is_short(self) -> bool:
        """Whether the body fits into the buffer of any connection, so that sending it never waits."""
        body = self.body
        return len(body) <= _SHORT if isinstance(body, bytes) else isinstance(body, FrontEndBody)

    def abandon(self) -> None:
        """Release all resources of a response that is not sent."""
        for close in (*([self.body.file.close] if isinstance(self.body, FileBody) else []), *self.release):
            try:
                close()
            except Exception:
                LOGGER.exception("cleaning up after a response failed")


def text_response(status: str, text: str | bytes, headers: Iterable[tuple[str, str]] = (), error: str = "") -> Response:
    """A response of plain text."""
    body = text.encode("utf-8", "replace") if isinstance(text, str) else text
    stored = NO_STORE if error else PRIVATE
    media_type = ("Content-Type", "text/plain; charset=utf-8")
    return Response(status, [media_type, *headers, stored, NOSNIFF], body, error=error)
