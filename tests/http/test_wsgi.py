"""The one exit: what a server gets, what is released, and what observers get."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import attrs
import pytest
from fakes import OPEN, Exchange, FakeProvider, Watch, returning

from hgwire_wsgi import Changegroup, ChangegroupMade, LegacyStreamResponse, Limits, StreamResponse, WireApp
from hgwire_wsgi.errors import BodyTooLarge, CommandCrashed
from hgwire_wsgi.http import wsgi
from hgwire_wsgi.http.message import FileBody, FrontEndBody, Request, Response
from hgwire_wsgi.logcontext import CURRENT


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
    assert "a response failed after it had begun; closing the connection [repository=repo command=x " in caplog.text


def test_a_short_answer_goes_out_before_the_rest_of_the_request_is_read(provider: FakeProvider) -> None:
    for app, query in ((WireApp(provider), "cmd=heads"), (WireApp(FakeProvider()), "cmd=unbundle&heads=")):
        exchange = Exchange(app, query, body=b"unread" * 1000)
        body = iter(exchange.response)
        assert exchange.status in ("200 Script output follows", "403 ssl required")
        assert next(body)
        assert exchange.input.tell() == 0
        assert list(body) == []
        assert exchange.input.read() == b""


def test_the_request_is_read_before_a_long_answer(provider: FakeProvider) -> None:
    app = WireApp(provider, commands=returning(StreamResponse([b"x" * 100_000] * 3)))
    exchange = Exchange(app, "cmd=x", body=b"unread" * 1000)
    assert exchange.input.read() == b""
    exchange.close()


def test_undrained_connection_is_cut(provider: FakeProvider) -> None:
    exchange = Exchange(WireApp(provider, limits=Limits(drain=10)), "cmd=heads", body=b"unread" * 10)
    with pytest.raises(Exception, match="closing the connection"):
        exchange.read()
    assert provider.held == 0


def test_what_is_too_long_is_drained_all_the_same(provider: FakeProvider) -> None:
    exchange = Exchange(WireApp(provider, limits=Limits(body=10)), "cmd=heads", body=b"unread" * 10)
    assert exchange.status == "413 Content-Length exceeds 10 bytes"
    assert exchange.read() == b"0\nContent-Length exceeds 10 bytes\n"
    assert exchange.input.read() == b""


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


# One response at a time, without an application.


@attrs.define
class Site:
    """Sends a response as an application does."""

    make: Callable[[], Response]
    observers: tuple[Callable[[Any], object], ...] = ()
    limits: Limits = attrs.Factory(Limits)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ, self.limits)
        CURRENT.set(request)
        observation = wsgi.Observation(request, self.observers) if self.observers else None
        return wsgi.send(request, self.make(), start_response, observation=observation)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "stored"
    path.write_bytes(b"0123456789")
    return path


def file_response(path: Path, opened: list[Any] | None = None) -> Response:
    file = path.open("rb", buffering=0)
    if opened is not None:
        opened.append(file)
    return Response("200 OK", [("Content-Type", "x/y")], FileBody(file, path.stat().st_size))


def refuse_headers(status: str, headers: Any, exc_info: Any = None) -> None:
    raise ConnectionError("gone")


def test_a_short_response_is_a_list_if_nothing_waits_for_its_end() -> None:
    site = Site(lambda: Response("200 OK", [("Content-Type", "x/y")], b"short"))
    exchange = Exchange(site)
    assert exchange.response == [b"short"]
    assert (exchange.status, exchange.headers) == ("200 OK", {"Content-Type": "x/y", "Content-Length": "5"})
    assert CURRENT.get() is None


@pytest.mark.parametrize("observers", [(), (lambda event: None,)])
def test_a_refused_start_leaves_no_request_behind(observers: tuple[Any, ...]) -> None:
    site = Site(lambda: Response("200 OK", [], b"x"), observers)
    with pytest.raises(ConnectionError):
        site(Exchange(lambda environ, start: []).environ, refuse_headers)
    assert CURRENT.get() is None


def test_everything_is_released_once_in_order_and_a_failure_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fails() -> None:
        done.append("fails")
        raise RuntimeError("secret")

    release = (lambda: done.append("first"), fails, lambda: done.append("last"))
    for body in (b"x", iter([b"x"])):
        exchange = Exchange(Site(lambda body=body: Response("200 OK", [], body, release)))
        assert list(exchange.response) == [b"x"]
        assert done == []
        exchange.close()
        exchange.close()
        assert done == ["first", "fails", "last"]
        assert "cleaning up after a response failed [repository=- " in caplog.text
        assert CURRENT.get() is None
        done.clear()


def test_a_refused_start_closes_the_file_and_releases_everything(stored: Path) -> None:
    opened: list[Any] = []
    released: list[int] = []
    watch = Watch()
    before = len(os.listdir("/proc/self/fd"))

    def make() -> Response:
        response = file_response(stored, opened)
        response.release = (lambda: released.append(1),)
        return response

    site = Site(make, (watch,))
    environ = Exchange(lambda environ, start: []).environ
    with pytest.raises(ConnectionError):
        site(environ, refuse_headers)
    assert opened[0].closed and released == [1]
    assert len(os.listdir("/proc/self/fd")) == before
    closed = watch.closed
    assert (closed.outcome, closed.error, closed.bytes_out) == ("cut", "the server refused the response", 0)
    assert CURRENT.get() is None


class TestFile:
    def test_without_a_wrapper_it_is_read_in_pieces(self, stored: Path) -> None:
        opened: list[Any] = []
        exchange = Exchange(Site(lambda: file_response(stored, opened)))
        assert exchange.headers["Content-Length"] == "10"
        assert exchange.read() == b"0123456789"
        assert opened[0].closed

    def test_a_wrapper_gets_a_file_and_closes_it(self, stored: Path) -> None:
        watch = Watch()
        exchange = Exchange(Site(lambda: file_response(stored), (watch,)), **{"wsgi.file_wrapper": FileWrapper})
        assert isinstance(exchange.response, FileWrapper)
        assert exchange.response.filelike.fileno() > 2
        assert exchange.read() == b"0123456789"
        exchange.close()
        assert (watch.closed.bytes_out) == 10

    @pytest.mark.parametrize(("environ", "sent", "outcome"), [({}, 4, "cut"), ({"uwsgi.version": b"2.0.31"}, 10, "ok")])
    def test_a_client_that_leaves(self, stored: Path, environ: dict[str, Any], sent: int, outcome: str) -> None:
        """uWSGI sends with offsets of its own, so nobody can see how far it came."""
        watch, opened = Watch(), []
        wrapper = {"wsgi.file_wrapper": FileWrapper}
        exchange = Exchange(Site(lambda: file_response(stored, opened), (watch,)), **wrapper, **environ)
        assert exchange.response.filelike.read(4) == b"0123"
        exchange.close()
        closed = watch.closed
        assert (closed.bytes_out, closed.outcome) == (sent, outcome)
        assert opened[0].closed

    def test_however_a_server_reads_it_what_it_sent_is_counted(self, stored: Path) -> None:
        """By ``read``, by ``readinto``, or with ``os.sendfile`` and a ``seek`` at the end, as sockets do."""
        ways: tuple[Callable[[Any], object], ...] = (
            lambda file: file.read(4),
            lambda file: (file.read(None), file.seek(4)),
            lambda file: file.readinto(bytearray(4)),
            lambda file: file.seek(-6, os.SEEK_END),
        )
        for way in ways:
            watch = Watch()
            site = Site(lambda: file_response(stored), (watch,))
            exchange = Exchange(site, **{"wsgi.file_wrapper": FileWrapper})
            way(exchange.response.filelike)
            exchange.close()
            closed = watch.closed
            assert (closed.bytes_out, closed.outcome) == (4, "cut")

    def test_without_observers_the_server_gets_the_file_itself(self, stored: Path) -> None:
        opened: list[Any] = []
        exchange = Exchange(Site(lambda: file_response(stored, opened)), **{"wsgi.file_wrapper": FileWrapper})
        assert exchange.response.filelike is opened[0]
        assert exchange.read() == b"0123456789"
        assert opened[0].closed and CURRENT.get() is None

    def test_a_wrapper_that_fails_leaks_nothing(self, stored: Path) -> None:
        watch, opened = Watch(), []

        def wrap(file: Any, size: int) -> Any:
            raise OSError("no")

        with pytest.raises(OSError, match="no"):
            Exchange(Site(lambda: file_response(stored, opened), (watch,)), **{"wsgi.file_wrapper": wrap})
        assert opened[0].closed
        assert watch.closed.outcome == "cut"

    def test_a_wrapper_is_not_used_where_the_connection_must_be_cut(self, stored: Path) -> None:
        site = Site(lambda: file_response(stored), limits=Limits(drain=1))
        exchange = Exchange(site, body=b"unread", **{"wsgi.file_wrapper": FileWrapper})
        chunks = iter(exchange.response)
        assert next(chunks) == b"0123456789"
        with pytest.raises(BodyTooLarge, match="closing the connection"):
            next(chunks)
        exchange.close()

    def test_head(self, stored: Path) -> None:
        opened: list[Any] = []
        wrapper = {"wsgi.file_wrapper": FileWrapper}
        exchange = Exchange(Site(lambda: file_response(stored, opened)), REQUEST_METHOD="HEAD", **wrapper)
        assert exchange.headers["Content-Length"] == "10"
        assert exchange.read() == b""
        assert opened[0].closed


def test_a_body_for_the_front_end_is_named_and_not_sent() -> None:
    watch = Watch()
    body = FrontEndBody(("X-Accel-Redirect", "/bundles/x"), 1000)
    for method, sent in (("GET", 1000), ("HEAD", 0)):
        exchange = Exchange(Site(lambda: Response("200 OK", [], body), (watch,)), REQUEST_METHOD=method)
        assert exchange.headers == {"X-Accel-Redirect": "/bundles/x"}
        assert exchange.read() == b""
        closed = watch.closed
        assert (closed.outcome, closed.bytes_out) == ("ok", sent)


@pytest.mark.parametrize(
    "body", [b"x", iter([b"x"]), FrontEndBody(("X-Sendfile", "x"), 1)], ids=["bytes", "chunks", "front end"]
)
def test_a_response_without_a_body_is_complete_even_if_nobody_iterates_it(body: Any) -> None:
    """WebOb and some servers close the response to ``HEAD`` at once."""
    watch = Watch()
    Exchange(Site(lambda: Response("200 OK", [], body), (watch,)), REQUEST_METHOD="HEAD").close()
    assert (watch.events[1].outcome, watch.events[1].bytes_out) == ("ok", 0)


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        ("200 OK", "", "ok"),
        ("200 OK", "hook failed", "refused"),
        ("404 Not Found", "", "refused"),
        ("403 Forbidden", "no", "refused"),
        ("500 Oops", "internal server error", "failed"),
        ("503 busy", "", "refused"),
    ],
)
def test_how_a_request_ended(status: str, error: str, outcome: str) -> None:
    watch = Watch()
    Exchange(Site(lambda: Response(status, [], b"x", error=error), (watch,))).read()
    closed = watch.closed
    assert (closed.status, closed.outcome, closed.error) == (int(status[:3]), outcome, error)


def test_a_transfer_that_breaks_off_is_cut_and_says_why() -> None:
    watch = Watch()

    def fails(error: Exception) -> Iterator[bytes]:
        yield b"12345"
        raise error

    for error, text in ((OSError("disk"), "disk"), (ZeroDivisionError(), "ZeroDivisionError")):
        site = Site(lambda error=error: Response("200 OK", [], fails(error)), (watch,))
        with pytest.raises(type(error)):
            Exchange(site).read()
        closed = watch.closed
        assert (closed.outcome, closed.error, closed.bytes_out) == ("cut", text, 5)
    Exchange(Site(lambda: Response("200 OK", [], iter([b"1", b"2"])), (watch,))).close()
    closed = watch.closed
    assert (closed.outcome, closed.error, closed.bytes_out) == ("cut", "the client disconnected", 0)


def test_the_end_of_a_response_that_another_thread_closes() -> None:
    watch = Watch()
    exchange = Exchange(Site(lambda: Response("200 OK", [], iter([b"x"])), (watch,)))
    thread = threading.Thread(target=exchange.read)
    thread.start()
    thread.join()
    assert watch.events[1].cpu == 0.0
    assert watch.closed.bytes_out == 1


def test_an_observer_that_raises_changes_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()

    def fails(event: Any) -> None:
        raise ZeroDivisionError

    exchange = Exchange(Site(lambda: Response("200 OK", [], b"x"), (fails, watch, fails)))
    assert exchange.read() == b"x"
    assert watch.closed.outcome == "ok"
    assert caplog.text.count("an observer failed [repository=- ") == 4
    assert CURRENT.get() is None


@pytest.mark.parametrize(("observers", "measured"), [((), set()), ((Watch(),), {"perf_counter", "thread_time"})])
def test_without_observers_nothing_is_measured(
    observers: tuple[Any, ...], measured: set[str], provider: FakeProvider
) -> None:
    called: set[str] = set()

    def watch(frame: Any, kind: str, function: Any) -> None:
        # The collector's callbacks of others measure, too.
        if kind == "c_call" and function.__module__ == "time" and "hgwire_wsgi" in frame.f_code.co_filename:
            called.add(function.__name__)

    app = WireApp(provider, commands=returning(StreamResponse([b"x" * 100_000] * 3)), observers=observers)
    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        for query in ("cmd=heads", "cmd=x", "cmd=nosuch"):
            assert Exchange(app, query).read()
    finally:
        sys.setprofile(previous)
    assert called == measured


def test_an_observation_of_a_repository_that_was_recovered() -> None:
    watch = Watch()
    commands = returning(b"x")
    commands.command("recovering", permission="pull")(lambda context: context.report_recovery() or b"done")
    assert (
        Exchange(WireApp(FakeProvider(OPEN), commands=commands, observers=[watch]), "cmd=recovering").read() == b"done"
    )
    assert [type(event).__name__ for event in watch.events] == [
        "RequestStarted",
        "RepositoryRecovered",
        "RequestClosed",
    ]
    assert (watch.events[1].repository, watch.events[1].path) == ("repo", "/repo")


def test_an_observation_of_a_changegroup() -> None:
    watch, made = Watch(), Changegroup(generator="mercurial", reason="why", version="02", changesets=3, aside={"x": 1})
    commands = returning(b"x")
    commands.command("making", permission="pull")(lambda context: context.report_changegroup(made) or b"done")
    app = WireApp(FakeProvider(OPEN), commands=commands, observers=[watch])
    assert Exchange(app, "cmd=making", HTTP_X_REQUEST_ID="id").read() == b"done"
    facts = {"generator": "mercurial", "reason": "why", "version": "02", "changesets": 3, "aside": {"x": 1}}
    assert watch.events[1] == ChangegroupMade(request_id="id", repository="repo", **facts)


def test_a_request_that_ends_with_the_server_is_reported_once() -> None:
    watch = Watch()
    environ = Exchange(lambda environ, start: [], "cmd=heads").environ
    observation = wsgi.Observation(Request(environ, Limits()), [watch])
    observation.interrupt(SystemExit())
    observation.interrupt(SystemExit())
    assert [type(event).__name__ for event in watch.events] == ["RequestStarted", "RequestClosed"]
    assert (watch.events[1].outcome, watch.events[1].error) == ("cut", "the server is stopping: SystemExit")


def test_a_stream_that_exits_ends_only_its_response(provider: FakeProvider) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise SystemExit

    exchange = Exchange(WireApp(provider, commands=returning(LegacyStreamResponse(chunks()))), "cmd=x")
    with pytest.raises(CommandCrashed):
        exchange.read()
    assert provider.held == 0
