"""Classification: what a request asks for, and that the next reader of the body gets all of it."""

from __future__ import annotations

import io
import itertools
import string
import sys
import zlib
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import pytest
from fakes import OPEN, Exchange, FakeProvider, returning
from hypothesis import example, given
from hypothesis import strategies as st

from hgwire_wsgi import CommandContext, WireApp, classify
from hgwire_wsgi.commands.batch import SubCommand
from hgwire_wsgi.commands.classify import WireRequest, names_command
from hgwire_wsgi.commands.registry import CommandRegistry
from hgwire_wsgi.compression import BZIP2, ENGINES, NONE, ZLIB, Engine
from hgwire_wsgi.errors import (
    BodyTruncated,
    DecodeError,
    HgWireError,
    NegotiationError,
    RequestError,
    UnsupportedMediaType,
)
from hgwire_wsgi.http.v1.input import open_payload
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.negotiation import MEDIA_TYPE_01, MEDIA_TYPE_02, ServerCapabilities
from hgwire_wsgi.streams import read_exactly
from hgwire_wsgi.testing import WireTestApp

COMMANDS = CommandRegistry.standard()
POSTING = ServerCapabilities(post_args=True)


def environ_of(query: str, body: bytes = b"", **more: Any) -> dict[str, Any]:
    length = {"CONTENT_LENGTH": str(len(body))} if body else {}
    return {"QUERY_STRING": query, "wsgi.input": io.BytesIO(body), **length, **more}


def ask(
    query: str,
    body: bytes = b"",
    *,
    capabilities: ServerCapabilities = POSTING,
    limits: Limits | None = None,
    **more: Any,
) -> Any:
    return classify(environ_of(query, body, **more), COMMANDS, capabilities=capabilities, limits=limits)


def encoded(engine: Engine, data: bytes) -> bytes:
    return engine.prefix + b"".join(engine.compress([data]))


class Stingy:
    """Gives one byte a read, and fails the test where a server would wait for the next request."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int, /) -> bytes:
        assert size <= len(self.data), "read past the end of the body"
        piece, self.data = self.data[:1], self.data[1:]
        return piece


class Broken:
    def read(self, size: int, /) -> bytes:
        raise ConnectionResetError("client gone")


class TestQuery:
    @pytest.mark.parametrize("query", ["", "cmd=", "cmd", "style=raw", "CMD=heads", "cmd%3Dheads", "xcmd=heads"])
    def test_no_command(self, query: str) -> None:
        assert ask(query) is None
        assert names_command(query) == ()

    def test_absent_query(self) -> None:
        assert classify({}, COMMANDS) is None
        assert names_command("") == ()

    @pytest.mark.parametrize(
        ("query", "command", "arguments"),
        [
            ("cmd=heads", "heads", {}),
            ("key=tip&cmd=lookup", "lookup", {"key": b"tip"}),
            ("cmd=%6cookup&key=a+b%2B&key=second", "lookup", {"key": b"a b+"}),
            ("cmd=lookup&key=%C3%A9", "lookup", {"key": b"\xc3\xa9"}),
            ("cmd=heads;key=x", "heads;key=x", {}),
            ("cmd=a=b", "a=b", {}),
        ],
    )
    def test_command_and_arguments(self, query: str, command: str, arguments: dict[str, bytes]) -> None:
        request = ask(query)
        assert (request.command, request.arguments, request.names) == (command, arguments, (command,))
        assert names_command(query) == (command,)

    @pytest.mark.parametrize("query", ["cmd=heads&cmd=lookup", "cmd=heads&cmd=heads", "cmd=&cmd=heads"])
    def test_two_commands(self, query: str) -> None:
        with pytest.raises(RequestError, match="cmd more than once"):
            ask(query)
        assert "heads" in names_command(query)

    def test_bound(self) -> None:
        assert ask("cmd=lookup&key=tip", limits=Limits(argument_bytes=18)).arguments == {"key": b"tip"}
        with pytest.raises(RequestError, match="exceed 17 bytes"):
            ask("cmd=lookup&key=tip", limits=Limits(argument_bytes=17))

    def test_number(self) -> None:
        """Each pair of a form costs far more than its two bytes."""
        limits = Limits(command_arguments=3)
        assert ask("cmd=x&a&b", HTTP_X_HGARG_1="a&b&c", limits=limits).arguments.keys() == {"a", "b", "c"}
        for query, headers in (("cmd=x&a&b&c", {}), ("cmd=x", {"HTTP_X_HGARG_1": "a&a&a&a"})):
            with pytest.raises(RequestError, match="more than 3 arguments"):
                ask(query, limits=limits, **headers)
        with pytest.raises(RequestError, match="more than 3 arguments"):
            ask("cmd=x", b"a&&&b", HTTP_X_HGARGS_POST="5", limits=limits)


class TestHeaders:
    def test_go_before_the_query(self) -> None:
        request = ask("cmd=x&one=q&two=q", HTTP_X_HGARG_1="one=h&on", HTTP_X_HGARG_2="e=i&three=h")
        assert request.arguments == {"one": b"h", "two": b"q", "three": b"h"}

    def test_cannot_name_the_command(self) -> None:
        with pytest.raises(RequestError, match="only the query string"):
            ask("cmd=heads", HTTP_X_HGARG_1="cmd=unbundle")
        assert ask("", HTTP_X_HGARG_1="cmd=heads") is None

    def test_bound(self) -> None:
        with pytest.raises(RequestError, match="exceed 10 bytes"):
            ask("cmd=x", HTTP_X_HGARG_1="one=1234567", limits=Limits(argument_bytes=10))


class TestPermission:
    @pytest.mark.parametrize(
        ("command", "permission"),
        [("heads", "pull"), ("unbundle", "push"), ("pushkey", "push"), ("nosuch", "push"), ("Heads", "push")],
    )
    def test_of_one_command(self, command: str, permission: str) -> None:
        assert ask(f"cmd={command}").permission == permission

    @pytest.mark.parametrize(
        ("cmds", "permission"),
        [("heads ", "pull"), ("heads ;lookup key=tip", "pull"), ("heads ;pushkey key=x", "push"), ("nosuch ", "push")],
    )
    def test_of_a_batch(self, cmds: str, permission: str) -> None:
        assert ask("cmd=batch&" + urlencode({"cmds": cmds})).permission == permission

    def test_of_a_command_of_the_host(self) -> None:
        commands = CommandRegistry()
        commands.command("stats", permission="pull")(lambda context: b"")
        request = classify(environ_of("cmd=stats"), commands)
        assert request is not None and request.permission == "pull"


class TestBatch:
    def test_sub_commands(self) -> None:
        request = ask("cmd=batch&" + urlencode({"cmds": "heads ;known nodes=11"}))
        assert request.batch == (SubCommand("heads", {}), SubCommand("known", {"nodes": b"11"}))
        assert request.names == ("batch", "heads", "known")

    def test_malformed(self) -> None:
        with pytest.raises(RequestError, match="missing argument cmds"):
            ask("cmd=batch")
        with pytest.raises(RequestError, match="batch: a command must be"):
            ask("cmd=batch&cmds=heads")
        with pytest.raises(RequestError, match="more than 2 commands"):
            ask("cmd=batch&cmds=heads+;heads+;heads+", limits=Limits(batch_commands=2))


class TestPosted:
    def test_only_where_it_is_offered(self) -> None:
        environ = environ_of("cmd=lookup", b"key=tip", HTTP_X_HGARGS_POST="7", HTTP_X_HGARG_1="key=0")
        body = environ["wsgi.input"]
        request = classify(environ, COMMANDS)
        assert request is not None and (request.arguments, request.posted) == ({"key": b"0"}, 0)
        assert environ["wsgi.input"] is body

    def test_instead_of_headers_and_before_the_query(self) -> None:
        request = ask("cmd=x&one=q&two=q", b"one=p", HTTP_X_HGARGS_POST="5", HTTP_X_HGARG_1="two=h")
        assert (request.arguments, request.posted) == ({"one": b"p", "two": b"q"}, 5)

    def test_nothing_posted_falls_back_to_headers(self) -> None:
        assert ask("cmd=x", b"one=p", HTTP_X_HGARGS_POST="0", HTTP_X_HGARG_1="one=h").arguments == {"one": b"h"}

    def test_cannot_name_the_command(self) -> None:
        with pytest.raises(RequestError, match="only the query string"):
            ask("cmd=heads", b"cmd=unbundle", HTTP_X_HGARGS_POST="12")

    @pytest.mark.parametrize("value", ["abc", "-1", "8", "99999999999"])
    def test_malformed_or_too_long(self, value: str) -> None:
        with pytest.raises(RequestError, match="X-HgArgs-Post"):
            ask("cmd=lookup", b"key=tip", HTTP_X_HGARGS_POST=value)

    @pytest.mark.parametrize("value", ["abc", "-1", "²", "9" * 5000])
    def test_malformed_content_length(self, value: str) -> None:
        with pytest.raises(RequestError, match="Content-Length"):
            ask("cmd=lookup", b"key=tip", HTTP_X_HGARGS_POST="7", CONTENT_LENGTH=value)

    def test_without_a_length(self) -> None:
        terminated = environ_of("cmd=lookup", **{"wsgi.input_terminated": True, "HTTP_X_HGARGS_POST": "7"})
        terminated["wsgi.input"] = io.BytesIO(b"key=tippayload")
        request = classify(terminated, COMMANDS, capabilities=POSTING)
        assert request is not None and request.arguments == {"key": b"tip"}
        assert terminated["wsgi.input"].read() == b"key=tippayload"
        with pytest.raises(RequestError, match="exceeds the length"):
            classify(
                {**terminated, "wsgi.input_terminated": False, "hgwire_wsgi.request": None},
                COMMANDS,
                capabilities=POSTING,
            )

    def test_reads_no_byte_past_the_body(self) -> None:
        environ = environ_of("cmd=lookup", b"key=tippayload", HTTP_X_HGARGS_POST="7")
        environ["wsgi.input"] = Stingy(b"key=tippayload")
        request = classify(environ, COMMANDS, capabilities=POSTING)
        assert request is not None and request.arguments == {"key": b"tip"}
        assert environ["wsgi.input"].read() == b"key=tippayload"

    def test_lost_client(self) -> None:
        environ = environ_of("cmd=lookup", b"key=tip", HTTP_X_HGARGS_POST="7")
        environ["wsgi.input"] = Broken()
        with pytest.raises(BodyTruncated):
            classify(environ, COMMANDS, capabilities=POSTING)

    @pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
    def test_compressed(self, engine: Engine) -> None:
        body = encoded(engine, b"key=tip" + bytes(100_000))
        environ = environ_of("cmd=lookup", body, HTTP_X_HGARGS_POST="7", CONTENT_TYPE=MEDIA_TYPE_02)
        request = classify(environ, COMMANDS, capabilities=POSTING)
        assert request is not None and (request.arguments, request.posted) == ({"key": b"tip"}, 7)
        assert environ["wsgi.input"].read() == body

    def test_compressed_arguments_may_be_longer_than_their_body(self) -> None:
        body = encoded(ZLIB, b"key=" + b"a" * 10_000)
        request = ask("cmd=lookup", body, HTTP_X_HGARGS_POST="10004", CONTENT_TYPE=MEDIA_TYPE_02)
        assert len(request.arguments["key"]) == 10_000 > len(body)

    def test_compressed_arguments_that_never_come(self) -> None:
        """Empty blocks decompress to nothing; what was read has to be kept for the next reader."""
        compressor = zlib.compressobj(wbits=-15)
        endless = compressor.flush(zlib.Z_FULL_FLUSH) * 60_000
        body = ZLIB.prefix + b"\x78\x9c" + endless
        environ = environ_of("cmd=lookup", body, HTTP_X_HGARGS_POST="7", CONTENT_TYPE=MEDIA_TYPE_02)
        with pytest.raises(RequestError, match="posted arguments exceed the limit"):
            classify(environ, COMMANDS, capabilities=POSTING, limits=Limits(argument_bytes=100))
        assert environ["wsgi.input"].read() == body

    def test_compressed_body_ends_early(self) -> None:
        body = encoded(ZLIB, b"key=tip")
        with pytest.raises(DecodeError):
            ask("cmd=lookup", body[:-3], HTTP_X_HGARGS_POST="9", CONTENT_TYPE=MEDIA_TYPE_02)
        with pytest.raises(RequestError, match="exceeds the length"):
            ask("cmd=lookup", body, HTTP_X_HGARGS_POST="9", CONTENT_TYPE=MEDIA_TYPE_02)

    def test_body_that_is_not_received(self) -> None:
        offer = ServerCapabilities(post_args=True, receive=("0.2",))
        with pytest.raises(UnsupportedMediaType):
            ask("cmd=lookup", b"key=tip", capabilities=offer, HTTP_X_HGARGS_POST="7", CONTENT_TYPE=MEDIA_TYPE_01)

    @given(
        arguments=st.dictionaries(
            st.text(string.ascii_lowercase, min_size=1).filter("cmd".__ne__), st.binary(), max_size=4
        ),
        payload=st.binary(),
        reads=st.lists(st.integers(1, 50)),
    )
    def test_input_gives_the_same_bytes_afterwards(
        self, arguments: dict[str, bytes], payload: bytes, reads: list[int]
    ) -> None:
        form = "&".join(f"{name}={quote_from_bytes(value)}" for name, value in arguments.items()).encode()
        body = form + payload
        environ = environ_of("cmd=x", body, HTTP_X_HGARGS_POST=str(len(form)))
        request = classify(environ, COMMANDS, capabilities=POSTING)
        assert request is not None and request.arguments == arguments
        again = environ["wsgi.input"]
        assert b"".join([*(again.read(size) for size in reads), again.read()]) == body


class TestRepeated:
    def test_answer_is_kept_with_the_request(self) -> None:
        environ = environ_of("cmd=lookup", b"key=tip", HTTP_X_HGARGS_POST="7")
        first = classify(environ, COMMANDS, capabilities=POSTING)
        assert classify(environ, COMMANDS, capabilities=POSTING) is first

    def test_another_registry_has_another_answer(self) -> None:
        environ = environ_of("cmd=heads")
        first, second = classify(environ, COMMANDS), classify(environ, CommandRegistry())
        assert first is not None and second is not None
        assert (first.permission, second.permission) == ("pull", "push")


class TestPayload:
    def test_01_is_the_source(self) -> None:
        source = io.BytesIO(b"data")
        assert open_payload(source, "0.1", ServerCapabilities(), Limits()) is source

    def test_02(self) -> None:
        source = io.BytesIO(encoded(BZIP2, b"data"))
        assert read_exactly(open_payload(source, "0.2", ServerCapabilities(), Limits()), 100) == b"data"

    def test_empty(self) -> None:
        assert open_payload(io.BytesIO(), "0.2", ServerCapabilities(), Limits()).read(1) == b""

    def test_engine_of_the_host(self) -> None:
        engine = Engine(name="mine", start=NONE.start, start_decoder=NONE.start_decoder)
        source = io.BytesIO(b"\4minedata")
        assert open_payload(source, "0.2", ServerCapabilities(engines=(engine,)), Limits()).read(9) == b"data"

    def test_malformed(self) -> None:
        with pytest.raises(BodyTruncated, match="inside the name"):
            open_payload(io.BytesIO(b"\4zst"), "0.2", ServerCapabilities(), Limits())
        with pytest.raises(UnsupportedMediaType, match="known are bzip2, none, zlib, zstd"):
            open_payload(io.BytesIO(b"\2xz"), "0.2", ServerCapabilities(), Limits())

    @given(data=st.binary(max_size=50), size=st.integers(-1, 60))
    def test_read_exactly(self, data: bytes, size: int) -> None:
        assert read_exactly(io.BytesIO(data), size) == data[: max(size, 0)]


LATIN = st.text(st.characters(max_codepoint=255), max_size=40)


@given(
    environ=st.fixed_dictionaries(
        {"wsgi.input": st.binary(max_size=60).map(io.BytesIO)},
        optional={
            "QUERY_STRING": st.one_of(LATIN, LATIN.map("cmd=heads&".__add__), LATIN.map("cmd=batch&cmds=".__add__)),
            "CONTENT_LENGTH": st.one_of(LATIN, st.integers(0, 70).map(str)),
            "CONTENT_TYPE": st.one_of(LATIN, st.sampled_from([MEDIA_TYPE_01, MEDIA_TYPE_02])),
            "HTTP_X_HGARG_1": LATIN,
            "HTTP_X_HGARG_2": LATIN,
            "HTTP_X_HGARGS_POST": st.one_of(LATIN, st.integers(0, 70).map(str)),
            "wsgi.input_terminated": st.booleans(),
        },
    ),
    post_args=st.booleans(),
)
@example(
    environ={
        "wsgi.input": io.BytesIO(b"\0"),
        "CONTENT_TYPE": MEDIA_TYPE_02,
        "HTTP_X_HGARGS_POST": "1",
        "QUERY_STRING": "cmd=0",
    },
    post_args=True,
)
def test_a_request_or_a_documented_error_and_nothing_else(environ: dict[str, Any], post_args: bool) -> None:
    body = environ["wsgi.input"].getvalue()
    try:
        request = classify(environ, COMMANDS, capabilities=ServerCapabilities(post_args=post_args))
    except (RequestError, NegotiationError) as error:
        assert isinstance(error, HgWireError) and 400 <= error.http_status < 500
    else:
        assert request is None or isinstance(request, WireRequest)
    declared = environ.get("CONTENT_LENGTH", "")
    end = len(body)
    if not isinstance(environ["wsgi.input"], io.BytesIO) and (declared or not environ.get("wsgi.input_terminated")):
        # What was put back ends where the body does; without a length it has none.
        end = int(declared or 0)
    assert environ["wsgi.input"].read() == body[:end]


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


def test_classification_is_what_the_application_acts_on() -> None:
    app = WireApp(FakeProvider(OPEN), capabilities=ServerCapabilities(post_args=True))
    posted = b"cmds=heads+%3Bknown+nodes%3D"
    exchange = Exchange(lambda environ, start: [], "cmd=batch", body=posted, HTTP_X_HGARGS_POST=str(len(posted)))
    request = app.classify(exchange.environ)
    assert request is not None
    assert (request.names, request.permission) == (("batch", "heads", "known"), "pull")
    assert exchange.environ["wsgi.input"].read() == posted
    again = Exchange(app, "cmd=batch", body=posted, HTTP_X_HGARGS_POST=str(len(posted)))
    assert again.read() == b"11" * 20 + b"\n;"


def test_posted_arguments_in_chunks_under_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ``wsgi.input`` is empty; the chunks come from a function of its own."""
    pieces = iter([b"no", b"des=" + b"11" * 20, b"", b""])
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(chunked_read=lambda: next(pieces)))
    headers = {"HTTP_TRANSFER_ENCODING": "chunked", "HTTP_X_HGARGS_POST": "46", "uwsgi.version": b"2.0.31"}
    app = WireApp(FakeProvider(), capabilities=POSTING)
    exchange = Exchange(app, "cmd=known", REQUEST_METHOD="POST", CONTENT_TYPE=MEDIA_TYPE_01, **headers)
    assert (exchange.status, exchange.read()) == ("200 Script output follows", b"1")


def test_a_proxy_may_classify_such_a_request_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = iter([b"nodes=" + b"11" * 20, b"", b""])
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(chunked_read=lambda: next(pieces)))
    headers = {"HTTP_TRANSFER_ENCODING": "chunked", "HTTP_X_HGARGS_POST": "46", "uwsgi.version": b"2.0.31"}
    app, seen = WireApp(FakeProvider(), capabilities=POSTING), []

    def proxy(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(app.classify(environ))
        return app(environ, start_response)

    assert Exchange(proxy, "cmd=known", REQUEST_METHOD="POST", **headers).read() == b"1"
    assert [(each.command, each.posted) for each in seen] == [("known", 46)]


def test_a_command_reads_what_follows_its_posted_arguments() -> None:
    commands, seen = CommandRegistry(), []

    @commands.command("put", permission="push", body=True, args=["name"])
    def put(context: CommandContext, name: bytes) -> bytes:
        seen.append((name, read_exactly(context.body, 100)))
        return b"1\n"

    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands, capabilities=POSTING))
    for media_type in (MEDIA_TYPE_01, MEDIA_TYPE_02):
        reply = app.wire(
            "/repo", "put", {"name": "x"}, via="post", body=b"data", media_type=media_type, compression=["zlib"]
        )
        assert reply.status == 200
    assert seen == [(b"x", b"data")] * 2


@given(
    name=st.sampled_from([b"none", b"zlib", b"bzip2", b"zstd", b"xz"]),
    data=st.binary(max_size=200),
    end=st.integers(0, 300),
    sizes=st.lists(st.integers(1, 20), min_size=1),
)
def test_a_compressed_body_is_the_same_however_it_arrives(name: bytes, data: bytes, end: int, sizes: list[int]) -> None:
    """Whole, byte by byte, and in pieces; a body that is cut or unknown is a documented error each time."""
    engine = ENGINES.get(name.decode())
    body = (encoded(engine, data) if engine else b"\2xz" + data)[:end]

    def outcome(source: Any) -> bytes | type[Exception]:
        try:
            return read_exactly(open_payload(source, "0.2", ServerCapabilities(), Limits()), 1000)
        except (RequestError, UnsupportedMediaType) as error:
            return type(error)

    class InPieces:
        def __init__(self, sizes: list[int]) -> None:
            self.file, self.sizes = io.BytesIO(body), itertools.cycle(sizes)

        def read(self, size: int, /) -> bytes:
            return self.file.read(min(size, next(self.sizes)))

    whole = outcome(io.BytesIO(body))
    assert outcome(InPieces([1])) == outcome(InPieces(sizes)) == whole
