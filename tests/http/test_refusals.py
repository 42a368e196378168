from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider, returning

from hgwire_wsgi import (
    CommandContext,
    CommandRegistry,
    HgWireError,
    PermissionDenied,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.errors import CommandFailed, RepositoryBusy
from hgwire_wsgi.testing import WireTestApp


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


@pytest.mark.parametrize("error", [CommandFailed("the reason"), PermissionDenied("the reason", status=403)])
def test_early_failure_of_a_stream_has_its_own_status(provider: FakeProvider, error: HgWireError) -> None:
    def chunks() -> Iterator[bytes]:
        raise error
        yield b""

    exchange = Exchange(WireApp(provider, commands=returning(StreamResponse(chunks()))), "cmd=x")
    assert exchange.status == f"{error.http_status} the reason"
    assert exchange.read() == b"0\nthe reason\n"
    assert provider.held == 0


def test_bugs_are_logged_and_tell_the_peer_nothing(provider: FakeProvider, caplog: pytest.LogCaptureFixture) -> None:
    commands = CommandRegistry()

    @commands.command("x", permission="pull")
    def broken(context: CommandContext) -> bytes:
        raise ZeroDivisionError("/srv/secret/path")

    exchange = Exchange(WireApp(provider, commands=commands), "cmd=x")
    assert exchange.status == "500 internal server error"
    assert exchange.read() == b"0\ninternal server error\n"
    assert "/srv/secret/path" in caplog.text
    assert provider.held == 0


def test_challenge_goes_with_401() -> None:
    app = WireTestApp(WireApp(FakeProvider({"allow_read": "alice"}), challenge='Basic realm="x"'))
    reply = app.wire("/repo", "heads")
    assert (reply.status, reply.response.headers["WWW-Authenticate"]) == (401, 'Basic realm="x"')
    assert reply.response.status == "401 read not authorized"
    assert app.wire("/repo", "heads", user="alice").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_pushes_from_web_pages_are_refused(headers: dict[str, str], status: int) -> None:
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=returning(b"1\n", permission="push")))
    assert app.wire("/repo", "x", body=b"", headers=headers).status == status


def test_busy_repository() -> None:
    class Busy(FakeProvider):
        def lease(self, name: str) -> Any:
            raise RepositoryBusy("busy", headers=[("Retry-After", "5")])

    reply = WireTestApp(WireApp(Busy())).wire("/repo", "heads")
    assert (reply.status, reply.response.headers["Retry-After"]) == (503, "5")
