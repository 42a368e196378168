"""One HTTP connection to a server, over :mod:`http.client`: kept alive, in constant memory, with one kind of error.

A connection belongs to one thread and has at most one unfinished response.  A repeatable request uses the kept-alive
connection, and is sent again if the server has closed it in the meantime.  Any other request with a body opens a new
connection, because it would be unknown whether the server had acted on it.
"""

from __future__ import annotations

import base64
import http.client
import io
import os
import re
import selectors
import socket
import ssl
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import quote, unquote, urlsplit

import attrs

from .._version import __version__
from ..errors import ConnectionFailed, LocalProtocolError
from ..streams import Readable

__all__ = [
    "Address",
    "BoundedResponse",
    "Connection",
    "Response",
    "Source",
    "pieces_of",
    "printable",
    "size_of",
    "utf8",
]

Source: TypeAlias = bytes | Readable | Iterable[bytes]
"""Data for a request body: bytes, a file (read from its current position), or an iterable of bytes."""

PIECE = 64 * 1024

# Some sites distinguish clients of the wire protocol from browsers by the start of Mercurial's own user agent.
_USER_AGENT = f"mercurial/proto-1.0 (hgwire {__version__})"
_LINES = 1000
# ValueError: http.client passes a malformed chunk size on to int() and to the file it reads.
_FAILURES = (OSError, http.client.HTTPException, ValueError)
# http.client refuses these characters in a host.
_NO_HOST = re.compile(r"[\x00-\x20\x7f]")


@runtime_checkable
class _Seekable(Protocol):
    def tell(self) -> int: ...

    def seek(self, offset: int, whence: int = 0, /) -> object: ...


@attrs.define
class _SourceFailed(Exception):
    """Distinguishes an exception of the caller's data source from a failure of the connection."""

    cause: BaseException


def _next_piece(pieces: Iterator[bytes]) -> bytes:
    try:
        return next(pieces, b"")
    except BaseException as error:
        raise _SourceFailed(error) from error


def printable(text: bytes | str) -> str:
    """Make a server's text safe for a terminal: control characters are replaced, except line ends and tabs."""
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return "".join(
        character if character.isprintable() or character in "\n\t" else "?"
        for character in decoded.replace("\r\n", "\n")
    )


def utf8(text: str, what: str) -> bytes:
    """Encode text.

    Args:
        text: the text.
        what: its name in the error message.

    Raises:
        LocalProtocolError: it has lone surrogates, as a command line argument has that was not UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(f"not UTF-8: {what}") from None


def size_of(source: Source) -> int | None:
    """The number of bytes in a source; ``None`` if it is only known after reading."""
    if isinstance(source, bytes):
        return len(source)
    if not isinstance(source, _Seekable):
        return None
    try:
        here = source.tell()
        source.seek(0, os.SEEK_END)
        end = source.tell()
        source.seek(here)
    except OSError:
        return None
    return end - here


def pieces_of(source: Source) -> Generator[bytes, None, None]:
    """Yield a source in chunks, none of them empty.  An iterable is closed afterwards, a file is not."""
    if isinstance(source, bytes):
        if source:
            yield source
    elif isinstance(source, Iterable) and not hasattr(source, "read"):
        try:
            yield from filter(None, source)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
    else:
        while piece := source.read(PIECE):
            yield piece


@attrs.frozen
class Address:
    """The address of a repository.

    Attributes:
        scheme: ``http`` or ``https``.
        host: name or address.
        port: ``None`` for the default port of the scheme.
        path: quoted, without a slash at the end.
        authorization: value of the ``Authorization`` header; ``None`` without credentials.
    """

    scheme: str
    host: str
    port: int | None
    path: str
    authorization: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, auth: tuple[str, str] | None = None) -> Address:
        """Parse a URL.

        Args:
            url: may contain user and password.
            auth: user and password, instead of those in the URL.

        Raises:
            LocalProtocolError: it is not an HTTP URL.  The message never repeats it, since it may contain a password.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise LocalProtocolError(f"not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not host or _NO_HOST.search(host):
            raise LocalProtocolError("not a URL of a repository: it must begin with http:// or https:// and a host")
        if auth is None and parts.username is not None:
            auth = unquote(parts.username), unquote(parts.password or "")
        authorization = None
        if auth is not None:
            authorization = "Basic " + base64.b64encode(utf8(":".join(auth), "user and password")).decode("ascii")
        path = quote(utf8(parts.path, "the path of the URL"), safe="/%:@!$&'()*+,;=~").rstrip("/")
        return cls(parts.scheme, host, port, path, authorization)

    @property
    def authority(self) -> str:
        """Host and port as in the URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, without the password."""
        return f"{self.scheme}://{self.authority}{self.path}"


class Response:
    """An HTTP response whose body is read in chunks.

    Attributes:
        status: the status code.
        reason: the text after it.
        headers: the headers; names are compared without regard to case.
    """

    def __init__(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers

    @property
    def media_type(self) -> str:
        """``Content-Type`` without parameters, in lower case; empty if there is none."""
        return printable(self.headers.get("Content-Type", "")).partition(";")[0].strip().lower()

    @property
    def ended(self) -> bool:
        """Whether the whole body was read, or the response closed."""
        return self._response.isclosed()

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes of the body; ``b""`` at its end.  A body of unknown length is returned as it arrives.

        Raises:
            ConnectionFailed: the body ends early.
        """
        if self.ended:
            return b""
        response = self._response
        try:
            # read() waits for all ``size`` bytes, which may take long in a stream.  But read1() of Python 3.10 does not
            # update the remaining length, where that is known.
            data = response.read1(size) if response.length is None else response.read(size)
        except _FAILURES as error:
            self.close()
            raise _failed(self._connection.address, error) from error
        if not data and response.length:
            self.close()
            raise ConnectionFailed(
                f"{self._connection.address.url}: the response ended early: {response.length} bytes are missing"
            )
        return data

    def close(self) -> None:
        """Discard the rest of the body.  Unless the body was read to its end, this closes the connection."""
        if not self.ended:
            self._connection.close()

    def drop(self) -> None:
        """Close the body but not the connection; for :class:`Connection`."""
        self._response.close()


class _BoundedLines(io.BufferedReader):
    """The input of a response, with a maximum number of lines that are not part of the body.

    :mod:`http.client` limits the length of a line and the headers of a response, but accepts any number of interim
    responses and of trailers.
    """

    _lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        self._lines += 1
        if self._lines > _LINES:
            raise http.client.HTTPException(f"more than {_LINES} lines of headers")
        return super().readline(size)

    def read1(self, size: int = -1, /) -> bytes:
        self._lines = 0
        return super().read1(size)


class BoundedResponse(http.client.HTTPResponse):
    """The ``response_class`` of :class:`Connection`."""

    def __init__(self, sock: socket.socket, *args: Any, **keywords: Any) -> None:
        super().__init__(sock, *args, **keywords)
        self.fp: io.BufferedReader = _BoundedLines(self.fp.detach())


def _failed(address: Address, error: BaseException) -> ConnectionFailed:
    reason = "no answer in time" if isinstance(error, TimeoutError) else printable(str(error)) or type(error).__name__
    return ConnectionFailed(f"{address.url}: {reason}")


class Connection:
    """A connection to one server, opened when it is needed.

    One thread at a time; one request at a time, whose response is read or closed before the next.

    Args:
        address: of the repository.
        timeout: give up after this many seconds without data; ``None`` waits forever.
        ssl_context: for ``https``; Python's default checks certificates and names.

    Attributes:
        address: of the repository.
        http: the underlying connection.
        opened: number of connections opened so far.
    """

    def __init__(
        self, address: Address, *, timeout: float | None = 60.0, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self.http: http.client.HTTPConnection
        if address.scheme == "https":
            context = ssl_context or ssl.create_default_context()
            self.http = http.client.HTTPSConnection(address.authority, timeout=timeout, context=context)
        else:
            self.http = http.client.HTTPConnection(address.authority, timeout=timeout)
        self.http.response_class = BoundedResponse
        self._open: Response | None = None
        self.opened = 0

    def close(self) -> None:
        """Close the connection, and a response that is not read to its end.  The next request opens another one."""
        self.http.close()
        if self._open is not None:
            self._open.drop()

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: Sequence[Source] = (),
        *,
        length: int | None = None,
        repeatable: bool = False,
    ) -> Response:
        """Send a request and wait for the head of its response.

        Args:
            method: the HTTP method.
            target: the quoted URL after the path of the address.
            headers: added to ``Host``, ``User-Agent``, ``Authorization`` and those that describe the body.
            body: sources, sent one after the other.  A POST without any has a body of 0 bytes.
            length: of the whole body, in bytes; ``None`` adds up the sources.  If the size of one is unknown, the body
                is sent in chunks, which not every server accepts.
            repeatable: whether the request may be sent again if the kept-alive connection turns out to be closed.

        Raises:
            ConnectionFailed: no connection, no answer, or one that is not HTTP.
            LocalProtocolError: the previous response was not read, or the sources have a different length.
        """
        if self._open is not None and not self._open.ended:
            raise LocalProtocolError("the previous response was neither read to its end nor closed")
        if length is None:
            sizes = [size_of(source) for source in body]
            length = None if None in sizes else sum(filter(None, sizes))
        kept = self._keep(fresh=not repeatable and bool(body))
        framing: list[tuple[str, str]] = []
        if body or method not in ("GET", "HEAD"):
            framing = [("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))]
        try:
            response = self._exchange(method, target, [*headers, *framing], body, length)
        except _SourceFailed as failed:
            self.close()
            raise failed.cause from None
        except _FAILURES as error:
            self.close()
            if kept and repeatable and isinstance(error, ConnectionError):
                return self.request(method, target, headers, body, length=length)
            raise _failed(self.address, error) from error
        except BaseException:
            self.close()
            raise
        self._open = Response(self, response)
        return self._open

    def _keep(self, *, fresh: bool) -> bool:
        """Keep the connection if it is still open; close it otherwise, or if ``fresh``.  Returns whether it is kept."""
        sock = self.http.sock
        if sock is not None and not fresh:
            with selectors.DefaultSelector() as selector:
                # Anything to read now is not a response; usually it is the end of the connection.
                selector.register(sock, selectors.EVENT_READ)
                if not selector.select(0):
                    return True
        self.close()
        self.opened += 1
        return False

    def _exchange(
        self, method: str, target: str, headers: list[tuple[str, str]], body: Sequence[Source], length: int | None
    ) -> http.client.HTTPResponse:
        path = self.address.path or "/" * target.startswith("?")
        self.http.putrequest(method, path + target, skip_accept_encoding=True)
        self.http.putheader("User-Agent", _USER_AGENT)
        if self.address.authorization is not None:
            self.http.putheader("Authorization", self.address.authorization)
        for name, value in headers:
            self.http.putheader(name, value)
        self.http.endheaders()
        if self._send_body(body, length):
            return self.http.getresponse()
        # The server closed the connection, but it may have sent an explanation before.
        response = self.http.getresponse()
        self.http.close()
        return response

    def _send_body(self, body: Sequence[Source], length: int | None) -> bool:
        """Send the body.  Returns false if the server closed the connection before its end."""
        sent = 0
        for source in body:
            with closing(pieces_of(source)) as pieces:
                while piece := _next_piece(pieces):
                    sent += len(piece)
                    if length is not None and sent > length:
                        raise LocalProtocolError(f"the data exceed the announced length of {length} bytes")
                    if not self._send(b"%x\r\n%s\r\n" % (len(piece), piece) if length is None else piece):
                        return False
        if length is not None and sent < length:
            raise LocalProtocolError(f"the data end after {sent} of {length} announced bytes")
        return not body or length is not None or self._send(b"0\r\n\r\n")

    def _send(self, data: bytes) -> bool:
        with suppress(ConnectionError):
            self.http.send(data)
            return True
        return False
