"""Requests and responses as values."""

from __future__ import annotations

import io
from typing import Any

import pytest

from hgwire_wsgi import Changegroup, Limits, PushChanges
from hgwire_wsgi.http.message import NO_STORE, NOSNIFF, PRIVATE, Observed, Request, Response, text_response


def request(body: bytes = b"", limits: Limits | None = None, **environ: Any) -> Request:
    length = {"CONTENT_LENGTH": str(len(body))} if body else {}
    return Request({"wsgi.input": io.BytesIO(body), **length, **environ}, limits or Limits())


def test_an_empty_environ_is_a_request() -> None:
    empty = Request({}, Limits())
    assert (empty.method, empty.path, empty.query, empty.user, empty.address) == ("GET", "", "", None, "")
    assert (empty.repository, empty.commands, empty.cache, empty.may_have_body) == ("", (), "", False)
    assert (empty.body.read(1), empty.bytes_in, empty.drain()) == (b"", 0, True)


def test_what_a_request_says() -> None:
    made = request(
        REQUEST_METHOD="POST", PATH_INFO="/r\xff", QUERY_STRING="cmd=x", REMOTE_USER="alice", REMOTE_ADDR="192.0.2.1"
    )
    assert (made.method, made.path, made.query) == ("POST", "/r\xff", "cmd=x")
    assert (made.user, made.address) == ("alice", "192.0.2.1")
    assert request(REMOTE_USER="").user is None


@pytest.mark.parametrize("name", ["Ã©m", "ém", "\xe9m"])
def test_a_user_is_text_and_hooks_get_its_utf_8(name: str) -> None:
    made = request(REMOTE_USER=name)
    assert (made.user, made.client) == ("ém", "remote:http::%C3%A9m")


class Unread:
    """A body that must not be read."""

    def read(self, size: int) -> bytes:
        raise AssertionError("the body is read")


@pytest.mark.parametrize("server", [{"uwsgi.version": b"2.0.31"}, {"SERVER_SOFTWARE": "gevent/26 Python/3.11"}])
def test_a_body_that_the_client_holds_back_is_not_read_for_a_refusal(server: dict[str, Any]) -> None:
    held: dict[str, Any] = {"CONTENT_LENGTH": "9", "HTTP_EXPECT": "100-Continue", "wsgi.input": Unread(), **server}
    refused = request(**held)
    assert refused.drain() and refused.bytes_in == 0
    # A command that has read it asked for it.
    reading = {**held, "wsgi.input": io.BytesIO(b"123456789")}
    made = request(**reading)
    assert made.body.read(3) == b"123"
    assert made.drain() and made.bytes_in == 9


@pytest.mark.parametrize(
    "variables", [{}, {"SERVER_SOFTWARE": "gunicorn/27"}, {"HTTP_EXPECT": "x", "uwsgi.version": b""}]
)
def test_other_bodies_are_read(variables: dict[str, Any]) -> None:
    environ = {"HTTP_EXPECT": "100-continue", **variables}
    made = request(b"123456789", **environ)
    assert made.drain() and made.bytes_in == 9


@pytest.mark.parametrize("given", ["abc-1.2:3/x_y=+", "x" * 128])
def test_a_request_id_of_the_front_end_is_kept(given: str) -> None:
    assert request(HTTP_X_REQUEST_ID=given).request_id == given


@pytest.mark.parametrize("given", [None, "", "two words", "a\n", "a\x1b", "é", "x" * 129])
def test_any_other_request_gets_a_random_one_that_stays(given: str | None) -> None:
    made = request(**({} if given is None else {"HTTP_X_REQUEST_ID": given}))
    assert len(made.request_id) == 16
    assert made.request_id == made.request_id != request().request_id


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"CONTENT_LENGTH": ""}, False),
        ({"CONTENT_LENGTH": "0"}, False),
        ({"CONTENT_LENGTH": "1"}, True),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, True),
    ],
)
def test_whether_there_may_be_a_body(environ: dict[str, str], expected: bool) -> None:
    assert request(**environ).may_have_body is expected


def test_changes_are_collected_only_if_somebody_observes() -> None:
    made = request()
    assert made.report_changes is None
    made.observed = Observed()
    assert made.report_changes is not None
    made.report_changes(PushChanges(changesets=1))
    assert made.observed.changes == [PushChanges(changesets=1)]


def test_a_body_is_counted_and_drained() -> None:
    made = request(b"0123456789")
    assert made.body.read(3) == b"012"
    assert made.body is made.body
    assert made.bytes_in == 3
    assert made.drain()
    assert made.bytes_in == 10


def test_a_body_that_nobody_asked_for_is_drained_within_the_limit() -> None:
    source = io.BytesIO(b"0123456789next")
    assert request(b"", Limits(drain=10), CONTENT_LENGTH="10", **{"wsgi.input": source}).drain()
    assert source.read() == b"next"
    assert not request(b"0123456789", Limits(drain=9)).drain()


def test_a_request_describes_itself_in_one_line() -> None:
    made = request(HTTP_X_REQUEST_ID="r1")
    assert made.describe() == "repository=- command=- user=- address=- request=r1"
    made.repository, made.commands = "a\nb", ("batch", *["x y"] * 9)
    made.environ.update(REMOTE_USER='eve" address="', REMOTE_ADDR="::1")
    assert made.describe() == (
        r'repository=a\nb command="batch,x y,x y,x y,x y,x y,x y,x y,..."'
        r' user="eve\" address=\"" address=::1 request=r1'
    )


@pytest.mark.parametrize(
    ("script", "path", "url"),
    [
        ("", "/repo", "http://example.org/repo"),
        ("/hg", "/a b", "http://example.org/hg/a%20b"),
        ("/\xc3\xa9", "/\xff", "http://example.org/%C3%A9/%FF"),
    ],
)
def test_urls_of_names_in_any_encoding(script: str, path: str, url: str) -> None:
    environ = {"wsgi.url_scheme": "http", "HTTP_HOST": "example.org", "SCRIPT_NAME": script, "PATH_INFO": path}
    made = request(**environ)
    assert made.webob.path_url == url
    assert "webob.url_encoding" not in made.environ


def test_a_status_as_a_number() -> None:
    assert Response("404 Not Found", [], b"").code == 404


def test_a_response_of_text_forbids_guessing() -> None:
    response = text_response("400 no", "naïve\udcff", [("Allow", "GET")], error="no")
    assert response.body == "naïve?".encode()
    assert response.headers == [("Content-Type", "text/plain; charset=utf-8"), ("Allow", "GET"), NO_STORE, NOSNIFF]
    assert (response.error, response.release) == ("no", ())
    good = text_response("200 OK", b"\xff")
    assert (good.body, good.headers[1:]) == (b"\xff", [PRIVATE, NOSNIFF])


@pytest.mark.parametrize(
    ("user", "environ", "client"),
    [
        (None, {}, "remote:http::"),
        ("alice", {"wsgi.url_scheme": "https", "REMOTE_ADDR": "192.0.2.1"}, "remote:https:192.0.2.1:alice"),
        ("a:b\n", {"REMOTE_HOST": "host", "REMOTE_ADDR": "::1"}, "remote:http:host:a%3Ab%0A"),
        (None, {"REMOTE_HOST": "", "REMOTE_ADDR": "::1"}, "remote:http:%3A%3A1:"),
    ],
)
def test_who_asks_and_from_where(user: str | None, environ: dict[str, str], client: str) -> None:
    remote = {} if user is None else {"REMOTE_USER": user}
    assert Request({**environ, **remote}, Limits()).client == client


@pytest.mark.parametrize(
    ("environ", "plain"),
    [
        ({}, True),
        ({"CONTENT_LENGTH": "0"}, True),
        ({"CONTENT_LENGTH": "1"}, False),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, False),
        ({"HTTP_X_HGARGS_POST": "1"}, False),
        ({"REQUEST_METHOD": "HEAD"}, False),
    ],
)
def test_a_plain_get_has_everything_in_its_url_and_headers(environ: dict[str, str], plain: bool) -> None:
    assert Request({"REQUEST_METHOD": "GET", **environ}, Limits()).is_plain_get is plain


def test_one_allowance_for_all_commands_of_a_request() -> None:
    made = request()
    assert made.allowance is made.allowance
    assert made.allowance.total == Limits().walk


def test_recovery_is_reported_where_somebody_listens() -> None:
    made, told = request(), []
    assert made.report_recovery is None
    made.observed = Observed(recovered=lambda: told.append(1))
    assert made.report_recovery is not None
    made.report_recovery()
    assert told == [1]


def test_changegroups_are_reported_where_somebody_listens() -> None:
    made, found = request(), list[Changegroup]()
    assert made.report_changegroup is None
    made.observed = Observed(made=found.append)
    assert made.report_changegroup is not None
    changegroup = Changegroup(generator="hgwire", reason="", version="02", changesets=1)
    made.report_changegroup(changegroup)
    assert found == [changegroup]


def test_urls_without_the_variables_of_the_server() -> None:
    assert Request({"PATH_INFO": "/a"}, Limits()).webob.path_url == "http://localhost/a"


def test_an_environ_that_cannot_be_a_request() -> None:
    made = Request({"PATH_INFO": "/\u20ac", "REMOTE_ADDR": None}, Limits())
    assert made.fault is not None and made.address == ""


def test_a_client_for_hooks_whatever_its_name() -> None:
    assert request(REMOTE_ADDR="\udcff ", REMOTE_USER="a:b").client.startswith("remote:http:%ED%B3%BF%20:a%3Ab")
