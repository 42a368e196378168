"""Another revision fits without a change to the reactors; ``other_revision`` says how it differs."""

from __future__ import annotations

import json

import attrs
import pytest
from framing_support import Source, sent
from other_revision import (
    ERROR,
    OTHER,
    RESPONSE,
    SETTINGS,
    dump,
)

from hgwire_wsgi.errors import (
    BadStream,
    CommandFailed,
    LocalProtocolError,
)
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    PROFILES,
    REVISIONS,
    WANT_FRAME,
    ZLIB,
    ZSTD_8MB,
    Action,
    Atom,
    ClientReactor,
    CommandData,
    Error,
    Frame,
    Objects,
    OutgoingStream,
    Profile,
    ResponseData,
    ResponseError,
    RunCommand,
    ServerReactor,
    format_frame,
    iter_chunks,
    parse_frame,
)


def asking(count: int) -> tuple[ClientReactor, ServerReactor]:
    """A client that has sent some commands, and the server that has received them."""
    client, server = ClientReactor(OTHER), ServerReactor(OTHER)
    stream = OutgoingStream(1)
    for number in range(count):
        _, action = client.send_command(stream, b"c", end_stream=number == count - 1)
        for frame in action.frames:
            assert not isinstance(server.receive_frame(frame), Error)
    return client, server


def received(client: ClientReactor, frames: list[Frame]) -> list[Action]:
    return [action for action in map(client.receive_frame, frames) if action is not WANT_FRAME]


def gathered(actions: list[Action]) -> dict[int, bytes]:
    """The data of every request."""
    data: dict[int, bytes] = {}
    for action in actions:
        if isinstance(action, ResponseData):
            data[action.request_id] = data.get(action.request_id, b"") + action.data
    return data


def test_an_exchange() -> None:
    client, server = ClientReactor(OTHER), ServerReactor(OTHER)
    stream = OutgoingStream(1)
    one, first = client.send_command(stream, b"known", {b"nodes": [1, 2], b"deep": True}, redirect={"targets": ["a"]})
    three, second = client.send_command(stream, b"push", {}, [b"some", b"data"], end_stream=True)
    data = b"".join(iter_chunks(first.frames)) + b"".join(iter_chunks(second.frames))
    assert [action for action in server.receive_data(data) if action is not WANT_FRAME] == [
        RunCommand(one, b"known", {b"nodes": [1, 2], b"deep": True}, redirect={"targets": ["a"]}),
        RunCommand(three, b"push", {}, has_data=True),
        CommandData(three, b"somedata", False),
        CommandData(three, b"", True),
    ]
    # The server chooses from what the client said; this needs nothing of the reactor.
    output = OutgoingStream(2, PROFILES[server.scratch["encodings"][0]])
    frames = sent(server.send_response(output, one, Objects([[1], {"two": 2}])))
    frames += sent(server.send_error(output, three, "no", end_stream=True))
    assert frames[0].type_id == SETTINGS
    assert {frame.type_id for frame in frames[1:]} == {RESPONSE}
    actions = received(client, frames)
    assert gathered(actions) == {one: b'[1]\n{"two": 2}\n'}
    assert actions[-1] == ResponseError(three, b"no", "application")
    assert client.receive_eof() is NOOP
    assert server.receive_eof() is NOOP


@pytest.mark.parametrize("profile", [None, *PROFILES.values()])
def test_one_encoder_for_the_exchange(profile: Profile | None) -> None:
    client, server = asking(3)
    stream = OutgoingStream(2, profile)
    values = [{"number": number} for number in range(5000)]
    frames = []
    for request_id in (1, 3, 5):
        source = Source(*values)  # type: ignore[arg-type]  # any values will do
        frames += sent(server.send_response(stream, request_id, Objects(source), end_stream=request_id == 5))
        assert source.closed
        assert not stream.unflushed
    assert sum(frame.type_id == SETTINGS for frame in frames) == (profile is not None)
    assert [index for index, frame in enumerate(frames) if frame.stream_flags & 2] == [len(frames) - 1]
    if profile in (ZLIB, ZSTD_8MB):
        # The encoder decides when there is something to send, not the number of objects.
        assert len(frames) < 30
    assert gathered(received(client, frames)) == dict.fromkeys((1, 3, 5), b"".join(map(dump, values)))
    assert client.receive_eof() is NOOP


def test_a_status_of_its_own() -> None:
    client, server = asking(1)
    status = {"status": "redirect", "location": "x"}
    frames = sent(server.send_response(OutgoingStream(2), 1, Objects(status=status)))
    assert frames[0].payload == dump(status)
    assert received(client, frames)[-1] == ResponseData(1, b"", True)


def test_bytes_of_commands_of_version_1() -> None:
    client, server = asking(2)
    stream = OutgoingStream(2)
    frames = sent(server.send_response(stream, 1, b"heads")) + sent(server.send_response(stream, 3, [b"a", b"b"]))
    assert gathered(received(client, frames)) == {1: b'"heads"\n', 3: b'"ab"\n'}


@pytest.mark.parametrize("profile", [None, ZLIB])
def test_errors_before_and_after_the_status(profile: Profile | None) -> None:
    """What a response leaves in the encoder never gets into the next one."""
    client, server = asking(4)
    stream = OutgoingStream(2, profile)
    broken = Source({"a": 1}, error=CommandFailed("disk"))  # type: ignore[arg-type]  # any values will do
    frames = sent(server.send_error(stream, 1, "no"))
    frames += sent(server.send_error(stream, 3, "bad", kind="protocol"))
    frames += sent(server.send_response(stream, 5, Objects(broken)))
    frames += sent(server.send_response(stream, 7, Objects([2]), end_stream=True))
    actions = received(client, frames)
    assert [action for action in actions if isinstance(action, ResponseError)] == [
        ResponseError(1, b"no", "application"),
        ResponseError(3, b"bad", "protocol"),
        ResponseError(5, b"disk", "server"),
    ]
    assert gathered(actions) == {5: b'{"a": 1}\n', 7: b"2\n"}
    assert client.receive_eof() is NOOP


def test_mistakes_of_the_owner() -> None:
    client, server = asking(1)
    with pytest.raises(LocalProtocolError, match="unknown kind"):
        server.send_error(OutgoingStream(2), 1, "no", kind="protocol|application")
    with pytest.raises(LocalProtocolError, match="no type of this revision"):
        client.send_command(OutgoingStream(1), b"c", {b"k": b"bytes"})
    assert sent(server.send_response(OutgoingStream(2), 1, Objects([1])))


def test_no_text_output() -> None:
    _, server = asking(1)
    assert not OTHER.has_text_output
    assert EXP_0002.has_text_output
    with pytest.raises(LocalProtocolError, match="exp-framing-test has no text output"):
        server.send_text(OutgoingStream(2), 1, [Atom(b"x")])


def test_settings_after_the_beginning_over_frames() -> None:
    client = ClientReactor(OTHER)
    for text in ('1 2 1 9 1 "zl', '1 4 1 9 1 "ident', '1 2 0 9 2 ib"', '1 4 0 9 2 ity"'):
        assert client.receive_frame(parse_frame(text, OTHER)) is WANT_FRAME
    assert {number: stream.profile for number, stream in client.incoming.open.items()} == {
        2: PROFILES["zlib"],
        4: PROFILES["identity"],
    }


def test_incomplete_settings_end_with_their_stream() -> None:
    client = ClientReactor(OTHER)
    for text in ('1 2 1 9 1 "zl', '1 2 1 9 1 "zl', '1 2 0 9 2 ib"', '1 4 3 9 1 "zl'):
        assert client.receive_frame(parse_frame(text, OTHER)) is WANT_FRAME
    assert [stream.partial for stream in client.incoming.open.values()] == [None]
    for flags in (1, 0):
        action = client.receive_frame(Frame(1, 6, flags, 9, 1, b" " * 40000))
    assert isinstance(action, Error)
    assert action.message == "settings are too long"


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


def test_a_terminal_error_is_sent_as_the_revision_has_it() -> None:
    server = ServerReactor(OTHER)
    action = server.receive_frame(parse_frame("1 1 stream-begin command-request new {}", OTHER))
    assert isinstance(action, Error)
    (frame,) = sent(server.send_failure(OutgoingStream(2)))
    assert (frame.type_id, json.loads(frame.payload)) == (ERROR, {"type": "protocol", "message": action.message})


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
    assert REVISIONS == {"exp-framing-0002": EXP_0002}
