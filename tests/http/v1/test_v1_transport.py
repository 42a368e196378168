"""Version 1 on HTTP: what is asked, remembered, refused and released around a command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes import NOISE, OPEN, Exchange, FakeProvider, Watch, makers_are_done, returning, streaming

from hgwire_wsgi import (
    ZSTD,
    AccessRequest,
    CacheSettings,
    CommandContext,
    CommandRegistry,
    LegacyStreamResponse,
    Limits,
    OutOfBandError,
    PermissionDenied,
    ServerCapabilities,
    WireApp,
)
from hgwire_wsgi.cache.stores.memory import MemoryStore
from hgwire_wsgi.compression import Engine
from hgwire_wsgi.errors import CommandFailed, RequestError
from hgwire_wsgi.testing import WireTestApp


def test_vary_names_the_headers_the_reply_depends_on() -> None:
    headers = {"HTTP_X_HGARG_1": "nodes=", "HTTP_X_HGPROTO_1": "0.1", "HTTP_X_HGPROTO_2": " 0.2"}
    exchange = Exchange(WireApp(FakeProvider(OPEN)), "cmd=known", **headers)
    assert exchange.headers["Vary"] == "X-HgArg-1, X-HgArg-2, X-HgProto-1, X-HgProto-2, X-HgProto-3"


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


def test_requests_with_posted_arguments_are_not_taken_for_ones_that_came_before() -> None:
    app = WireTestApp(WireApp(FakeProvider(), capabilities=ServerCapabilities(post_args=True)))
    assert app.wire("/repo", "known", {"nodes": b""}).status == 200
    assert app.wire("/repo", "known", {"nodes": b""}, headers={"X-HgArgs-Post": "zz"}).status == 400


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
    assert [app.wire("/repo", "x", user=user, body=b"").status for user in ("bob", "alice", "bob")] == [403, 200, 403]
    assert app.wire("/repo", "x", user="alice").status == 405


def test_a_reply_that_refuses_is_not_remembered() -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True)(
        lambda context: OutOfBandError(b"%d" % len(ran)) if ran.append(1) is None else b""
    )
    app = WireTestApp(WireApp(FakeProvider(), commands=commands))
    assert [app.wire("/repo", "x").data for _ in range(2)] == [b"1", b"2"]


@pytest.mark.parametrize(
    "request_of",
    [
        {"REQUEST_METHOD": "HEAD"},
        {"REQUEST_METHOD": "POST"},
        {"body": b"x", "REQUEST_METHOD": "GET"},
        {"HTTP_X_HGARGS_POST": "0"},
    ],
)
def test_only_plain_gets_are_remembered(request_of: dict[str, Any]) -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True)(lambda context: ran.append(1) or b"")
    app = WireApp(FakeProvider(), commands=commands)
    for _ in range(2):
        Exchange(app, "cmd=x", **request_of).read()
    assert len(ran) == 2


def test_every_numbered_header_counts() -> None:
    app = WireApp(FakeProvider())
    nodes = "11" * 20
    for split in (0, 10, 40):
        headers = {"HTTP_X_HGARG_1": "nodes=" + nodes[:split], "HTTP_X_HGARG_2": nodes[split:]}
        assert Exchange(app, "cmd=known", **headers).read() == b"1"
    assert Exchange(app, "cmd=known", HTTP_X_HGARG_1="nodes=" + "22" * 20).read() == b"0"


def test_applications_that_share_a_store_do_not_share_what_depends_on_the_application() -> None:
    store: MemoryStore[Any] = MemoryStore(1 << 20)
    settings = CacheSettings(response_store=lambda: store)

    def ask(**options: Any) -> bytes:
        return Exchange(WireApp(FakeProvider(), cache=settings, **options), "cmd=capabilities").read()

    long, short = (ServerCapabilities(max_header_length=length) for length in (2000, 100))
    assert b"httpheader=2000" in ask(capabilities=long)
    assert b"httpheader=100" in ask(capabilities=short)
    assert b"httpheader=2000" in ask(capabilities=long)
    without = CommandRegistry.standard()
    without.remove("batch")
    assert b"batch" in ask(capabilities=long).split()
    assert b"batch" not in ask(capabilities=long, commands=without).split()
    changed = CommandRegistry.standard()
    changed.override("capabilities", lambda context: b"mine", cacheable=True)
    assert ask(capabilities=long, commands=changed) == b"mine"


def _start_reversed(level: int | None) -> Any:
    return ZSTD.start(1)


@pytest.mark.parametrize("shared", ["memory", "disk"])
def test_two_engines_of_one_name_never_share_a_reply(shared: str, tmp_path: Path) -> None:
    """Levels differ, or the compressors do: each client gets the bytes of the engine that its server has."""
    store: MemoryStore[Any] = MemoryStore(1 << 24)
    settings = CacheSettings(response_store=lambda: store, folder=tmp_path)
    compressible = [bytes(range(256)) * 400 + NOISE[:1000] for _ in range(5)]
    small = b"heads " * 200
    engines = [
        ZSTD,
        attrs.evolve(ZSTD, level=19),
        Engine(name="zstd", start=_start_reversed, start_decoder=ZSTD.start_decoder),
    ]
    if shared == "memory":
        commands = CommandRegistry.standard()
        commands.command("x", permission="pull", cacheable=True)(
            lambda context: context.server.engines[0].prefix + b"".join(context.server.engines[0].compress([small]))
        )
    else:
        commands = streaming(lambda: iter(compressible))
    for _ in range(2):
        for engine in engines:
            server = ServerCapabilities(engines=(engine,))
            app = WireApp(FakeProvider(), commands=commands, capabilities=server, cache=settings)
            got = Exchange(app, "cmd=x", HTTP_X_HGPROTO_1="0.1 0.2 comp=zstd").read()
            makers_are_done()
            expected = b"".join(engine.compress([small] if shared == "memory" else compressible))
            assert got == engine.prefix + expected


def test_a_stream_that_fails_early_is_closed_and_releases_its_lease() -> None:
    closed: list[int] = []
    provider = FakeProvider()

    class Fails:
        def __iter__(self) -> Iterator[bytes]:
            raise CommandFailed("no")

        def close(self) -> None:
            closed.append(provider.held)

    class FailsLater(Fails):
        def __iter__(self) -> Iterator[bytes]:
            yield b""
            raise CommandFailed("no")

    for chunks, expected in ((Fails(), []), (FailsLater(), [1])):
        response = LegacyStreamResponse(chunks)
        app = WireApp(provider, commands=returning(response, reply="legacy"))
        assert Exchange(app, "cmd=x").status == "400 no"
        assert closed == expected
        assert provider.held == 0


def test_an_empty_stream_is_a_reply() -> None:
    provider = FakeProvider()
    app = WireApp(provider, commands=returning(LegacyStreamResponse([b"", b""]), reply="legacy"))
    exchange = Exchange(app, "cmd=x")
    assert exchange.headers["Content-Length"] == "0", "it fits into one chunk"
    assert exchange.read() == b""
    assert provider.held == 0


def test_a_push_is_checked_for_its_origin_and_a_pull_is_not() -> None:
    for permission, status in (("pull", "200"), ("push", "403")):
        app = WireApp(FakeProvider(OPEN), commands=returning(b"", permission=permission))
        exchange = Exchange(app, "cmd=x", REQUEST_METHOD="POST", HTTP_ORIGIN="https://a.example")
        assert exchange.status[:3] == status


def test_a_body_is_read_behind_posted_arguments() -> None:
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", args=["a"], body=True)(lambda context, a: a + context.body.read(9))
    app = WireTestApp(WireApp(FakeProvider(), commands=commands, capabilities=ServerCapabilities(post_args=True)))
    assert app.wire("/repo", "x", {"a": b"1"}, via="post", body=b"body").data == b"1body"
    assert app.wire("/repo", "known", {"nodes": b"11" * 20}, via="post").data == b"1"
    assert app.wire("/repo", "x", {"a": b"1"}, body=b"body", media_type="text/plain").status == 415


def test_the_handshake_is_readable_for_every_client() -> None:
    only = ServerCapabilities(send=("0.2",))
    app = WireTestApp(WireApp(FakeProvider(), capabilities=only))
    assert app.wire("/repo", "capabilities").media_type == "application/mercurial-0.1"
    assert app.wire("/repo", "capabilities", protocol="0.2").media_type == "application/mercurial-0.2"
    assert app.wire("/repo", "heads").status == 406


@pytest.mark.parametrize(
    ("query", "clone"),
    [
        ("cmd=getbundle", True),
        ("cmd=getbundle&common=" + "00" * 20, True),
        ("cmd=getbundle&common=" + "11" * 20, False),
        ("cmd=stream_out", True),
        ("cmd=heads", False),
    ],
)
def test_observers_learn_whether_a_client_asks_for_everything(query: str, clone: bool) -> None:
    commands = CommandRegistry.standard()
    for name in ("getbundle", "stream_out"):
        commands.override(name, lambda context, **arguments: b"")
    watch = Watch()
    Exchange(WireApp(FakeProvider(), commands=commands, observers=[watch]), query).read()
    assert watch.closed.clone is clone


def test_a_refused_request_costs_nothing() -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", args=["a"])(lambda context, a: ran.append(1) or b"")
    app = WireTestApp(WireApp(FakeProvider({"allow_read": "alice"}), commands=commands))
    assert app.wire("/repo", "x", {"a": b""}).status == 401
    assert app.wire("/repo", "x", user="alice").status == 400
    assert ran == []


class Unread:
    """A request body that nobody may read."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


@pytest.mark.parametrize(
    ("query", "environ"),
    [
        ("cmd=known&nodes=zz", {}),
        ("cmd=known", {"HTTP_X_HGARG_1": "a,b"}),
        ("cmd=known", {"HTTP_X_HGARGS_POST": "9999999999"}),
        ("cmd=known", {"HTTP_X_HGPROTO_1": "x" * 5000}),
        ("cmd=batch&cmds=x", {}),
        ("cmd=batch", {"HTTP_X_HGARGS_POST": "10", "CONTENT_LENGTH": "10"}),
        ("cmd=unbundle", {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "x"}),
        ("cmd=unbundle&heads=zz", {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "10"}),
        ("cmd=unbundle", {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "10", "CONTENT_TYPE": "text/plain"}),
        ("cmd=pushkey", {"REQUEST_METHOD": "POST", "HTTP_ORIGIN": "https://a.example"}),
    ],
)
def test_the_policy_is_asked_before_anything_is_parsed_or_read(query: str, environ: dict[str, str]) -> None:
    asked: list[AccessRequest] = []

    def policy(request: AccessRequest) -> None:
        asked.append(request)
        raise PermissionDenied("not you")

    # What is left of the body is read only after the answer is decided, and not at all here.
    app = WireApp(
        FakeProvider(),
        policy=policy,
        capabilities=ServerCapabilities(post_args=True),
        limits=Limits(drain=1),
    )
    exchange = Exchange(app, query, **{"wsgi.input": Unread(), "CONTENT_LENGTH": "", **environ})
    assert exchange.status == "403 not you"
    command = query[4:].partition("&")[0]
    assert [(each.commands, each.permission) for each in asked] == [
        ((command,), "pull" if command in ("known", "batch") else "push")
    ]


def test_what_one_of_the_last_checks_refuses_is_refused_for_those_who_may() -> None:
    app = WireTestApp(WireApp(FakeProvider({**OPEN, "allow_read": "alice"})))
    for user, status in ((None, 401), ("bob", 403), ("alice", 400)):
        assert app.wire("/repo", "known", {"nodes": "zz"}, user=user).status == status


def test_a_policy_protects_a_bookmark_a_phase_and_a_namespace() -> None:
    def policy(request: AccessRequest) -> None:
        for call in request.calls:
            if call.command == "pushkey" and call.arguments["namespace"] == b"phases":
                raise PermissionDenied("phases are frozen")
            if call.command == "pushkey" and call.arguments["key"].startswith(b"release"):
                raise PermissionDenied("releases are made by robots")
            if call.command == "listkeys" and call.arguments["namespace"] == b"obsolete":
                raise PermissionDenied("private")

    commands = CommandRegistry.standard()
    commands.override("pushkey", lambda context, **arguments: b"1\n")
    commands.override("listkeys", lambda context, namespace: namespace, cacheable=True)
    app = WireTestApp(
        WireApp(FakeProvider(), commands=commands, policy=policy, capabilities=ServerCapabilities(post_args=True))
    )

    def push(namespace: str, key: str, **options: Any) -> Any:
        arguments = {"namespace": namespace, "key": key, "old": "", "new": ""}
        return app.wire("/repo", "pushkey", arguments, body=b"", **options).response.status

    for via in ("headers", "query", "post"):
        assert push("bookmarks", "release-1", via=via) == "403 releases are made by robots"
        assert push("phases", "11" * 20, via=via) == "403 phases are frozen"
        assert push("bookmarks", "feature", via=via)[:3] == "200"
    for _ in range(2):
        assert app.wire("/repo", "listkeys", {"namespace": "obsolete"}).status == 403
        assert app.wire("/repo", "listkeys", {"namespace": "phases"}).data == b"phases"
        for cmds, status in ((b"heads ;listkeys namespace=obsolete", 403), (b"heads ;listkeys namespace=x", 200)):
            assert app.wire("/repo", "batch", {"cmds": cmds}).status == status
    hidden = {"cmds": b"heads ;pushkey namespace=bookmarks,key=release,old=,new="}
    assert app.wire("/repo", "batch", hidden, body=b"").response.status == "403 releases are made by robots"


def test_a_policy_sees_the_arguments_of_a_remembered_reply() -> None:
    seen: list[Any] = []
    app = WireTestApp(WireApp(FakeProvider(), policy=lambda request: seen.append((request.commands, request.calls))))
    for _ in range(2):
        assert app.wire("/repo", "known", {"nodes": b"11" * 20}).status == 200
    assert len(seen) == 2 and seen[0] == seen[1]
    assert seen[0][1][0].arguments["nodes"] == [b"\x11" * 20]
    batch = {"cmds": b"heads ;known nodes=" + b"11" * 20}
    seen.clear()
    for _ in range(2):
        assert app.wire("/repo", "batch", batch).status == 200
    own, cold, warm = seen
    assert (own[0], cold[0]) == (("batch",), ("batch", "heads", "known"))
    assert len(own[1]) == 1 and cold == warm
    assert cold[1][2].arguments["nodes"] == [b"\x11" * 20]


def test_arguments_that_a_policy_reads_are_bounded_and_may_be_malformed() -> None:
    def policy(request: AccessRequest) -> None:
        assert request.arguments

    app = WireTestApp(WireApp(FakeProvider(), policy=policy, limits=Limits(argument_bytes=100)))
    assert app.wire("/repo", "known", {"nodes": b"zz"}).status == 400
    assert app.wire("/repo", "known", {"nodes": b"11" * 20 + b" " + b"11" * 20 + b" " + b"11" * 20}).status == 400
    assert app.wire("/repo", "batch", {"cmds": b"nosuch "}).data == b"0\nunknown command: nosuch\n"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("heads", {}, "private, no-cache"),
        ("heads", {"user": "alice"}, "private, no-cache"),
        ("heads", {"headers": {"Authorization": "Basic eA=="}}, "private, no-cache"),
        ("known", {"args": {"nodes": "zz"}}, "no-store"),
        ("nosuch", {}, "no-store"),
        ("refuses", {}, "no-store"),
        ("writes", {"body": b""}, "no-store"),
        ("writes", {}, "no-store"),
        ("streams", {}, "private, no-cache"),
    ],
)
def test_no_shared_cache_keeps_a_reply_and_none_repeats_it(name: str, options: Any, expected: str) -> None:
    commands = returning(LegacyStreamResponse([b"x"]), reply="legacy")
    commands.command("refuses", permission="pull")(lambda context: OutOfBandError(b"no"))
    commands.command("writes", permission="push")(lambda context: b"")
    commands.command("streams", permission="pull", reply="legacy")(lambda context: LegacyStreamResponse([b"x"]))
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands))
    for _ in range(2):
        reply = app.wire("/repo", name, options.get("args"), **{k: v for k, v in options.items() if k != "args"})
        assert reply.response.headers["Cache-Control"] == expected


@pytest.mark.parametrize(
    ("query", "environ", "questions"),
    [
        ("cmd=heads", {}, [(("heads",), "pull", True)]),
        ("cmd=known&nodes=", {"HTTP_X_HGARGS_POST": "9"}, [(("known",), "pull", False)]),
        (
            "cmd=batch&cmds=heads+",
            {"HTTP_X_HGARGS_POST": "9", "REQUEST_METHOD": "POST"},
            [(("batch",), "pull", False), (("batch",), "push", False)],
        ),
        ("cmd=batch&cmds=heads+", {}, [(("batch",), "pull", True), (("batch", "heads"), "pull", True)]),
    ],
)
def test_a_decision_takes_the_worst_of_what_it_cannot_see(query: str, environ: Any, questions: Any) -> None:
    asked: list[Any] = []

    def policy(request: AccessRequest) -> None:
        try:
            seen = len(request.calls) == len(request.commands)
        except RequestError:
            seen = False
        asked.append((request.commands, request.permission, seen))

    app = WireApp(FakeProvider(), policy=policy)
    app.authorize(Exchange(lambda *given: [], query, **environ).environ)
    assert asked == questions


def test_observers_learn_that_a_remembered_reply_is_a_clone() -> None:
    events: list[Any] = []
    commands = CommandRegistry.standard()
    commands.override("getbundle", lambda context, rest, **arguments: b"bundle", cacheable=True)
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands, observers=[events.append]))
    for cache in ("miss", "hit"):
        assert app.wire("/repo", "getbundle").data == b"bundle"
        assert (events[-1].cache, events[-1].clone) == (cache, True)


def test_short_replies_by_view() -> None:
    commands = CommandRegistry.standard()
    ran: list[str] = []

    @commands.command("x", permission="pull", cacheable=True)
    def mine(context: CommandContext) -> bytes:
        ran.append(context.user or "")
        return (context.user or "nobody").encode()

    def view(request: AccessRequest) -> str | None:
        return {"alice": "staff", "carol": "staff", "bob": "guest"}.get(request.user or "")

    provider = FakeProvider()
    provider.repository.is_same_for_all = lambda: False  # type: ignore[method-assign]  # as a backend would
    app = WireTestApp(WireApp(provider, commands=commands, view=view))
    users = ["alice", "bob", "carol", "bob", None, None]
    assert [app.wire("/repo", "x", user=user).data for user in users] == [b"alice", b"bob", b"alice", b"bob"] + [
        b"nobody"
    ] * 2
    assert ran == ["alice", "bob", "", ""]
    plain = WireTestApp(WireApp(provider, commands=commands))
    assert [plain.wire("/repo", "x", user=user).data for user in users[:3]] == [b"alice", b"bob", b"carol"]
