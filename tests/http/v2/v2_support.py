"""What the tests of version 2 share: commands to call, requests in frames, and answers taken apart by a client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from fakes import Exchange, FakeProvider

from hgwire_wsgi import ApiSettings, CommandContext, CommandRegistry, WireApp
from hgwire_wsgi.framing import (
    EXP_0002,
    WANT_FRAME,
    ClientReactor,
    Frame,
    FrameBuffer,
    OutgoingStream,
    ResponseData,
    ResponseError,
    TextOutput,
    encode_frame,
    parse_frame,
)

MEDIA_TYPE = EXP_0002.media_type
BASE = "/repo/api/exp-http-v2-0001/"
OPEN = {"push_ssl": "no", "allow-push": "*"}
V2 = ApiSettings(server=True, http_v2=True)


def frame(text: str, payload: bytes = b"") -> bytes:
    """A frame in the human notation, with further payload."""
    parsed = parse_frame(text, EXP_0002)
    parsed.payload += payload
    return encode_frame(parsed)


def command(
    request_id: int, name: str, arguments: dict[bytes, bytes] | None = None, data: Any = None, *, begin: bool = True
) -> bytes:
    """The frames of a command, as a client sends them; ``begin`` opens its stream."""
    stream = OutgoingStream(1)
    stream.is_open = not begin
    reactor = ClientReactor(EXP_0002)
    assigned, action = reactor.send_command(stream, name.encode(), arguments or {}, data)
    frames = list(action.frames)
    for each in frames:
        assert each.request_id == assigned
        each.request_id = request_id
    return b"".join(map(encode_frame, frames))


def commands(*calls: Any) -> bytes:
    """Several commands with request IDs 1, 3, 5, …: names, or tuples of what :func:`command` takes."""
    out = b""
    for number, call in enumerate(calls):
        name, *rest = (call,) if isinstance(call, str) else call
        out += command(2 * number + 1, name, *rest, begin=not number)
    return out


@attrs.define
class Reply:
    """What a client makes of the answer to one command."""

    data: bytes = b""
    error: bytes | None = None
    kind: str = ""
    output: bytes = b""
    ended: bool = False


class Answer:
    """A response, read to its end: with the frames in it if it has any."""

    def __init__(self, exchange: Exchange, body: bytes | None = None) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self.body = exchange.read() if body is None else body
        self.media_type = self.headers["Content-Type"]
        self.frames: list[Frame] = []
        if self.media_type == MEDIA_TYPE:
            buffer = FrameBuffer()
            buffer.feed(self.body)
            self.frames = list(buffer)
            buffer.end()

    @property
    def text(self) -> tuple[int, str]:
        """Status and body of an answer without frames."""
        assert self.media_type == "text/plain"
        assert int(self.headers["Content-Length"]) == len(self.body)
        return int(self.status[:3]), self.body.decode()

    @property
    def replies(self) -> dict[int, Reply]:
        """The answers by request ID, as our own client reactor understands them."""
        assert (self.status, self.media_type) == ("200 OK", MEDIA_TYPE)
        reactor = ClientReactor(EXP_0002)
        stream = OutgoingStream(1)
        wanted = sorted({each.request_id for each in self.frames})
        for number in range(1, max(wanted, default=-1) + 1, 2):
            assigned, action = reactor.send_command(stream, b"x", {}, None)
            assert assigned == number
            assert list(action.frames)
        replies: dict[int, Reply] = {}
        for action in reactor.receive_data(self.body):
            if isinstance(action, ResponseData):
                reply = replies.setdefault(action.request_id, Reply())
                reply.data += action.data
                reply.ended = action.final
            elif isinstance(action, ResponseError):
                reply = replies.setdefault(action.request_id, Reply())
                reply.error, reply.kind, reply.ended = action.message, action.kind, True
            elif isinstance(action, TextOutput):
                reply = replies.setdefault(action.request_id, Reply())
                reply.output += b"".join(atom.render() for atom in action.atoms)
            else:
                assert action is WANT_FRAME
        assert all(reply.ended for reply in replies.values())
        return replies


def send(app: Any, target: str, body: bytes | None, **environ: Any) -> Exchange:
    """Begin a request for a command, ``multirequest`` or ``debugreflect``; ``target`` is such as ``ro/heads``."""
    return Exchange(
        app,
        path=BASE + target,
        body=body or b"",
        **{
            "REQUEST_METHOD": "POST",
            "HTTP_ACCEPT": MEDIA_TYPE,
            "CONTENT_TYPE": MEDIA_TYPE,
            "CONTENT_LENGTH": str(len(body or b"")),
            **environ,
        },
    )


def ask(app: Any, target: str, body: bytes, **environ: Any) -> Answer:
    """A whole exchange."""
    return Answer(send(app, target, body, **environ))


def registry(**replies: Any) -> CommandRegistry:
    """Standard commands, ``echo``, ``put`` and ``pause``, and pull commands with a fixed response."""
    made = CommandRegistry.standard()

    @made.command("echo", permission="pull", args=["text"])
    def echo(context: CommandContext, text: bytes) -> bytes:
        return text

    @made.command("put", permission="push", optional=["size"], body=True)
    def put(context: CommandContext, size: bytes = b"0") -> bytes:
        left = int(size) or -1
        total = bytearray()
        while left and (piece := context.body.read(left if left > 0 else 1 << 16)):
            total += piece
            left -= len(piece)
        return b"%d " % len(total) + bytes(total[:20])

    def returning(response: Any) -> Any:
        return lambda context: response() if callable(response) else response

    for name, response in replies.items():
        made.command(name, permission="pull")(returning(response))
    return made


def make_app(
    made: CommandRegistry | None = None, *, api: ApiSettings = V2, provider: FakeProvider | None = None, **options: Any
) -> Any:
    """An application with version 2 switched on, and a repository that anybody may push to."""
    return WireApp(provider or FakeProvider(OPEN), commands=made or registry(), api=api, **options)


def chunks(count: int, size: int = 1000) -> Iterator[bytes]:
    """A stream."""
    for number in range(count):
        yield bytes([number % 256]) * size


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
