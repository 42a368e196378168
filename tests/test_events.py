"""What observers are told of requests of every kind: one event at the start, one at the end, with the right facts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import attrs
import pytest
from fakes import NOISE, OPEN, Exchange, FakeProvider, FakeRepository, Watch, makers_are_done, returning, streaming

from hgwire_wsgi import (
    ApiSettings,
    BytesResponse,
    CacheSettings,
    Changegroup,
    ChangegroupMade,
    CommandContext,
    CommandRegistry,
    LegacyStreamResponse,
    Limits,
    OutOfBandError,
    PushChanges,
    PushResponse,
    RequestClosed,
    StreamResponse,
    WireApp,
    WireMiddleware,
)
from hgwire_wsgi.framing import EXP_0002, ClientReactor, OutgoingStream, encode_frame
from hgwire_wsgi.repositories.base import SubresourceReply, SubresourceRequest
from hgwire_wsgi.testing import MemoryProvider, MemoryRepository, WireTestApp

HEADS = b"11" * 20 + b"\n"


class Site(FakeProvider):
    """One repository with something below its URL, listed at ``/``."""

    def __init__(self) -> None:
        super().__init__(OPEN)
        self.repository = _WithFiles(OPEN)

    def names(self, limit: int) -> list[str]:
        return ["repo"]

    def is_subresource(self, rest: str) -> bool:
        return rest.startswith("files/")


class _WithFiles(FakeRepository):
    def subresource(self, request: SubresourceRequest, authorize: Any) -> SubresourceReply | None:
        authorize("pull")
        found = request.path == "files/here"
        return SubresourceReply("200 OK" if found else "404 Not Found", (), [b"content"] if found else [])


def commands() -> CommandRegistry:
    made = returning(b"1\n", permission="push")
    made.command("refuses", permission="pull")(lambda context: OutOfBandError(b"too old\n"))
    made.command("declines", permission="push")(lambda context: PushResponse(0, b"no luck\n"))
    made.command("breaks", permission="pull")(lambda context: 1 / 0)
    made.command("streams", permission="pull", reply="legacy")(lambda context: LegacyStreamResponse([b"x" * 100_000]))

    @made.command("changes", permission="push", body=True)
    def changes(context: CommandContext) -> BytesResponse:
        assert context.report_changes is not None
        data = context.body.read(4)
        context.report_changes(PushChanges(changesets=len(data)))
        context.report_changes(PushChanges(phases=1))
        return BytesResponse(b"1\n")

    return made


PUSH = {"CONTENT_TYPE": "application/mercurial-0.1"}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a command": (
        {"query": "cmd=heads", "REMOTE_USER": "alice", "REMOTE_ADDR": "192.0.2.1", "HTTP_X_REQUEST_ID": "id-1"},
        {"user": "alice", "address": "192.0.2.1", "request_id": "id-1", "commands": ("heads",), "bytes_out": 41},
    ),
    "HEAD": ({"query": "cmd=heads", "REQUEST_METHOD": "HEAD"}, {"commands": ("heads",), "method": "HEAD"}),
    "a batch": (
        {"query": "cmd=batch&cmds=heads+%3Bknown+nodes%3D"},
        {"commands": ("batch", "heads", "known"), "bytes_out": 42, "cache": "miss"},
    ),
    "a stream": ({"query": "cmd=streams"}, {"commands": ("streams",), "bytes_out": 100_000}),
    "a push": (
        {"query": "cmd=changes", "body": b"data and more", **PUSH},
        {
            "commands": ("changes",),
            "method": "POST",
            "bytes_in": 13,
            "bytes_out": 2,
            "changes": (PushChanges(changesets=4), PushChanges(phases=1)),
        },
    ),
    "a push that failed": (
        {"query": "cmd=declines", "REQUEST_METHOD": "POST"},
        {"commands": ("declines",), "method": "POST", "outcome": "refused", "error": "no luck", "bytes_out": 10},
    ),
    "a refusal with 200": (
        {"query": "cmd=refuses"},
        {"commands": ("refuses",), "outcome": "refused", "error": "too old", "bytes_out": 8},
    ),
    "a push by GET": (
        {"query": "cmd=x"},
        {
            "commands": ("x",),
            "status": 405,
            "outcome": "refused",
            "error": "push requires POST request",
            "bytes_out": 29,
        },
    ),
    "an unknown command": (
        {"query": "cmd=nosuch"},
        {
            "commands": ("nosuch",),
            "status": 400,
            "outcome": "refused",
            "error": "unknown command: nosuch",
            "bytes_out": 26,
        },
    ),
    "a malformed request": (
        {"query": "cmd=batch"},
        {
            "commands": ("batch",),
            "status": 400,
            "outcome": "refused",
            "error": "batch: missing argument cmds",
            "bytes_out": 31,
        },
    ),
    "a bug": (
        {"query": "cmd=breaks"},
        {
            "commands": ("breaks",),
            "status": 500,
            "outcome": "failed",
            "error": "internal server error",
            "bytes_out": 24,
        },
    ),
    "an unknown repository": (
        {"query": "cmd=heads", "path": "/none"},
        {
            "repository": "",
            "commands": ("heads",),
            "status": 404,
            "outcome": "refused",
            "error": "no such repository",
            "bytes_out": 21,
        },
    ),
    "a command below a repository": (
        {"query": "cmd=heads", "path": "/repo/below"},
        {"commands": ("heads",), "status": 404, "outcome": "refused", "error": "Not Found", "bytes_out": 12},
    ),
    "a greeting": ({}, {}),
    "an index": ({"path": "/"}, {"repository": "", "bytes_out": 22}),
    "a file below a repository": ({"path": "/repo/files/here"}, {"bytes_out": 7}),
    "a file that is not there": ({"path": "/repo/files/none"}, {"status": 404, "outcome": "refused"}),
    "the list of APIs": ({"path": "/repo/api"}, {}),
    "an unknown API": (
        {"path": "/repo/api/none"},
        {
            "status": 404,
            "outcome": "refused",
            "error": "Unknown API: none\nKnown APIs: exp-http-v2-0001",
            "bytes_out": 46,
        },
    ),
}


@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "middleware"])
def test_every_request(given: dict[str, Any], expected: dict[str, Any], wrapped: bool) -> None:
    watch, provider = Watch(), Site()
    wire = WireApp(provider, commands=commands(), observers=[watch], api=ApiSettings(server=True, http_v2=True))
    app = WireMiddleware(lambda environ, start_response: [b"page"], wire=wire) if wrapped else wire
    if wrapped and not wire.handles(Exchange(lambda environ, start: [], **given).environ):
        assert Exchange(app, **given).read() == b"page"
        assert watch.events == []
        return
    exchange = Exchange(app, **given)
    body = exchange.read()
    exchange.close()
    closed = watch.closed
    defaults = {
        "method": "GET",
        "path": given.get("path", "/repo"),
        "user": None,
        "address": "",
        "repository": "repo",
        "commands": (),
        "status": 200,
        "outcome": "ok",
        "error": "",
        "bytes_in": 0,
        "bytes_out": len(body),
        "changes": (),
        "reports": (),
    }
    facts = attrs.asdict(closed, recurse=False)
    assert {name: facts[name] for name in {**defaults, **expected}} == {**defaults, **expected}
    assert closed.status == int(exchange.status[:3])
    assert provider.held == 0


def test_a_short_reply_is_made_and_then_found() -> None:
    watch = Watch()
    app = WireApp(FakeProvider(), observers=[watch])
    for expected in ("miss", "hit", "hit"):
        assert Exchange(app, "cmd=heads").read() == HEADS
        closed = watch.closed
        assert (closed.cache, closed.commands, closed.repository, closed.bytes_out) == (
            expected,
            ("heads",),
            "repo",
            41,
        )
    Exchange(app, "cmd=heads", REQUEST_METHOD="HEAD").read()
    assert watch.closed.cache == ""


def test_a_cached_reply_that_the_policy_refuses_names_its_commands() -> None:
    watch, provider = Watch(), FakeProvider()
    app = WireApp(provider, observers=[watch])
    Exchange(app, "cmd=heads").read()
    assert watch.closed.outcome == "ok"
    provider.repository.web["allow_read"] = "alice"
    Exchange(app, "cmd=heads").read()
    closed = watch.closed
    assert (closed.status, closed.outcome, closed.commands) == (401, "refused", ("heads",))


def test_a_bundle_is_made_and_then_found_in_its_file(tmp_path: Path) -> None:
    watch = Watch()
    settings = CacheSettings(folder=tmp_path)
    app = WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE])), cache=settings, observers=[watch])
    size = len(Exchange(app, "cmd=x").read())
    closed = watch.closed
    assert (closed.cache, closed.outcome, closed.bytes_out) == ("miss", "ok", size)
    makers_are_done()
    for environ in ({}, {"wsgi.file_wrapper": FileWrapper}):
        assert len(Exchange(app, "cmd=x", **environ).read()) == size
        closed = watch.closed
        assert (closed.cache, closed.outcome, closed.bytes_out) == ("hit", "ok", size)
        assert Exchange(app, "cmd=x", REQUEST_METHOD="HEAD", **environ).read() == b""
        closed = watch.closed
        assert (closed.cache, closed.outcome, closed.bytes_out, closed.method) == ("hit", "ok", 0, "HEAD")


def test_a_changegroup_is_reported_when_it_is_complete(tmp_path: Path) -> None:
    """For a cached bundle that is in another thread, possibly after the request."""
    made = Changegroup(generator="mercurial", reason="why", version="02", changesets=3, aside={"other": 1})
    commands = CommandRegistry()

    @commands.command("x", permission="pull", reply="stream", cacheable=True)
    def bundle(context: CommandContext) -> StreamResponse:
        report = context.report_changegroup

        def chunks() -> Iterator[bytes]:
            yield NOISE
            if report is not None:
                report(made)

        return StreamResponse(chunks())

    watch = Watch()
    for cache in (CacheSettings(disk=0), CacheSettings(folder=tmp_path)):
        app = WireApp(FakeProvider(), commands=commands, cache=cache, observers=[watch])
        for count in (1, 0 if cache.disk else 1):
            Exchange(app, "cmd=x", HTTP_X_REQUEST_ID=f"id-{count}").read()
            makers_are_done()
            found = [event for event in watch.events if isinstance(event, ChangegroupMade)]
            expected = attrs.asdict(made, recurse=False)
            assert found == [ChangegroupMade(request_id=f"id-{count}", repository="repo", **expected)] * count
            watch.events.clear()
    assert len(Exchange(WireApp(FakeProvider(), commands=commands), "cmd=x").read()) > 0


def test_the_front_end_sends_a_bundle(tmp_path: Path) -> None:
    watch = Watch()
    settings = CacheSettings(folder=tmp_path, accel_header="X-Accel-Redirect", accel_prefix="/bundles/")
    app = WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE])), cache=settings, observers=[watch])
    size = len(Exchange(app, "cmd=x").read())
    assert watch.closed.cache == "miss"
    makers_are_done()
    assert Exchange(app, "cmd=x").read() == b""
    closed = watch.closed
    assert (closed.cache, closed.outcome, closed.bytes_out) == ("hit", "ok", size)


def test_a_client_that_disconnects(tmp_path: Path) -> None:
    watch, provider = Watch(), FakeProvider()
    for cache in (CacheSettings(disk=0), CacheSettings(folder=tmp_path)):
        app = WireApp(provider, commands=streaming(lambda: iter([NOISE] * 3)), cache=cache, observers=[watch])
        exchange = Exchange(app, "cmd=x")
        sent = len(next(iter(exchange.response)))
        exchange.close()
        closed = watch.closed
        assert (closed.outcome, closed.error, closed.bytes_out) == ("cut", "the client disconnected", sent)
        makers_are_done()
    assert provider.held == 0


def test_a_transfer_that_breaks_off() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise OSError("disk")

    watch = Watch()
    commands = returning(LegacyStreamResponse(chunks()), reply="legacy")
    with pytest.raises(OSError, match="disk"):
        Exchange(WireApp(FakeProvider(), commands=commands, observers=[watch]), "cmd=x").read()
    closed = watch.closed
    assert (closed.status, closed.outcome, closed.error, closed.bytes_out) == (200, "cut", "disk", 100_000)


def test_a_body_that_is_cut_short() -> None:
    watch, provider = Watch(), FakeProvider(OPEN)
    app = WireApp(provider, commands=commands(), observers=[watch])
    environ = {"CONTENT_LENGTH": "10", "REQUEST_METHOD": "POST", "wsgi.input": io.BytesIO(b""), **PUSH}
    Exchange(app, "cmd=changes", **environ).read()
    closed = watch.closed
    assert (closed.status, closed.outcome, closed.bytes_in) == (400, "refused", 0)
    assert "shorter than its Content-Length" in closed.error


def test_a_connection_that_must_be_cut_reports_its_answer() -> None:
    watch = Watch()
    app = WireApp(FakeProvider(), limits=Limits(drain=10), observers=[watch])
    with pytest.raises(Exception, match="closing the connection"):
        Exchange(app, "cmd=nosuch", body=b"unread" * 10).read()
    closed = watch.closed
    assert (closed.status, closed.outcome, closed.bytes_in) == (400, "refused", 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_command_of_a_multirequest(workers: int) -> None:
    watch, provider = Watch(), FakeProvider(OPEN)
    api = ApiSettings(server=True, http_v2=True, workers=workers)
    made = CommandRegistry()
    made.command("heads", permission="pull")(lambda context: HEADS)
    made.command("refuses", permission="pull")(lambda context: OutOfBandError(b"too old\n"))
    made.command("breaks", permission="pull")(lambda context: 1 / 0)
    app = WireApp(provider, commands=made, api=api, observers=[watch])
    media_type, client, stream = EXP_0002.media_type, ClientReactor(EXP_0002), OutgoingStream(1)
    names = ("heads", "refuses", "breaks")
    actions = [client.send_command(stream, name.encode(), {}, None)[1] for name in names]
    body = b"".join(encode_frame(frame) for action in actions for frame in action.frames)
    exchange = Exchange(
        app,
        path="/repo/api/exp-http-v2-0001/ro/multirequest",
        body=body,
        HTTP_ACCEPT=media_type,
        CONTENT_TYPE=media_type,
    )
    sent = exchange.read()
    closed: RequestClosed = watch.closed
    assert (closed.status, closed.outcome, closed.repository, closed.bytes_in) == (200, "ok", "repo", len(body))
    assert closed.commands == names
    assert closed.bytes_out == len(sent) == sum(report.bytes_out for report in closed.reports)
    reports = {report.request_id: report for report in closed.reports}
    assert len(reports) == len(closed.reports) == 3
    assert [(reports[number].command, reports[number].outcome) for number in (1, 3)] == [
        ("heads", "ok"),
        ("refuses", "refused"),
    ]
    assert reports[5].error == "internal server error"
    assert all(report.wall >= 0 and report.cpu >= 0 for report in closed.reports)
    assert provider.held == 0


def test_a_cached_clone_is_a_clone_too() -> None:
    """A small one is among the short replies."""
    events: list[Any] = []
    app = WireTestApp(WireApp(MemoryProvider({"repo": MemoryRepository()}), observers=[events.append]))
    for _ in range(2):
        assert app.wire("/repo", "getbundle", {"common": "00" * 20}).status == 200
    assert app.wire("/repo", "heads").status == 200
    closed = [event for event in events if isinstance(event, RequestClosed)]
    assert [(event.cache, event.clone) for event in closed] == [("miss", True), ("hit", True), ("miss", False)]
