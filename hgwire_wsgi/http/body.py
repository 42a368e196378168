"""The request body: the only code that determines where it ends.

``Content-Length`` gives the end.  Without it, the body ends where ``wsgi.input`` ends, if the server promises that it
does (``wsgi.input_terminated``: gunicorn, waitress, and uWSGI 2.1 with ``wsgi-manage-chunked-input``), or where uWSGI
2.0's own function reports the end.  All bodies are read here, so two readers can never disagree about the end.

Posted arguments precede the body.  To parse them without consuming them, a reader records the bytes that it reads
(:meth:`RequestBody.preview`), and the next reader gets the same bytes again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import BodyTooLarge, BodyTooSlow, BodyTruncated, LengthRequired, RequestError
from ..limits import Limits
from ..negotiation import content_length
from ..streams import Prefixed, Readable
from .deadlines import Transfer
from .headers import Headers
from .uwsgi import chunked_input

__all__ = ["RequestBody"]

_READ_SIZE = 64 * 1024
_LARGEST = 10**18


class RequestBody:
    """The body of a request, read once and in chunks.

    Args:
        environ: the WSGI environ.
        limits: ``body`` is the maximum length.

    Attributes:
        received: bytes read so far.
        admit: called before the first byte is read; it may refuse.
        transfer: its deadline; ``None`` if it has none.
    """

    def __init__(self, environ: dict[str, Any], limits: Limits) -> None:
        self.received = 0
        self.admit: Callable[[], object] | None = None
        self.transfer: Transfer | None = None
        self._source: Readable | None = environ.get("wsgi.input")
        self._front: Prefixed | None = None
        self._limit = limits.body
        self._fault: RequestError | None = None
        self._end_unknown = False
        self._left: int | None = 0
        try:
            self._left = self._find_end(environ)
        except RequestError as error:
            self._fault = error
            self._end_unknown = True

    def _find_end(self, environ: dict[str, Any]) -> int | None:
        """Bytes to read; ``None`` if the source itself ends where the body ends."""
        length = content_length(Headers(environ), _LARGEST)
        if length is not None:
            if length > self._limit:
                self._fault = BodyTooLarge(f"Content-Length exceeds {self._limit} bytes")
            return length
        if environ.get("wsgi.input_terminated"):
            return None
        if not environ.get("HTTP_TRANSFER_ENCODING"):
            return 0
        chunks = chunked_input(environ)
        if chunks is None:
            raise LengthRequired("this server does not accept chunked request bodies; send Content-Length")
        self._source = chunks
        return None

    def check(self) -> RequestBody:
        """This body.

        Raises:
            RequestError: if ``Content-Length`` is not a number of bytes.
            BodyTooLarge: if it exceeds ``Limits.body``.
            LengthRequired: for a chunked body on a server that does not report its end.
        """
        if self._fault is not None:
            raise self._fault
        return self

    @property
    def at_end(self) -> bool:
        """True if the body is known, without reading, to be at its end."""
        return self._left == 0 and self._front is None and self._fault is None

    @property
    def length(self) -> int | None:
        """Remaining bytes, if known."""
        return self._left

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; none at the end of the body.

        Raises:
            BodyTruncated: if the client disconnected before the end.
            BodyTooLarge: if a body of undeclared length exceeds the limit.
        """
        if self._front is not None:
            if size <= 0 or (data := self._front.read(size)):
                return data if size > 0 else b""
            self._front = None
        data = self._receive(size)
        if self.received > self._limit:
            raise BodyTooLarge(f"the request body exceeds {self._limit} bytes")
        return data

    def _receive(self, size: int) -> bytes:
        if self._left is not None:
            size = min(size, self._left)
        if size <= 0 or self._source is None:
            return b""
        if self.admit is not None:
            self.admit()
            self.admit = None
        transfer = self.transfer
        try:
            if transfer is not None:
                transfer.begin()
            try:
                data = self._source.read(size)
            finally:
                if transfer is not None:
                    transfer.end()
        except Exception as error:  # each server raises its own exceptions for a lost client or a bad chunk
            self._lose(transfer)
            raise BodyTruncated("the request body is cut short or malformed") from error
        if transfer is not None:
            transfer.moved += len(data)
            if transfer.expired:
                self._lose(transfer)
        if not data:
            left, self._left = self._left, 0
            if left:
                raise BodyTruncated("the request body is shorter than its Content-Length")
        elif self._left is not None:
            self._left -= len(data)
        self.received += len(data)
        return data

    def _lose(self, transfer: Transfer | None) -> None:
        """Give up the rest of the body.

        Raises:
            BodyTooSlow: if the client was too slow.
        """
        self._left = 0
        if transfer is not None and transfer.expired:
            self._end_unknown = True
            raise BodyTooSlow("the request body arrives too slowly")

    @contextmanager
    def preview(self, limit: int) -> Iterator[Readable]:
        """Return a reader of the body; the next reader gets the same bytes again.

        Args:
            limit: maximum number of bytes to record.  Compressed data can be endless and decompress to nothing.

        Raises:
            RequestError: from the reader: as :meth:`read`, and past the limit.
        """
        recorder = _Recorder(self, limit)
        try:
            yield recorder
        finally:
            recorded = b"".join(recorder.pieces)
            if recorded:
                self._front = Prefixed(recorded, self._front or _EMPTY)

    def as_file(self) -> io.BufferedReader:
        """The rest of the body as an object that meets PEP 3333's requirements for ``wsgi.input``."""
        return io.BufferedReader(_RawBody(self))

    def drain(self, limit: int) -> bool:
        """Read and drop the rest, up to ``limit`` bytes, even of a body that exceeds its limit.

        Returns:
            True if the body was fully read or the client disconnected; otherwise the connection cannot be used again.
        """
        self._front = None
        try:
            while limit > 0:
                data = self._receive(min(limit, _READ_SIZE))
                if not data:
                    return not self._end_unknown
                limit -= len(data)
        except RequestError:
            pass
        return self._left == 0 and not self._end_unknown


_EMPTY = io.BytesIO()


class _Recorder:
    """Reads a body and records the bytes read, within a limit."""

    def __init__(self, body: RequestBody, limit: int) -> None:
        self._body = body
        self._room = limit
        self.pieces: list[bytes] = []

    def read(self, size: int, /) -> bytes:
        piece = self._body.read(size)
        self.pieces.append(piece)
        self._room -= len(piece)
        if self._room < 0:
            raise RequestError("posted arguments exceed the limit")
        return piece


class _RawBody(io.RawIOBase):
    def __init__(self, body: RequestBody) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._body.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
