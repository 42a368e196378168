"""Bodies, both ways, in constant memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import BodyTooLarge, BodyTruncated, LengthRequired, RequestError
from ..limits import Limits
from ..negotiation import content_length
from .uwsgi import chunked_input

__all__ = ["RequestBody", "ResponseBody"]

_log = logging.getLogger("hgwire_wsgi")
_READ_SIZE = 64 * 1024


class RequestBody:
    """The body of a request: reads what belongs to it and not a byte more.

    Its end is where ``Content-Length`` says; without one, where ``wsgi.input`` ends, if the server promises that it
    does (``wsgi.input_terminated``: gunicorn, waitress, and uWSGI 2.1 with ``wsgi-manage-chunked-input``), or where
    uWSGI 2.0 says.

    Args:
        environ: the WSGI environ.
        limits: ``body`` bounds the length.

    Raises:
        RequestError: if ``Content-Length`` is no number of bytes.
        BodyTooLarge: if it exceeds the bound.
        LengthRequired: for a chunked body on a server that does not tell its end.
    """

    def __init__(self, environ: dict[str, Any], limits: Limits) -> None:
        self._source = environ.get("wsgi.input")
        self._limit = self._room = limits.body
        self._left = content_length(environ, limits.body)
        if self._left is None and not environ.get("wsgi.input_terminated"):
            if not environ.get("HTTP_TRANSFER_ENCODING"):
                self._left = 0
            elif (chunks := chunked_input(environ)) is not None:
                self._source = chunks
            else:
                raise LengthRequired("this server takes no chunked request bodies; send Content-Length")

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; none at the end of the body.

        Raises:
            BodyTruncated: if the client went away before the end.
            BodyTooLarge: if a body of undeclared length passes the bound.
        """
        data = self._read(size)
        self._room -= len(data)
        if self._room < 0:
            raise BodyTooLarge(f"the request body exceeds {self._limit} bytes")
        return data

    def _read(self, size: int) -> bytes:
        if self._left is not None:
            size = min(size, self._left)
        if size <= 0 or self._source is None:
            return b""
        try:
            data: bytes = self._source.read(size)
        except Exception as error:  # every server has its own exceptions for a lost client or a bad chunk
            self._left = 0
            raise BodyTruncated("the request body is cut short or malformed") from error
        if not data:
            left, self._left = self._left, 0
            if left:
                raise BodyTruncated("the request body is shorter than its Content-Length")
        elif self._left is not None:
            self._left -= len(data)
        return data

    def drain(self, limit: int) -> bool:
        """Read and drop what is left, up to ``limit`` bytes, also of a body that passes its bound.

        Returns:
            Whether nothing is left, be it that the client went away; if not, the connection cannot be used again.
        """
        try:
            while limit > 0:
                data = self._read(min(limit, _READ_SIZE))
                if not data:
                    return True
                limit -= len(data)
        except RequestError:
            pass
        return self._left == 0


class ResponseBody:
    """What a WSGI server iterates and closes.

    Its first chunk is made before it is returned to the server, so that an early failure gets its own status.  A later
    one is logged and breaks the transfer: the server cuts the connection, and no client takes a part for the whole.

    Args:
        chunks: the body.
        closers: called once, in order, when the response ends, however it ends.
        cut: fail after the last chunk, for a connection that must not be used again.
    """

    def __init__(self, chunks: Iterator[bytes], closers: Iterable[Callable[[], object]], *, cut: bool = False) -> None:
        self._chunks = chunks
        self._closers = tuple(closers)
        self._cut = cut

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            if self._cut:
                self._cut = False
                raise BodyTooLarge("the request could not be read to its end; closing the connection") from None
            raise
        except Exception:
            _log.exception("a response failed after it had begun; the connection is cut")
            raise

    def close(self) -> None:
        """Release what the response holds."""
        closers, self._closers = self._closers, ()
        for closer in closers:
            try:
                closer()
            except Exception:
                _log.exception("cleaning up after a response failed")
