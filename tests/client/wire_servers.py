"""Servers for the tests of the client: WSGI applications in a thread, raw ones, and an independent peer for frames."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import waitress
from waitress import wasyncore

from hgwire_wsgi import BytesResponse, CommandRegistry, StreamResponse
from hgwire_wsgi.framing import (
    EXP_0002,
    Action,
    Atom,
    BufferedCommands,
    OutgoingStream,
    Profile,
    RunCommand,
    SendFrames,
    ServerReactor,
    iter_chunks,
)

FRAMES = EXP_0002.media_type
PATIENCE = 30
"""Seconds until a test gives up on a peer; reached only when something hangs."""


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application with waitress on a free port; gives its URL."""
    channels: dict[int, Any] = {}
    server = waitress.create_server(app, map=channels, host="127.0.0.1", port=0, threads=2)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            wasyncore.loop(timeout=PATIENCE, map=channels, count=1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        stop.set()
        server.pull_trigger()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        server.task_dispatcher.shutdown()
        wasyncore.close_all(channels, ignore_all=True)


@contextlib.contextmanager
def connecting(client: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Give a function that makes clients of a kind, which are closed in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(client(url, timeout=PATIENCE, **options))


def sizable_commands() -> CommandRegistry:
    """The standard commands, and two whose data are as large as one likes."""
    commands = CommandRegistry.standard()

    @commands.command("flood", permission="pull", reply="stream", args=["size"])
    def flood(context: Any, size: bytes) -> StreamResponse:
        return StreamResponse(b"flood" * 13107 for _ in range(int(size)))

    @commands.command("upload", permission="push", reply="push", body=True, optional=["name"])
    def upload(context: Any, name: bytes = b"") -> BytesResponse:
        size = 0
        while piece := context.body.read(65536):
            size += len(piece)
        return BytesResponse(b"%s%d" % (name, size))

    return commands


class Recorder:
    """WSGI middleware that remembers the environs and bodies of requests."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.environs.append(dict(environ))
        return self.app(environ, start_response)

    @property
    def last(self) -> dict[str, Any]:
        return self.environs[-1]


Script = Callable[[socket.socket, bytes], None]


def read_request(connection: socket.socket) -> bytes:
    """The head of a request and its body, if that has a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
        if data.startswith(b"\x16"):
            # The client speaks TLS, and waits for an answer.
            return data
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length and (piece := connection.recv(65536)):
        body += piece
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def raw_server(*scripts: bytes | Script, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that does what it likes.

    Args:
        *scripts: what to do with one connection after the other, the last of them with all others: bytes to send
            after a request was read, or a function that is given the socket and the request.  The connection is
            closed then.
        context: speak TLS.

    Yields:
        Its URL, and a list of the requests so far.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            script = scripts[min(number, len(scripts) - 1)]
            number += 1
            connection.settimeout(PATIENCE)
            with contextlib.suppress(OSError):
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
            with connection, contextlib.suppress(OSError):
                request = read_request(connection)
                if not request:
                    continue
                requests.append(request)
                if callable(script):
                    script(connection, request)
                else:
                    connection.sendall(script)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        # close() alone would leave accept() waiting.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def http(body: bytes, content_type: str = FRAMES, status: str = "200 OK", *, more: str = "") -> bytes:
    """A response that ends where the connection does."""
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\n"
    head += f"Content-Type: {content_type}\r\n" if content_type else ""
    return (head + more + "\r\n").encode() + body


def endless(head: bytes, piece: bytes) -> Script:
    """Send a head, and then the same piece until the client goes away."""

    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head)
        block = piece * max(1, 65536 // len(piece))
        while True:
            connection.sendall(block)

    return script


Handler = Callable[[dict[bytes, bytes], bytes], Any]


class Peer:
    """A WSGI application that answers frames with a reactor of its own, knowing nothing of ``hgwire_wsgi.http``.

    A handler is given arguments and data, and returns bytes or an iterable of them, or raises.  Atoms it puts in
    front of the bytes, as a tuple of two, are sent as text output.

    Args:
        handlers: by name of the command.
        profile: the encoding of the stream.
        reverse: answer the last request first.
    """

    def __init__(
        self, handlers: dict[bytes, Handler], *, profile: Profile | None = None, reverse: bool = False
    ) -> None:
        self.handlers = handlers
        self.profile = profile
        self.reverse = reverse
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.environs.append(environ)
        reactor = ServerReactor(EXP_0002, defer_output=True)
        commands = BufferedCommands(reactor)
        received: list[Action] = []
        while data := environ["wsgi.input"].read(65536):
            received += commands.receive_data(data)
        stream = OutgoingStream(2, self.profile)
        todo = [action for action in received if isinstance(action, RunCommand)]
        for action in reversed(todo) if self.reverse else todo:
            self.answer(reactor, stream, action)
        end = reactor.receive_eof()
        if not isinstance(end, SendFrames):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [f"{getattr(end, 'message', 'nothing to do')}\n".encode()]
        start_response("200 OK", [("Content-Type", FRAMES)])
        return iter_chunks(end.frames)

    def answer(self, reactor: ServerReactor, stream: OutgoingStream, action: RunCommand) -> None:
        handler = self.handlers.get(action.name)
        if handler is None:
            reactor.send_error(stream, action.request_id, f"no command {action.name.decode()}", kind="protocol")
            return
        answer = handler(dict(action.arguments), action.data or b"")
        if isinstance(answer, tuple):
            text, answer = answer
            reactor.send_text(stream, action.request_id, [Atom(*atom) for atom in text])
        reactor.send_response(stream, action.request_id, answer)
