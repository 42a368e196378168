"""The client of version 1 against WireApp, and against servers that mean no good."""

from __future__ import annotations

import bz2
import io
import os
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest
from wire_servers import PATIENCE, Recorder, connecting, endless, http, raw_server, serving, sizable_commands

from hgwire_wsgi import (
    BZIP2,
    NONE,
    ZLIB,
    ZSTD,
    BytesResponse,
    CommandRegistry,
    Engine,
    ServerCapabilities,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.client import Call, V1Client
from hgwire_wsgi.client import v1 as v1_module
from hgwire_wsgi.client.v1 import argument_headers
from hgwire_wsgi.errors import (
    CommandRefused,
    ConnectionFailed,
    DecodeError,
    HgWireError,
    LimitExceeded,
    LocalProtocolError,
    NegotiationError,
    RemoteProtocolError,
)
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

MIB = 1 << 20
NULL = 40 * "0"


@pytest.fixture
def client(url: str) -> Iterator[V1Client]:
    with V1Client(url, timeout=PATIENCE) as made:
        yield made


Connect = Callable[..., V1Client]


def in_01(body: bytes) -> bytes:
    return http(body, "application/mercurial-0.1")


OK_01 = in_01(b"httpmediatype=0.1rx,0.1tx,0.2tx")


@pytest.fixture
def connect() -> Iterator[Connect]:
    with connecting(V1Client) as made:
        yield made


def echo_registry() -> CommandRegistry:
    commands = sizable_commands()

    @commands.command("echo", permission="pull", optional=["one", "two"])
    def echo(context: Any, one: bytes = b"", two: bytes = b"") -> BytesResponse:
        return BytesResponse(b"%s|%s" % (one, two))

    @commands.command("broken", permission="pull", reply="stream")
    def broken(context: Any) -> StreamResponse:
        def chunks() -> Iterator[bytes]:
            for _ in range(10):
                yield os.urandom(65536)
            raise OSError("disk gone")

        return StreamResponse(chunks())

    return commands


def make_app(**options: Any) -> WireApp:
    settings = {"web.allow-push": "*", "web.push_ssl": "no"}
    return WireApp(
        MemoryProvider({"": MemoryRepository(settings=settings)}),
        commands=echo_registry(),
        policy=options.pop("policy", lambda request: None),
        **options,
    )


class TestReplies:
    def test_bytes(self, client: V1Client, heads: str) -> None:
        assert client.call_bytes("heads") == f"{heads}\n".encode()
        assert client.call_bytes("lookup", {"key": "tip"}) == f"1 {heads}\n".encode()

    def test_connection_is_kept(self, client: V1Client) -> None:
        for _ in range(3):
            client.call_bytes("heads")
        assert client.connection.opened == 1

    @pytest.mark.parametrize("engine", [ZSTD, ZLIB])
    def test_streams_in_02(self, url: str, connect: Connect, engine: Any) -> None:
        with connect(url, engines=[engine]).call("getbundle", {"common": NULL}) as reply:
            assert (reply.media_type, reply.engine) == ("application/mercurial-0.2", engine.name)
            assert b"line\nline\n" in reply.read()

    @pytest.mark.parametrize("engine", [ZSTD, ZLIB, BZIP2, NONE])
    def test_any_engine(self, connect: Connect, engine: Any) -> None:
        app = make_app(capabilities=ServerCapabilities(engines=(engine,)))
        with serving(app) as url, connect(url).call("flood", {"size": "20"}) as reply:
            assert reply.engine == engine.name
            assert reply.read() == b"flood" * 13107 * 20

    def test_streams_in_01_are_compressed_without_a_word(self, connect: Connect) -> None:
        with serving(make_app(capabilities=ServerCapabilities(send=("0.1",)))) as url:
            client = connect(url)
            with client.call("flood", {"size": "2"}) as reply:
                assert (reply.media_type, reply.engine) == ("application/mercurial-0.1", "zlib")
                assert reply.read() == b"flood" * 13107 * 2
            with client.call("getbundle", {"common": NULL, "heads": NULL}) as reply:
                assert reply.engine == "zlib"
            with client.run(Call("flood", {"size": "2"}), compressed=False) as reply:
                assert zlib.decompress(reply.read()) == b"flood" * 13107 * 2

    def test_plain_streams_in_01(self, connect: Connect) -> None:
        """An unknown command whose reply does not begin as zlib does."""
        for body in (b"HG20....", b"x", b"", b"xy"):
            with raw_server(in_01(b"heads"), in_01(body)) as (url, _), connect(url).call("thing") as reply:
                assert (reply.read(), reply.engine) == (body, None)

    def test_an_unknown_stream_byte_by_byte(self, connect: Connect) -> None:
        data = zlib.compress(b"compressed")
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
        answer = http(chunks, "application/mercurial-0.1", more="Transfer-Encoding: chunked\r\n")
        with raw_server(OK_01, answer) as (url, _), connect(url).call("thing") as reply:
            assert (reply.read(), reply.engine) == (b"compressed", "zlib")

    def test_reading_piece_by_piece(self, client: V1Client) -> None:
        whole = client.call_bytes("getbundle", {"common": NULL})
        with client.call("getbundle", {"common": NULL}) as reply:
            start = reply.read(7)
            assert reply.read(0) == b""
            assert start + b"".join(reply) == whole
            assert reply.read(1) == reply.read() == b""
        assert len(start) == 7
        assert client.connection.opened == 1

    def test_a_reply_that_is_given_up(self, connect: Connect) -> None:
        with raw_server(OK_01, endless(in_02(b"\x04none"), b"x"), in_01(b"heads")) as (url, _):
            client = connect(url)
            reply = client.call("getbundle")
            assert reply.read(3) == b"xxx"
            with pytest.raises(LocalProtocolError, match="previous response"):
                client.call("heads")
            reply.close()
            assert reply.read() == b""
            assert client.call_bytes("heads") == b"heads"

    def test_limit(self, client: V1Client) -> None:
        with pytest.raises(LimitExceeded, match="more than 1000 bytes"):
            client.call_bytes("getbundle", {"common": NULL}, limit=1000)
        assert client.call_bytes("heads", limit=41)


class TestArguments:
    VALUES = {"one": b"a b&c=d;e%\x00\xff", "two": "\N{SNOWMAN}" * 500}
    EXPECTED = b"a b&c=d;e%\x00\xff|" + "\N{SNOWMAN}".encode() * 500

    @pytest.mark.parametrize(
        ("offer", "present", "absent"),
        [
            (ServerCapabilities(), "HTTP_X_HGARG_2", "HTTP_X_HGARGS_POST"),
            (ServerCapabilities(max_header_length=60), "HTTP_X_HGARG_100", "HTTP_X_HGARGS_POST"),
            (ServerCapabilities(post_args=True), "HTTP_X_HGARGS_POST", "HTTP_X_HGARG_1"),
            (ServerCapabilities(max_header_length=0), "QUERY_STRING", "HTTP_X_HGARG_1"),
        ],
    )
    def test_arguments_travel_as_the_server_offers(
        self, connect: Connect, offer: ServerCapabilities, present: str, absent: str
    ) -> None:
        recorder = Recorder(make_app(capabilities=offer))
        with serving(recorder) as url:
            client = connect(url)
            assert client.call_bytes("echo", self.VALUES) == self.EXPECTED
            sent = recorder.last
            assert sent[present] and absent not in sent
            assert ("one=" in sent["QUERY_STRING"]) == (present == "QUERY_STRING")
            longest = max(len(f"{name[5:]}: {value}\r\n") for name, value in sent.items() if name.startswith("HTTP_X_"))
            assert longest <= (offer.max_header_length or 1024)
            client.call_bytes("echo")
            assert recorder.last["REQUEST_METHOD"] == "GET", "without arguments nothing is posted"

    def test_handshake(self, connect: Connect) -> None:
        recorder = Recorder(make_app())
        with serving(recorder) as url:
            client = connect(url, engines=[ZLIB, NONE])
            client.call_bytes("heads")
            handshake, heads = recorder.environs
        assert handshake["QUERY_STRING"] == "cmd=capabilities"
        assert "HTTP_X_HGPROTO_1" not in handshake
        assert heads["HTTP_X_HGPROTO_1"] == "0.1 0.2 comp=zlib,none"
        assert heads["HTTP_ACCEPT"] == "application/mercurial-0.1"
        assert heads["HTTP_USER_AGENT"].startswith("mercurial/proto-1.0 ")
        assert "HTTP_ACCEPT_ENCODING" not in heads

    def test_an_old_server(self, connect: Connect) -> None:
        with raw_server(in_01(b"heads lookup")) as (url, requests):
            connect(url).call_bytes("lookup", {"key": "a b"})
            assert requests[1].startswith(b"GET /?cmd=lookup&key=a+b HTTP/1.1\r\n")
            assert b"x-hg" not in requests[1].lower()

    @pytest.mark.parametrize("data", [b"x" * 100_000, io.BytesIO(b"x" * 100_000), [b"x" * 50_000] * 2])
    @pytest.mark.parametrize("offer", [ServerCapabilities(), ServerCapabilities(post_args=True)])
    def test_data(self, connect: Connect, offer: ServerCapabilities, data: Any) -> None:
        if isinstance(data, io.BytesIO):
            data.seek(0)
        with serving(make_app(capabilities=offer)) as url:
            assert connect(url).call_bytes("upload", {"name": "n "}, data=data) == b"n 100000"

    @pytest.mark.parametrize(
        "server",
        [
            ServerCapabilities(),
            ServerCapabilities(receive=("0.2",)),
            ServerCapabilities(receive=("0.2",), post_args=True, max_header_length=0),
            ServerCapabilities(receive=("0.2",), send=("0.1",), engines=(BZIP2, ZSTD)),
            ServerCapabilities(receive=("0.2",), send=("0.2",), engines=(NONE,)),
        ],
    )
    def test_push(self, connect: Connect, repository: MemoryRepository, server: ServerCapabilities) -> None:
        """A bundle that was pulled is pushed elsewhere."""
        target = MemoryRepository(settings={"web.allow-push": "*", "web.push_ssl": "no"})
        app = WireApp(MemoryProvider({"from": repository, "to": target}), capabilities=server)
        with serving(app) as url:
            bundle = connect(f"{url}/from").call_bytes("getbundle", {"common": NULL})
            client = connect(f"{url}/to")
            reply = client.call_bytes("unbundle", {"heads": b"force".hex()}, data=b"HG10UN" + bundle)
            assert reply.startswith(b"1\n")
        assert target.heads() == repository.heads()


class TestBodies:
    """Request bodies: when there is one, and as what it is sent."""

    def test_commands_that_write_are_posted(self, connect: Connect) -> None:
        repository = MemoryRepository(settings={"web.allow-push": "*", "web.push_ssl": "no"})
        head = repository.commit({"a": b"a"}, message="first").hex()
        recorder = Recorder(WireApp(MemoryProvider({"": repository})))
        arguments = {"namespace": "bookmarks", "key": "b", "old": "", "new": head}
        with serving(recorder) as url:
            client = connect(url)
            assert client.call_bytes("pushkey", arguments) == b"1\n"
            sent = recorder.last
            assert client.call_bytes("listkeys", {"namespace": "bookmarks"}) == f"b\t{head}".encode()
        assert (sent["REQUEST_METHOD"], sent["CONTENT_LENGTH"]) == ("POST", "0")
        assert sent["CONTENT_TYPE"] == "application/mercurial-0.1"
        assert "namespace=bookmarks" in sent["HTTP_X_HGARG_1"]

    @pytest.mark.parametrize(("permission", "method"), [("push", b"POST /?"), ("pull", b"GET /?"), (None, b"GET /?")])
    def test_permission_of_an_unknown_command(self, connect: Connect, permission: str | None, method: bytes) -> None:
        with raw_server(OK_01, in_01(b"")) as (url, requests):
            connect(url).call_bytes("x-thing", permission=permission)
        assert requests[1].startswith(method)

    @pytest.mark.parametrize(("name", "method"), [("pushkey", b"POST /?"), ("lookup", b"GET /?")])
    def test_permission_of_a_batch(self, connect: Connect, name: str, method: bytes) -> None:
        with raw_server(in_01(b"batch"), in_01(b";")) as (url, requests):
            connect(url).call_many([Call(name), Call("heads")])
        assert requests[1].startswith(method)

    @pytest.mark.parametrize("engines", [(ZSTD, ZLIB), (ZLIB,), (BZIP2, ZLIB), (NONE,)])
    @pytest.mark.parametrize("post_args", [False, True])
    @pytest.mark.parametrize("kind", ["bytes", "file", "pieces", "empty"])
    def test_02_where_01_is_not_received(
        self, connect: Connect, engines: Sequence[Engine], post_args: bool, kind: str
    ) -> None:
        content = os.urandom(50_000) * 2 * (kind != "empty")
        data: Any = {"bytes": content, "file": io.BytesIO(content), "pieces": [content[:7], b"", content[7:]]}
        server = ServerCapabilities(receive=("0.2",), engines=tuple(engines), post_args=post_args)
        recorder = Recorder(make_app(capabilities=server))
        with serving(recorder) as url:
            client = connect(url)
            reply = client.call_bytes("upload", {"name": "n"}, data=data.get(kind, b""))
            assert reply == b"n%d" % len(content)
            sent = recorder.last
            assert sent["CONTENT_TYPE"] == "application/mercurial-0.2"
            assert client.call_bytes("echo", {"one": "1"}) == b"1|", "arguments alone"

    def test_02_is_compressed_with_the_first_engine_both_know(self, connect: Connect) -> None:
        """The order is the server's."""
        ok, done = in_01(b"httpmediatype=0.2rx,0.1tx compression=brotli,zlib,zstd"), in_01(b"1\n")
        mine = attrs.evolve(ZSTD, name="brotli")
        with raw_server(ok, done, ok, done) as (url, requests):
            connect(url, engines=[NONE]).call_bytes("unbundle", data=b"data")
            connect(url, engines=[NONE, mine]).call_bytes("unbundle", data=b"data")
        posts = [request.partition(b"\r\n\r\n") for request in requests if request.startswith(b"POST")]
        assert zlib.decompress(posts[0][2].removeprefix(b"\4zlib")) == b"data"
        assert posts[1][2].startswith(b"\6brotli")
        assert all(b"Content-Length: %d" % len(body) in head for head, _, body in posts)

    def test_lowest_version_received(self, connect: Connect) -> None:
        ok = in_01(b"httpmediatype=0.1rx,0.2rx,0.1tx,minrx=0.2 compression=zlib")
        with raw_server(ok, in_01(b"1\n")) as (url, requests):
            connect(url).call_bytes("unbundle", data=b"data")
        assert b"Content-Type: application/mercurial-0.2\r\n" in requests[1]

    def test_01_where_it_is_received(self, connect: Connect) -> None:
        ok = in_01(b"httpmediatype=0.2rx,0.1rx,0.1tx compression=zlib")
        with raw_server(ok, in_01(b"1\n")) as (url, requests):
            connect(url).call_bytes("unbundle", data=b"data")
        assert b"Content-Type: application/mercurial-0.1\r\n" in requests[1] and requests[1].endswith(b"\r\n\r\ndata")

    @pytest.mark.parametrize(
        ("capabilities", "reason"),
        [
            (b"httpmediatype=0.3rx,0.1tx,minrx=0.3", "this client only sends 0.1 and 0.2; httpmediatype=0.3rx,0.1tx"),
            (b"httpmediatype=0.1rx,0.2rx,0.1tx,minrx=0.3", "this client only sends 0.1 and 0.2; "),
            (
                b"httpmediatype=0.2rx compression=lzma,%1b",
                "only receives 0.2, and supports no engine of this client; compression=",
            ),
            (b"httpmediatype=0.2rx", "only receives 0.2, and supports no engine of this client; compression="),
        ],
    )
    def test_nothing_to_send_in_common(self, connect: Connect, capabilities: bytes, reason: str) -> None:
        with raw_server(in_01(capabilities), in_01(b"1\n")) as (url, requests):
            client = connect(url)
            with pytest.raises(NegotiationError) as caught:
                client.call("unbundle", data=b"data")
            assert len(requests) == 1, "nothing was sent"
            assert url in caught.value.message and reason in caught.value.message
            assert caught.value.message.isprintable()
            assert client.call_bytes("heads") == b"1\n", "requests without a body are not concerned"

    def test_no_engine_is_needed_for_an_empty_body(self, connect: Connect) -> None:
        with raw_server(in_01(b"httpmediatype=0.2rx"), in_01(b"1\n")) as (url, requests):
            assert connect(url).call_bytes("pushkey") == b"1\n"
        assert b"Content-Type: application/mercurial-0.2\r\n" in requests[1]

    @pytest.mark.parametrize("value", [b"0.3tx", b"0.1tx,0.2tx,mintx=0.3"])
    def test_nothing_to_receive_in_common(self, connect: Connect, value: bytes) -> None:
        with raw_server(in_01(b"httpmediatype=" + value)) as (url, requests):
            with pytest.raises(
                NegotiationError, match=r"this client only reads replies of 0\.1 and 0\.2; httpmediatype="
            ):
                connect(url).call("heads")
            assert len(requests) == 1

    def test_a_source_that_fails_while_it_is_compressed(self, connect: Connect) -> None:
        closed = []

        def data() -> Iterator[bytes]:
            try:
                yield os.urandom(100_000)
                raise RuntimeError("the source broke")
            finally:
                closed.append(True)

        with serving(make_app(capabilities=ServerCapabilities(receive=("0.2",)))) as url:
            client = connect(url)
            with pytest.raises(RuntimeError, match="the source broke"):
                client.call("upload", data=data())
            assert closed == [True]
            assert client.call_bytes("heads")


@pytest.mark.parametrize(
    ("value", "limit", "headers"),
    [
        ("abc", 1024, [("X-HgArg-1", "abc")]),
        ("abc", 17, [("X-HgArg-1", "a"), ("X-HgArg-2", "b"), ("X-HgArg-3", "c")]),
        ("abc", 18, [("X-HgArg-1", "ab"), ("X-HgArg-2", "c")]),
        ("abc", 15, []),
        ("abc", 0, []),
        ("a" * 1000, 16, []),
    ],
)
def test_argument_headers(value: str, limit: int, headers: list[tuple[str, str]]) -> None:
    got = argument_headers("X-HgArg", value, limit)
    assert "".join(part for _, part in got) == ("".join(part for _, part in headers))
    assert all(len(f"{name}: {part}\r\n") <= limit for name, part in got)


class TestMany:
    def test_a_batch(self, url: str, recorder: Recorder, heads: str, connect: Connect) -> None:
        client = connect(url)
        calls = [
            Call("heads"),
            Call("lookup", {"key": "no;such,key:=c"}),
            Call("known", {"nodes": f"{heads} {40 * '1'}"}),
            Call("listkeys", {"namespace": "namespaces"}),
        ]
        before = len(recorder.environs)
        outcomes = [outcome.result() for outcome in client.call_many(calls)]
        assert len(recorder.environs) - before == 2, "the handshake and a batch"
        assert outcomes[0] == f"{heads}\n".encode()
        assert outcomes[1] == b"0 unknown revision 'no;such,key:=c'\n"
        assert outcomes[2] == b"10"
        assert outcomes[3] == client.call_bytes("listkeys", {"namespace": "namespaces"})

    def test_what_does_not_fit_into_a_batch(self, client: V1Client, heads: str) -> None:
        calls = [Call("heads"), Call("nosuch"), Call("getbundle", {"common": NULL})]
        outcomes = client.call_many(calls)
        assert outcomes[0].result() == f"{heads}\n".encode()
        with pytest.raises(CommandRefused, match="unknown command"):
            outcomes[1].result()
        assert outcomes[2].result() == client.call_bytes("getbundle", {"common": NULL})

    @pytest.mark.parametrize("name", ["a b", "a;b", "a,b", "a=b", "a:b"])
    def test_names_that_a_batch_cannot_carry(self, client: V1Client, name: str) -> None:
        with pytest.raises(LocalProtocolError, match="not a name for a command"):
            client.call_many([Call("heads"), Call(name)])

    def test_one_or_none(self, client: V1Client, heads: str) -> None:
        assert client.call_many([]) == []
        assert [outcome.data for outcome in client.call_many([Call("heads")])] == [f"{heads}\n".encode()]

    def test_a_batch_is_refused_as_a_whole(self, client: V1Client) -> None:
        with pytest.raises(CommandRefused, match="unknown command: nosuch"):
            client.call_many([Call("heads"), Call("nosuch")])

    def test_limits(self, client: V1Client) -> None:
        with pytest.raises(LimitExceeded, match="more than 60 bytes"):
            client.call_many([Call("heads"), Call("heads")], limit=60)
        with pytest.raises(LimitExceeded, match="more than 60 bytes"):
            client.call_many([Call("heads"), Call("getbundle", {"common": NULL})], limit=60)

    def test_too_few_replies(self, connect: Connect) -> None:
        with raw_server(in_01(b"batch"), in_01(b"one")) as (url, _):
            client = connect(url)
            with pytest.raises(RemoteProtocolError, match="1 replies to a batch of 2"):
                client.call_many([Call("heads"), Call("heads")])


class TestRefusals:
    def test_of_our_server(self, client: V1Client) -> None:
        with pytest.raises(CommandRefused) as caught:
            client.call("lookup")
        assert (caught.value.message, caught.value.status) == ("lookup: missing argument key", 400)
        assert client.call_bytes("heads"), "the connection is usable"

    @pytest.mark.parametrize(
        ("answer", "message", "status"),
        [
            (http(b"bundle2 required\n(see help)\n", "application/hg-error"), "bundle2 required\n(see help)", 200),
            (http(b"0\nread not authorized\n", "", "401 read"), "read not authorized", 401),
            (http(b"<html>lots", "text/html; charset=x", "400 no such method: x"), "400 no such method: x", 400),
            (http(b"", "text/plain", "500 Oops"), "500 Oops", 500),
            (http(b"\x1b[31mred\x07", "text/plain", "404 No"), "?[31mred?", 404),
            (http(b"", "text/html", "302 Found", more="Location: /x\r\n"), "302 Found", 302),
        ],
    )
    def test_of_others(self, connect: Connect, answer: bytes, message: str, status: int) -> None:
        with raw_server(in_01(b""), answer) as (url, _), pytest.raises(CommandRefused) as caught:
            connect(url).call("heads")
        assert (caught.value.message, caught.value.status) == (message, status)

    def test_a_message_without_end(self, connect: Connect) -> None:
        flood = endless(http(b"", "text/plain", "500 Oops"), b"x")
        with raw_server(flood) as (url, _), pytest.raises(CommandRefused) as caught:
            connect(url).call("heads")
        assert len(caught.value.message) == 16 * 1024

    def test_credentials(self, connect: Connect) -> None:
        recorder = Recorder(make_app())
        with serving(recorder) as url:
            connect(url.replace("//", "//u:p%3A@")).call_bytes("heads")
            connect(url, auth=("a", "b")).call_bytes("heads")
        sent = [environ["HTTP_AUTHORIZATION"] for environ in recorder.environs]
        assert sent == ["Basic dTpwOg=="] * 2 + ["Basic YTpi"] * 2


def in_02(body: bytes) -> bytes:
    return http(body, "application/mercurial-0.2")


class TestHostileServers:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (http(b"<html>", "text/html"), RemoteProtocolError),
            (http(b"heads", ""), RemoteProtocolError),
            (in_02(b""), RemoteProtocolError),
            (in_02(b"\x00"), RemoteProtocolError),
            (in_02(b"\x04zst"), RemoteProtocolError),
            (in_02(b"\x04lzma...."), RemoteProtocolError),
            (in_02(b"\xff" + b"\xfe" * 255), RemoteProtocolError),
            (in_02(b"\x04zstdgarbage"), DecodeError),
            (in_02(b"\x04zlib" + zlib.compress(b"x" * 1000)[:-3]), DecodeError),
            (in_02(b"\x05bzip2" + bz2.compress(b"x") + b"more"), DecodeError),
            (in_01(b"x\x9cgarbage"), DecodeError),
            (
                http(b"\x04none...", "application/mercurial-0.2", more="Content-Length: 100\r\n"),
                ConnectionFailed,
            ),
        ],
    )
    def test_no_whole_reply(self, connect: Connect, answer: bytes, error: type[HgWireError]) -> None:
        with raw_server(OK_01, answer) as (url, _):
            client = connect(url)
            with pytest.raises(error):
                client.call_bytes("getbundle")
            with pytest.raises(error):
                client.call_bytes("getbundle")

    def test_a_failure_in_the_middle(self, connect: Connect) -> None:
        with serving(make_app()) as url:
            client = connect(url)
            with pytest.raises((ConnectionFailed, DecodeError)):
                client.call_bytes("broken")
            assert client.call_bytes("heads")

    def test_no_capabilities(self, connect: Connect) -> None:
        with raw_server(endless(in_01(b""), b"capability ")) as (url, _):
            client = connect(url)
            with pytest.raises(LimitExceeded):
                client.call("heads")

    @pytest.mark.parametrize(
        ("start", "block"),
        [(b"\x04zlibx\x9c", b"\x00\x00\x00\xff\xff"), (b"\x04zstd\x28\xb5\x2f\xfd\x00\x58", b"\x00\x00\x00")],
    )
    def test_blocks_without_end_that_hold_nothing(
        self, connect: Connect, start: bytes, block: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(v1_module, "_IDLE_BYTES", MIB)
        head = http(start, "application/mercurial-0.2")
        with raw_server(OK_01, endless(head, block)) as (url, _), pytest.raises(LimitExceeded, match="to nothing"):
            connect(url).call_bytes("getbundle")

    def test_separators_without_end(self, connect: Connect) -> None:
        with raw_server(in_01(b"batch"), in_01(b";" * MIB)) as (url, _):
            client = connect(url)
            assert client.capabilities
            tracemalloc.start()
            with pytest.raises(RemoteProtocolError, match="1048577 replies to a batch of 2"):
                client.call_many([Call("heads"), Call("heads")])
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4 * MIB


class TestMemory:
    def test_of_tiny_pieces(self, connect: Connect) -> None:
        chunks = b"2\r\nab\r\n" * 20_000 + b"0\r\n\r\n"
        answer = http(chunks, "application/mercurial-0.1", more="Transfer-Encoding: chunked\r\n")
        with raw_server(OK_01, answer) as (url, _):
            client = connect(url)
            assert client.capabilities
            tracemalloc.start()
            assert client.call_bytes("heads") == b"ab" * 20_000
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MIB // 2

    def test_of_a_long_reply(self, connect: Connect) -> None:
        """A bomb of 200 MiB costs a few MiB of memory, however fast it comes."""
        bomb = b"".join(ZSTD.compress(bytes(MIB) for _ in range(200)))
        with raw_server(OK_01, in_02(b"\x04zstd" + bomb)) as (url, _):
            client = connect(url)
            tracemalloc.start()
            with client.call("getbundle") as reply:
                size = sum(map(len, reply))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert size == 200 * MIB
        assert peak < 12 * MIB

    def test_of_a_long_upload(self, connect: Connect) -> None:
        def data() -> Iterator[bytes]:
            for _ in range(1000):
                yield bytes(65536)

        def script(sock: Any, request: bytes) -> None:
            received = bytearray(request)
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received = received[-10:] + sock.recv(65536)
            sock.sendall(in_01(b"1\n"))

        with raw_server(OK_01, script) as (url, _):
            client = connect(url)
            assert client.capabilities
            tracemalloc.start()
            assert client.call_bytes("unbundle", {"heads": ""}, data=data()) == b"1\n"
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4 * MIB
