from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from fakes import Exchange, FakeProvider

from hgwire_wsgi import (
    ZSTD,
    AccessRequest,
    Argument,
    BytesResponse,
    CacheSettings,
    CommandContext,
    CommandRegistry,
    HgWireError,
    LegacyStreamResponse,
    Limits,
    OutOfBandError,
    PermissionDenied,
    PushError,
    PushResponse,
    ServerCapabilities,
    StreamResponse,
    WireApp,
    WireMiddleware,
)
from hgwire_wsgi.errors import CommandFailed, RepositoryBusy
from hgwire_wsgi.testing import WireTestApp

NOISE = random.Random(0).randbytes(1 << 20)
OPEN = {"push_ssl": "no", "allow-push": "*"}


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


def returning(response: Any, *, permission: str = "pull", **declaration: Any) -> CommandRegistry:
    registry = CommandRegistry.standard()
    registry.command("x", permission=permission, **declaration)(lambda context, **arguments: response)
    return registry


def ask(commands: CommandRegistry, protocol: str | None = None, **options: Any) -> Any:
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands, **options))
    return app.wire("/repo", "x", protocol=protocol, compression=["zstd"] if protocol == "0.2" else ())


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"plain", b"plain"),
        (BytesResponse(b"bytes"), b"bytes"),
        (PushResponse(3, b"said\n"), b"3\nsaid\n"),
        (PushError(b"raced"), b"0\nraced\n"),
    ],
)
def test_short_replies_go_out_as_they_are_with_their_length(response: Any, body: bytes) -> None:
    for protocol in (None, "0.1", "0.2"):
        reply = ask(returning(response), protocol)
        assert (reply.media_type, reply.engine, reply.data) == ("application/mercurial-0.1", None, body)
        assert reply.response.status == "200 Script output follows"
        assert reply.response.content_length == len(body)


def test_stream_is_compressed_as_negotiated() -> None:
    data = b"data" * 10_000
    assert zlib.decompress(ask(returning(StreamResponse([data]))).response.body) == data
    reply = ask(returning(StreamResponse([data])), "0.2")
    assert (reply.media_type, reply.engine, reply.data) == ("application/mercurial-0.2", "zstd", data)
    reply = ask(returning(StreamResponse([data], prefer_uncompressed=True)), "0.2")
    assert (reply.engine, reply.data) == ("none", data)


def test_legacy_stream_is_never_compressed() -> None:
    for protocol in (None, "0.2"):
        reply = ask(returning(LegacyStreamResponse([b"as ", b"is"])), protocol)
        assert (reply.media_type, reply.response.body) == ("application/mercurial-0.1", b"as is")


def test_out_of_band_error() -> None:
    reply = ask(returning(OutOfBandError(b"too old\n")))
    assert (reply.status, reply.media_type, reply.data) == (200, "application/hg-error", b"too old\n")


def test_a_server_that_sends_only_0_2_sends_everything_so_and_says_so() -> None:
    offer = ServerCapabilities(send=("0.2",), receive=("0.2",))
    for response, body in ((b"plain", b"plain"), (LegacyStreamResponse([b"x"]), b"x"), (StreamResponse([b"y"]), b"y")):
        reply = ask(returning(response), "0.2", capabilities=offer)
        assert (reply.media_type, reply.data) == ("application/mercurial-0.2", body)
    refused = ask(returning(b"plain"), "0.1", capabilities=offer)
    assert refused.status == 406
    assert b"only sends application/mercurial-0.2" in refused.data
    app = WireTestApp(WireApp(FakeProvider(), capabilities=offer))
    reply = app.wire("/repo", "capabilities")
    assert b"httpmediatype=0.2rx,0.2tx,minrx=0.2,mintx=0.2" in reply.data.split()
    assert reply.media_type == "application/mercurial-0.1"


def test_a_server_that_receives_only_0_2_refuses_bodies_of_0_1() -> None:
    seen = []
    commands = CommandRegistry()

    @commands.command("put", permission="push", body=True)
    def put(context: CommandContext) -> bytes:
        seen.append(context.body.read(100))
        return b"1\n"

    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands, capabilities=ServerCapabilities(receive=("0.2",))))
    refused = app.wire("/repo", "put", body=b"data")
    assert refused.status == 415
    assert b"only receives request bodies as application/mercurial-0.2" in refused.data
    assert seen == []
    reply = app.wire("/repo", "put", body=b"data", media_type="application/mercurial-0.2", compression=["bzip2"])
    assert (reply.status, seen) == (200, [b"data"])


def test_request_bodies_of_unknown_engines_are_refused() -> None:
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=returning(b"", permission="push", body=True)))
    reply = app.post(
        "/repo?cmd=x", b"\x03foo", {"Content-Type": "application/mercurial-0.2"}, status=415, expect_errors=True
    )
    assert b"unknown compression engine" in reply.body


def test_an_engine_of_the_host() -> None:
    engine = type(ZSTD)(name="x-mine", start=ZSTD.start, start_decoder=ZSTD.start_decoder)
    app = WireTestApp(
        WireApp(
            FakeProvider(),
            commands=returning(StreamResponse([b"z"])),
            capabilities=ServerCapabilities(engines=(engine,)),
        )
    )
    assert b"compression=x-mine" in app.wire("/repo", "capabilities").data.split()
    reply = app.get("/repo?cmd=x", headers={"X-HgProto-1": "0.2 comp=x-mine"})
    assert reply.body.startswith(b"\x06x-mine")
    decoded = app.wire("/repo", "x", protocol="0.2", compression=[engine, "zlib"])
    assert (decoded.engine, decoded.data) == ("x-mine", b"z")


def test_decompressed_request_bodies_are_bounded() -> None:
    commands = CommandRegistry()

    @commands.command("put", permission="push", body=True)
    def put(context: CommandContext) -> bytes:
        while context.body.read(1 << 16):
            pass
        return b"1\n"

    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands, limits=Limits(body_decoded=1 << 20)))
    reply = app.wire(
        "/repo", "put", body=b"\0" * (2 << 20), media_type="application/mercurial-0.2", compression=["zstd"]
    )
    assert reply.status == 413


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


@pytest.mark.parametrize("error", [CommandFailed("the reason"), PermissionDenied("the reason", status=403)])
def test_early_failure_of_a_stream_has_its_own_status(provider: FakeProvider, error: HgWireError) -> None:
    def chunks() -> Iterator[bytes]:
        raise error
        yield b""

    exchange = Exchange(WireApp(provider, commands=returning(StreamResponse(chunks()))), "cmd=x")
    assert exchange.status == f"{error.http_status} the reason"
    assert exchange.read() == b"0\nthe reason\n"
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


def test_a_handler_that_returns_no_response_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(returning("text"))
    assert reply.status == 500
    assert "returned str" in caplog.text


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


def test_every_answer_forbids_guessing_its_type(provider: FakeProvider) -> None:
    app = WireApp(provider)
    for query, path in (("cmd=heads", "/repo"), ("cmd=nosuch", "/repo"), ("", "/repo"), ("cmd=heads", "/none")):
        assert Exchange(app, query, path=path).headers["X-Content-Type-Options"] == "nosniff"


def test_vary_names_the_headers_the_reply_depends_on(provider: FakeProvider) -> None:
    headers = {"HTTP_X_HGARG_1": "nodes=", "HTTP_X_HGPROTO_1": "0.1", "HTTP_X_HGPROTO_2": " 0.2"}
    exchange = Exchange(WireApp(provider), "cmd=known", **headers)
    assert exchange.headers["Vary"] == "X-HgArg-1, X-HgArg-2, X-HgProto-1, X-HgProto-2, X-HgProto-3"


def test_batch_checks_everything_before_it_runs_anything() -> None:
    ran = []
    commands = CommandRegistry.standard()
    commands.command("note", permission="pull")(lambda context: ran.append(1) or b"")
    commands.command("write", permission="push")(lambda context: ran.append(2) or b"")
    commands.command("typed", permission="pull", args=[Argument("nodes", "nodes")])(lambda context, nodes: b"")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands))
    refusals = {
        b"note ;nosuch ": 400,
        b"note ;getbundle ": 400,
        b"note ;batch cmds=heads": 400,
        b"note ;unbundle heads=": 405,
        b"note ;write ": 405,
        b"note ;typed nodes=zz": 400,
        b"note ;typed ": 400,
    }
    for cmds, status in refusals.items():
        assert app.wire("/repo", "batch", {"cmds": cmds}).status == status, cmds
    assert ran == []
    assert app.wire("/repo", "batch", {"cmds": b"note ;heads "}).data == b";" + b"11" * 20 + b"\n"


def test_error_in_a_batch_replaces_the_whole_reply() -> None:
    app = WireTestApp(WireApp(FakeProvider(), commands=returning(OutOfBandError(b"no"))))
    reply = app.wire("/repo", "batch", {"cmds": b"heads ;x "})
    assert (reply.media_type, reply.data) == ("application/hg-error", b"no")


def test_policy_sees_every_command_and_the_strictest_permission() -> None:
    asked: list[AccessRequest] = []
    app = WireTestApp(WireApp(FakeProvider(OPEN), policy=asked.append))
    app.wire("/repo", "batch", {"cmds": b"heads ;pushkey namespace=a,key=b,old=c,new=d"}, user="alice")
    assert [(each.permission, each.user, each.name, each.commands) for each in asked] == [
        ("push", "alice", "repo", ("batch", "heads", "pushkey"))
    ]


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


def test_removed_commands_stay_away() -> None:
    commands = CommandRegistry.standard()
    commands.remove("heads", "batch")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands))
    assert app.wire("/repo", "heads").status == 400
    assert b"batch" not in app.wire("/repo", "capabilities").data.split()


def test_unknown_repositories_and_paths_below_one() -> None:
    app = WireTestApp(WireApp(FakeProvider()))
    assert app.wire("/none", "heads").status == 404
    reply = app.wire("/repo/below", "heads")
    assert (reply.status, reply.media_type, reply.data) == (404, "application/mercurial-0.1", b"0\nNot Found\n")


def test_a_browser_is_told_how_to_clone() -> None:
    app = WireTestApp(WireApp(FakeProvider()))
    assert b"hg clone http://localhost/repo" in app.get("/repo").body
    assert app.post("/repo", b"x", expect_errors=True).status_int == 400
    assert app.get("/repo/page", expect_errors=True).status_int == 404
    denied = WireTestApp(WireApp(FakeProvider({"allow_read": "alice"})))
    assert denied.get("/repo", expect_errors=True).status_int == 401


def test_busy_repository() -> None:
    class Busy(FakeProvider):
        def lease(self, name: str) -> Any:
            raise RepositoryBusy("busy", headers=[("Retry-After", "5")])

    reply = WireTestApp(WireApp(Busy())).wire("/repo", "heads")
    assert (reply.status, reply.response.headers["Retry-After"]) == (503, "5")


def test_two_applications_do_not_see_each_other() -> None:
    commands = CommandRegistry.standard()
    first = WireApp(FakeProvider(), commands=commands)
    commands.command("late", permission="pull")(lambda context: b"late")
    second = WireApp(FakeProvider(), commands=commands)
    assert WireTestApp(first).wire("/repo", "late").status == 400
    assert WireTestApp(second).wire("/repo", "late").data == b"late"
    with pytest.raises(TypeError):
        first.commands.remove("heads")


def test_classification_is_what_the_application_acts_on(provider: FakeProvider) -> None:
    app = WireApp(provider, capabilities=ServerCapabilities(post_args=True))
    posted = b"cmds=heads+%3Bknown+nodes%3D"
    exchange = Exchange(lambda environ, start: [], "cmd=batch", body=posted, HTTP_X_HGARGS_POST=str(len(posted)))
    request = app.classify(exchange.environ)
    assert request is not None
    assert (request.names, request.permission) == (("batch", "heads", "known"), "pull")
    assert exchange.environ["wsgi.input"].read() == posted
    again = Exchange(app, "cmd=batch", body=posted, HTTP_X_HGARGS_POST=str(len(posted)))
    assert again.read() == b"11" * 20 + b"\n;"


def test_middleware_hands_on_what_is_not_its_own() -> None:
    seen: list[str] = []

    def pages(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["PATH_INFO"] + "?" + environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    app = WireTestApp(WireMiddleware(pages, wire=WireApp(FakeProvider())))
    assert app.wire("/repo", "heads").data == b"11" * 20 + b"\n"
    assert seen == []
    others = ["/?", "/repo?", "/repo?cmd=", "/repo?cmd=changelog", "/repo/file?cmd=heads", "/other?cmd=heads"]
    for url in others:
        assert app.get(url).body == b"page"
    assert seen == others
    assert app.get("/repo?cmd=heads&cmd=changelog", expect_errors=True).status_int == 400


def test_errors_in_utf_8_reach_the_client() -> None:
    reply = ask(returning(b"").copy())
    assert reply.status == 200
    commands = CommandRegistry()

    @commands.command("x", permission="pull")
    def fails(context: CommandContext) -> bytes:
        raise CommandFailed("naïve\nsecond line")

    reply = ask(commands)
    assert reply.response.status == "400 na?ve"
    assert reply.data == "0\nnaïve\nsecond line\n".encode()


def test_short_replies_are_remembered_and_the_policy_is_asked_each_time() -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True)(lambda context: ran.append(1) or b"%d" % len(ran))
    provider = FakeProvider()
    app = WireTestApp(WireApp(provider, commands=commands))
    assert [app.wire("/repo", "x").data for _ in range(3)] == [b"1"] * 3
    assert app.wire("/repo", "x", protocol="0.2").data == b"2"
    assert app.wire("/repo", "x", {"other": "argument"}).data == b"3"
    assert app.wire("/repo", "x", method="HEAD").data == b""
    provider.repository.web["allow_read"] = "alice"
    assert app.wire("/repo", "x").status == 401
    assert app.wire("/repo", "x", user="alice").data == b"1"
    provider.repository.token = b"another state"
    assert app.wire("/repo", "x", user="alice").data == b"5"


def test_a_reply_is_not_remembered_for_a_state_it_does_not_belong_to() -> None:
    provider = FakeProvider()
    commands = CommandRegistry.standard()

    @commands.command("x", permission="pull", cacheable=True)
    def changes(context: CommandContext) -> bytes:
        provider.repository.token += b"!"
        return provider.repository.token

    app = WireTestApp(WireApp(provider, commands=commands))
    assert [app.wire("/repo", "x").data for _ in range(2)] == [b"state!", b"state!!"]


@pytest.mark.parametrize("declaration", [{}, {"permission": "push"}])
def test_what_is_not_declared_so_is_not_remembered(declaration: dict[str, Any]) -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", **{"permission": "pull", **declaration})(lambda context: ran.append(1) or b"%d" % len(ran))
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands))
    method = "POST" if declaration else "GET"
    assert [app.wire("/repo", "x", method=method).data for _ in range(2)] == [b"1", b"2"]
    assert [app.wire("/repo", "batch", {"cmds": b"heads ;x "}, method=method).data[-1:] for _ in range(2)] == [
        b"3",
        b"4",
    ]


def makers_are_done() -> None:
    """Wait until what was made has its name; its last byte may be read before."""
    for thread in threading.enumerate():
        if thread.name == "hgwire-maker":
            thread.join(30)


def bundles(chunks: Callable[[], Iterator[bytes]], **options: Any) -> CommandRegistry:
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True, reply="stream", **options)(
        lambda context: StreamResponse(chunks())
    )
    return commands


def test_bundles_are_made_once_for_each_encoding(tmp_path: Path) -> None:
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        made.append(1)
        yield from (NOISE[start : start + 50_000] for start in range(0, len(NOISE), 50_000))

    cache = CacheSettings(folder=tmp_path)
    apps = [WireTestApp(WireApp(FakeProvider(), commands=bundles(chunks), cache=cache)) for _ in range(2)]
    for app in apps:
        for engine in ("zstd", "zlib"):
            reply = app.wire("/repo", "x", protocol="0.2", compression=[engine])
            assert (reply.engine, reply.data) == (engine, NOISE)
        assert app.wire("/repo", "x").data == NOISE
        makers_are_done()
    assert len(made) == 3
    head = apps[0].wire("/repo", "x", protocol="0.2", compression=["zstd"], method="HEAD")
    assert int(head.response.headers["Content-Length"]) > len(NOISE)
    assert head.response.body == b""


def test_a_bundle_in_a_file_goes_out_through_the_servers_wrapper(tmp_path: Path) -> None:
    app = WireApp(FakeProvider(), commands=bundles(lambda: iter([NOISE])), cache=CacheSettings(folder=tmp_path))
    expected = Exchange(app, "cmd=x").read()
    makers_are_done()
    wrapped: list[Any] = []

    def wrap(file: Any, size: int) -> Any:
        wrapped.append(file)
        return FileWrapper(file, size)

    exchange = Exchange(app, "cmd=x", **{"wsgi.file_wrapper": wrap})
    assert exchange.headers["Content-Length"] == str(len(expected))
    assert exchange.read() == expected
    assert wrapped[0].fileno
    assert wrapped[0].closed


def test_a_bundle_can_be_left_to_the_proxy_in_front(tmp_path: Path) -> None:
    cache = CacheSettings(folder=tmp_path, accel_header="X-Accel-Redirect", accel_prefix="/bundles/")
    app = WireApp(FakeProvider(), commands=bundles(lambda: iter([NOISE])), cache=cache)
    expected = Exchange(app, "cmd=x").read()
    makers_are_done()
    exchange = Exchange(app, "cmd=x")
    location = exchange.headers["X-Accel-Redirect"]
    assert exchange.read() == b""
    assert (tmp_path / location.removeprefix("/bundles/")).read_bytes() == expected


def test_a_bundle_that_is_about_to_get_its_name_is_not_left_to_the_proxy(tmp_path: Path) -> None:
    cache = CacheSettings(folder=tmp_path, accel_header="X-Accel-Redirect", accel_prefix="/bundles/")
    app = WireApp(FakeProvider(), commands=bundles(lambda: iter([NOISE])), cache=cache)
    expected = Exchange(app, "cmd=x").read()
    makers_are_done()
    for thread in threading.enumerate():
        if thread.name == "hgwire-maker":
            thread.join(30)
    (entry,) = tmp_path.glob("??/" + "?" * 64)
    entry.rename(f"{entry}.part")
    exchange = Exchange(app, "cmd=x")
    assert "X-Accel-Redirect" not in exchange.headers
    assert exchange.read() == expected


def test_a_bundle_uses_its_repository_until_it_is_closed(tmp_path: Path) -> None:
    provider = FakeProvider()
    held: list[int] = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield NOISE
        finally:
            held.append(provider.held)

    app = WireApp(provider, commands=bundles(chunks), cache=CacheSettings(folder=tmp_path, disk=3 * len(NOISE)))
    exchange = Exchange(app, "cmd=x")
    for chunk in exchange.response:
        if held:
            break
        assert chunk
    exchange.close()
    assert held[0] == 1, "by the maker, when the bundle was too large to be kept"


def test_a_bundle_that_does_not_keep_its_promise_is_not_kept(tmp_path: Path) -> None:
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True, reply="stream")(lambda context: OutOfBandError(b"no"))
    provider = FakeProvider()
    app = WireTestApp(WireApp(provider, commands=commands, cache=CacheSettings(folder=tmp_path)))
    for _ in range(2):
        assert app.wire("/repo", "x").media_type == "application/hg-error"
    assert provider.held == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_caches_everything_is_made_each_time(tmp_path: Path) -> None:
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        made.append(1)
        yield b"x" * 100_000

    off = CacheSettings(memory=0, disk=0, folder=tmp_path / "none")
    app = WireTestApp(WireApp(FakeProvider(), commands=bundles(chunks), cache=off))
    assert [app.wire("/repo", "x").data for _ in range(2)] == [b"x" * 100_000] * 2
    assert len(made) == 2
    assert not (tmp_path / "none").exists()


def test_a_cache_folder_that_cannot_be_used_is_told_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = CacheSettings(folder=tmp_path / "file" / "cache")
    app = WireTestApp(WireApp(FakeProvider(), commands=bundles(lambda: iter([b"x" * 100_000])), cache=cache))
    for _ in range(2):
        assert app.wire("/repo", "x").data == b"x" * 100_000
    assert caplog.text.count("there is no bundle cache") == 1


def test_an_overridden_command_does_not_get_another_applications_bundles(tmp_path: Path) -> None:
    cache = CacheSettings(folder=tmp_path)

    def serve(data: bytes, cacheable: bool) -> WireTestApp:
        commands = bundles(lambda: iter([data]))
        commands.override("x", lambda context: StreamResponse([data]), cacheable=cacheable)
        return WireTestApp(WireApp(FakeProvider(), commands=commands, cache=cache))

    plain = WireTestApp(WireApp(FakeProvider(), commands=bundles(lambda: iter([NOISE])), cache=cache))
    assert plain.wire("/repo", "x").data == NOISE
    assert serve(NOISE[1:], cacheable=False).wire("/repo", "x").data == NOISE[1:]
    assert serve(NOISE[2:], cacheable=True).wire("/repo", "x").data == NOISE[2:]


def test_a_permission_that_a_command_asked_for_while_it_ran_is_asked_for_each_time() -> None:
    commands = CommandRegistry.standard()

    @commands.command("x", permission="pull", cacheable=True)
    def secret(context: CommandContext) -> bytes:
        context.authorize("push")
        return b"secret"

    def policy(request: AccessRequest) -> None:
        if request.permission == "push" and request.user != "alice":
            raise PermissionDenied("no")

    app = WireTestApp(WireApp(FakeProvider(), commands=commands, policy=policy))
    assert [app.wire("/repo", "x", user=user).status for user in ("bob", "alice", "bob")] == [403, 200, 403]


def test_requests_with_posted_arguments_are_not_taken_for_ones_that_came_before() -> None:
    app = WireTestApp(WireApp(FakeProvider(), capabilities=ServerCapabilities(post_args=True)))
    assert app.wire("/repo", "known", {"nodes": b""}).status == 200
    assert app.wire("/repo", "known", {"nodes": b""}, headers={"X-HgArgs-Post": "zz"}).status == 400


def test_the_replies_of_a_batch_are_bounded() -> None:
    app = WireTestApp(WireApp(FakeProvider(), limits=Limits(batch_reply=100)))
    assert app.wire("/repo", "batch", {"cmds": b"heads ;heads "}).status == 200
    reply = app.wire("/repo", "batch", {"cmds": b"heads ;heads ;heads "})
    assert (reply.status, reply.data) == (400, b"0\nbatch: the replies exceed 100 bytes\n")


def test_a_user_without_a_home_has_no_bundle_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    app = WireTestApp(WireApp(FakeProvider(), commands=bundles(lambda: iter([NOISE]))))
    assert app.wire("/repo", "x").data == NOISE


def test_a_broken_server_that_hands_on_other_characters_is_told() -> None:
    exchange = Exchange(WireApp(FakeProvider()), "cmd=heads&x=\u20ac")
    assert exchange.status.startswith("400 ")
