from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider, returning

from hgwire_wsgi import (
    LegacyStreamResponse,
    Limits,
    StreamResponse,
    WireApp,
)


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


def test_lease_ends_when_the_response_is_closed(provider: FakeProvider) -> None:
    app = WireApp(provider, commands=returning(StreamResponse([b"x" * 100_000] * 3)))
    exchange = Exchange(app, "cmd=x")
    next(iter(exchange.response))
    assert provider.held == 1
    exchange.close()
    exchange.close()
    assert provider.held == 0


def test_source_is_closed_when_the_client_vanishes(provider: FakeProvider) -> None:
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.append(provider.held)

    exchange = Exchange(WireApp(provider, commands=returning(StreamResponse(chunks()))), "cmd=x")
    exchange.close()
    assert closed == [1]
    assert provider.held == 0


def test_lease_ends_if_the_server_refuses_the_headers(provider: FakeProvider) -> None:
    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        raise ConnectionError

    app = WireApp(provider)
    environ = Exchange(lambda environ, start: [], "cmd=heads").environ
    with pytest.raises(ConnectionError):
        app(environ, start_response)
    assert provider.held == 0


def test_late_failure_of_a_stream_never_looks_like_success(
    provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise OSError("disk")

    exchange = Exchange(WireApp(provider, commands=returning(LegacyStreamResponse(chunks()))), "cmd=x")
    assert exchange.status.startswith("200")
    with pytest.raises(OSError, match="disk"):
        exchange.read()
    assert provider.held == 0


def test_requests_are_drained_before_the_answer(provider: FakeProvider) -> None:
    exchange = Exchange(WireApp(provider), "cmd=heads", body=b"unread" * 1000)
    assert exchange.input.read() == b""
    assert exchange.status.startswith("200")
    denied = Exchange(WireApp(FakeProvider()), "cmd=unbundle&heads=", body=b"unread" * 1000)
    assert denied.status == "403 ssl required"
    assert denied.input.read() == b""


def test_undrained_connection_is_cut(provider: FakeProvider) -> None:
    exchange = Exchange(WireApp(provider, limits=Limits(drain=10)), "cmd=heads", body=b"unread" * 10)
    with pytest.raises(Exception, match="closing the connection"):
        exchange.read()
    assert provider.held == 0


def test_what_is_too_long_is_drained_all_the_same(provider: FakeProvider) -> None:
    exchange = Exchange(WireApp(provider, limits=Limits(body=10)), "cmd=heads", body=b"unread" * 10)
    assert exchange.status == "413 Content-Length exceeds 10 bytes"
    assert exchange.input.read() == b""
    assert exchange.read() == b"0\nContent-Length exceeds 10 bytes\n"


@pytest.mark.parametrize("headers", [{"CONTENT_LENGTH": "x"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_connection_is_cut_behind_a_body_without_a_known_end(provider: FakeProvider, headers: dict[str, str]) -> None:
    for path in ("/repo", "/none"):
        exchange = Exchange(WireApp(provider), "cmd=heads", path=path, REQUEST_METHOD="POST", **headers)
        assert exchange.status[0] == "4"
        with pytest.raises(Exception, match="closing the connection"):
            exchange.read()
    assert provider.held == 0


def test_head_is_get_without_a_body(provider: FakeProvider) -> None:
    app = WireApp(provider)
    get, head = Exchange(app, "cmd=heads"), Exchange(app, "cmd=heads", REQUEST_METHOD="HEAD")
    assert (head.status, head.headers) == (get.status, get.headers)
    assert len(get.read()) == int(head.headers["Content-Length"])
    assert head.read() == b""
