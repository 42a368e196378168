"""Refusals: which part of an error reaches the client, and in which form."""

from __future__ import annotations

from ..commands.classify import names_command
from ..errors import HgWireError, LocalProtocolError, PermissionDenied, RequestError, UnsupportedMediaType
from ..logcontext import LOGGER
from ..negotiation import ANY_BYTES
from .message import NO_STORE, NOSNIFF, Request, Response, text_response
from .v1.renderers import render_error, status_line

__all__ = ["challenged", "public", "refuse", "refuse_cross_site"]


def public(error: Exception) -> HgWireError:
    """Return the error to report to the client.

    That is the error itself if it is from :mod:`hgwire_wsgi.errors` and not a bug.  Otherwise it is a generic error,
    and the log has a traceback.
    """
    if isinstance(error, HgWireError) and not isinstance(error, LocalProtocolError):
        return error
    LOGGER.error("a command failed", exc_info=error)
    return HgWireError("internal server error")


def challenged(error: HgWireError, challenge: str | None) -> tuple[int, list[tuple[str, str]]]:
    """Return the status and the headers of an error.

    A 401 must have a challenge (RFC 9110, section 15.5.2).  Without one in the error or the settings, it becomes 403.

    Args:
        error: the error.
        challenge: the ``WWW-Authenticate`` header of the application; ``None`` if it has none.
    """
    headers = list(error.headers)
    if error.http_status != 401 or any(name.lower() == "www-authenticate" for name, _ in headers):
        return error.http_status, headers
    if challenge is None:
        return 403, headers
    return 401, [*headers, ("WWW-Authenticate", challenge)]


def _is_for_hg(request: Request) -> bool:
    try:
        return bool(names_command(request.query))
    except RequestError:
        return True


def refuse(error: Exception, request: Request, challenge: str | None) -> Response:
    """Make the answer to a failed request, in the form that clients of version 1 expect, or as text for a browser.

    Args:
        error: the error.
        request: the request; one that names no command comes from a browser.
        challenge: the ``WWW-Authenticate`` header of a 401; ``None`` for none.
    """
    known = public(error)
    status, headers = challenged(known, challenge)
    if not _is_for_hg(request):
        return text_response(status_line(status), known.message + "\n", headers, error=known.message)
    media_type, content = render_error(known)
    line = status_line(status, known.message)
    return Response(line, [("Content-Type", media_type), *headers, NO_STORE, NOSNIFF], content, error=known.message)


def refuse_cross_site(request: Request) -> None:
    """Refuse a push that a web page made a browser send with the user's ambient credentials.

    Mercurial sends its own media type and no ``Origin``; other programs send ``application/octet-stream``.  A page can
    send one of these media types, or an ``X-HgArg`` header, to another site only after a successful preflight request,
    which this package never allows: the only media types that need none are those of forms and plain text (Fetch
    standard, "CORS-safelisted request-header").  Clients before 2.3 send ``pushkey`` as a form with ``X-HgArg``
    headers.

    Raises:
        UnsupportedMediaType: for a media type that any page can send.
        PermissionDenied: for a request whose headers show that it comes from a page.
    """
    get = request.headers.get
    content_type = get("Content-Type")
    if (
        content_type
        and not content_type.lower().startswith("application/mercurial-")
        and content_type.partition(";")[0].strip().lower() != ANY_BYTES
        and not (content_type.startswith("application/x-www-form-urlencoded") and "X-HgArg-1" in request.headers)
    ):
        raise UnsupportedMediaType("a push must be sent as application/mercurial-0.1 or application/mercurial-0.2")
    if "Origin" in request.headers or get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise PermissionDenied("pushes from web pages are refused")
