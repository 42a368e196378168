"""The single exit: only this module turns a response into a WSGI answer.

For every response, in this order: the rest of the request body is read, or the connection is marked for closing; the
body of a ``HEAD`` response is dropped; headers that depend on the body are added; the response starts; its bytes are
counted, and its rate is watched.  When the server closes it, all its resources are released, once, and the observers
are called.

A short reply goes out before the rest of the request is read.  A client whose push was refused is still sending; if it
sends too much, the connection is closed, and it finds the refusal there.

A response that fails before it starts gets an error status (``app.py``).  A later failure is logged and interrupts the
transfer: the server closes the connection, so that no client mistakes a part for the whole.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from threading import get_ident
from typing import Any

import attrs

from ..errors import BodyTooLarge
from ..events import (
    Changegroup,
    ChangegroupMade,
    Event,
    Observer,
    Outcome,
    RepositoryRecovered,
    RequestClosed,
    RequestStarted,
)
from ..logcontext import CURRENT, LOGGER
from ..stops import FAILURES
from .deadlines import Transfer
from .failures import public
from .message import FileBody, FrontEndBody, Observed, Request, Response

__all__ = ["Observation", "StartResponse", "send"]

StartResponse = Callable[..., Any]

_READ_SIZE = 256 * 1024


@attrs.define(eq=False)
class Observation:
    """Measures one request for the observers of an application."""

    request: Request
    observers: Sequence[Observer]
    started: float = attrs.Factory(time.perf_counter)
    cpu: float = attrs.Factory(time.thread_time)
    thread: int = attrs.Factory(get_ident)
    observed: Observed = attrs.Factory(Observed)
    closed: bool = False

    def __attrs_post_init__(self) -> None:
        request = self.request
        request.observed = self.observed
        self.observed.recovered = self._report_recovery
        self.observed.made = self._report_changegroup
        self._tell(
            RequestStarted(
                request_id=request.request_id,
                method=request.method,
                path=request.path,
                user=request.user,
                address=request.address,
            )
        )

    def close(self, response: Response, sent: int, failure: str) -> None:
        """Report the end of the request, once.

        Args:
            response: the response.
            sent: bytes of its body that were sent.
            failure: why the transfer was interrupted; empty if it was not.
        """
        if self.closed:
            return
        self.closed = True
        request = self.request
        self._tell(
            RequestClosed(
                request_id=request.request_id,
                method=request.method,
                path=request.path,
                user=request.user,
                address=request.address,
                repository=request.repository,
                commands=request.commands,
                status=response.code,
                outcome=_outcome(response, failure),
                error=failure or response.error,
                bytes_in=request.bytes_in,
                bytes_out=sent,
                wall=time.perf_counter() - self.started,
                # Thread clocks of different threads cannot be compared.
                cpu=time.thread_time() - self.cpu if get_ident() == self.thread else 0.0,
                cache=request.cache,
                clone=self.observed.clone,
                changes=tuple(self.observed.changes),
                reports=tuple(self.observed.reports),
            )
        )

    def _report_recovery(self) -> None:
        request = self.request
        self._tell(
            RepositoryRecovered(
                request_id=request.request_id,
                path=request.path,
                user=request.user,
                address=request.address,
                repository=request.repository,
            )
        )

    def _report_changegroup(self, made: Changegroup) -> None:
        request, facts = self.request, attrs.asdict(made, recurse=False)
        self._tell(ChangegroupMade(request_id=request.request_id, repository=request.repository, **facts))

    def interrupt(self, stop: BaseException) -> None:
        """Report a request that ends with the server, before it has a response."""
        response = Response("500 Internal Server Error", [], b"", error="the server is stopping")
        self.close(response, 0, f"the server is stopping: {type(stop).__name__}")

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            try:
                observer(event)
            except Exception:
                LOGGER.exception("an observer failed")


def _outcome(response: Response, failure: str) -> Outcome:
    if failure:
        return "cut"
    if response.code >= 500 and response.code != 503:
        return "failed"
    return "refused" if response.error or response.code >= 400 else "ok"


class _Transfer:
    """The end of a response: releases its resources exactly once, however the response ends."""

    def __init__(self, request: Request, response: Response, observation: Observation | None) -> None:
        self._response: Response | None = response
        self._request = request
        self._observation = observation
        self.rate: Transfer | None = None
        self.sent = 0
        self.failure = ""

    def wait(self) -> None:
        """The server begins to send: the client has to keep up with the minimum rate."""
        if self.rate is not None:
            self.rate.moved = self.sent
            self.rate.begin()

    def resume(self) -> None:
        """The server has sent everything so far, or has given up."""
        if self.rate is not None:
            self.rate.end()
            if self.rate.expired:
                self.failure = "the client read too slowly"

    def end(self, complete: bool) -> None:
        response, self._response = self._response, None
        if response is None:
            return
        self.resume()
        CURRENT.set(self._request)
        for release in response.release:
            try:
                release()
            except Exception:
                LOGGER.exception("cleaning up after a response failed")
        self._request.leave()
        if self._observation is not None:
            broken = "" if complete else "the client disconnected"
            self._observation.close(response, self.sent, self.failure or broken)
        CURRENT.set(None)


class _Chunks:
    """The iterable that a WSGI server reads and closes.

    Args:
        chunks: the body; ``None`` for none.
        ending: the end of the response.
        request: whose body may have a rest.
        drain: whether to read that rest after the reply.
        cut: whether the connection must be closed after the reply.
    """

    def __init__(
        self,
        chunks: Iterator[bytes] | None,
        ending: _Transfer,
        request: Request,
        *,
        drain: bool,
        cut: bool,
    ) -> None:
        self._chunks = iter(()) if chunks is None else chunks
        self._ending = ending
        self._request = request
        self._drain = drain
        self._cut = cut
        # Servers need not iterate a response without a body.
        self._complete = chunks is None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._ending.resume()
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._complete = True
            self._end_request()
            raise
        except FAILURES as error:
            self._ending.failure = str(error) or type(error).__name__
            if isinstance(error, Exception):
                LOGGER.exception("a response failed after it had begun; closing the connection")
                raise
            # It ends the server, or only this response.
            raise public(error) from error
        self._ending.sent += len(chunk)
        self._ending.wait()
        return chunk

    def _end_request(self) -> None:
        """Read the rest of the request, or let the server close the connection.

        Raises:
            BodyTooLarge: where only an error makes the server do that.
        """
        drain, self._drain = self._drain, False
        cut, self._cut = self._cut or (drain and not self._request.drain()), False
        if cut and not self._request.stop_receiving():
            raise BodyTooLarge("the request could not be read to its end; closing the connection") from None

    def close(self) -> None:
        self._ending.end(self._complete)


def _watched(request: Request, size: int = 0) -> Transfer | None:
    """The deadline of a reply; ``None`` if it has none."""
    connection = request.connection if request.watchdog is not None else None
    return None if connection is None or request.watchdog is None else request.watchdog().sending(connection, size)


class _File(io.FileIO):
    """A file that the server itself sends (``wsgi.file_wrapper``) and closes.

    The number of bytes sent follows from the server's reads and seeks.  ``socket.sendfile`` seeks when it ends, also
    when the client disconnects.  uWSGI calls ``sendfile`` with its own offsets, so there the whole file counts as
    sent.
    """

    def __init__(self, body: FileBody, transfer: _Transfer, *, whole: bool) -> None:
        # The descriptor is the body's own; closing this object does not close it.
        super().__init__(body.file.fileno(), closefd=False)
        self._size = body.size
        self._transfer = transfer
        self._position = 0
        self._whole = whole
        transfer.wait()

    def readinto(self, buffer: Any, /) -> int | None:
        count = super().readinto(buffer)
        self._position += count or 0
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(-1 if size is None else size) or b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = super().seek(offset, whence)
        return self._position

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._transfer.sent = self._size if self._whole else self._position
            self._transfer.end(self._transfer.sent == self._size)


def send(
    request: Request,
    response: Response,
    start_response: StartResponse,
    *,
    observation: Observation | None = None,
) -> Iterable[bytes]:
    """Start a response.

    Args:
        request: the request.
        response: its response.
        start_response: as in WSGI.
        observation: called at the end; ``None`` without observers.

    Returns:
        The WSGI body.
    """
    body, headers = response.body, response.headers
    # A reply that never waits may go first.
    short = response.is_short
    drain = short and not request.is_read
    cut = not short and not request.drain()
    if isinstance(body, bytes):
        headers.append(("Content-Length", str(len(body))))
        if short and not drain and observation is None and not response.release and not request.has_slot:
            # Nothing needs to be done when the server closes it.
            CURRENT.set(None)
            start_response(response.status, headers)
            return [] if request.method == "HEAD" else [body]
    transfer = _Transfer(request, response, observation)
    if isinstance(body, FileBody):
        response.release = (body.file.close, *response.release)
        headers.append(("Content-Length", str(body.size)))
    elif isinstance(body, FrontEndBody):
        headers.append(body.header)
    try:
        start_response(response.status, headers)
    except BaseException:
        transfer.failure = "the server refused the response"
        transfer.end(False)
        raise
    chunked = partial(_Chunks, ending=transfer, request=request, drain=drain, cut=cut)
    if request.method == "HEAD":
        return chunked(None)
    if isinstance(body, FrontEndBody):
        transfer.sent = body.size
        return chunked(None)
    wrap = request.environ.get("wsgi.file_wrapper") if isinstance(body, FileBody) and not cut else None
    if not short:
        transfer.rate = _watched(request, body.size if isinstance(body, FileBody) and wrap is not None else 0)
    if isinstance(body, bytes):
        return chunked(iter([body]))
    if not isinstance(body, FileBody):
        return chunked(body)
    if wrap is None:
        return chunked(iter(partial(body.file.read, _READ_SIZE), b""))
    file: Any = body.file
    if observation is None and transfer.rate is None and len(response.release) == 1 and not request.has_slot:
        # Nothing but the file has to be closed, and nobody asks how much of it was sent.
        CURRENT.set(None)
    else:
        file = _File(body, transfer, whole="uwsgi.version" in request.environ)
    try:
        wrapped: Iterable[bytes] = wrap(file, _READ_SIZE)
    except BaseException:
        file.close()
        raise
    return wrapped
