"""The WSGI environ as the rest of the package expects it, also after a server or middleware has changed it.

PEP 3333 says that CGI variables are strings whose characters are bytes, and that an absent one counts as empty.  Some
servers and middleware set ``None``, bytes, or text with other characters.  What can be read is read; the rest is a
:class:`RequestError`, never another exception.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

from ..errors import RequestError

__all__ = ["mend"]

_BYTES = (
    *("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH"),
    *("SERVER_NAME", "SERVER_PORT", "HTTP_HOST", "REMOTE_ADDR", "wsgi.url_scheme"),
)
"""Variables that are text whose characters are bytes."""

_TEXT = (*_BYTES, "REMOTE_USER", "REMOTE_HOST", "SERVER_SOFTWARE", "SERVER_PROTOCOL")
"""These, and variables that may be any text.  Other headers are checked where they are read."""

_EMPTY = repeat("")


def mend(environ: dict[str, Any]) -> tuple[dict[str, Any], RequestError | None]:
    """Check the variables that describe a request.

    Args:
        environ: the WSGI environ.

    Returns:
        The environ; if a variable is not text, a copy of it, with bytes decoded and other values removed.  And an error
        if a variable has characters that are not bytes: the request must not be answered with anything else.
    """
    try:
        joined = "".join(map(environ.get, _TEXT, _EMPTY))
    except TypeError:
        return mend(_with_text(environ))
    if joined.isascii():
        return environ, None
    for name in _BYTES:
        value = environ.get(name, "")
        if not value.isascii() and max(value) > "\xff":
            return environ, RequestError(f"invalid WSGI environ: {name} has characters that are not bytes")
    return environ, None


def _with_text(environ: dict[str, Any]) -> dict[str, Any]:
    mended = dict(environ)
    for name in _TEXT:
        value = mended.get(name, "")
        if isinstance(value, bytes):
            mended[name] = value.decode("latin-1")
        elif not isinstance(value, str):
            del mended[name]
    return mended
