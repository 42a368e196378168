"""Commands over version 2: responses, failures, permissions, data."""

from __future__ import annotations

import io
import logging
from typing import Any

import attrs
import pytest
from fakes import Exchange, FakeProvider
from v2_support import MEDIA_TYPE, OPEN, V2, Answer, Reply, ask, chunks, command, commands, frame, make_app, registry
from v2_support import send as begin

from hgwire_wsgi import (
    AccessRequest,
    ApiSettings,
    BytesResponse,
    CommandContext,
    LegacyStreamResponse,
    Limits,
    OutOfBandError,
    PermissionDenied,
    PushError,
    PushResponse,
    StreamResponse,
    WireApp,
    hgweb_policy,
)
from hgwire_wsgi.commands.responses import RESPONSE_TYPES
from hgwire_wsgi.errors import CommandFailed, RepositoryBusy
from hgwire_wsgi.framing import (
    EXP_0002,
    IDENTITY,
    PROFILES,
    STREAM_BEGIN,
    STREAM_ENCODED,
    ZLIB,
    ZSTD_8MB,
    OutgoingStream,
    encode_frame,
)
from hgwire_wsgi.http.v2.renderers import RENDERERS
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository


def one(response: Any, **options: Any) -> Reply:
    """The reply to a command that returns ``response``, or what that returns."""
    return ask(make_app(registry(x=response), **options), "ro/x", commands("x")).replies[1]


class Source:
    """A stream that tells whether it was closed."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = iter(pieces)
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> bytes:
        piece = next(self.pieces)
        if isinstance(piece, Exception):
            raise piece
        self.taken += 1
        return piece

    def close(self) -> None:
        self.closed += 1


# Rendering.


def test_renderers_are_complete() -> None:
    assert set(RENDERERS) == set(RESPONSE_TYPES)


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        (b"plain", Reply(b"plain", ended=True)),
        (BytesResponse(b""), Reply(b"", ended=True)),
        (BytesResponse(b"x" * 70000), Reply(b"x" * 70000, ended=True)),
        (StreamResponse([b"one", b"", b"two"]), Reply(b"onetwo", ended=True)),
        (StreamResponse([]), Reply(b"", ended=True)),
        (StreamResponse([bytearray(b"x"), memoryview(b"y" * 40000)]), Reply(b"x" + b"y" * 40000, ended=True)),
        (LegacyStreamResponse(list(chunks(100))), Reply(b"".join(chunks(100)), ended=True)),
        (PushResponse(3, b"said\n"), Reply(b"3\nsaid\n", ended=True)),
        (PushError(b"raced"), Reply(error=b"raced", kind="application", ended=True)),
        (PushError(b"raced", b"said\n"), Reply(b"", b"raced", "application", b"said\n", True)),
        (OutOfBandError(b"too old\n"), Reply(error=b"too old\n", kind="application", ended=True)),
    ],
)
def test_every_response_as_frames(response: Any, reply: Reply) -> None:
    assert one(response) == reply


@pytest.mark.parametrize(
    "output", [b"line\n" * 20_000, b"x" * 100_000, "ä€𝄞".encode() * 20_000, b"\xff" * 40_000, b"\n" * 70_000]
)
def test_long_output_goes_into_several_frames(output: bytes) -> None:
    answer = ask(make_app(registry(x=PushError(b"no", output))), "ro/x", commands("x"))
    assert answer.replies[1].output == output.decode("utf-8", "replace").encode()
    texts = [each.payload for each in answer.frames if each.type_id == 6]
    assert len(texts) > 1
    assert max(map(len, texts)) <= 32768


def test_frames_too_small_for_text() -> None:
    """Bounds that leave no room for a character are the host's fault, and nothing to try for ever."""
    output = "\u20ac\u20ac".encode()
    app = make_app(registry(x=PushError(b"no", output=output)), limits=Limits(frame_payload=8))
    assert ask(app, "ro/x", commands("x")).text == (500, "internal server error\n")
    assert one(PushError(b"no", output=output), limits=Limits(frame_payload=12)).output == output


def test_frames_obey_a_lower_limit() -> None:
    limits = Limits(frame_payload=1000)
    answer = ask(
        make_app(registry(x=lambda: StreamResponse(chunks(9)), y=PushError(b"n" * 2000, b"o" * 5000)), limits=limits),
        "ro/multirequest",
        commands("x", "y"),
    )
    assert max(len(each.payload) for each in answer.frames) == 1000
    assert answer.replies[1].data == b"".join(chunks(9))
    assert answer.replies[3] == Reply(b"", b"n" * 1000, "application", b"o" * 5000, True)


def test_a_body_is_made_of_whole_frames_and_a_response_is_sent_at_once() -> None:
    app = make_app(registry(x=lambda: StreamResponse(chunks(200)), y=b"y"))
    exchange = begin(app, "ro/multirequest", commands("y", "x", "y"))
    pieces = list(exchange.response)
    exchange.close()
    assert [len(Answer(exchange, piece).frames) for piece in pieces] == [1, 2, 2, 2, 1, 1]
    assert len(pieces[1]) == 2 * (8 + 32768)


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


def test_a_failing_backend() -> None:
    class Busy(FakeProvider):
        def lease(self, name: str) -> Any:
            raise RepositoryBusy("busy", headers=[("Retry-After", "5")])

    answer = ask(make_app(provider=Busy(OPEN)), "ro/heads", commands("heads"))
    assert answer.text == (503, "busy\n")
    assert answer.headers["Retry-After"] == "5"


def test_a_failing_policy() -> None:
    def policy(request: AccessRequest) -> None:
        raise RuntimeError("secret")

    assert ask(make_app(policy=policy), "ro/heads", commands("heads")).text == (500, "internal server error\n")


def test_start_response_that_fails_releases_everything() -> None:
    provider, source = FakeProvider(OPEN), Source(b"x" * 100_000)
    app = make_app(registry(x=lambda: StreamResponse(source)), provider=provider)
    exchange = begin(app, "ro/multirequest", commands("x"))
    exchange.close()

    def start_response(status: str, headers: Any) -> None:
        raise OSError("gone")

    exchange.environ["wsgi.input"].seek(0)
    with pytest.raises(OSError, match="gone"):
        app(exchange.environ, start_response)
    assert provider.leased == provider.released == 2


def test_what_no_exception_handler_catches_releases_everything() -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    provider = FakeProvider(OPEN)
    with pytest.raises(KeyboardInterrupt):
        begin(make_app(registry(x=interrupt), provider=provider), "ro/x", commands("x"))
    assert provider.leased == provider.released == 1


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
    assert questions("ro/heads", "heads") == [(pull, ("heads",))]
    assert questions("rw/heads", "heads") == [(push, ("heads",)), (pull, ("heads",))]
    assert questions("rw/put", "put") == [(push, ("put",))]
    assert questions("rw/multirequest", "heads", "put") == [
        (push, ("multirequest",)),
        (pull, ("heads",)),
        (push, ("put",)),
    ]
    batch = ("batch", {b"cmds": b"heads ;x "})
    assert questions("ro/batch", batch) == [(pull, ("batch",)), (pull, ("batch", "heads", "x"))]
    ran.clear()
    for body in (commands("x", "secret"), commands("x", ("batch", {b"cmds": b"heads ;secret "}))):
        answer = ask(app, "ro/multirequest", body)
        assert answer.status == "401 not yours"
        assert answer.text == (401, "permission denied")
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="Mercurial"'
    assert ran == []


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


@pytest.mark.parametrize("headers", [{"HTTP_ORIGIN": "https://evil"}, {"HTTP_SEC_FETCH_SITE": "cross-site"}])
def test_pushes_from_web_pages_are_refused(headers: dict[str, str]) -> None:
    for target in ("rw/put", "rw/multirequest"):
        answer = ask(make_app(), target, commands("put"), **headers)
        assert (answer.status, answer.text[1]) == ("403 pushes from web pages are refused", "permission denied")
    assert ask(make_app(), "ro/heads", commands("heads"), **headers).replies[1].ended


def test_reading_may_be_denied() -> None:
    app = make_app(provider=FakeProvider({**OPEN, "deny_read": "*"}))
    for target in ("ro/heads", "ro/multirequest", "ro/nope", "ro/debugreflect"):
        assert ask(app, target, commands("heads")).status == "401 read not authorized"


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


def test_a_body_without_a_length() -> None:
    exchange = Exchange(
        make_app(),
        path="/repo/api/exp-http-v2-0001/ro/heads",
        REQUEST_METHOD="POST",
        HTTP_ACCEPT=MEDIA_TYPE,
        CONTENT_TYPE=MEDIA_TYPE,
        HTTP_TRANSFER_ENCODING="chunked",
        **{"wsgi.input": io.BytesIO(commands("heads")), "wsgi.input_terminated": True},
    )
    assert Answer(exchange).replies[1].ended
    refused = begin(make_app(), "ro/heads", b"", CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked")
    assert refused.status == "411 Length Required"
    assert next(refused.response).startswith(b"this server does not accept chunked request bodies")
    with pytest.raises(Exception, match="closing the connection"):
        next(refused.response)


# Encoded streams.


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
    assert settings == ([] if chosen is None else [chosen] * 2)
    encoded = {each.request_id for each in answer.frames if each.stream_flags & STREAM_ENCODED}
    assert encoded == (set() if chosen is None else {1, 7})
    begun = [each.request_id for each in answer.frames if each.stream_flags & STREAM_BEGIN]
    assert begun == [1, 3, 5, 7]
    if chosen in PROFILES and chosen != "identity":
        assert len(answer.body) < 20_000


# debugreflect.


def test_debugreflect_tells_what_is_wrong() -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True, debugreflect=True))
    text = ask(app, "ro/debugreflect", frame("1 1 stream-begin command-name have-args \\xff")).body
    assert text == (
        b'received: 1 2 1 \xff\n["wantframe", {"state": "command-receiving"}]\n'
        b'received: <no frame>\n{"action": "error", "message": '
        b'"received end of input inside a command: request 1"}'
    )
    body = frame("1 1 stream-begin stream-settings 0 \\x04zlib") + frame("1 1 0 command-name eos \\xff")
    assert ask(app, "ro/debugreflect", body).body == (
        b'received: 8 0 1 \x04zlib\n["wantframe", {"state": "idle"}]\n'
        b'received: 1 1 1 \xff\n["runcommand", {"args": {}, "command": "\\\\xff", "data": null, "requestid": 1}]\n'
        b'received: <no frame>\n{"action": "noop"}'
    )
    assert ask(app, "ro/debugreflect", b"\0").text == (
        400,
        "received incomplete frame: got 1 of 8 bytes of its header\n",
    )


def test_debugreflect_is_bounded() -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True, debugreflect=True), limits=Limits(reflected=1000))
    assert ask(app, "ro/debugreflect", command(1, "x", data=b"x" * 50)).text[0] == 200
    assert ask(app, "ro/debugreflect", command(1, "x", data=b"x" * 700)).text == (
        413,
        "the output of debugreflect exceeds 1000 bytes\n",
    )
    # Of a few bytes, whatever they decode to.
    stream = OutgoingStream(1, ZLIB)
    settings = EXP_0002.encode_settings(stream, 1)
    name = stream.make_frame(1, 1, 2, b"x")
    value = stream.make_frame(1, 2, 1, b"\x01\x00\xff\xffk" + bytes(60_000), encode=True)
    reply = ask(app, "ro/debugreflect", b"".join(map(encode_frame, (settings, name, value))))
    assert reply.status == "200 OK"
    assert b'"message": "command arguments exceed 1000 bytes"' in reply.body


def test_options() -> None:
    assert not any(
        (
            ApiSettings().server,
            ApiSettings().http_v2,
            ApiSettings().debugreflect,
            ApiSettings().encodings,
            ApiSettings().workers,
        )
    )
    assert V2.available == ["exp-http-v2-0001"]
    with pytest.raises(ValueError, match="workers"):
        ApiSettings(workers=-1)


def test_hgweb_policy_is_the_default() -> None:
    assert make_app().policy is hgweb_policy


# A backend.


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


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (frame("1 1 stream-begin stream-settings 0 \\x04gzip"), "unknown stream encoding profile: gzip"),
        (frame("1 1 stream-begin stream-settings 0 \\x09gzip"), "malformed stream settings"),
        (frame("1 1 stream-begin|encoded command-name eos heads"), "without encoding settings"),
        (frame("1 1 stream-begin command-name eos|have-args heads"), "announces arguments"),
    ],
)
def test_malformed_frames_of_kinds_that_nobody_recorded_are_bad_requests(frames: bytes, message: str) -> None:
    status, text = ask(make_app(), "ro/heads", frames).text
    assert status == 400
    assert message in text
