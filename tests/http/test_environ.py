"""Any WSGI environ gets an answer: no exception, no traceback in the log, and no 500."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider, Watch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hgwire_wsgi import AccessRequest, ApiSettings, ServerCapabilities, WireApp, WireMiddleware, log_requests
from hgwire_wsgi.errors import BodyTooLarge, HgWireError
from hgwire_wsgi.http.environ import mend

BYTES = {
    *("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH"),
    *("SERVER_NAME", "SERVER_PORT", "HTTP_HOST", "REMOTE_ADDR", "wsgi.url_scheme"),
}
OTHERS = {
    *("REMOTE_USER", "REMOTE_HOST", "SERVER_PROTOCOL", "HTTP_ACCEPT", "HTTP_ORIGIN", "HTTP_SEC_FETCH_SITE"),
    *("HTTP_TRANSFER_ENCODING", "HTTP_X_REQUEST_ID", "HTTP_X_HGARG_1", "HTTP_X_HGARG_2", "HTTP_X_HGPROTO_1"),
    *("HTTP_X_HGARGS_POST", "HTTP_AUTHORIZATION", "HTTP_EXPECT"),
}
WORDS = [
    *("", "/", "/repo", "/repo/api/exp-http-v2-0001/ro/heads", "/repo/.hg/lfs/objects/x", "/\u20ac", "\udcff", "\xe9"),
    *("a\nb", "\0", "cmd=heads", "cmd=batch", "cmds=heads+", "cmd=\u20ac", "cmd=unbundle", "cmd=getbundle", "%zz", "["),
    *("GET", "POST", "HEAD", "12", "-1", "9" * 30, "0.1 0.2 comp=zstd", "chunked", "application/mercurial-0.2"),
]
TEXT = st.one_of(st.sampled_from(WORDS), st.text(max_size=9))
ODD = st.sampled_from([None, b"", b"\xff", b"/repo", 5, [], {}, object()])
MISSING = object()


def base() -> dict[str, Any]:
    return {**Exchange(lambda environ, start: [], "cmd=heads").environ, "wsgi.input": io.BytesIO(b"abc")}


@pytest.fixture(scope="module")
def app() -> WireApp:
    capabilities = ServerCapabilities(post_args=True)
    return WireApp(
        FakeProvider(OPEN), api=ApiSettings(server=True), capabilities=capabilities, observers=[log_requests, Watch()]
    )


class Records(logging.Handler):
    """Keeps records, and fails where a formatter would."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.found.append(record)


@pytest.fixture(scope="module")
def records() -> Iterator[Records]:
    handler = Records()
    logger = logging.getLogger("hgwire_wsgi")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def answer(app: Any, environ: dict[str, Any], records: Records) -> str:
    """The status; the connection may be cut on purpose where the end of the body is unknown."""
    started: list[str] = []
    records.found.clear()
    response = app(environ, lambda status, headers, exc_info=None: started.append(status))
    try:
        b"".join(response)
    except BodyTooLarge:
        records.found.clear()
    finally:
        getattr(response, "close", lambda: None)()
    (status,) = started
    assert all(record.exc_info is None for record in records.found)
    assert len([record for record in records.found if record.name == "hgwire_wsgi"]) <= 1
    assert not status.startswith("5")
    return status


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from([*sorted(BYTES | OTHERS), "wsgi.input", "wsgi.input_terminated"]),
        st.one_of(TEXT, TEXT, ODD, st.just(MISSING)),
        min_size=1,
        max_size=6,
    )
)
@example({"SERVER_NAME": MISSING, "QUERY_STRING": ""})
@example({"wsgi.url_scheme": MISSING, "QUERY_STRING": ""})
@example({"REMOTE_ADDR": 5, "QUERY_STRING": "cmd=unbundle"})
def test_any_environ(app: WireApp, records: Records, changes: dict[str, Any]) -> None:
    environ = {**base(), **changes}
    environ = {name: value for name, value in environ.items() if value is not MISSING}
    answer(app, dict(environ), records)
    answer(WireMiddleware(lambda environ, start: start("200 OK", []) or [], wire=app), dict(environ), records)
    with contextlib.suppress(HgWireError):
        app.classify(dict(environ))


@pytest.mark.parametrize("name", sorted(BYTES - {"CONTENT_LENGTH"}))
def test_characters_that_are_no_bytes_are_a_400(app: WireApp, records: Records, name: str) -> None:
    status = answer(app, {**base(), name: "/\u20ac"}, records)
    expected = "Bad Request" if name == "QUERY_STRING" else f"invalid WSGI environ: {name} has characters that are not"
    assert status.startswith(f"400 {expected}")
    assert answer(app, {**base(), name: "\xe9"}, records)[:3] in ("200", "400", "404")


def test_what_must_be_there_may_be_missing(app: WireApp, records: Records) -> None:
    assert answer(app, {}, records) == "404 Not Found"
    for name in base():
        environ = base()
        del environ[name]
        assert answer(app, environ, records)[:3] in ("200", "404", "400")


def test_mending() -> None:
    good = {**base(), "REMOTE_USER": "\u0142ukasz", "PATH_INFO": "/\xe9"}
    mended, fault = mend(good)
    assert mended is good and fault is None
    odd = {"PATH_INFO": b"/\xe9", "REMOTE_USER": None, "REMOTE_ADDR": 5, "wsgi.input": None, "HTTP_X": 1}
    before = dict(odd)
    assert mend(odd) == ({"PATH_INFO": "/\xe9", "wsgi.input": None, "HTTP_X": 1}, None)
    assert odd == before


@pytest.mark.parametrize("name", ["REMOTE_ADDR", "SERVER_NAME", "REMOTE_HOST", "PATH_INFO"])
def test_an_identity_decides_although_the_environ_is_mended(name: str) -> None:
    """A copy made for the mending must not bring back what the identity has removed."""
    asked: list[AccessRequest] = []
    app = WireApp(FakeProvider(), policy=asked.append, identify=lambda request: None)
    environ = {**base(), "REMOTE_USER": "forged", "HTTP_AUTHORIZATION": "Basic eDp5", name: b"/repo"}
    app(environ, lambda status, headers, exc_info=None: None)
    (request,) = asked
    assert request.user is None
    assert "HTTP_AUTHORIZATION" not in request.environ and "REMOTE_USER" not in request.environ


def test_an_identity_that_exits_refuses_one_request() -> None:
    def identify(request: Any) -> str | None:
        raise SystemExit(3)

    exchange = Exchange(WireApp(FakeProvider(), identify=identify), "cmd=heads")
    exchange.read()
    assert exchange.status.startswith("500 a command or hook on the server called exit")
