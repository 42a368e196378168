"""What the client learns of a failure, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider, returning

from hgwire_wsgi import (
    CommandContext,
    CommandRegistry,
    HgWireError,
    Limits,
    PermissionDenied,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.errors import CommandFailed, LocalProtocolError, RepositoryBusy, RequestError, UnsupportedMediaType
from hgwire_wsgi.http.message import Request
from hgwire_wsgi.http.refusals import challenged, public, refuse, refuse_cross_site
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


BEARER = [("www-authenticate", "Bearer")]
FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
OURS = {"CONTENT_TYPE": "application/mercurial-0.1"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        (OURS, 200),
        ({"CONTENT_TYPE": "Application/Mercurial-0.2; x=y"}, 200),
        ({"CONTENT_TYPE": "text/plain"}, 415),
        ({"CONTENT_TYPE": "application/mercurial"}, 415),
        ({"CONTENT_TYPE": "application/octet-stream"}, 200),
        ({"CONTENT_TYPE": "Application/Octet-Stream ; x=y"}, 200),
        ({"CONTENT_TYPE": "application/octet-stream-x"}, 415),
        ({"CONTENT_TYPE": "application/octet-stream", "HTTP_ORIGIN": "https://evil.example"}, 403),
        ({"CONTENT_TYPE": "application/octet-stream", "HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
        (FORM, 415),
        ({**FORM, "HTTP_X_HGARG_1": "namespace=bookmarks"}, 200),
        ({**FORM, "HTTP_X_HGARG_2": "namespace=bookmarks"}, 415),
        ({**FORM, "HTTP_X_HGARG_1": "x=y", "HTTP_ORIGIN": "https://evil.example"}, 403),
        ({**OURS, "HTTP_ORIGIN": "null"}, 403),
        ({**OURS, "HTTP_SEC_FETCH_SITE": "none"}, 200),
        ({**OURS, "HTTP_SEC_FETCH_SITE": "same-origin"}, 200),
        ({**OURS, "HTTP_SEC_FETCH_SITE": "same-site"}, 403),
        ({**OURS, "HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
    ],
)
def test_pushes_from_web_pages_are_refused(headers: dict[str, str], status: int) -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", permission="push")(lambda context: ran.append(1) or b"1\n")
    exchange = Exchange(WireApp(FakeProvider(OPEN), commands=commands), "cmd=x", REQUEST_METHOD="POST", **headers)
    assert int(exchange.status[:3]) == status
    assert ran == [1] * (status == 200)
    request = Request(exchange.environ, Limits())
    if status == 200:
        refuse_cross_site(request)
    else:
        with pytest.raises((PermissionDenied, UnsupportedMediaType)):
            refuse_cross_site(request)


def test_pulls_may_come_from_anywhere() -> None:
    exchange = Exchange(WireApp(FakeProvider()), "cmd=heads", HTTP_ORIGIN="https://a.example", **FORM)
    assert exchange.status.startswith("200")


def test_pushkey_of_clients_before_2_3() -> None:
    """They send an empty form, and the arguments in headers; a page's form has them in the body."""
    pushed: list[Any] = []

    class Keys(FakeProvider):
        def __init__(self) -> None:
            super().__init__(OPEN)
            self.repository.pushkey = lambda *arguments: pushed.append(arguments) or _pushed()

    def _pushed() -> Any:
        from hgwire_wsgi.commands.objects import PushKeyResult

        return PushKeyResult(True)

    app = WireApp(Keys())
    arguments = "key=b&namespace=bookmarks&new=" + "11" * 20 + "&old="
    old = Exchange(app, "cmd=pushkey", REQUEST_METHOD="POST", CONTENT_LENGTH="0", HTTP_X_HGARG_1=arguments, **FORM)
    assert (old.status, old.read()) == ("200 Script output follows", b"1\n")
    assert pushed == [(b"bookmarks", b"b", b"", b"11" * 20)]
    for query, body in (("cmd=pushkey&" + arguments, b""), ("cmd=pushkey&" + arguments, b"x=y")):
        page = Exchange(app, query, body=body, **{**FORM, "REQUEST_METHOD": "POST"})
        assert page.status.startswith("415")
    assert len(pushed) == 1


def test_busy_repository() -> None:
    class Busy(FakeProvider):
        def lease(self, name: str) -> Any:
            raise RepositoryBusy("busy", headers=[("Retry-After", "5")])

    reply = WireTestApp(WireApp(Busy())).wire("/repo", "heads")
    assert (reply.status, reply.response.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize("error", [ZeroDivisionError("/secret"), LocalProtocolError("/secret")])
def test_a_bug_is_logged_and_hidden(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    known = public(error)
    assert (known.http_status, known.message) == (500, "internal server error")
    assert "a command failed" in caplog.text and "/secret" in caplog.text


def test_an_error_of_the_package_is_shown_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = CommandFailed("no such revision")
    assert public(error) is error
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "challenge", "status", "headers"),
    [
        (PermissionDenied("no", status=401), "Basic", 401, [("WWW-Authenticate", "Basic")]),
        (PermissionDenied("no", status=401, headers=BEARER), "Basic", 401, BEARER),
        (PermissionDenied("no", status=401, headers=BEARER), None, 401, BEARER),
        (PermissionDenied("no", status=401, headers=[("X-Why", "y")]), None, 403, [("X-Why", "y")]),
        (PermissionDenied("no", status=403), "Basic", 403, []),
        (RequestError("no"), "Basic", 400, []),
    ],
)
def test_a_401_has_one_challenge(
    error: HgWireError, challenge: str | None, status: int, headers: list[tuple[str, str]]
) -> None:
    assert challenged(error, challenge) == (status, headers)


def test_without_a_challenge_nobody_is_asked_for_a_password() -> None:
    app = WireTestApp(WireApp(FakeProvider({"allow_read": "alice"}), challenge=None))
    reply = app.wire("/repo", "heads")
    assert (reply.response.status, "WWW-Authenticate" in reply.response.headers) == ("403 read not authorized", False)


@pytest.mark.parametrize(
    ("query", "media_type", "body"),
    [
        ("", "text/plain; charset=utf-8", "naïve\nno\n"),
        ("style=raw&cmd=", "text/plain; charset=utf-8", "naïve\nno\n"),
        ("cmd=heads", "application/hg-error", "0\nnaïve\nno\n"),
        ("cmd=\u20ac&x", "application/hg-error", "0\nnaïve\nno\n"),
    ],
)
def test_a_person_with_a_browser_gets_text(query: str, media_type: str, body: str) -> None:
    error = PermissionDenied("naïve\nno", status=401, headers=[("X-Why", "because")])
    response = refuse(error, Request({"QUERY_STRING": query}, Limits()), "Basic")
    assert (response.code, response.error, response.body) == (401, "naïve\nno", body.encode())
    assert dict(response.headers) == {
        "Content-Type": media_type,
        "X-Why": "because",
        "WWW-Authenticate": "Basic",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    assert response.status.isascii() and "\n" not in response.status


def test_a_status_of_the_hosts_own() -> None:
    error = PermissionDenied("", status=499)
    assert refuse(error, Request({}, Limits()), "Basic").status == "499 Error"
    assert refuse(error, Request({"QUERY_STRING": "cmd=x"}, Limits()), "Basic").status == "499 Error"
