"""``exp-framing-0002``: the revision of the streams patch (D2907), with the gaps of its reference filled.

At the server a request passes through these states; every unknown request is ``idle``::

    frame               idle        arguments   data        running
    command-name        run/wait    -           -           -
    command-argument    -           run/wait    -           -
    command-data        -           -           data        -

A command goes from ``idle`` to ``arguments`` if it has arguments, then to ``data`` if it has data, then to ``running``
until its response was sent.  The reactor returns it when it leaves ``arguments``, or at once if it has none.

At the client a request is ``waiting`` until its response ends with ``eos`` or an error, then ``answered``.

``stream-settings`` is allowed in any state of any request; see :mod:`.streams`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import (
    BadEncoding,
    BadRequestId,
    LimitExceeded,
    LocalProtocolError,
    MalformedFrame,
    RemoteProtocolError,
    UnexpectedFrame,
)
from .actions import WANT_FRAME, Action, ResponseData, ResponseError, TextOutput
from .data import BytesLike, Data, Objects, as_bytes, check_data, rechunk
from .frame import Frame
from .header import STREAM_BEGIN
from .revision import Request, Revision
from .streams import OutgoingStream
from .textoutput import Atom, decode_atoms, encode_atoms

if TYPE_CHECKING:
    from .client import ClientReactor
    from .reactor import Reactor
    from .server import ServerReactor

__all__ = ["EXP_0002"]

COMMAND_NAME = 0x01
COMMAND_ARGUMENT = 0x02
COMMAND_DATA = 0x03
BYTES_RESPONSE = 0x04
ERROR_RESPONSE = 0x05
TEXT_OUTPUT = 0x06
STREAM_SETTINGS = 0x08

NAME_EOS = 0x01
NAME_HAVE_ARGS = 0x02
NAME_HAVE_DATA = 0x04
_NAME_FLAGS = NAME_EOS | NAME_HAVE_ARGS | NAME_HAVE_DATA

ARGUMENT_CONTINUATION = 0x01
ARGUMENT_EOA = 0x02
_ARGUMENT_FLAGS = ARGUMENT_CONTINUATION | ARGUMENT_EOA

# Of command data and bytes responses alike.
CONTINUATION = 0x01
EOS = 0x02
_DATA_FLAGS = CONTINUATION | EOS

ERROR_PROTOCOL = 0x01
ERROR_APPLICATION = 0x02
# The two flags do not exclude each other, and neither is required.
_ERROR_FLAGS = {
    "": 0,
    "protocol": ERROR_PROTOCOL,
    "application": ERROR_APPLICATION,
    "protocol|application": ERROR_PROTOCOL | ERROR_APPLICATION,
}
_ERROR_KINDS = {flags: kind for kind, flags in _ERROR_FLAGS.items()}
# A fault of the server has no flag of its own here.
_ERROR_FLAGS["server"] = ERROR_APPLICATION

_FLAGS: dict[int, dict[str, int]] = {
    COMMAND_NAME: {"eos": NAME_EOS, "have-args": NAME_HAVE_ARGS, "have-data": NAME_HAVE_DATA},
    COMMAND_ARGUMENT: {"continuation": ARGUMENT_CONTINUATION, "eoa": ARGUMENT_EOA},
    COMMAND_DATA: {"continuation": CONTINUATION, "eos": EOS},
    BYTES_RESPONSE: {"continuation": CONTINUATION, "eos": EOS},
    ERROR_RESPONSE: {"protocol": ERROR_PROTOCOL, "application": ERROR_APPLICATION},
    TEXT_OUTPUT: {},
    STREAM_SETTINGS: {},
}

IDLE = "idle"
ARGUMENTS = "arguments"
DATA = "data"
RUNNING = "running"
WAITING = "waiting"
ANSWERED = "answered"

_ARGUMENT = struct.Struct("<HH")
_unpack_argument = _ARGUMENT.unpack_from
_ARGUMENT_HEADER_SIZE = _ARGUMENT.size
_ARGUMENT_FRAME = 65535
"""The largest payload that the specification allows; the reference sends an argument in one frame if it fits."""


# The server receives.


def _receive_name(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    flags = frame.flags & _NAME_FLAGS
    if not flags:
        raise RemoteProtocolError("missing frame flags on command frame")
    # > 0x01 ... is mutually exclusive with both the 0x02 and 0x04 flags.
    if flags & NAME_EOS and flags != NAME_EOS:
        raise MalformedFrame("command frame that ends the command announces arguments or data")
    reactor.register(request, frame.payload)
    request.has_data = flags & NAME_HAVE_DATA != 0
    if flags & NAME_HAVE_ARGS:
        request.state = ARGUMENTS
        return WANT_FRAME
    return reactor.run(request, DATA, RUNNING)


@attrs.define(eq=False)
class _PartialArgument:
    """An argument whose value continues in the next frame."""

    name: bytes
    value: bytearray
    size: int


def _receive_argument(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    payload = frame.payload
    flags = frame.flags & _ARGUMENT_FLAGS
    if flags == _ARGUMENT_FLAGS:
        raise MalformedFrame("command argument frame with both continuation and eoa flags")
    # The last one is not kept: the command runs at once.
    if flags != ARGUMENT_EOA:
        reactor.hold(request, len(payload))
    arguments = request.arguments
    partial: _PartialArgument | None = request.partial
    value: bytes | bytearray
    if partial is not None:
        partial.value += payload
        name, value, size = partial.name, partial.value, partial.size
    else:
        # > The payload MUST hold the entirety of the 32-bit header and the argument name.
        try:
            name_size, size = _unpack_argument(payload)
        except struct.error as error:
            raise RemoteProtocolError("malformed argument frame: partial argument header") from error
        value_start = _ARGUMENT_HEADER_SIZE + name_size
        name, value = payload[_ARGUMENT_HEADER_SIZE:value_start], payload[value_start:]
        if len(payload) < value_start:
            raise RemoteProtocolError("malformed argument frame: partial argument name")
        if not name:
            raise MalformedFrame("malformed argument frame: empty argument name")
        if name in arguments:
            raise MalformedFrame("malformed argument frame: duplicate argument name")
        if len(arguments) >= reactor.limits.command_arguments:
            raise LimitExceeded(f"more than {reactor.limits.command_arguments} arguments")
    missing = size - len(value)
    if missing < 0 or (missing and flags != ARGUMENT_CONTINUATION):
        raise RemoteProtocolError("malformed argument frame: partial argument value")
    if flags == ARGUMENT_CONTINUATION:
        if partial is None:
            request.partial = _PartialArgument(name, bytearray(value), size)
        return WANT_FRAME
    if partial is not None:
        value = bytes(value)
        request.partial = None
    arguments[name] = value
    return reactor.run(request, DATA, RUNNING) if flags == ARGUMENT_EOA else WANT_FRAME


def _receive_data(reactor: ServerReactor, request: Request, frame: Frame) -> Action:
    final = _is_last(frame, "command data")
    if final:
        reactor.finish_receiving(request, RUNNING)
    return reactor.pass_data(request, frame.payload, final)


def _is_last(frame: Frame, what: str) -> bool:
    flags = frame.flags & _DATA_FLAGS
    if not flags:
        raise RemoteProtocolError(f"{what} frame without flags")
    if flags == _DATA_FLAGS:
        raise MalformedFrame(f"{what} frame with both continuation and eos flags")
    return flags == EOS


_REFUSALS: dict[tuple[str, int], str] = {
    (ARGUMENTS, COMMAND_DATA): "received command data frame for request that is not expecting data: {}",
    (DATA, COMMAND_ARGUMENT): "received command argument frame for request that is not expecting arguments: {}",
}
_NAME_REFUSALS = {
    ARGUMENTS: "request with ID {} already received",
    DATA: "request with ID {} already received",
    RUNNING: "request with ID {} is already active",
}


def _unexpected_at_server(reactor: ServerReactor, request: Request, frame: Frame) -> RemoteProtocolError:
    """The error in the words of the reference, which depend on what else is being received."""
    number = request.request_id
    if frame.type_id == COMMAND_NAME:
        return BadRequestId(_NAME_REFUSALS[request.state].format(number))
    if refusal := _REFUSALS.get((request.state, frame.type_id)):
        return UnexpectedFrame(refusal.format(number))
    if not reactor.receiving:
        return UnexpectedFrame(f"expected command frame; got {frame.type_id}")
    if request.state == RUNNING:
        return UnexpectedFrame(f"received frame for request that is still active: {number}")
    if request.state == IDLE:
        return UnexpectedFrame(f"received frame for request that is not receiving: {number}")
    return UnexpectedFrame(f"received frame of unexpected type for request {number}: {frame.type_id}")


_SERVER_TABLE = {
    (IDLE, COMMAND_NAME): _receive_name,
    (ARGUMENTS, COMMAND_ARGUMENT): _receive_argument,
    (DATA, COMMAND_DATA): _receive_data,
}


# The client receives.


def _receive_response(reactor: ClientReactor, request: Request, frame: Frame) -> Action:
    final = _is_last(frame, "bytes response")
    if final:
        reactor.finish_receiving(request, ANSWERED)
    return ResponseData(request.request_id, frame.payload, final)


def _check_message(reactor: ClientReactor, frame: Frame) -> None:
    """Refuse text for the user that is longer than a frame when decoded.

    16 KiB can decode to 16 MiB of text, which may be four million atoms.
    """
    if len(frame.payload) > reactor.limits.frame_payload:
        raise LimitExceeded(f"a message decodes to more than {reactor.limits.frame_payload} bytes")


def _receive_error(reactor: ClientReactor, request: Request, frame: Frame) -> Action:
    _check_message(reactor, frame)
    reactor.finish_receiving(request, ANSWERED)
    kind = _ERROR_KINDS[frame.flags & (ERROR_PROTOCOL | ERROR_APPLICATION)]
    return ResponseError(request.request_id, frame.payload, kind)


def _receive_text(reactor: ClientReactor, request: Request, frame: Frame) -> Action:
    _check_message(reactor, frame)
    return TextOutput(request.request_id, decode_atoms(frame.payload))


def _unexpected_at_client(reactor: ClientReactor, request: Request, frame: Frame) -> RemoteProtocolError:
    texts = {
        IDLE: "received frame for inactive request ID: {}",
        ANSWERED: "received frame for request that has been answered: {}",
        WAITING: "received frame of unexpected type for request {}: {}",
    }
    return UnexpectedFrame(texts[request.state].format(request.request_id, frame.type_id))


_CLIENT_TABLE = {
    (WAITING, BYTES_RESPONSE): _receive_response,
    (WAITING, ERROR_RESPONSE): _receive_error,
    (WAITING, TEXT_OUTPUT): _receive_text,
}


# Both receive.


def _receive_settings(reactor: Reactor, frame: Frame) -> Action:
    # > This frame type MUST ONLY occur on frames having the *Beginning of Stream* ``Stream Flag`` set.
    if not frame.stream_flags & STREAM_BEGIN:
        raise BadEncoding(f"received stream settings without beginning of stream flag set: {frame.stream_id}")
    # > The payload begins with an 8-bit integer defining the length of the encoding *profile*, followed by the string
    # > name of that profile ... All bytes that follow can be used by that profile for supplemental settings.
    # None of our profiles has supplemental settings.
    size = frame.payload[0] if frame.payload else 0
    name = frame.payload[1 : 1 + size]
    if not name or len(name) < size:
        raise BadEncoding("malformed stream settings: partial profile name")
    reactor.incoming.configure(frame.stream_id, name)
    return WANT_FRAME


# Both send.


def _encode_settings(stream: OutgoingStream, request_id: int) -> Frame:
    name = stream.profile.name.encode("ascii") if stream.profile else b""
    return stream.make_frame(request_id, STREAM_SETTINGS, 0, bytes([len(name)]) + name)


# The client sends.


def _encode_command(
    reactor: ClientReactor,
    stream: OutgoingStream,
    request: Request,
    arguments: Mapping[bytes, Any],
    data: Data | None,
    end_stream: bool,
) -> Iterator[Frame]:
    """The name, then the arguments in the order of their names, then the data, laid out as the reference does.

    Raises:
        LocalProtocolError: an argument that is not bytes, or whose name or value has more than 65,535 bytes, which its
            16-bit length cannot express; a command name that does not fit in a frame; data that are not bytes; a
            redirect.
    """
    if request.redirect is not None:
        raise LocalProtocolError("exp-framing-0002 has no redirects")
    if len(request.name) > _ARGUMENT_FRAME:
        raise LocalProtocolError(f"command name of {len(request.name)} bytes does not fit in a frame")
    if not isinstance(arguments, Mapping):
        raise LocalProtocolError(f"arguments must be a mapping, not {type(arguments).__name__}")
    items = [
        (as_bytes(name, "the name of an argument"), as_bytes(value, f"the value of argument {name!r}"))
        for name, value in arguments.items()
    ]
    frames = [frame for item in sorted(items) for frame in _argument_frames(*item)]
    if frames:
        frames[-1] = ARGUMENT_EOA, frames[-1][1]
    checked = None if data is None else check_data(data, "the data of a command")
    return _command_frames(stream, request, frames, checked, end_stream)


def _argument_frames(name: bytes, value: bytes) -> list[tuple[int, bytes]]:
    # Like the reference, we send an empty name if asked to; our own server refuses it.
    # The header and the whole name must fit in the first frame.
    if len(name) > _ARGUMENT_FRAME - _ARGUMENT_HEADER_SIZE:
        raise LocalProtocolError(f"argument name of {len(name)} bytes does not fit in a frame")
    if len(value) > 0xFFFF:
        raise LocalProtocolError(f"value of argument {name!r} has {len(value)} bytes; at most 65535 are possible")
    payload = _ARGUMENT.pack(len(name), len(value)) + name + value
    # At most 65535 + 65535 + 4 bytes, so at most two more frames.
    pieces = list(rechunk(payload, _ARGUMENT_FRAME))
    return [(ARGUMENT_CONTINUATION, piece) for piece in pieces[:-1]] + [(0, pieces[-1])]


def _command_frames(
    stream: OutgoingStream,
    request: Request,
    arguments: list[tuple[int, bytes]],
    data: bytes | Iterable[BytesLike] | None,
    end_stream: bool,
) -> Iterator[Frame]:
    request_id = request.request_id
    flags = NAME_HAVE_ARGS * bool(arguments) | NAME_HAVE_DATA * (data is not None)
    end = end_stream and not flags
    yield stream.make_frame(request_id, COMMAND_NAME, flags or NAME_EOS, request.name, end=end)
    for number, (argument_flags, payload) in enumerate(arguments, start=1):
        end = end_stream and data is None and number == len(arguments)
        yield stream.make_frame(request_id, COMMAND_ARGUMENT, argument_flags, payload, end=end)
    if data is None:
        return
    size = stream.capacity
    encode = stream.profile is not None
    last = b""
    # A whole piece is never the last one: the reference reads a file, and cannot know.  It ends with an empty frame.
    for piece in rechunk(data, size):
        if len(piece) < size:
            last = piece
        else:
            yield stream.make_frame(request_id, COMMAND_DATA, CONTINUATION, piece, encode=encode)
    yield stream.make_frame(request_id, COMMAND_DATA, EOS, last, encode=encode, end=end_stream)


# The server sends.


def _encode_response(
    stream: OutgoingStream, request: Request, data: Data | Objects, encode: bool, end_stream: bool
) -> Iterator[Frame]:
    """Full frames, and a last one that is empty only if the whole response is."""
    checked = check_data(data, "the data of a response")
    # > While streams can define a content encoding, not all frames within that stream must use that content encoding.
    return _response_frames(stream, request.request_id, checked, encode and stream.profile is not None, end_stream)


def _response_frames(
    stream: OutgoingStream, request_id: int, data: bytes | Iterable[BytesLike], encode: bool, end_stream: bool
) -> Iterator[Frame]:
    size = stream.capacity
    if isinstance(data, bytes) and len(data) <= size:
        yield stream.make_frame(request_id, BYTES_RESPONSE, EOS, data, encode=encode, end=end_stream)
        return
    last = b""
    for piece in rechunk(data, size):
        if last:
            yield stream.make_frame(request_id, BYTES_RESPONSE, CONTINUATION, last, encode=encode)
        last = piece
    yield stream.make_frame(request_id, BYTES_RESPONSE, EOS, last, encode=encode, end=end_stream)


def _encode_error(
    stream: OutgoingStream, request: Request, message: bytes, kind: str, end_stream: bool
) -> Iterator[Frame]:
    flags = _ERROR_FLAGS.get(kind)
    if flags is None:
        raise LocalProtocolError(f"unknown kind of error: {kind!r}; known: {', '.join(filter(None, _ERROR_FLAGS))}")
    payload = _cut_utf8(message, stream.frame_size)
    return _one_frame(stream, request, ERROR_RESPONSE, flags, payload, end_stream)


def _one_frame(
    stream: OutgoingStream, request: Request, type_id: int, flags: int, payload: bytes, end_stream: bool = False
) -> Iterator[Frame]:
    yield stream.make_frame(request.request_id, type_id, flags, payload, end=end_stream)


def _cut_utf8(text: bytes, size: int) -> bytes:
    """Cut ``text`` to ``size`` bytes, or a few fewer so that no character is cut in two."""
    if len(text) <= size:
        return text
    end = size
    # A character has up to three continuation bytes.  Text with more is not UTF-8, and is cut anywhere.
    while end > max(size - 3, 0) and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end] if text[end] & 0xC0 != 0x80 else text[:size]


def _encode_text(stream: OutgoingStream, request: Request, atoms: Iterable[Atom]) -> Iterator[Frame]:
    return _one_frame(stream, request, TEXT_OUTPUT, 0, encode_atoms(atoms, stream.frame_size))


EXP_0002 = Revision(
    name="exp-framing-0002",
    media_type="application/mercurial-exp-framing-0002",
    frame_types={
        "command-name": COMMAND_NAME,
        "command-argument": COMMAND_ARGUMENT,
        "command-data": COMMAND_DATA,
        "bytes-response": BYTES_RESPONSE,
        "error-response": ERROR_RESPONSE,
        "text-output": TEXT_OUTPUT,
        "stream-settings": STREAM_SETTINGS,
    },
    flags=_FLAGS,
    server_state=IDLE,
    server_table=_SERVER_TABLE,
    server_unexpected=_unexpected_at_server,
    client_state=IDLE,
    client_waiting=WAITING,
    client_table=_CLIENT_TABLE,
    client_unexpected=_unexpected_at_client,
    stream_table={STREAM_SETTINGS: _receive_settings},
    encode_settings=_encode_settings,
    encode_command=_encode_command,
    encode_response=_encode_response,
    encode_error=_encode_error,
    encode_text=_encode_text,
)
"""The revision of the streams patch."""
