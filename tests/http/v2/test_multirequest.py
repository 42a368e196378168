"""Commands over version 2: responses, failures, permissions, data."""

from __future__ import annotations

import io
import logging
from typing import Any

import attrs
import pytest
from fakes import FakeProvider
from v2_support import OPEN, V2, Answer, Reply, Source, ask, chunks, command, commands, frame, make_app, one, registry
from v2_support import send as begin

from hgwire_wsgi import (
    AccessRequest,
    ApiSettings,
    BytesResponse,
    CommandContext,
    HgWireError,
    LegacyStreamResponse,
    Limits,
    PermissionDenied,
    RepositoryNotFound,
    StreamResponse,
    Unavailable,
    WireApp,
)
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.framing import (
    IDENTITY,
    PROFILES,
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
    ZLIB,
    ZSTD_8MB,
)
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

# Failures.


def test_a_failure_in_the_middle_is_an_error_frame_and_the_others_are_answered() -> None:
    sources = [Source(b"x" * 70_000, CommandFailed("gone")), Source(b"y" * 70_000, RuntimeError("secret"))]
    made = registry(
        x=lambda: StreamResponse(sources[0]), y=lambda: LegacyStreamResponse(sources[1]), z=lambda: BytesResponse(b"z")
    )
    replies = ask(make_app(made), "ro/multirequest", commands("x", "y", "z", "heads")).replies
    assert replies[1] == Reply(b"x" * 32768, b"gone", "application", ended=True)
    assert replies[3] == Reply(b"y" * 32768, b"internal server error", "application", ended=True)
    assert replies[5].data == b"z"
    assert replies[7].data == b"11" * 20 + b"\n"
    assert [source.closed > 0 for source in sources] == [True, True]


def test_what_is_not_meant_for_the_peer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Any:
        raise RuntimeError("secret")

    with caplog.at_level(logging.ERROR, "hgwire_wsgi"):
        reply = one(fail)
    assert (reply.error, reply.kind) == (b"internal server error", "application")
    assert "secret" in caplog.text
    caplog.clear()
    assert one("not a response").error == b"internal server error"
    assert "returned str" in caplog.text
    caplog.clear()
    assert one(StreamResponse(None)).error == b"internal server error"  # type: ignore[arg-type]  # a host's mistake
    assert "not iterable" in caplog.text


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("known", {}, b"known: missing argument nodes"),
        ("known", {b"nodes": b"zz"}, b"known: argument nodes: 'zz' is not a node of 40 or 64 hexadecimal digits"),
        ("lookup", {b"key": b"x"}, b"this repository does not offer lookup"),
        ("batch", {}, b"batch: missing argument cmds"),
        ("batch", {b"cmds": b"heads"}, b"batch: a command must be a name, a space, and arguments"),
        ("batch", {b"cmds": b"heads ;nope "}, b"unknown command: nope"),
        ("batch", {b"cmds": b"getbundle "}, b"batch: getbundle cannot be batched"),
    ],
)
def test_a_command_that_cannot_run(name: str, arguments: dict[bytes, bytes], message: bytes) -> None:
    replies = ask(make_app(), "ro/multirequest", commands((name, arguments), "heads")).replies
    assert (replies[1].error, replies[1].kind) == (message, "application")
    assert replies[3].error is None
    alone = ask(make_app(), f"ro/{name}", commands((name, arguments))).replies
    assert alone[1].error == message


def test_batch() -> None:
    cmds = b"heads ;known nodes=" + b"11" * 20 + b";echo text=a:cb"
    reply = ask(make_app(), "ro/batch", commands(("batch", {b"cmds": cmds}))).replies[1]
    assert reply.data == b"11" * 20 + b"\n;1;a:cb"


# Permissions.


def test_a_push_command_never_runs_under_ro() -> None:
    ran: list[str] = []
    made = registry(x=lambda: ran.append("x") or b"")
    made.command("change", permission="push")(lambda context: ran.append("change") or b"")
    app = make_app(made)
    refused = (403, "insufficient permissions to execute command: {}")
    cmds = ("batch", {b"cmds": b"x ;change "})
    for target, body, name in (
        ("ro/change", commands("change"), "change"),
        ("ro/put", command(1, "put", data=b"data"), "put"),
        ("ro/multirequest", commands("x", "change"), "change"),
        ("ro/multirequest", commands("x", "change", "x"), "change"),
        ("ro/multirequest", commands("x", cmds), "batch"),
        ("ro/batch", commands(cmds), "batch"),
    ):
        answer = ask(app, target, body)
        assert answer.text == (refused[0], refused[1].format(name))
        assert answer.status == "403 Forbidden"
    assert ran == []
    assert ask(app, "rw/multirequest", commands("x", "change", "x")).replies.keys() == {1, 3, 5}
    assert ask(app, "rw/batch", commands(cmds)).replies[1].data == b";"
    assert ran == ["x", "change", "x", "x", "change"]


def test_the_policy_is_asked_for_the_url_and_for_every_command() -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def policy(request: AccessRequest) -> None:
        asked.append((request.permission, request.commands))
        if "secret" in request.commands:
            raise PermissionDenied("not yours", status=401)

    ran: list[str] = []
    app = make_app(
        registry(secret=lambda: ran.append("secret") or b"", x=lambda: ran.append("x") or b""), policy=policy
    )

    def questions(target: str, *calls: Any) -> list[tuple[str, tuple[str, ...]]]:
        asked.clear()
        ask(app, target, commands(*calls))
        return list(asked)

    pull, push = "pull", "push"
    assert questions("ro/heads", "heads") == [(pull, ()), (pull, ("heads",))]
    assert questions("rw/heads", "heads") == [(push, ()), (pull, ("heads",))]
    assert questions("rw/put", "put") == [(push, ()), (push, ("put",))]
    assert questions("rw/multirequest", "heads", "put") == [
        (push, ()),
        (pull, ("heads",)),
        (push, ("put",)),
    ]
    batch = ("batch", {b"cmds": b"heads ;x "})
    assert questions("ro/batch", batch) == [(pull, ()), (pull, ("batch", "heads", "x"))]
    ran.clear()
    for body in (commands("x", "secret"), commands("x", ("batch", {b"cmds": b"heads ;secret "}))):
        answer = ask(app, "ro/multirequest", body)
        assert answer.status == "401 not yours"
        assert answer.text == (401, "permission denied")
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="Mercurial"'
    assert ran == []


def test_a_policy_sees_the_arguments_of_each_command() -> None:
    def policy(request: AccessRequest) -> None:
        for call in request.calls:
            if call.arguments.get("key") == b"release":
                raise PermissionDenied("releases are made by robots")

    ran: list[bytes] = []
    made = registry()
    made.command("mark", permission="push", args=["key"])(lambda context, key: ran.append(key) or b"")
    app = make_app(made, policy=policy)
    for target, calls in (
        ("rw/mark", [("mark", {b"key": b"release"})]),
        ("rw/multirequest", ["heads", ("mark", {b"key": b"feature"}), ("mark", {b"key": b"release"})]),
        ("rw/batch", [("batch", {b"cmds": b"mark key=release"})]),
    ):
        assert ask(app, target, commands(*calls)).status == "403 releases are made by robots"
    assert ran == []
    assert ask(app, "rw/mark", commands(("mark", {b"key": b"feature"}))).status == "200 OK"
    assert ran == [b"feature"]


@pytest.mark.parametrize("error", [RepositoryNotFound("secret"), Unavailable("later", retry_after=5)])
def test_a_policy_may_hide_or_postpone_a_command(error: HgWireError) -> None:
    def policy(request: AccessRequest) -> None:
        if request.commands:
            raise error

    exchange = begin(make_app(policy=policy), "ro/heads", commands("heads"))
    assert exchange.status[:3] == str(error.http_status)
    assert b"secret" not in exchange.read()


def test_a_command_that_asks_while_it_runs() -> None:
    made = registry()

    @made.command("x", permission="pull")
    def x(context: CommandContext) -> bytes:
        context.authorize("push")
        return b"allowed"

    replies = ask(make_app(made), "ro/multirequest", commands("x", "heads")).replies
    assert replies[1].data == b"allowed"
    replies = ask(make_app(made, provider=FakeProvider()), "ro/multirequest", commands("x", "heads")).replies
    assert (replies[1].error, replies[3].error) == (b"ssl required", None)


def test_a_repository_brings_commands_and_a_host_removes_some() -> None:
    made = registry()
    made.remove("heads")
    app = make_app(made)
    assert ask(app, "ro/heads", commands("heads")).text == (404, "unknown wire protocol command: heads\n")
    answer = ask(app, "ro/multirequest", commands("heads"))
    assert answer.text == (200, "wire protocol command not available: heads")


# Data.


def test_data_are_read_while_they_come() -> None:
    body = command(1, "put", data=b"x" * 300_000)
    input_ = io.BytesIO(body)
    seen: list[int] = []
    made = registry()

    @made.command("watch", permission="push", body=True)
    def watch(context: CommandContext) -> bytes:
        while piece := context.body.read(10_000):
            assert len(piece) <= 10_000
            seen.append(input_.tell())
        return b"%d" % len(seen)

    body = command(1, "watch", data=b"x" * 300_000)
    input_ = io.BytesIO(body)
    answer = ask(make_app(made), "rw/watch", body, **{"wsgi.input": input_})
    assert answer.replies[1].data == b"%d" % len(seen)
    assert seen[0] == 65536
    assert seen == sorted(seen)
    assert seen[-1] == len(body)


def test_put_alone_and_in_a_multirequest() -> None:
    for data in (b"", b"data", b"x" * 100_000):
        wanted = b"%d " % len(data) + data[:20]
        assert ask(make_app(), "rw/put", command(1, "put", data=data)).replies[1].data == wanted
        body = command(1, "put", data=data) + command(3, "heads", begin=False)
        assert ask(make_app(), "rw/multirequest", body).replies[1].data == wanted
    assert ask(make_app(), "rw/put", commands("put")).replies[1].data == b"0 "


def test_what_a_command_does_not_read_is_dropped() -> None:
    body = command(1, "put", {b"size": b"5"}, data=b"x" * 200_000)
    exchange = begin(make_app(), "rw/put", body)
    assert exchange.input.tell() == len(body)
    assert Answer(exchange).replies[1].data == b"5 xxxxx"
    body = command(1, "heads", data=b"x" * 200_000)
    for target in ("ro/heads", "ro/multirequest"):
        assert ask(make_app(), target, body).replies[1].data == b"11" * 20 + b"\n"


def test_too_much_unread_data_cuts_the_connection() -> None:
    app = make_app(limits=Limits(drain=100_000))
    body = command(1, "put", {b"size": b"5"}, data=b"x" * 500_000)
    exchange = begin(app, "rw/put", body)
    assert next(exchange.response)
    with pytest.raises(Exception, match="closing the connection"):
        next(exchange.response)
    exchange.close()
    body = command(1, "put", {b"size": b"5"}, data=b"x" * 50_000)
    assert ask(app, "rw/put", body).replies[1].data == b"5 xxxxx"


def test_a_response_made_from_data_that_were_dropped_fails() -> None:
    made = registry()

    @made.command("late", permission="push", body=True)
    def late(context: CommandContext) -> StreamResponse:
        return StreamResponse(iter(lambda: context.body.read(1000), b""))

    reply = ask(make_app(made), "rw/late", command(1, "late", data=b"x" * 5000)).replies[1]
    assert reply.error == b"the rest of the request body was dropped"
    assert ask(make_app(made), "rw/late", commands("late")).replies[1].data == b""


@pytest.mark.parametrize(
    ("after", "status", "message"),
    [
        (frame("3 1 0 command-name eos heads"), 200, "multiple commands cannot be issued to this URL"),
        (frame("3 1 0 command-data eos x"), 200, "expected command frame; got 3\n"),
        (b"\1", 400, "received incomplete frame: got 1 of 8 bytes of its header\n"),
    ],
)
def test_a_wrong_request_fails_where_it_is_read(after: bytes, status: int, message: str) -> None:
    """A command that reads to the end of its data learns of it, and can undo what it did."""
    ends: list[Any] = []
    made = registry()

    @made.command("x", permission="push", body=True)
    def x(context: CommandContext) -> bytes:
        for _ in range(2):
            try:
                while context.body.read(1 << 16):
                    pass
                ends.append("end")
            except Exception as error:
                ends.append(str(error))
        return b"done"

    app = make_app(made)
    assert ask(app, "rw/x", command(1, "x", data=b"data") + after).text == (status, message)
    assert ends == [message.rstrip("\n")] * 2


def test_truncated_data_are_an_error_for_the_command() -> None:
    ends: list[str] = []
    made = registry()

    @made.command("x", permission="push", body=True)
    def x(context: CommandContext) -> bytes:
        try:
            while context.body.read(1 << 16):
                pass
        except Exception as error:
            ends.append(str(error))
            raise
        return b"done"

    body = command(1, "x", data=b"x" * 100_000)
    app = make_app(made)
    for size in (len(body) - 1, 50_000):
        assert ask(app, "rw/x", body[:size]).text[0] == 400
        assert "frame length error" in ends.pop()
    # The frame that ends the data is missing as a whole.
    assert ask(app, "rw/x", body[: 9 + 2 * 32776]).text[0] == 400
    assert "end of input inside a command" in ends.pop()
    # The client went away.
    short = ask(app, "rw/x", body[:50_000], CONTENT_LENGTH=str(len(body)))
    assert short.text == (400, "the request body is shorter than its Content-Length\n")
    assert ends == ["the request body is shorter than its Content-Length"]


def test_a_response_that_is_not_sent_is_closed() -> None:
    source = Source(b"data")
    made = registry()

    @made.command("x", permission="push", body=True)
    def x(context: CommandContext) -> StreamResponse:
        return StreamResponse(source)

    body = command(1, "x", data=b"data") + frame("3 1 0 command-name eos heads")
    assert ask(make_app(made), "rw/x", body).text[0] == 200
    assert (source.taken, source.closed > 0) == (0, True)


def test_interleaved_data_of_several_commands() -> None:
    body = b"".join(
        [
            frame("1 1 stream-begin command-name have-data put"),
            frame("3 1 0 command-name have-data put"),
            frame("5 1 0 command-name eos heads"),
            frame("3 1 0 command-data continuation ", b"3" * 60_000),
            frame("1 1 0 command-data continuation ", b"1" * 1000),
            frame("3 1 0 command-data continuation ", b"3" * 60_000),
            frame("1 1 0 command-data eos ", b"1"),
            frame("3 1 0 command-data eos "),
        ]
    )
    for limits in (Limits(), Limits(spool_memory=1)):
        answer = ask(make_app(limits=limits), "rw/multirequest", body)
        assert answer.replies[1].data == b"1001 " + b"1" * 20
        assert answer.replies[3].data == b"120000 " + b"3" * 20
        assert [each.request_id for each in answer.frames] == [5, 1, 3]


def test_data_that_wait_are_bounded() -> None:
    body = command(1, "put", data=b"x" * 1000) + command(3, "put", data=b"x" * 1000, begin=False)
    ok = ask(make_app(limits=Limits(spool=2000, spooled_commands=2)), "rw/multirequest", body)
    assert ok.replies[3].data.startswith(b"1000 ")
    answer = ask(make_app(limits=Limits(spool=1999)), "rw/multirequest", body)
    assert answer.text == (413, "command data of one request exceed 1999 bytes\n")
    answer = ask(make_app(limits=Limits(spooled_commands=1)), "rw/multirequest", body)
    assert answer.text == (400, "more than 1 commands of one request have data\n")


def test_arguments_of_a_multirequest_are_bounded() -> None:
    body = commands(*[("echo", {b"text": b"x" * 996})] * 3)
    assert len(ask(make_app(limits=Limits(argument_bytes=3000)), "ro/multirequest", body).replies) == 3
    answer = ask(make_app(limits=Limits(argument_bytes=2999)), "ro/multirequest", body)
    assert answer.text == (400, "command arguments of one request exceed 2999 bytes\n")


def test_decoded_data_are_bounded() -> None:
    settings = frame("1 1 stream-begin stream-settings 0 \\x04zlib")
    encoder = ZLIB.start_encoder(None)
    body = settings + frame("1 1 0 command-name have-data put")
    for _ in range(4):
        body += frame("1 1 encoded command-data continuation ", encoder.encode(b"\0" * 100_000))
    body += frame("1 1 0 command-data eos ")
    assert ask(make_app(), "rw/put", body).replies[1].data.startswith(b"400000 ")
    reply = ask(make_app(limits=Limits(body_decoded=300_000)), "rw/put", body).replies[1]
    assert reply.error is not None
    assert b"more than 300000 bytes" in reply.error


# Encoded streams.


@pytest.mark.parametrize("last", ["x", "empty", "failing", "late", "plain", "known"])
@pytest.mark.parametrize("first", [(), ("x",)])
def test_a_stream_that_this_server_encodes_ends_with_the_last_response(first: tuple[str, ...], last: str) -> None:
    """> The last frame in a stream MUST set this flag."""

    def failing() -> Any:
        raise CommandFailed("no")

    made = registry(
        x=lambda: StreamResponse(chunks(100)),
        empty=StreamResponse([]),
        failing=failing,
        late=lambda: StreamResponse(Source(b"x" * 100_000, CommandFailed("gone"))),
        plain=StreamResponse([b"done"], prefer_uncompressed=True),
    )
    app = make_app(made, api=attrs.evolve(V2, encodings=(ZLIB,)))
    answer = ask(app, "ro/multirequest", commands(*first, last), HTTP_X_HGPROTO_1="comp=zlib")
    check_one_stream(answer, 1 + len(first))
    if not first:
        check_one_stream(ask(app, f"ro/{last}", commands(last), HTTP_X_HGPROTO_1="comp=zlib"), 1)


def check_one_stream(answer: Answer, responses: int) -> None:
    assert len(answer.replies) == responses
    assert {each.stream_id for each in answer.frames} == {2}
    flags = [each.stream_flags & (STREAM_BEGIN | STREAM_END) for each in answer.frames]
    assert flags == [STREAM_BEGIN, *[0] * (len(flags) - 2), STREAM_END]


def test_data_of_an_encoded_response_that_are_read_while_they_come() -> None:
    app = make_app(api=attrs.evolve(V2, encodings=(ZLIB,)))
    check_one_stream(ask(app, "rw/put", command(1, "put", data=b"data"), HTTP_X_HGPROTO_1="comp=zlib"), 1)


@pytest.mark.parametrize(
    ("encodings", "wanted", "chosen"),
    [
        ((), "0.1 comp=zlib", None),
        ((ZSTD_8MB, ZLIB), None, None),
        ((ZSTD_8MB, ZLIB), "0.1 0.2", None),
        ((ZSTD_8MB, ZLIB), "comp=zlib,zstd-8mb", "zstd-8mb"),
        ((ZSTD_8MB, ZLIB), "comp=zlib", "zlib"),
        ((ZSTD_8MB, ZLIB), "comp=identity,none", None),
        ((IDENTITY,), "comp=identity,none", "identity"),
    ],
)
def test_streams_are_encoded_for_clients_that_ask(encodings: Any, wanted: str | None, chosen: str | None) -> None:
    made = registry(x=lambda: StreamResponse(chunks(200)), y=StreamResponse([b"done"], prefer_uncompressed=True))
    environ = {} if wanted is None else {"HTTP_X_HGPROTO_1": wanted}
    app = make_app(made, api=ApiSettings(server=True, http_v2=True, encodings=encodings))
    answer = ask(app, "ro/multirequest", commands("x", "y", ("known", {}), "x"), **environ)
    replies = answer.replies
    assert replies[1].data == replies[7].data == b"".join(chunks(200))
    assert replies[3].data == b"done"
    assert replies[5].error == b"known: missing argument nodes"
    settings = [each.payload[1:].decode() for each in answer.frames if each.type_id == 8]
    assert settings == ([] if chosen is None else [chosen])
    encoded = {each.request_id for each in answer.frames if each.stream_flags & STREAM_ENCODED}
    assert encoded == (set() if chosen is None else {1, 7})
    # One stream for all of them, which ends; or, as recorded, one for each, which does not.
    begun = [each.request_id for each in answer.frames if each.stream_flags & STREAM_BEGIN]
    assert begun == ([1, 3, 5, 7] if chosen is None else [1])
    ends = [each for each in answer.frames if each.stream_flags & STREAM_END]
    assert ends == ([] if chosen is None else [answer.frames[-1]])
    if chosen in PROFILES and chosen != "identity":
        assert len(answer.body) < 20_000


def test_a_clone_and_a_push_over_version_2() -> None:
    """The worked example of a backend answers as over version 1, and takes what it answered."""
    ours, theirs = (MemoryRepository(settings={"web.allow-push": "*", "web.push_ssl": "no"}) for _ in range(2))
    for number in range(20):
        ours.commit({"file": b"%d\n" % number * 5000}, message=f"change {number}")
    app = WireApp(MemoryProvider({"repo": ours, "other": theirs}), api=attrs.evolve(V2, workers=2))
    replies = ask(app, "ro/multirequest", commands("heads", "getbundle", "branchmap")).replies
    bundle = replies[3].data
    assert replies[1].data == b"".join(node.hex().encode() for node in ours.heads()) + b"\n"
    assert replies[5].data.startswith(b"default ")
    environ = {"PATH_INFO": "/other/api/exp-http-v2-0001/rw/unbundle"}
    body = command(1, "unbundle", {b"heads": b"force".hex().encode()}, data=b"HG10UN" + bundle)
    reply = Answer(begin(app, "rw/unbundle", body, **environ)).replies[1]
    assert reply.error is None
    assert reply.data.startswith(b"1\n")
    assert list(theirs.heads()) == list(ours.heads())
    # A push that is cut short changes nothing.
    ours.commit({"file": b"more"})
    bundle = ask(app, "ro/getbundle", commands("getbundle")).replies[1].data
    body = command(1, "unbundle", {b"heads": b"force".hex().encode()}, data=b"HG10UN" + bundle)
    assert Answer(begin(app, "rw/unbundle", body[:-1], **environ)).text[0] == 400
    assert list(theirs.heads()) != list(ours.heads())


# Requests without commands, or with others than the URL says.


@pytest.mark.parametrize(
    ("target", "body", "status", "text"),
    [
        ("ro/heads", b"", 400, "the request holds no command\n"),
        ("ro/multirequest", b"", 400, "the request holds no command\n"),
        ("ro/heads", commands("known"), 200, "command in frame must match command in URL"),
        ("ro/heads", commands("heads", "heads"), 200, "multiple commands cannot be issued to this URL"),
        ("ro/multirequest", commands("heads", "nope"), 200, "wire protocol command not available: nope"),
    ],
)
def test_commands_that_do_not_fit(target: str, body: bytes, status: int, text: str) -> None:
    assert ask(make_app(), target, body).text == (status, text)


def test_observers_learn_of_each_command() -> None:
    events: list[Any] = []
    app = make_app(observers=[events.append])
    ask(app, "ro/multirequest", commands("heads", ("known", {})))
    assert events[-1].commands == ("heads", "known")
    assert [(each.command, each.outcome) for each in events[-1].reports] == [("heads", "ok"), ("known", "refused")]


def test_a_repository_whose_capabilities_cannot_be_read_is_released() -> None:
    provider = FakeProvider(OPEN)

    def broken(offered: Any) -> Any:
        raise RuntimeError("secret")

    provider.repository.adjust_capabilities = broken  # type: ignore[method-assign]  # a broken backend
    answer = ask(make_app(provider=provider), "ro/heads", commands("heads"))
    assert answer.text == (500, "internal server error\n")
    assert provider.held == 0


def test_observers_learn_that_a_command_is_a_clone() -> None:
    events: list[Any] = []
    app = make_app(observers=[events.append])
    for name, clone in (("getbundle", True), ("heads", False)):
        begin(app, f"ro/{name}", command(1, name)).response.close()
        assert events[-1].clone is clone
