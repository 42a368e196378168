"""The standard commands, against a repository in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest

from hgwire_wsgi.commands.batch import SubCommand
from hgwire_wsgi.commands.classify import WireRequest
from hgwire_wsgi.commands.context import Allowance, CommandContext
from hgwire_wsgi.commands.objects import NULL
from hgwire_wsgi.commands.registry import CommandRegistry
from hgwire_wsgi.commands.responses import (
    BytesResponse,
    OutOfBandError,
    PushError,
    PushResponse,
    Response,
    StreamResponse,
)
from hgwire_wsgi.commands.standard import STANDARD_COMMANDS, is_clone
from hgwire_wsgi.dispatch import BoundCommand, Dispatcher
from hgwire_wsgi.errors import CommandFailed, InvalidArgument, RequestError, UnknownCommand
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.negotiation import ClientProtocol, ServerCapabilities
from hgwire_wsgi.repositories.base import Repository
from hgwire_wsgi.testing.memory import MemoryRepository


@attrs.frozen
class Asking:
    """A caller that may do everything."""

    environ: dict[str, Any] = attrs.Factory(dict)
    user: str | None = None
    method: str = "POST"
    scheme: str = "http"
    address: str = ""
    client: str = "remote:http::"
    report_changes: None = None
    report_recovery: None = None
    report_changegroup: None = None
    allowance: Allowance = attrs.Factory(lambda: Allowance(Limits().walk))


class Closeable:
    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Any:
        return iter([b"data"])

    def close(self) -> None:
        self.closed = True


class Bare(Repository):
    """A backend that has nothing but state."""

    def content_token(self) -> bytes:
        return b""


def dispatcher_of(commands: CommandRegistry | None = None, limits: Limits | None = None) -> Dispatcher:
    return Dispatcher(
        commands=commands or CommandRegistry.standard(),
        policy=lambda request: None,
        server=ServerCapabilities(send=("0.1",)),
        limits=limits or Limits(),
    )


def bind(
    repository: Repository,
    name: str,
    arguments: Mapping[str, bytes],
    *,
    body: bytes = b"",
    batch: tuple[SubCommand, ...] = (),
    commands: CommandRegistry | None = None,
    limits: Limits | None = None,
) -> BoundCommand:
    dispatcher = dispatcher_of(commands, limits)
    wire = WireRequest(name, arguments, batch, "pull")
    return dispatcher.bind(
        dispatcher.resolve(wire, repository, "v1"),
        Asking(allowance=Allowance(dispatcher.limits.walk)),
        "",
        repository,
        server=dispatcher.server,
        client=ClientProtocol(),
        body=io.BytesIO(body),
        version="v1",
    )


def call(repository: Repository, name: str, body: bytes = b"", **arguments: bytes) -> Response:
    return bind(repository, name, arguments, body=body).run()


def text(repository: Repository, name: str, **arguments: bytes) -> bytes:
    response = call(repository, name, **arguments)
    assert isinstance(response, BytesResponse)
    return response.data


def digits(*nodes: bytes) -> bytes:
    return b" ".join(node.hex().encode() for node in nodes)


@pytest.fixture
def line() -> tuple[MemoryRepository, list[bytes]]:
    """Ten changesets in a row, and their nodes."""
    repository = MemoryRepository(settings={"web.allow-push": "*"})
    return repository, [repository.commit({"file": b"%d" % number}, message=str(number)) for number in range(10)]


class TestReplies:
    def test_between(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line
        pairs = b"%s-%s %s-%s %s-%s" % (
            *(digits(nodes[9]), digits(nodes[0])),
            *(digits(nodes[9]), digits(NULL)),
            *(digits(nodes[3]), digits(nodes[3])),
        )
        assert text(repository, "between", pairs=pairs) == b"%s\n%s\n\n" % (
            digits(nodes[8], nodes[7], nodes[5], nodes[1]),
            digits(nodes[8], nodes[7], nodes[5], nodes[1]),
        )
        assert text(repository, "between", pairs=b"") == b""

    def test_branches(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line
        side = repository.commit(parents=[nodes[4]], message="side")
        merge = repository.commit(parents=[nodes[9], side], message="merge")
        top = repository.commit(message="top")
        assert text(repository, "branches", nodes=digits(nodes[4], top)) == b"%s\n%s\n" % (
            digits(nodes[4], nodes[0], NULL, NULL),
            digits(top, merge, nodes[9], side),
        )
        assert text(repository, "branches", nodes=b"") == digits(top, merge, nodes[9], side) + b"\n"
        with pytest.raises(CommandFailed, match="unknown revision"):
            call(repository, "branches", nodes=b"11" * 20)

    def test_walks_are_bounded(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line
        long = digits(nodes[9])
        for name, arguments in (
            ("between", {"pairs": b"%s-%s" % (long, digits(nodes[0]))}),
            ("between", {"pairs": b" ".join([b"%s-%s" % (digits(nodes[1]), digits(nodes[0]))] * 9)}),
            ("branches", {"nodes": long}),
            ("branches", {"nodes": b" ".join([digits(nodes[0])] * 10)}),
            ("batch", {"cmds": b"x"}),
        ):
            batch = tuple(SubCommand("branches", {"nodes": digits(nodes[4])}) for _ in range(2 * (name == "batch")))
            steps = 9 if name == "between" else 10
            assert bind(repository, name, arguments, batch=batch, limits=Limits(walk=steps)).run()
            with pytest.raises(RequestError, match=f": more than {steps - 1} changesets to visit; ask for less"):
                bind(repository, name, arguments, batch=batch, limits=Limits(walk=steps - 1)).run()

    def test_branchmap(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line
        other = repository.commit(branch="täst/a b%", message="branch")
        assert text(repository, "branchmap") == b"default %s\nt%%C3%%A4st/a%%20b%%25 %s" % (
            digits(nodes[9]),
            digits(other),
        )

    def test_capabilities_and_hello(self) -> None:
        capabilities = text(MemoryRepository(), "capabilities")
        tokens = capabilities.split(b" ")
        assert tokens == sorted(set(tokens)) and {b"batch", b"httpheader=1024", b"unbundlehash"} <= set(tokens)
        assert text(MemoryRepository(), "hello") == b"capabilities: %s\n" % capabilities

    def test_hello_says_what_an_overridden_command_says(self) -> None:
        commands = CommandRegistry.standard()
        commands.override("capabilities", lambda context: BytesResponse(b"few"))
        assert bind(Bare(), "hello", {}, commands=commands).run() == BytesResponse(b"capabilities: few\n")

    def test_heads_and_known(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line
        assert text(repository, "heads") == digits(nodes[9]) + b"\n"
        assert text(MemoryRepository(), "heads") == digits(NULL) + b"\n"
        assert text(repository, "known", nodes=digits(nodes[1], b"\x11" * 20, NULL), other=b"x") == b"101"

    def test_keys(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line
        bookmark = {"namespace": b"bookmarks", "key": b"b", "old": b"", "new": digits(nodes[0])}
        assert text(repository, "pushkey", **bookmark) == b"1\n"
        assert text(repository, "pushkey", **bookmark) == b"1\n"
        assert text(repository, "pushkey", **{**bookmark, "new": digits(nodes[1])}) == b"0\n"
        assert text(repository, "pushkey", **{**bookmark, "key": b"a"}) == b"1\n"
        listed = b"a\t%s\nb\t%s" % (digits(nodes[0]), digits(nodes[0]))
        assert text(repository, "listkeys", namespace=b"bookmarks") == listed
        assert text(repository, "listkeys", namespace=b"nosuch") == b""

    def test_lookup(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line
        assert text(repository, "lookup", key=b"tip") == b"1 %s\n" % digits(nodes[9])
        assert text(repository, "lookup", key=b"n\xff") == b"0 unknown revision 'n\xff'\n"

    def test_bundles(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, nodes = line

        def stream(name: str, **arguments: bytes) -> bytes:
            response = call(repository, name, **arguments)
            assert isinstance(response, StreamResponse)
            return b"".join(response.chunks)

        everything = stream("changegroup", roots=digits(NULL))
        assert everything == stream("getbundle", nosuch=b"ignored", cg=b"1")
        assert everything == stream("changegroupsubset", bases=digits(nodes[0]), heads=digits(nodes[9]))
        assert stream("getbundle", common=digits(nodes[4])) == stream("changegroup", roots=digits(nodes[5]))

    def test_unbundle(self, line: tuple[MemoryRepository, list[bytes]]) -> None:
        repository, _ = line
        bundle = call(repository, "getbundle")
        assert isinstance(bundle, StreamResponse)
        data = b"".join(bundle.chunks)
        response = call(MemoryRepository(), "unbundle", data, heads=digits(NULL))
        assert isinstance(response, PushResponse) and response.result == 1
        assert isinstance(call(repository, "unbundle", data, heads=digits(NULL)), PushError)

    def test_small_ones(self) -> None:
        assert text(Bare(), "protocaps", caps=b"x") == b"OK"
        assert text(Bare(), "clonebundles") == text(Bare(), "clonebundles_manifest", x=b"y") == b""
        with pytest.raises(CommandFailed, match="no such bundle"):
            call(Bare(), "get_cached_bundle_inline", path=b"x")


class TestBatch:
    def run(self, *subs: SubCommand, commands: CommandRegistry | None = None) -> Response:
        arguments = {"cmds": b"was taken apart before"}
        return bind(MemoryRepository(), "batch", arguments, batch=subs, commands=commands).run()

    def test_replies_in_order(self) -> None:
        subs = SubCommand("lookup", {"key": b"tip"}), SubCommand("protocaps", {"caps": b""})
        assert self.run(*subs) == BytesResponse(b"1 %s\n;OK" % digits(NULL))

    def test_nothing_runs_unless_all_can(self) -> None:
        commands, ran = CommandRegistry.standard(), []
        commands.command("run", permission="pull")(lambda context: ran.append(1) or b"")
        for sub, error, words in (
            (SubCommand("nosuch", {}), UnknownCommand, "nosuch"),
            (SubCommand("getbundle", {}), InvalidArgument, "batch: getbundle cannot be batched"),
            (SubCommand("batch", {}), InvalidArgument, "batch cannot be batched"),
            (SubCommand("lookup", {}), InvalidArgument, "lookup: missing argument key"),
            (SubCommand("known", {"nodes": b"x"}), InvalidArgument, "'x' is not a node"),
        ):
            with pytest.raises(error, match=words):
                self.run(SubCommand("run", {}), sub, commands=commands)
        assert not ran

    def test_sub_commands_see_their_own_arguments(self) -> None:
        commands = CommandRegistry.standard()
        commands.command("show", permission="pull", args=["*"])(lambda context, rest: b"%r" % sorted(context.arguments))
        subs = SubCommand("show", {"a": b""}), SubCommand("show", {"b": b""})
        assert self.run(*subs, commands=commands) == BytesResponse(b"['a'];['b']")

    def test_error_replaces_the_reply(self) -> None:
        commands = CommandRegistry.standard()
        commands.command("fail", permission="pull")(lambda context: OutOfBandError(b"no"))
        assert self.run(SubCommand("heads", {}), SubCommand("fail", {}), commands=commands) == OutOfBandError(b"no")

    def test_other_responses(self) -> None:
        commands = CommandRegistry.standard()
        commands.command("pushed", permission="push")(lambda context: PushResponse(2, b"said"))
        commands.command("raced", permission="push")(lambda context: PushError(b"raced"))
        chunks = Closeable()
        commands.command("stream", permission="pull", reply="any")(lambda context: StreamResponse(chunks))
        both = self.run(SubCommand("pushed", {}), SubCommand("raced", {}), commands=commands)
        assert both == BytesResponse(b"2\nsaid;0\nraced\n")
        with pytest.raises(InvalidArgument, match="stream cannot be batched: its reply is a stream"):
            self.run(SubCommand("stream", {}), commands=commands)
        assert chunks.closed

    def test_what_is_repeated_runs_once_until_something_may_have_changed(self) -> None:
        commands, ran = CommandRegistry.standard(), []

        def reading(context: CommandContext) -> bytes:
            ran.append("reading")
            return b"a;b"

        def note(name: str) -> Callable[[CommandContext], bytes]:
            return lambda context: ran.append(name) or b""  # type: ignore[func-returns-value]  # for one line

        commands.command("reading", permission="pull", cacheable=True)(reading)
        commands.command("other", permission="pull")(note("other"))
        commands.command("write", permission="push")(note("write"))
        read, other, write = (SubCommand(name, {}) for name in ("reading", "other", "write"))
        assert self.run(read, read, other, other, read, commands=commands) == BytesResponse(b"a:sb;a:sb;;;a:sb")
        assert ran == ["reading", "other", "other"]
        ran.clear()
        self.run(read, write, read, read, commands=commands)
        assert ran == ["reading", "write", "reading"]

    def test_replies_are_bounded(self) -> None:
        commands = CommandRegistry.standard()
        commands.command("large", permission="pull")(lambda context: bytes(Limits().batch_reply + 1))
        with pytest.raises(RequestError, match="the replies exceed"):
            self.run(SubCommand("large", {}), commands=commands)


NEEDED = {
    "between": {"pairs": b"11" * 20 + b"-" + b"22" * 20},
    "branches": {"nodes": b""},
    "changegroup": {"roots": b""},
    "changegroupsubset": {"bases": b"", "heads": b""},
    "known": {"nodes": b""},
    "listkeys": {"namespace": b"x"},
    "lookup": {"key": b"x"},
    "pushkey": {"namespace": b"x", "key": b"x", "old": b"", "new": b""},
    "unbundle": {"heads": b""},
}
ALWAYS = {"batch", "capabilities", "clonebundles", "clonebundles_manifest", "hello", "protocaps"} | {
    "get_cached_bundle_inline"
}


@pytest.mark.parametrize("name", sorted({command.name for command in STANDARD_COMMANDS} - ALWAYS))
def test_a_backend_without_the_method_has_no_such_command(name: str) -> None:
    with pytest.raises(UnknownCommand, match="this repository does not offer"):
        call(Bare(), name, **NEEDED.get(name, {}))


def test_capabilities_of_a_bare_backend_are_those_of_the_transport() -> None:
    tokens = ServerCapabilities(send=("0.1",)).capabilities()
    assert text(Bare(), "capabilities").split() == sorted([b"batch", *tokens])


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("getbundle", {}, True),
        ("getbundle", {"common": [NULL]}, True),
        ("getbundle", {"common": [b"1" * 20, NULL]}, False),
        ("stream_out", {}, True),
        ("changegroup", {"roots": [NULL]}, True),
        ("changegroup", {"roots": [b"1" * 20]}, False),
        ("heads", {}, False),
    ],
)
def test_what_a_clone_is(name: str, arguments: Any, expected: bool) -> None:
    assert is_clone(name, arguments) is expected
