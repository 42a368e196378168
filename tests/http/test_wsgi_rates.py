"""Replies and requests that are too slow, on a server that gives its socket to the application."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from fakes import Exchange, Watch

from hgwire_wsgi import Limits
from hgwire_wsgi.errors import BodyTooSlow
from hgwire_wsgi.http import wsgi
from hgwire_wsgi.http.deadlines import Deadlines, Watchdog
from hgwire_wsgi.http.message import FileBody, Request, Response

Pair = tuple[socket.socket, socket.socket]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Sends responses with a watchdog whose clock stands still."""

    def __init__(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Watchdog, "_watch", lambda self: None)
        self.near, self.far = pair
        self.clock = Clock()
        self.watchdog = Watchdog(Deadlines(rate=10, receive=4, send=8, linger=2), self.clock)
        self.watch = Watch()
        self.request: Any = None
        self.limits = Limits()

    def send(self, response: Response, *, observed: bool = True, **environ: Any) -> Exchange:
        def site(environ: dict[str, Any], start_response: Any) -> Any:
            self.request = request = Request(environ, self.limits)
            request.watchdog = lambda: self.watchdog
            observation = wsgi.Observation(request, [self.watch]) if observed else None
            return wsgi.send(request, response, start_response, observation=observation)

        return Exchange(site, **{"gunicorn.socket": self.near, "SERVER_PROTOCOL": "HTTP/1.1", **environ})

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.watchdog.look()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    near, far = socket.socketpair()
    with near, far:
        yield Server((near, far), monkeypatch)


def is_cut(server: Server) -> bool:
    try:
        server.near.send(b"x")
    except BrokenPipeError:
        return True
    return False


def test_a_stream_that_is_not_read_is_cut(server: Server) -> None:
    exchange = server.send(Response("200 OK", [], iter([b"a", b"b", b"c"])))
    chunks = iter(exchange.response)
    assert next(chunks) == b"a"
    server.clock.now += 7
    assert next(chunks) == b"b"
    server.wait(0.9)
    assert not is_cut(server)
    server.wait(0.2)
    assert is_cut(server)
    exchange.close()
    closed = server.watch.closed
    assert (closed.outcome, closed.error, closed.bytes_out) == ("cut", "the client read too slowly", 2)


def test_a_server_that_asks_for_more_after_the_cut(server: Server) -> None:
    """It did not notice; the reason is reported all the same."""
    exchange = server.send(Response("200 OK", [], iter([b"a", b"b"])))
    chunks = iter(exchange.response)
    next(chunks)
    server.wait(9)
    assert list(chunks) == [b"b"]
    exchange.close()
    assert server.watch.closed.error == "the client read too slowly"


def test_a_long_reply_in_one_piece_is_watched_and_a_short_one_is_not(server: Server) -> None:
    for body, cut in ((b"x" * 100, False), (b"x" * 100_000, True)):
        exchange = server.send(Response("200 OK", [], body))
        next(iter(exchange.response))
        server.wait(9)
        assert is_cut(server) == cut
        exchange.close()
        server.watch.events.clear()


@pytest.mark.parametrize("observed", [False, True])
def test_a_file_that_the_server_sends_is_watched(server: Server, tmp_path: Path, observed: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(100))
    file = path.open("rb", buffering=0)
    response = Response("200 OK", [], FileBody(file, 100))
    exchange = server.send(response, observed=observed, **{"wsgi.file_wrapper": FileWrapper})
    # The size takes ten seconds at the rate, in addition to the period.
    server.wait(17.9)
    assert not is_cut(server)
    server.wait(0.2)
    assert is_cut(server)
    exchange.close()
    assert file.closed
    if observed:
        assert server.watch.closed.error == "the client read too slowly"


def test_a_body_that_is_too_slow_is_refused_and_the_connection_closed(server: Server) -> None:
    class Slow:
        def read(self, size: int) -> bytes:
            server.wait(5)
            return b""

    declared = {"wsgi.input": Slow(), "CONTENT_LENGTH": "1000000"}
    exchange = server.send(Response("200 OK", [], b"answer"), **declared)
    with pytest.raises(BodyTooSlow, match="the request body arrives too slowly") as slow:
        server.request.body.read(10)
    assert slow.value.http_status == 408
    assert exchange.read() == b"answer"
    assert server.near.recv(10) == b""


def test_a_body_whose_server_reports_the_end_of_the_connection(server: Server) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            server.wait(5)
            raise ConnectionError

    exchange = server.send(Response("200 OK", [], b"answer"), **{"wsgi.input": Broken(), "CONTENT_LENGTH": "10"})
    with pytest.raises(BodyTooSlow):
        server.request.body.read(10)
    exchange.close()


def test_the_rest_of_a_request_is_read_for_seconds_after_the_answer(server: Server) -> None:
    """gunicorn notices the end by itself, so nothing is raised, and nothing logged."""
    reads: list[int] = []

    class Slow:
        def read(self, size: int) -> bytes:
            reads.append(size)
            server.wait(1.5)
            return b"x"

    exchange = server.send(Response("403 No", [], b"no"), **{"wsgi.input": Slow(), "CONTENT_LENGTH": "1000000"})
    body = iter(exchange.response)
    assert next(body) == b"no"
    assert reads == []
    assert list(body) == []
    assert len(reads) == 2
    assert server.near.recv(10) == b""


def test_only_a_few_mib_are_read(server: Server) -> None:
    count = 0

    class Fast:
        def read(self, size: int) -> bytes:
            nonlocal count
            count += size
            return bytes(size)

    exchange = server.send(Response("403 No", [], b"no"), **{"wsgi.input": Fast(), "CONTENT_LENGTH": str(1 << 30)})
    assert exchange.read() == b"no"
    assert count == 4 * 1024 * 1024
    assert server.near.recv(10) == b""
