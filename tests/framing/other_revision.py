"""A revision that differs from exp-framing-0002 wherever exp-framing-0006 does.

JSON stands for CBOR, one object to a line.  What differs:

- The client says first, in a frame of its own, which encodings it accepts.
- Commands are maps of typed values, with a place for the redirects that the client follows.
- Responses are a status object and more objects.  One encoder, announced once, spans all responses of the exchange.  It
  is flushed at the end of each, so a frame may hold several objects, and an object may have none of its own.
- A command error is a status object; any other error, and one in the middle of a response, is an error frame.
- The settings of a stream may span frames, and need not come at its beginning.
- There is no text output.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hgwire_wsgi.errors import (
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    UnexpectedFrame,
)
from hgwire_wsgi.framing import (
    WANT_FRAME,
    Action,
    ClientReactor,
    Frame,
    Objects,
    OutgoingStream,
    Request,
    ResponseData,
    ResponseError,
    Revision,
    ServerReactor,
)
from hgwire_wsgi.framing.data import check_data, rechunk

REQUEST, DATA, RESPONSE, ERROR, SENDER, SETTINGS = 1, 2, 3, 5, 8, 9
NEW, MORE, HAVE_DATA = 1, 4, 8
CONTINUATION, EOS = 1, 2


def dump(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


# Both receive.


def unexpected(reactor: Any, request: Request, frame: Frame) -> RemoteProtocolError:
    return UnexpectedFrame(f"in state {request.state}: {frame.type_id}")


def receive_settings(reactor: Any, frame: Frame) -> Action:
    stream = reactor.incoming.open.get(frame.stream_id)
    if stream is not None:
        stream.partial = (stream.partial or b"") + frame.payload
        if len(stream.partial) > reactor.limits.frame_payload:
            raise LimitExceeded("settings are too long")
        if frame.flags & EOS:
            name, stream.partial = json.loads(stream.partial), None
            reactor.incoming.configure(frame.stream_id, name.encode())
    return WANT_FRAME


# The server receives.


def receive_sender(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    said = reactor.scratch["sender"] = reactor.scratch.get("sender", b"") + frame.payload
    if frame.flags & EOS:
        reactor.scratch["encodings"] = json.loads(said)
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
    said, request.partial = json.loads(request.partial), None
    request.name = said["name"].encode()
    request.arguments = {name.encode(): value for name, value in said["args"].items()}
    request.redirect = said["redirect"]
    request.has_data = bool(frame.flags & HAVE_DATA)
    return reactor.run(request, "data", "running")


def receive_data(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    if frame.flags & EOS:
        reactor.finish_receiving(request, "running")
    return reactor.pass_data(request, frame.payload, bool(frame.flags & EOS))


# The client receives.


def receive_response(reactor: ClientReactor, request: Request, frame: Frame) -> Action:
    final = bool(frame.flags & EOS)
    data = frame.payload
    if final:
        reactor.finish_receiving(request, "answered")
    if request.partial is not True:
        # The status may span frames.
        request.partial = (request.partial or b"") + data
        status, newline, data = request.partial.partition(b"\n")
        if not newline:
            return WANT_FRAME
        request.partial = True
        if json.loads(status)["status"] == "error":
            return ResponseError(request.request_id, json.loads(status)["error"].encode(), "application")
    return ResponseData(request.request_id, data, final)


def receive_error(reactor: ClientReactor, request: Request, frame: Frame) -> Action:
    reactor.finish_receiving(request, "answered")
    said = json.loads(frame.payload)
    return ResponseError(request.request_id, said["message"].encode(), said["type"])


# The client sends.


def encode_command(
    reactor: ClientReactor,
    stream: OutgoingStream,
    request: Request,
    arguments: Mapping[bytes, Any],
    data: Any,
    end: bool,
) -> Iterator[Frame]:
    typed = {key.decode(): value for key, value in arguments.items()}
    try:
        said = dump({"name": request.name.decode(), "args": typed, "redirect": request.redirect})
    except TypeError as error:
        raise LocalProtocolError(f"an argument has no type of this revision: {error}") from error
    checked = None if data is None else check_data(data, "data")
    return command_frames(reactor, stream, request.request_id, said, checked, end)


def command_frames(
    reactor: ClientReactor, stream: OutgoingStream, request_id: int, said: bytes, data: Any, end: bool
) -> Iterator[Frame]:
    if "said" not in reactor.scratch:
        reactor.scratch["said"] = True
        encodings = dump(["zlib", "identity"])
        yield stream.make_frame(request_id, SENDER, CONTINUATION, encodings[:5])
        yield stream.make_frame(request_id, SENDER, EOS, encodings[5:])
    yield stream.make_frame(request_id, REQUEST, NEW | MORE, said[:10])
    yield stream.make_frame(request_id, REQUEST, HAVE_DATA * (data is not None), said[10:], end=end and data is None)
    if data is not None:
        for piece in rechunk(data, stream.frame_size):
            yield stream.make_frame(request_id, DATA, CONTINUATION, piece)
        yield stream.make_frame(request_id, DATA, EOS, b"", end=end)


# The server sends.


def encode_settings(stream: OutgoingStream, request_id: int) -> Frame:
    assert stream.profile is not None
    return stream.make_frame(request_id, SETTINGS, EOS, dump(stream.profile.name))


def encode_response(stream: OutgoingStream, request: Request, data: Any, encode: bool, end: bool) -> Iterator[Frame]:
    """Objects as they are; bytes, as commands of version 1 return them, are one object."""
    objects = data if isinstance(data, Objects) else Objects([as_text(check_data(data, "data"))])
    return response_frames(stream, request, objects, end)


def as_text(data: bytes | Iterable[Any]) -> str:
    return b"".join([data] if isinstance(data, bytes) else data).decode()


def response_frames(stream: OutgoingStream, request: Request, objects: Objects, end: bool) -> Iterator[Frame]:
    request.begun = True
    encoded = stream.profile is not None
    for payload in encoded_pieces(stream, objects):
        yield stream.make_frame(request.request_id, RESPONSE, CONTINUATION, payload, encoded=encoded)
    last = stream.encode(b"") if encoded else b""
    yield stream.make_frame(request.request_id, RESPONSE, EOS, last, encoded=bool(last), end=end)


def encoded_pieces(stream: OutgoingStream, objects: Objects) -> Iterator[bytes]:
    yield from encode_object(stream, {"status": "ok"} if objects.status is None else objects.status)
    for value in objects.values:
        yield from encode_object(stream, value)


def encode_object(stream: OutgoingStream, value: Any) -> Iterator[bytes]:
    """What the encoder returns for an object, in pieces that fit; nothing while it holds everything back."""
    raw = dump(value)
    return rechunk(stream.encode(raw, flush=False) if stream.profile else raw, stream.frame_size)


def encode_error(stream: OutgoingStream, request: Request, message: bytes, kind: str, end: bool) -> Iterator[Frame]:
    if kind not in ("application", "protocol", "server"):
        raise LocalProtocolError(f"unknown kind of error: {kind!r}")
    return error_frames(stream, request, message.decode(), kind, end)


def error_frames(stream: OutgoingStream, request: Request, message: str, kind: str, end: bool) -> Iterator[Frame]:
    if stream.unflushed:
        # Otherwise it would come out in the response to another request.
        yield stream.make_frame(request.request_id, RESPONSE, CONTINUATION, stream.encode(b""), encoded=True)
    if kind == "application" and not request.begun:
        said, type_id, flags = {"status": "error", "error": message}, RESPONSE, EOS
    else:
        said, type_id, flags = {"type": "server" if request.begun else kind, "message": message}, ERROR, 0
    yield stream.make_frame(request.request_id, type_id, flags, dump(said), end=end)


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
)
