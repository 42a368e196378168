"""Another revision fits: other types, payloads with types, settings over frames and a first state of its own.

It is shaped like exp-framing-0006: the client says first which encodings it reads, on its first request alone; the
server announces its own with another frame type, over several frames and not always where a stream begins; commands are
maps, their values are not bytes.  JSON stands for CBOR.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import pytest
from framing_support import sent

from hgwire_wsgi.errors import BadStream, RemoteProtocolError, UnexpectedFrame
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    PROFILES,
    REVISIONS,
    WANT_FRAME,
    Action,
    ClientReactor,
    CommandData,
    Error,
    Frame,
    OutgoingStream,
    Request,
    ResponseData,
    ResponseError,
    Revision,
    RunCommand,
    ServerReactor,
    format_frame,
    iter_chunks,
    parse_frame,
)

REQUEST, DATA, RESPONSE, ERROR, SENDER, SETTINGS = 1, 2, 3, 5, 8, 9
NEW, MORE, HAVE_DATA = 1, 4, 8
CONTINUATION, EOS = 1, 2


def gather(store: dict[Any, Any], key: Any, frame: Frame) -> Any:
    """JSON over frames, or ``None`` while it is incomplete."""
    store[key] = store.get(key, b"") + frame.payload
    return None if frame.flags & CONTINUATION else json.loads(store.pop(key))


def receive_sender(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    said = gather(reactor.scratch, "sender", frame)
    if said is not None:
        reactor.scratch["encodings"] = said
        reactor.state = "idle"
    return WANT_FRAME


def receive_request(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    if request.state != "receiving":
        if not frame.flags & NEW:
            raise RemoteProtocolError("request continues nothing")
        reactor.register(request, b"")
        request.state = "receiving"
        request.partial = b""
    reactor.hold(request, len(frame.payload))
    request.partial += frame.payload
    if frame.flags & MORE:
        return WANT_FRAME
    said = json.loads(request.partial)
    request.name = said["name"].encode()
    request.arguments = {name.encode(): value for name, value in said["args"].items()}
    request.has_data = bool(frame.flags & HAVE_DATA)
    return reactor.run(request, "data", "running")


def receive_data(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    if frame.flags & EOS:
        reactor.finish_receiving(request, "running")
    return reactor.pass_data(request, frame.payload, bool(frame.flags & EOS))


def receive_response(reactor: ClientReactor, request: Request, frame: Frame) -> Action:
    if frame.flags & EOS:
        reactor.finish_receiving(request, "answered")
    return ResponseData(request.request_id, frame.payload, bool(frame.flags & EOS))


def receive_error(reactor: ClientReactor, request: Request, frame: Frame) -> Action:
    reactor.finish_receiving(request, "answered")
    said = json.loads(frame.payload)
    return ResponseError(request.request_id, said["message"].encode(), said["type"])


def receive_settings(reactor: Any, frame: Frame) -> Action:
    name = gather(reactor.scratch, frame.stream_id, frame)
    if name is not None:
        reactor.incoming.configure(frame.stream_id, name.encode())
    return WANT_FRAME


def unexpected(reactor: Any, request: Request, frame: Frame) -> RemoteProtocolError:
    return UnexpectedFrame(f"in state {request.state}: {frame.type_id}")


def encode_settings(stream: OutgoingStream, request_id: int) -> Frame:
    assert stream.profile is not None
    return stream.make_frame(request_id, SETTINGS, EOS, json.dumps(stream.profile.name).encode())


def encode_command(
    reactor: ClientReactor,
    stream: OutgoingStream,
    request_id: int,
    name: bytes,
    arguments: Mapping[bytes, Any],
    data: Any,
    end: bool,
) -> Iterator[Frame]:
    if reactor.scratch.setdefault("said", False) is False:
        reactor.scratch["said"] = True
        said = json.dumps(["zlib", "identity"]).encode()
        yield stream.make_frame(request_id, SENDER, CONTINUATION, said[:5])
        yield stream.make_frame(request_id, SENDER, EOS, said[5:])
    body = json.dumps({"name": name.decode(), "args": {key.decode(): value for key, value in arguments.items()}})
    flags = HAVE_DATA * (data is not None)
    yield stream.make_frame(request_id, REQUEST, NEW | MORE, body[:10].encode())
    yield stream.make_frame(request_id, REQUEST, flags, body[10:].encode(), end=end and data is None)
    if data is not None:
        for piece in data:
            yield stream.make_frame(request_id, DATA, CONTINUATION, piece)
        yield stream.make_frame(request_id, DATA, EOS, b"", end=end)


def encode_response(stream: OutgoingStream, request_id: int, data: Any, end: bool) -> Iterator[Frame]:
    encode = stream.profile is not None
    yield stream.make_frame(request_id, RESPONSE, CONTINUATION, b'{"status": "ok"}', encode=encode)
    yield stream.make_frame(request_id, RESPONSE, EOS, data, encode=encode, end=end)


def encode_error(stream: OutgoingStream, request_id: int, message: bytes, kind: str, end: bool) -> Frame:
    said = json.dumps({"type": kind, "message": message.decode()}).encode()
    return stream.make_frame(request_id, ERROR, 0, said, end=end)


def encode_text(stream: OutgoingStream, request_id: int, atoms: Iterable[Any]) -> Iterator[Frame]:
    return iter(())


OTHER = Revision(
    name="exp-framing-test",
    media_type="application/x-test",
    frame_types={
        "command-request": REQUEST,
        "command-data": DATA,
        "command-response": RESPONSE,
        "error-response": ERROR,
        "sender-protocol-settings": SENDER,
        "stream-settings": SETTINGS,
    },
    flags={REQUEST: {"new": NEW, "more": MORE, "have-data": HAVE_DATA}, SENDER: {"continuation": 1, "eos": 2}},
    server_state="initial",
    server_table={
        ("initial", SENDER): receive_sender,
        ("idle", REQUEST): receive_request,
        ("receiving", REQUEST): receive_request,
        ("data", DATA): receive_data,
    },
    server_unexpected=unexpected,
    client_state="idle",
    client_waiting="waiting",
    client_table={("waiting", RESPONSE): receive_response, ("waiting", ERROR): receive_error},
    client_unexpected=unexpected,
    stream_table={SETTINGS: receive_settings},
    encode_settings=encode_settings,
    encode_command=encode_command,
    encode_response=encode_response,
    encode_error=encode_error,
    encode_text=encode_text,
)


def test_an_exchange() -> None:
    client, server = ClientReactor(OTHER), ServerReactor(OTHER)
    stream = OutgoingStream(1)
    one, first = client.send_command(stream, b"known", {b"nodes": [1, 2], b"deep": True})
    three, second = client.send_command(stream, b"push", {}, [b"some", b"data"])
    data = b"".join(iter_chunks(first.frames)) + b"".join(iter_chunks(second.frames))
    assert [action for action in server.receive_data(data) if action is not WANT_FRAME] == [
        RunCommand(one, b"known", {b"nodes": [1, 2], b"deep": True}),
        RunCommand(three, b"push", {}, has_data=True),
        CommandData(three, b"some", False),
        CommandData(three, b"data", False),
        CommandData(three, b"", True),
    ]
    # The server picks from what the client said; this needs nothing of the reactor.
    output = OutgoingStream(2, PROFILES[server.scratch["encodings"][0]])
    frames = sent(server.send_response(output, one, b"[1]")) + sent(server.send_error(output, three, "no"))
    assert [frame.type_id for frame in frames] == [SETTINGS, RESPONSE, RESPONSE, ERROR]
    assert frames[1].payload != b'{"status": "ok"}'
    assert list(client.receive_data(b"".join(iter_chunks(frames)))) == [
        WANT_FRAME,
        ResponseData(one, b'{"status": "ok"}', False),
        ResponseData(one, b"[1]", True),
        ResponseError(three, b"no", "application"),
    ]
    assert client.receive_eof() is NOOP
    assert server.receive_eof() is NOOP


def test_settings_after_the_beginning_over_frames() -> None:
    client = ClientReactor(OTHER)
    client.send_command(OutgoingStream(1), b"c")
    for text in ('1 2 1 9 1 "zl', '1 2 0 9 2 ib"'):
        assert client.receive_frame(parse_frame(text, OTHER)) is WANT_FRAME
    assert client.incoming.open[2].profile is PROFILES["zlib"]


def test_first_state() -> None:
    server = ServerReactor(OTHER)
    action = server.receive_frame(parse_frame("1 1 stream-begin command-request new {}", OTHER))
    assert isinstance(action, Error)
    assert action.message == "in state initial: 1"
    server = ServerReactor(OTHER)
    server.receive_frame(parse_frame("1 1 stream-begin sender-protocol-settings eos []", OTHER))
    action = server.receive_frame(parse_frame("1 1 0 sender-protocol-settings eos []", OTHER))
    assert isinstance(action, Error)
    assert action.message == "in state idle: 8"


def test_rules_of_streams_hold_everywhere() -> None:
    action = ServerReactor(OTHER).receive_frame(parse_frame("1 2 1 command-request new {}", OTHER))
    assert isinstance(action, Error)
    assert isinstance(action.error, BadStream)


def test_names_are_those_of_the_revision() -> None:
    frame = Frame(1, 1, 1, 8, 2, b"")
    assert format_frame(frame, EXP_0002) == "1 1 stream-begin stream-settings 2 "
    assert format_frame(frame, OTHER) == "1 1 stream-begin sender-protocol-settings eos "
    assert (EXP_0002.type_name(9), OTHER.type_name(9)) == ("9", "stream-settings")


def test_revisions_are_values() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        EXP_0002.name = "other"  # type: ignore[misc]  # that it refuses is what is tested
    assert REVISIONS == {"application/mercurial-exp-framing-0002": EXP_0002}
