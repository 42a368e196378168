"""The receiving half, which both reactors share: the contract, for every revision."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from framing_support import Split, frame, single, whole, wire

from hgwire_wsgi.errors import (
    BadStream,
    FrameTooLarge,
    LocalProtocolError,
    RemoteProtocolError,
    TruncatedFrame,
    UnexpectedFrame,
)
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    WANT_FRAME,
    ZLIB,
    ClientReactor,
    CommandData,
    Error,
    Frame,
    OutgoingStream,
    RunCommand,
    ServerReactor,
    encode_frame,
)
from hgwire_wsgi.limits import Limits

Reactor: TypeAlias = ServerReactor | ClientReactor

BOTH = pytest.mark.parametrize("kind", [ServerReactor, ClientReactor])
SETTINGS = {
    ServerReactor: "1 1 stream-begin stream-settings 0 \\x04zlib",
    ClientReactor: "1 2 stream-begin stream-settings 0 \\x04zlib",
}


def other_side(kind: type[Reactor]) -> int:
    return 1 if kind is ServerReactor else 2


@BOTH
@pytest.mark.parametrize("split", [whole, single])
def test_bytes_become_actions(kind: type[Reactor], split: Split) -> None:
    reactor = kind(EXP_0002)
    data = wire(SETTINGS[kind], SETTINGS[kind])
    assert [action for piece in split(data) for action in reactor.receive_data(piece)] == [WANT_FRAME] * 2
    assert reactor.receive_eof() is NOOP


@BOTH
def test_actions_that_were_not_taken_are_kept(kind: type[Reactor]) -> None:
    reactor = kind(EXP_0002)
    next(reactor.receive_data(wire(*[SETTINGS[kind]] * 3)))
    with pytest.raises(LocalProtocolError, match="before its frames were taken"):
        reactor.receive_eof()
    assert list(reactor.receive_data(bytearray())) == [WANT_FRAME] * 2


@BOTH
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1 {0} 0 1 1 x", BadStream),
        ("1 {1} 1 1 1 x", BadStream),
        ("1 {0} 1 9 1 x", RemoteProtocolError),
        ("1 {0} 1 15 15 x", UnexpectedFrame),
        ("1 {0} 1 1 1 too large", FrameTooLarge),
    ],
)
def test_the_first_error_stays(kind: type[Reactor], text: str, error: type[RemoteProtocolError]) -> None:
    item = frame(text.format(other_side(kind), 3 - other_side(kind)))
    limits = Limits(frame_payload=8)
    for feed in (
        lambda reactor: list(reactor.receive_data(encode_frame(item) * 2))[-1],
        lambda reactor: reactor.receive_frame(item),
    ):
        reactor = kind(EXP_0002, limits)
        action = feed(reactor)
        assert isinstance(action, Error)
        assert isinstance(action.error, error)
        assert reactor.failure is action
        assert reactor.receive_frame(item) is action
        assert list(reactor.receive_data(b"anything")) == [action]
        assert reactor.fail(RemoteProtocolError("another")) is action
        assert reactor.receive_eof() is action


@BOTH
def test_mistakes_of_the_owner(kind: type[Reactor]) -> None:
    reactor = kind(EXP_0002)
    for data in ("text", 5, None, [b"x"]):
        with pytest.raises(LocalProtocolError, match="input must be bytes"):
            reactor.receive_data(data)  # type: ignore[arg-type]  # that it refuses is what is tested
    for item in (b"x", None, Frame(1, 1, 1, 1, 1, "text")):  # type: ignore[arg-type]  # as above
        with pytest.raises(LocalProtocolError, match="input must be a frame with a payload of bytes"):
            reactor.receive_frame(item)  # type: ignore[arg-type]  # as above
    assert reactor.receive_eof() is NOOP


@BOTH
def test_the_end(kind: type[Reactor]) -> None:
    reactor = kind(EXP_0002)
    assert reactor.receive_eof() is NOOP
    for feed in (lambda: reactor.receive_data(b"x"), lambda: reactor.receive_frame(frame(SETTINGS[kind]))):
        with pytest.raises(LocalProtocolError, match="received input after its end"):
            feed()
    reactor = kind(EXP_0002)
    assert list(reactor.receive_data(b"x")) == []
    action = reactor.receive_eof()
    assert isinstance(action, Error)
    assert isinstance(action.error, TruncatedFrame)


def test_the_end_inside_a_request() -> None:
    server, client = ServerReactor(EXP_0002), ClientReactor(EXP_0002)
    list(server.receive_data(wire("1 1 1 command-name have-args c")))
    client.send_command(OutgoingStream(1), b"c")
    for reactor, message in (
        (server, "received end of input inside a command: request 1"),
        (client, "received end of input before the end of the response: request 1"),
    ):
        action = reactor.receive_eof()
        assert isinstance(action, Error)
        assert action.message == message


@pytest.mark.parametrize("answer_first", [False, True])
def test_a_request_ends_when_both_halves_have(answer_first: bool) -> None:
    client = ClientReactor(EXP_0002)
    _, action = client.send_command(OutgoingStream(1), b"c")
    steps = [lambda: list(action.frames), lambda: [client.receive_frame(frame("1 2 1 bytes-response eos x"))]]
    if answer_first:
        steps.reverse()
    steps[0]()
    assert list(client.requests) == [1]
    steps[1]()
    assert not client.requests


def test_streams_end_on_their_own() -> None:
    """A request goes on after the stream it came in, and is complete at the end of the input."""
    server = ServerReactor(EXP_0002)
    texts = (
        "1 1 stream-begin|stream-end command-name eos c",
        "3 1 1 command-name have-data d",
        "3 1 0 command-data eos x",
    )
    _, run, data = server.receive_data(wire(*texts))
    assert run == RunCommand(3, b"d", {}, has_data=True)
    assert data == CommandData(3, b"x", True)
    assert server.receive_eof() is NOOP
    assert list(server.requests) == [1, 3]


def test_streams_have_the_number_of_their_side() -> None:
    with pytest.raises(LocalProtocolError, match="client should only write to odd numbered streams; 2 is not odd"):
        ClientReactor(EXP_0002).send_command(OutgoingStream(2), b"c")
    server = ServerReactor(EXP_0002)
    list(server.receive_data(wire("1 1 1 command-name eos c")))
    with pytest.raises(LocalProtocolError, match="server should only write to even numbered streams; 1 is not even"):
        server.send_response(OutgoingStream(1), 1, b"")


def test_encodings_are_announced() -> None:
    stream = OutgoingStream(1, ZLIB)
    client = ClientReactor(EXP_0002)
    types = [[item.type_id for item in client.send_command(stream, b"c")[1].frames] for _ in range(2)]
    assert types == [[8, 1], [1]]
