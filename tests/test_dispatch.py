"""From a request to a command that is ready to run: what is refused before anything runs, and what may be cached."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from fakes import OPEN, FakeProvider, FakeRepository, ask, returning

from hgwire_wsgi import (
    AccessRequest,
    Argument,
    BytesResponse,
    Command,
    CommandRegistry,
    Limits,
    OutOfBandError,
    PermissionDenied,
    ServerCapabilities,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.commands.arguments import TEXT, VALUES
from hgwire_wsgi.commands.classify import describe
from hgwire_wsgi.commands.context import Allowance
from hgwire_wsgi.dispatch import BoundCommand, Dispatcher
from hgwire_wsgi.errors import InvalidArgument, LocalProtocolError, RepositoryNotFound, StreamChanged, UnknownCommand
from hgwire_wsgi.negotiation import ClientProtocol
from hgwire_wsgi.testing import WireTestApp


@attrs.frozen
class Caller:
    user: str | None = None
    environ: Mapping[str, Any] = attrs.Factory(dict)
    method: str = "POST"
    scheme: str = "http"
    address: str = ""
    client: str = "remote:http::"
    report_changes: Any = None
    report_recovery: Any = None
    report_changegroup: Any = None
    allowance: Allowance = attrs.Factory(lambda: Allowance(Limits().walk))


@attrs.define
class Bench:
    """A dispatcher, and what was asked of its policy."""

    commands: CommandRegistry = attrs.Factory(CommandRegistry.standard)
    repository: FakeRepository = attrs.Factory(FakeRepository)
    refused: tuple[str, ...] = ()
    asked: list[AccessRequest] = attrs.Factory(list)

    def policy(self, request: AccessRequest) -> None:
        self.asked.append(request)
        if request.permission in self.refused:
            raise PermissionDenied("no")

    view: Any = None

    @property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(
            commands=self.commands, policy=self.policy, view=self.view, server=ServerCapabilities(), limits=Limits()
        )

    def bind(self, command: str, version: Any = "v1", **options: Any) -> BoundCommand:
        arguments = options.pop("arguments", {})
        dispatcher = self.dispatcher
        wire = describe(command, arguments, self.commands, Limits(), version=version)
        return dispatcher.bind(
            dispatcher.resolve(wire, self.repository, version, options.pop("codec", TEXT)),
            options.pop("caller", Caller()),
            "repo",
            self.repository,
            server=ServerCapabilities(),
            client=ClientProtocol(),
            body=io.BytesIO(b"body"),
            version=version,
            **options,
        )


def registry(*, cacheable: bool = True, **handlers: Any) -> CommandRegistry:
    made = CommandRegistry.standard()
    for name, handler in handlers.items():
        made.command(name, permission="pull", cacheable=cacheable)(handler)
    return made


def test_a_handler_that_returns_no_response_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(returning("text"))
    assert reply.status == 500
    assert "returned str" in caplog.text


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
        ("pull", "alice", "repo", ("batch",)),
        ("push", "alice", "repo", ("batch", "heads", "pushkey")),
    ]


# Whatever the policy says.


@pytest.mark.parametrize(
    ("permission", "method", "message"),
    [("push", "POST", "push requires POST request"), ("upload", "PUT", "upload requires PUT request")],
)
def test_pushes_run_by_one_method_whatever_the_policy(permission: str, method: str, message: str) -> None:
    bench = Bench()
    for other in ("GET", "HEAD", "POST", "PUT", "DELETE", "post", ""):
        authorize = functools.partial(
            bench.dispatcher.authorize, Caller(method=other), "repo", bench.repository, (), permission
        )
        if other == method:
            authorize()
            continue
        with pytest.raises(PermissionDenied) as caught:
            authorize()
        assert (caught.value.http_status, caught.value.message) == (405, message)
        assert caught.value.headers == (("Allow", method),)


def test_a_push_by_get_does_not_run() -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("write", permission="push")(lambda context: ran.append(1) or b"")
    commands.command("asks", permission="pull")(lambda context: context.authorize("push") or ran.append(2) or b"")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands, policy=lambda request: None))
    for name, arguments in (("write", {}), ("asks", {}), ("batch", {"cmds": b"heads ;write "})):
        for method in ("GET", "PUT", "HEAD"):
            reply = app.wire("/repo", name, arguments, method=method)
            assert (reply.status, reply.response.headers["Allow"]) == (405, "POST")
    assert ran == []
    assert app.wire("/repo", "write", body=b"").status == 200
    assert ran == [1]


def test_the_policy_refuses_before_the_method_does() -> None:
    bench = Bench(refused=("push",))
    with pytest.raises(PermissionDenied, match="no"):
        bench.dispatcher.authorize(Caller(method="GET"), "repo", bench.repository, (), "push")


def failing(error: BaseException | None, returned: Any = None) -> Any:
    def policy(request: AccessRequest) -> Any:
        if error is not None:
            raise error
        return returned

    return policy


@pytest.mark.parametrize(
    "policy",
    [
        failing(ZeroDivisionError("/srv/secret")),
        failing(SystemExit("/srv/secret")),
        failing(AttributeError("/srv/secret")),
        failing(asyncio.CancelledError("/srv/secret")),
        failing(GeneratorExit("/srv/secret")),
        lambda request: PermissionDenied("/srv/secret", status=204),
        lambda request: (yield),
        failing(None, False),
        failing(None, True),
    ],
)
def test_a_policy_that_fails_refuses(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []
    commands = registry(x=lambda context: ran.append(1) or b"")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands, policy=policy))
    for _ in range(2):
        reply = app.wire("/repo", "x")
        assert (reply.status, reply.data) == (403, b"0\nrefused by the access policy\n")
    assert ran == []
    first, second = caplog.records
    assert first.exc_info and not second.exc_info, "the traceback is logged once"
    assert "the access policy failed" in second.getMessage()


def test_tracebacks_of_policies_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    numbers = iter(range(1000))

    def policy(request: AccessRequest) -> None:
        raise ValueError(next(numbers))

    dispatcher = attrs.evolve(bench.dispatcher, policy=policy)
    for _ in range(150):
        with pytest.raises(PermissionDenied):
            dispatcher.authorize(Caller(), "repo", bench.repository, (), "pull")
    assert sum(record.exc_info is not None for record in caplog.records) <= 100


# The arguments, for policies.


def test_a_policy_sees_the_decoded_arguments_of_each_command() -> None:
    bench = Bench()
    cmds = b"lookup key=tip;pushkey namespace=bookmarks,key=a:cb,old=,new=" + b"11" * 20
    bound = bench.bind("batch", arguments={"cmds": cmds, "access-hidden": b"1"})
    (asked,) = bench.asked
    assert [call.command for call in asked.calls] == list(asked.commands) == ["batch", "lookup", "pushkey"]
    assert asked.arguments["cmds"] == cmds
    assert asked.calls[1].arguments == {"key": b"tip"}
    assert asked.calls[2].arguments == {"namespace": b"bookmarks", "key": b"a:b", "old": b"", "new": b"11" * 20}
    assert bound.batch[1].arguments is asked.calls[2].arguments, "decoded once"
    known = Bench()
    known.bind("known", arguments={"nodes": b"11" * 20, "access-hidden": b"1"})
    assert known.asked[0].arguments == {"nodes": [b"\x11" * 20], "rest": {"access-hidden": b"1"}}


def test_malformed_arguments_that_a_policy_reads_are_the_clients_fault() -> None:
    def policy(request: AccessRequest) -> None:
        assert request.calls

    bench = Bench()
    dispatcher = attrs.evolve(bench.dispatcher, policy=policy)
    wire = describe("known", {"nodes": b"zz"}, bench.commands, Limits())
    calls = dispatcher.resolve(wire, bench.repository, "v1").calls
    with pytest.raises(InvalidArgument, match="nodes"):
        dispatcher.authorize(Caller(), "repo", bench.repository, ("known",), "pull", calls)


# Hidden repositories.


@pytest.mark.parametrize("error", [RepositoryNotFound("secret"), RepositoryNotFound("s", headers=[("X-Secret", "y")])])
def test_a_hidden_repository_is_one_that_does_not_exist(error: Exception) -> None:
    bench = Bench()
    dispatcher = attrs.evolve(bench.dispatcher, policy=failing(error))
    for ask_dispatcher in (
        lambda: dispatcher.authorize(Caller(), "repo", bench.repository, (), "pull"),
        lambda: dispatcher.require_visible(Caller(), "repo", bench.repository),
        lambda: dispatcher.require(Caller(), "nosuch", "repo", bench.repository),
    ):
        with pytest.raises(RepositoryNotFound) as caught:
            ask_dispatcher()
        assert (caught.value.message, caught.value.headers) == ("no such repository", ())


def test_a_repository_that_may_not_be_read_is_visible() -> None:
    bench = Bench(refused=("pull",))
    bench.dispatcher.require_visible(Caller(), "repo", bench.repository)
    with pytest.raises(UnknownCommand):
        bench.dispatcher.require(Caller(), "nosuch", "repo", bench.repository)
    assert [(each.permission, each.commands) for each in bench.asked] == [("pull", ())] * 2
    assert bench.dispatcher.require(Caller(), "heads", "repo", bench.repository) is bench.commands["heads"]


def test_removed_commands_stay_away() -> None:
    commands = CommandRegistry.standard()
    commands.remove("heads", "batch")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands))
    assert app.wire("/repo", "heads").status == 400
    assert b"batch" not in app.wire("/repo", "capabilities").data.split()


def test_the_replies_of_a_batch_are_bounded() -> None:
    app = WireTestApp(WireApp(FakeProvider(), limits=Limits(batch_reply=100)))
    assert app.wire("/repo", "batch", {"cmds": b"heads ;heads "}).status == 200
    reply = app.wire("/repo", "batch", {"cmds": b"heads ;heads ;heads "})
    assert (reply.status, reply.data) == (400, b"0\nbatch: the replies exceed 100 bytes\n")


def test_a_command_runs_with_decoded_arguments_and_bytes_become_a_response() -> None:
    bound = Bench().bind("known", arguments={"nodes": b"11" * 20 + b" " + b"22" * 20, "other": b"kept"})
    assert bound.arguments == {"nodes": [b"\x11" * 20, b"\x22" * 20], "rest": {"other": b"kept"}}
    assert bound.run() == BytesResponse(b"10")
    assert (bound.permission, bound.granted, bound.token, bound.stamp) == ("pull", {"pull"}, b"state", b"state")


def test_values_that_were_decoded_already() -> None:
    bound = Bench(registry()).bind("known", arguments={"nodes": [b"\x11" * 20]}, codec=VALUES)
    assert bound.arguments["nodes"] == [b"\x11" * 20]


def test_an_unknown_command_is_named_without_control_characters() -> None:
    for name in ("nosuch", "a\x1b[0m", "x" * 100):
        with pytest.raises(UnknownCommand) as caught:
            Bench().bind(name)
        assert caught.value.message == f"unknown command: {ascii(name[:64])[1:-1]}"


def test_the_policy_is_asked_once_before_arguments_are_decoded() -> None:
    bench = Bench(refused=("pull",))
    caller = Caller("alice", {"REMOTE_ADDR": "192.0.2.1"})
    with pytest.raises(PermissionDenied):
        bench.bind("known", arguments={"nodes": b"zz"}, caller=caller)
    (asked,) = bench.asked
    assert (asked.permission, asked.upload, asked.user, asked.name) == ("pull", False, "alice", "repo")
    assert (asked.commands, asked.repository) == (("known",), bench.repository)
    assert asked.environ is caller.environ
    assert (asked.method, asked.scheme, asked.address) == ("POST", "http", "")


def test_a_question_that_was_answered_is_not_asked_again() -> None:
    bench = Bench(refused=("pull",))
    bound = bench.bind("heads", authorized=True)
    assert (bench.asked, bound.granted) == ([], {"pull"})


def test_what_is_asked_of_the_policy_for_each_permission() -> None:
    bench = Bench()
    for permission, method in (("pull", "GET"), ("push", "POST"), ("upload", "PUT")):
        bench.dispatcher.authorize(Caller(method=method), "repo", bench.repository, (), permission)
    assert [(each.permission, each.upload) for each in bench.asked] == [
        ("pull", False),
        ("push", False),
        ("push", True),
    ]


def test_sub_commands_are_bound_with_the_strictest_permission() -> None:
    bound = Bench().bind("batch", arguments={"cmds": b"heads ;pushkey namespace=a,key=b,old=c,new=d"})
    assert bound.permission == "push"
    assert [each.command.name for each in bound.batch] == ["heads", "pushkey"]
    assert bound.context.batch is bound.batch


@pytest.mark.parametrize("name", ["getbundle", "unbundle", "stream_out", "batch", "reads"])
def test_what_cannot_be_batched_is_named(name: str) -> None:
    commands = CommandRegistry.standard()
    commands.command("reads", permission="pull", body=True)(lambda context: b"")
    cmds = name.encode() + b" heads=,cmds=heads"
    with pytest.raises(InvalidArgument, match=f"batch: {name} cannot be batched"):
        Bench(commands).bind("batch", arguments={"cmds": cmds})


def test_whether_a_reply_fits_into_a_batch_is_decided_by_the_reply() -> None:
    closed: list[int] = []

    class Chunks(list[bytes]):
        def close(self) -> None:
            closed.append(1)

    commands = CommandRegistry.standard()
    commands.command("short", permission="pull", reply="any")(lambda context: b"short")
    commands.command("long", permission="pull", reply="any")(lambda context: StreamResponse(Chunks([b"x"])))
    bench = Bench(commands)
    assert bench.bind("batch", arguments={"cmds": b"heads ;short "}).run() == BytesResponse(b"11" * 20 + b"\n;short")
    with pytest.raises(InvalidArgument, match="batch: long cannot be batched: its reply is a stream"):
        bench.bind("batch", arguments={"cmds": b"short ;long "}).run()
    assert closed == [1]


def test_access_hidden_on_a_batch_reaches_its_commands() -> None:
    seen: list[dict[str, Any]] = []
    commands = registry(x=lambda context: seen.append(dict(context.arguments)) or b"")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands))
    assert app.wire("/repo", "batch", {"cmds": b"x ;x a=1", "access-hidden": b"1"}).status == 200
    assert app.wire("/repo", "batch", {"cmds": b"x access-hidden=mine", "access-hidden": b"1", "b": b"2"}).status == 200
    assert seen == [
        {"access-hidden": b"1"},
        {"a": b"1", "access-hidden": b"1"},
        {"access-hidden": b"1"},
    ]


@pytest.mark.parametrize(
    ("command", "arguments", "cacheable"),
    [
        ("heads", {}, True),
        ("known", {"nodes": b"", "access-hidden": b"1"}, False),
        ("batch", {"cmds": b"heads ;known nodes="}, True),
        ("batch", {"cmds": b"heads ;fresh "}, False),
        ("batch", {"cmds": b"heads ", "access-hidden": b"1"}, False),
        ("batch", {"cmds": b"heads ;known nodes=,access-hidden=1"}, False),
        ("fresh", {}, False),
        ("pushkey", dict.fromkeys(("namespace", "key", "old", "new"), b""), False),
    ],
)
def test_what_may_be_cached(command: str, arguments: dict[str, bytes], cacheable: bool) -> None:
    commands = CommandRegistry.standard()
    commands.command("fresh", permission="pull")(lambda context: b"")
    assert Bench(commands).bind(command, arguments=arguments).cacheable is cacheable


def test_a_repository_may_forbid_caching_for_now() -> None:
    class Hooked(FakeRepository):
        def may_cache(self, command: str) -> bool:
            return command != "heads"

    bench = Bench(repository=Hooked())
    assert not bench.bind("heads").cacheable
    assert not bench.bind("batch", arguments={"cmds": b"known nodes=;heads "}).cacheable
    assert bench.bind("batch", arguments={"cmds": b"known nodes="}).cacheable


def test_a_command_that_asked_for_more_is_not_cacheable_any_more() -> None:
    bound = Bench(registry(x=lambda context: context.authorize("push") or b"")).bind("x")
    assert bound.cacheable
    bound.run()
    assert bound.granted == {"pull", "push"}
    assert not bound.cacheable


def test_the_same_command_on_another_lease_and_with_another_body() -> None:
    seen: list[Any] = []
    commands = registry(
        x=lambda context: seen.append((context.repository, context.body.read(9))) or b"", cacheable=False
    )
    bench, other = Bench(commands), FakeRepository()
    bound = bench.bind("batch", arguments={"cmds": b"x ;x "})
    bound.on(other).run()
    bench.bind("x").reading(io.BytesIO(b"another")).run()
    assert [each[0] for each in seen] == [other, other, bench.repository]
    assert seen[2][1] == b"another"


def test_equal_sub_commands_are_bound_once() -> None:
    bound = Bench().bind("batch", arguments={"cmds": b"heads ;known nodes=;heads "})
    moved = bound.on(FakeRepository())
    for each in (bound, moved):
        assert each.batch[0] is each.batch[2] and each.batch == each.context.batch


def test_on_another_lease_the_policy_is_asked_about_that_lease() -> None:
    """The first lease may be somebody else's by then."""
    commands = registry(x=lambda context: context.authorize("push") or b"")
    bench, other = Bench(commands), FakeRepository()
    bound = bench.bind("x")
    bound.on(other).run()
    assert [each.repository for each in bench.asked] == [bench.repository, other]
    assert bound.granted == {"pull", "push"}


def test_another_lease_must_be_in_the_same_state() -> None:
    bench, other = Bench(), FakeRepository()
    bound = bench.bind("heads")
    bound.require_unchanged(other)
    other.token = b"another"
    with pytest.raises(StreamChanged):
        bound.require_unchanged(other)


def test_a_command_runs_another_one_of_its_repository() -> None:
    commands = CommandRegistry.standard()
    commands.command("outer", permission="pull")(lambda context: context.call("inner"))
    commands.command("inner", permission="pull", args=["*"])(
        lambda context, rest: b"%d %d" % (len(context.arguments), len(rest))
    )
    commands.command("lost", permission="pull")(lambda context: context.call("nosuch"))
    bench = Bench(commands)
    assert bench.bind("outer", arguments={"a": b"1"}).run() == BytesResponse(b"0 0")
    with pytest.raises(UnknownCommand):
        bench.bind("lost").run()


def test_a_repository_brings_and_replaces_commands_of_its_version() -> None:
    class Extended(FakeRepository):
        def commands(self) -> Mapping[str, Command]:
            return {
                name: Command(name=name, handler=lambda context: b"mine", permission="pull", version="v1")
                for name in ("heads", "own")
            }

    bench = Bench(repository=Extended())
    for name in ("heads", "own"):
        assert bench.bind(name).run() == BytesResponse(b"mine")
        assert bench.dispatcher.find(name, bench.repository, "v2") is None


@pytest.mark.parametrize(
    ("view", "same", "expected", "cacheable"),
    [
        (None, True, (), True),
        (None, False, (), False),
        (lambda request: "staff", False, ("staff",), True),
        (lambda request: "", False, ("",), True),
        (lambda request: None, True, None, False),
    ],
)
def test_views(view: Any, same: bool, expected: Any, cacheable: bool) -> None:
    """Without a named view, a reply is cached only if it is the same for all users."""
    bench = Bench(view=view)
    bench.repository.is_same_for_all = lambda: same  # type: ignore[method-assign]  # as a backend would
    bound = bench.bind("heads")
    assert (bound.view, bound.is_shared, bound.cacheable) == (expected, cacheable, cacheable)


def test_the_question_about_a_view_names_no_commands() -> None:
    seen: list[AccessRequest] = []
    bench = Bench(view=lambda request: seen.append(request))
    bench.bind("known", arguments={"nodes": b""})
    assert [(each.commands, each.permission, each.calls, each.name) for each in seen] == [((), "pull", (), "repo")]
    bench.bind("unbundle", arguments={"heads": b""}, caller=Caller(method="POST"))
    assert len(seen) == 1


def test_a_view_is_text() -> None:
    with pytest.raises(LocalProtocolError, match="view returned int, not text or None"):
        Bench(view=lambda request: 1).bind("heads")


def test_the_repository_is_asked_after_the_policy_and_the_method() -> None:
    bench = Bench()
    asked: list[Any] = []
    bench.repository.check_access = lambda *given: asked.append(given)  # type: ignore[method-assign]  # as a backend
    bench.bind("heads", caller=Caller(user="alice"))
    assert [each[:3] for each in asked] == [("pull", ("heads",), "alice")]
    with pytest.raises(PermissionDenied, match="push requires POST"):
        bench.bind("unbundle", arguments={"heads": b""}, caller=Caller(method="GET"))
    bench.refused = ("pull",)
    with pytest.raises(PermissionDenied):
        bench.bind("heads")
    assert len(asked) == 1
    bench.refused = ()
    bench.repository.check_access = lambda *given: 1 / 0  # type: ignore[method-assign]  # as a backend
    with pytest.raises(PermissionDenied, match="refused by the access policy"):
        bench.bind("heads")
