"""The client of version 2: against a peer made of a reactor alone, against WireApp, and against bad servers."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wire_servers import (
    FRAMES,
    Peer,
    Recorder,
    connecting,
    endless,
    http,
    raw_server,
    read_request,
    serving,
    sizable_commands,
)

from hgwire_wsgi import ApiSettings, StreamResponse, WireApp
from hgwire_wsgi.client import Call, Part, V2Client
from hgwire_wsgi.client import v2 as v2_module
from hgwire_wsgi.errors import (
    CommandFailed,
    CommandRefused,
    ConnectionFailed,
    FrameTooLarge,
    HgWireError,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    TruncatedFrame,
    UnexpectedFrame,
)
from hgwire_wsgi.framing import EXP_0002, PROFILES, STREAM_END, Atom, Frame, FrameBuffer, encode_frame, parse_frame
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

MIB = 1 << 20
BEGIN = "1 2 stream-begin bytes-response"

Connect = Callable[..., V2Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with connecting(V2Client) as made:
        yield made


def wire(*lines: str) -> bytes:
    return b"".join(encode_frame(parse_frame(line, EXP_0002)) for line in lines)


def fail(arguments: dict[bytes, bytes], data: bytes) -> Iterator[bytes]:
    yield b"x" * 100_000
    raise CommandFailed("the disk is on fire")


HANDLERS = {
    b"heads": lambda arguments, data: b"0" * 40 + b"\n",
    b"echo": lambda arguments, data: repr(sorted(arguments.items())).encode(),
    b"size": lambda arguments, data: b"%d" % len(data),
    b"big": lambda arguments, data: (b"%07d\n" % number * 8192 for number in range(50)),
    b"fail": fail,
    b"talk": lambda arguments, data: ([(b"hello %s\n", (b"you",)), (b"bye\n",)], b"done"),
}
BIG = b"".join(b"%07d\n" % number * 8192 for number in range(50))


@pytest.fixture(scope="module")
def peer() -> Peer:
    return Peer(HANDLERS)


@pytest.fixture(scope="module")
def peer_url(peer: Peer) -> Iterator[str]:
    with serving(peer) as url:
        yield url


class TestOneCall:
    def test_request(self, peer: Peer, peer_url: str, connect: Connect) -> None:
        client = connect(f"{peer_url}/repo/")
        assert client.call_bytes("heads") == b"0" * 40 + b"\n"
        environ = peer.environs[-1]
        assert environ["PATH_INFO"] == "/repo/api/exp-http-v2-0001/ro/heads"
        assert environ["REQUEST_METHOD"] == "POST"
        assert environ["HTTP_ACCEPT"] == environ["CONTENT_TYPE"] == FRAMES
        assert environ["CONTENT_LENGTH"] == "13"
        assert environ["HTTP_X_HGPROTO_1"] == "comp=zstd-8mb,zlib"

    @pytest.mark.parametrize(
        ("command", "permission", "path"),
        [
            ("unbundle", None, "rw"),
            ("heads", None, "ro"),
            ("heads", "push", "rw"),
            ("custom", None, "ro"),
            ("custom", "push", "rw"),
        ],
    )
    def test_permission(
        self, peer: Peer, peer_url: str, connect: Connect, command: str, permission: str | None, path: str
    ) -> None:
        client = connect(peer_url, encodings=())
        client.call_many([Call(command, permission=permission), Call("heads")])
        assert peer.environs[-1]["PATH_INFO"] == f"/api/exp-http-v2-0001/{path}/multirequest"
        assert "HTTP_X_HGPROTO_1" not in peer.environs[-1]

    def test_arguments(self, peer_url: str, connect: Connect) -> None:
        arguments = {"b": b"\x00\xff" * 30_000, "a": "\N{SNOWMAN}", "empty": b""}
        expected = sorted({b"a": "\N{SNOWMAN}".encode(), b"b": b"\x00\xff" * 30_000, b"empty": b""}.items())
        assert connect(peer_url).call_bytes("echo", arguments) == repr(expected).encode()

    @pytest.mark.parametrize("profile", [None, PROFILES["zlib"]])
    def test_the_stream_ends_with_the_request(self, peer: Peer, connect: Connect, profile: Any) -> None:
        """The last frame of the stream says so, and no other does."""
        bodies = []

        def recording(environ: dict[str, Any], start_response: Any) -> Any:
            bodies.append(environ["wsgi.input"].read())
            size = str(len(bodies[-1]))
            return peer({**environ, "wsgi.input": io.BytesIO(bodies[-1]), "CONTENT_LENGTH": size}, start_response)

        with serving(recording) as url:
            for data in (None, b"", b"x" * 70_000, b"x" * 32768, iter([b"x" * 32768] * 2)):
                calls = [Call("size", data=b"abc"), Call("heads"), Call("size", {"a": "b"}, data=data)]
                client = connect(url, profile=profile)
                assert [outcome.error for outcome in client.call_many(calls)] == [None] * 3
                client.call_bytes("size", data=b"abc")
        assert len(bodies) == 10
        for body in bodies:
            buffer = FrameBuffer()
            buffer.feed(body)
            ends = [bool(frame.stream_flags & STREAM_END) for frame in buffer]
            assert ends == [False] * (len(ends) - 1) + [True]

    def test_an_argument_that_frames_cannot_express(self, peer_url: str, connect: Connect) -> None:
        client = connect(peer_url)
        with pytest.raises(LocalProtocolError):
            client.call("echo", {"a": bytes(65536)})
        assert client.call_bytes("size") == b"0"

    @pytest.mark.parametrize("size", [0, 1, 32767, 32768, 32769, 65536, 300_000])
    def test_data(self, peer: Peer, peer_url: str, connect: Connect, size: int) -> None:
        client = connect(peer_url)
        data = bytes(size)
        expected = b"%d" % size
        for source in (data, io.BytesIO(data), iter([data[: size // 2], data[size // 2 :]])):
            assert client.call_bytes("size", {"a": "b"}, data=source) == expected

    def test_length_of_data_is_announced_where_it_is_known(self, connect: Connect) -> None:
        with raw_server(http(wire("1 2 stream-begin bytes-response eos ok"))) as (url, requests):
            connect(url).call_bytes("size", data=io.BytesIO(bytes(70_000)))
            connect(url).call_bytes("size", data=bytes(70_000))
            for request in requests:
                head, _, body = request.partition(b"\r\n\r\n")
                assert b"\r\nContent-Length: %d\r\n" % len(body) in head + b"\r\n"

    @pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
    def test_encoded_data(self, peer_url: str, connect: Connect, profile: Any) -> None:
        client = connect(peer_url, profile=profile)
        assert client.call_bytes("size", data=b"line\n" * 100_000) == b"500000"

    @pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
    def test_encoded_replies(self, connect: Connect, profile: Any) -> None:
        with serving(Peer(HANDLERS, profile=profile)) as url:
            client = connect(url)
            assert client.call_bytes("big") == BIG
            assert [outcome.data for outcome in client.call_many([Call("big"), Call("size")])] == [BIG, b"0"]

    def test_connection_is_kept(self, connect: Connect) -> None:
        answer = wire(f"{BEGIN} eos ok")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {FRAMES}\r\nTransfer-Encoding: chunked\r\n\r\n{len(answer):x}\r\n"

        def script(sock: Any, request: bytes) -> None:
            while request:
                sock.sendall(head.encode() + answer + b"\r\n0\r\n\r\n")
                request = read_request(sock)

        with raw_server(script) as (url, _):
            client = connect(url)
            assert [client.call_bytes("heads") for _ in range(3)] == [b"ok"] * 3
            assert client.connection.opened == 1
            client.close()

    def test_refusal(self, peer_url: str, connect: Connect) -> None:
        client = connect(peer_url)
        with pytest.raises(CommandRefused) as caught:
            client.call("nosuch")
        assert (caught.value.message, caught.value.kind, caught.value.status) == ("no command nosuch", "protocol", 200)
        assert client.call_bytes("heads")

    def test_a_failure_in_the_middle(self, peer_url: str, connect: Connect) -> None:
        client = connect(peer_url)
        with client.call("fail") as reply:
            assert reply.read(100) == b"x" * 100
            with pytest.raises(CommandRefused, match="the disk is on fire") as caught:
                reply.read()
        assert caught.value.kind == "application"
        assert client.call_bytes("heads")

    def test_text_output(self, peer_url: str, connect: Connect) -> None:
        heard: list[Atom] = []
        assert connect(peer_url, on_text=heard.append).call_bytes("talk") == b"done"
        assert b"".join(atom.render() for atom in heard) == b"hello you\nbye\n"
        assert connect(peer_url).call_bytes("talk") == b"done"


class TestManyCalls:
    CALLS = (Call("heads"), Call("fail"), Call("echo", {"a": "b"}), Call("big"), Call("size", data=b"12345"))

    def check(self, outcomes: Any) -> None:
        assert [outcome.data for outcome in outcomes] == [b"0" * 40 + b"\n", b"", b"[(b'a', b'b')]", BIG, b"5"]
        with pytest.raises(CommandRefused, match="on fire"):
            outcomes[1].result()

    def test_in_any_order(self, peer_url: str, connect: Connect) -> None:
        self.check(connect(peer_url).call_many(self.CALLS))
        with serving(Peer(HANDLERS, reverse=True)) as url:
            self.check(connect(url).call_many(self.CALLS))

    def test_interleaved(self, connect: Connect) -> None:
        answer = wire(
            "3 2 stream-begin bytes-response continuation a",
            "1 4 stream-begin bytes-response continuation b",
            "3 2 0 bytes-response eos c",
            "1 4 stream-end bytes-response eos d",
        )
        with raw_server(http(answer)) as (url, requests):
            parts = list(connect(url).exchange([Call("heads"), Call("branchmap")]))
        assert parts == [Part(1, b"a", False), Part(0, b"b", False), Part(1, b"c", True), Part(0, b"d", True)]
        assert requests[0].startswith(b"POST /api/exp-http-v2-0001/ro/multirequest HTTP/1.1\r\n")

    def test_empty_frames(self, connect: Connect) -> None:
        answer = wire(f"{BEGIN} continuation ", "1 2 0 bytes-response continuation x", "1 2 0 bytes-response eos ")
        with raw_server(http(answer)) as (url, _):
            assert connect(url).call_bytes("heads") == b"x"
            assert connect(url).call_many([Call("heads")])[0].result() == b"x"

    def test_none(self, peer_url: str, connect: Connect) -> None:
        assert connect(peer_url).call_many([]) == []

    def test_limit(self, peer_url: str, connect: Connect) -> None:
        client = connect(peer_url)
        with pytest.raises(LimitExceeded, match="more than 100000 bytes"):
            client.call_many([Call("heads"), Call("big")], limit=100_000)
        assert client.call_bytes("heads")

    def test_giving_up(self, peer_url: str, connect: Connect) -> None:
        client = connect(peer_url)
        exchange = client.exchange([Call("big"), Call("big")])
        next(exchange)
        exchange.close()
        assert client.call_bytes("heads")


class TestHostileServers:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (http(b""), TruncatedFrame),
            (http(b"\x01"), TruncatedFrame),
            (http(wire(f"{BEGIN} eos 12345")[:-1]), TruncatedFrame),
            (http(wire(f"{BEGIN} continuation 12345")), TruncatedFrame),
            (http(b"\xff" * 100), FrameTooLarge),
            (http(b"<html><body>not frames at all</body></html>"), HgWireError),
            (http(wire("3 2 stream-begin bytes-response eos x")), UnexpectedFrame),
            (http(wire(f"{BEGIN} eos x", "1 2 0 bytes-response eos y")), UnexpectedFrame),
            (http(wire("1 2 0 bytes-response eos x")), RemoteProtocolError),
            (http(wire("1 1 stream-begin bytes-response eos x")), RemoteProtocolError),
            (http(wire("1 2 stream-begin command-name eos heads")), UnexpectedFrame),
            (http(wire("1 2 stream-begin text-output 0 x")), RemoteProtocolError),
            (http(wire("1 2 stream-begin stream-settings 0 \\x04lzma")), RemoteProtocolError),
            (
                http(wire("1 2 stream-begin stream-settings 0 \\x04zlib", "1 2 encoded bytes-response eos ??")),
                HgWireError,
            ),
            (http(wire(f"{BEGIN} eos x"), "application/mercurial-0.1"), RemoteProtocolError),
            (http(wire(f"{BEGIN} eos x"), ""), RemoteProtocolError),
            (http(wire(f"{BEGIN} continuation x"), more="Content-Length: 100\r\n"), ConnectionFailed),
            (http(wire("1 2 stream-begin error-response application no\\x1b[m")), CommandRefused),
            (http(wire(f"{BEGIN} continuation x", "1 2 0 error-response protocol no")), CommandRefused),
            (http(b"no frames today\n", "text/plain"), CommandRefused),
            (http(b"", "text/plain", "404 Not Found"), CommandRefused),
            (http(b"<html>", "text/html", "500 Internal Server Error"), CommandRefused),
        ],
    )
    def test_no_whole_reply(self, connect: Connect, answer: bytes, error: type[HgWireError]) -> None:
        with raw_server(answer) as (url, _):
            client = connect(url)
            with pytest.raises(error):
                client.call_bytes("heads")
            with pytest.raises(error):
                client.call_many([Call("heads")])[0].result()

    @pytest.mark.parametrize(
        ("start", "frame"),
        [
            ("1 2 stream-begin bytes-response continuation ", "1 2 0 bytes-response continuation "),
            ("1 2 stream-begin text-output 0 ", "1 2 0 text-output 0 "),
            ("1 2 stream-begin stream-settings 0 \\x08identity", "1 2 stream-begin stream-settings 0 \\x08identity"),
            ("1 2 stream-begin stream-settings 0 \\x04zlib", "1 2 stream-begin stream-settings 0 \\x04zlib"),
        ],
    )
    def test_frames_without_end_that_bring_nothing(self, connect: Connect, start: str, frame: str) -> None:
        with (
            raw_server(endless(http(wire(start)), wire(frame))) as (url, _),
            pytest.raises(LimitExceeded, match="in a row"),
        ):
            connect(url).call_bytes("heads")

    def test_text_output_without_end(self, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(v2_module, "TEXT_BYTES", MIB)
        atom = struct.pack("<HBB", 1000, 0, 0) + b"x" * 1000
        text = encode_frame(Frame(1, 2, 0, EXP_0002.frame_types["text-output"], 0, atom * 30))
        start = wire("1 2 stream-begin text-output 0 ")
        heard: list[Atom] = []
        with raw_server(endless(http(start), text)) as (url, _), pytest.raises(LimitExceeded, match="of text output"):
            connect(url, on_text=heard.append).call("heads")
        assert len(heard) == MIB // 1064

    def test_empty_atoms_without_end(self, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(v2_module, "TEXT_BYTES", MIB)
        atoms = "\\x00" * 4000
        with (
            raw_server(
                endless(http(wire(f"1 2 stream-begin text-output 0 {atoms}")), wire(f"1 2 0 text-output 0 {atoms}"))
            ) as (url, _),
            pytest.raises(LimitExceeded, match="bytes of text output"),
        ):
            connect(url).call("heads")

    def test_data_without_end(self, connect: Connect) -> None:
        """The reader decides how much to take; what is collected is bounded."""
        flood = wire("1 2 0 bytes-response continuation " + "x" * 30_000)
        with raw_server(endless(http(wire(f"{BEGIN} continuation x")), flood)) as (url, _):
            client = connect(url)
            tracemalloc.start()
            with client.call("heads") as reply:
                size = 0
                while size < 64 * MIB:
                    size += len(reply.read(MIB))
            with pytest.raises(LimitExceeded):
                client.call_bytes("heads", limit=MIB)
            with pytest.raises(LimitExceeded):
                client.call_many([Call("heads")], limit=MIB)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 8 * MIB

    def test_a_bomb_in_one_frame(self, connect: Connect) -> None:
        encoder = PROFILES["zstd-8mb"].start_encoder(None)
        bomb = parse_frame("1 2 encoded bytes-response eos ", EXP_0002)
        bomb.payload = encoder.encode(bytes(64 * MIB))
        answer = wire("1 2 stream-begin stream-settings 0 \\x08zstd-8mb") + encode_frame(bomb)
        with raw_server(http(answer)) as (url, _):
            client = connect(url, limits=Limits(frame_decoded=MIB))
            with pytest.raises(LimitExceeded, match="decodes to more than"):
                client.call("heads")

    def test_data_that_change_their_length(self, connect: Connect) -> None:
        class Growing(io.BytesIO):
            def tell(self) -> int:
                return max(super().tell() - 1, 0)

        with raw_server(b"") as (url, _), pytest.raises(LocalProtocolError, match="exceed the announced length"):
            connect(url).call("size", data=Growing(b"12345"))


class TestMemory:
    def test_of_a_long_upload(self, connect: Connect) -> None:
        def data() -> Iterator[bytes]:
            for _ in range(1000):
                yield bytes(65536)

        def script(sock: Any, request: bytes) -> None:
            tail = request
            while not tail.endswith(b"\r\n0\r\n\r\n"):
                tail = tail[-10:] + sock.recv(65536)
            sock.sendall(http(wire(f"{BEGIN} eos ok")))

        with raw_server(script) as (url, _):
            client = connect(url)
            tracemalloc.start()
            assert client.call_bytes("unbundle", data=data()) == b"ok"
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4 * MIB


def our_app(repository: MemoryRepository, **options: Any) -> WireApp:
    commands = sizable_commands()

    @commands.command("broken", permission="pull", reply="stream")
    def broken(context: Any) -> StreamResponse:
        def chunks() -> Iterator[bytes]:
            yield bytes(100_000)
            raise CommandFailed("halfway")

        return StreamResponse(chunks())

    return WireApp(
        MemoryProvider({"": repository}),
        commands=commands,
        policy=lambda request: None,
        api=ApiSettings(server=True, http_v2=True, **options),
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"encodings": tuple(PROFILES.values())[1:]}, {"workers": 2}],
    ids=["default", "encoded", "parallel"],
)
class TestOurServer:
    @pytest.fixture
    def ours(self, repository: MemoryRepository, options: dict[str, Any]) -> Iterator[tuple[str, Recorder]]:
        recorder = Recorder(our_app(repository, **options))
        with serving(recorder) as url:
            yield url, recorder

    def test_calls(self, ours: Any, connect: Connect, heads: str) -> None:
        client = connect(ours[0])
        assert client.call_bytes("heads") == f"{heads}\n".encode()
        assert client.call_bytes("lookup", {"key": "tip"}) == f"1 {heads}\n".encode()
        with client.call("flood", {"size": "100"}) as reply:
            assert reply.read() == b"flood" * 13107 * 100
        with pytest.raises(CommandRefused, match="nosuch"):
            client.call("nosuch")
        assert client.call_bytes("upload", data=bytes(200_000), permission="push") == b"200000"
        assert client.call_bytes("upload", data=iter([bytes(200_000)]), permission="push") == b"200000"

    def test_many(self, ours: Any, connect: Connect, heads: str) -> None:
        calls = [Call("heads"), Call("flood", {"size": "20"}), Call("broken"), Call("lookup", {"key": "tip"})]
        outcomes = connect(ours[0]).call_many(calls)
        assert outcomes[0].result() == f"{heads}\n".encode()
        assert outcomes[1].result() == b"flood" * 13107 * 20
        assert outcomes[3].result() == f"1 {heads}\n".encode()
        with pytest.raises(CommandRefused, match="halfway"):
            outcomes[2].result()
