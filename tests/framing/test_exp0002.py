"""The revision of the streams patch: every frame in every state, and what the reference never did."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from framing_support import frame, sent, single, split_at, whole, wire
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hgwire_wsgi.errors import BadRequestId, BadStream, LimitExceeded, LocalProtocolError, UnexpectedFrame
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    WANT_FRAME,
    ZLIB,
    Action,
    Atom,
    ClientReactor,
    CommandData,
    Error,
    Frame,
    Objects,
    OutgoingStream,
    Profile,
    Request,
    ResponseData,
    ResponseError,
    RunCommand,
    ServerReactor,
    TextOutput,
    encode_frame,
    iter_chunks,
)
from hgwire_wsgi.framing.exp0002 import _cut_utf8
from hgwire_wsgi.limits import Limits

NAME, ARGUMENT, DATA, RESPONSE, ERROR, TEXT, SETTINGS = 1, 2, 3, 4, 5, 6, 8
ANSWERED = Request(1, "running")
VALID_PAYLOAD = {ARGUMENT: b"\x01\x00\x01\x00zv", SETTINGS: b"\x08identity"}


def feed(reactor: ServerReactor | ClientReactor, *texts: str) -> list[Action]:
    return [reactor.receive_frame(frame(text)) for text in texts]


# What the server answers to request 1, by its state: then the messages of errors, else the kind of action.

SERVER_STATES: dict[str, list[str]] = {
    "idle": [],
    "arguments": ["1 1 stream-begin command-name have-args|have-data c"],
    "value": [
        "1 1 stream-begin command-name have-args c",
        "1 1 0 command-argument continuation \\x01\\x00\\x07\\x00kv",
    ],
    "data": ["1 1 stream-begin command-name have-data c"],
    "running": ["1 1 stream-begin command-name eos c"],
    # Request 1 is unknown or runs, and another is being received.
    "idle beside": ["3 1 stream-begin command-name have-args c"],
    "running beside": ["1 1 stream-begin command-name eos c", "3 1 0 command-name have-args c"],
}


def server_in(state: str) -> ServerReactor:
    reactor = ServerReactor(EXP_0002)
    feed(reactor, *SERVER_STATES[state])
    return reactor


def expected_at_server(state: str, type_id: int, flags: int, stream_flags: int) -> object:
    """The rules again, in another form than the code has them."""
    if state == "idle" and not stream_flags & 1:
        return "received frame on unknown inactive stream without beginning of stream flag set"
    if stream_flags & 4:
        return "received encoded frame on stream without encoding settings: 1"
    if type_id == SETTINGS:
        return WANT_FRAME if stream_flags & 1 else "received stream settings without beginning of stream flag set: 1"
    base, _, beside = state.partition(" ")
    if type_id == NAME:
        if base == "idle":
            return {
                0: "missing frame flags on command frame",
                1: RunCommand,
                2: WANT_FRAME,
                4: RunCommand,
                6: WANT_FRAME,
            }.get(flags & 7, "command frame that ends the command announces arguments or data")
        if base == "running":
            return "request with ID 1 is already active"
        return "request with ID 1 already received"
    if base in ("arguments", "value"):
        if type_id == ARGUMENT and flags & 3 == 3:
            return "command argument frame with both continuation and eoa flags"
        if type_id == ARGUMENT and base == "arguments":
            return RunCommand if flags & 3 == 2 else WANT_FRAME
        if type_id == ARGUMENT:
            # The payload holds six bytes, which is what the value lacks.
            return RunCommand if flags & 3 == 2 else WANT_FRAME
        if type_id == DATA:
            return "received command data frame for request that is not expecting data: 1"
    if base == "data":
        if type_id == DATA:
            return {
                0: "command data frame without flags",
                3: "command data frame with both continuation and eos flags",
            }.get(flags & 3, CommandData)
        if type_id == ARGUMENT:
            return "received command argument frame for request that is not expecting arguments: 1"
    if base in ("idle", "running") and not beside:
        return f"expected command frame; got {type_id}"
    if base == "idle":
        return "received frame for request that is not receiving: 1"
    if base == "running":
        return "received frame for request that is still active: 1"
    return f"received frame of unexpected type for request 1: {type_id}"


def is_expected(action: Action, expected: object) -> bool:
    """Whether an action is of the kind that is expected, or the very signal."""
    return isinstance(action, expected) if isinstance(expected, type) else action is expected


@pytest.mark.parametrize("state", SERVER_STATES)
@pytest.mark.parametrize("type_id", range(16))
def test_every_frame_in_every_state_of_the_server(state: str, type_id: int) -> None:
    for flags, stream_flags in itertools.product(range(16), range(8)):
        reactor = server_in(state)
        sent_frame = Frame(1, 1, stream_flags, type_id, flags, VALID_PAYLOAD.get(type_id, b"x"))
        action = reactor.receive_frame(sent_frame)
        expected = expected_at_server(state, type_id, flags, stream_flags)
        where = (flags, stream_flags, action)
        if isinstance(expected, str):
            assert isinstance(action, Error), where
            assert action.message == expected, where
            assert reactor.failure is action
            assert reactor.receive_frame(frame("9 1 stream-begin command-name eos c")) is action
            assert reactor.receive_eof() is action
            assert list(reactor.receive_data(b"more")) == [action]
        else:
            assert reactor.failure is None, where
            assert is_expected(action, expected), where


def test_every_pair_of_the_specification_is_in_the_tables() -> None:
    assert set(EXP_0002.server_table) == {("idle", NAME), ("arguments", ARGUMENT), ("data", DATA)}
    assert set(EXP_0002.client_table) == {("waiting", RESPONSE), ("waiting", ERROR), ("waiting", TEXT)}
    assert set(EXP_0002.stream_table) == {SETTINGS}
    assert set(EXP_0002.frame_types.values()) == set(EXP_0002.flags) == {1, 2, 3, 4, 5, 6, 8}


CLIENT_STATES = ("idle", "waiting", "answered")


def client_in(state: str) -> ClientReactor:
    reactor = ClientReactor(EXP_0002)
    reactor.receive_frame(frame("1 2 stream-begin stream-settings 0 \\x08identity"))
    if state != "idle":
        _, action = reactor.send_command(OutgoingStream(1), b"c")
        if state == "waiting":
            list(action.frames)
        else:
            # Answered before we sent all of it: the ID stays taken.
            reactor.receive_frame(frame("1 2 0 bytes-response eos x"))
    return reactor


def expected_at_client(state: str, type_id: int, flags: int, stream_flags: int) -> object:
    if stream_flags & 1 and stream_flags & 4:
        return "received encoded frame on stream without encoding settings: 2"
    if type_id == SETTINGS:
        return WANT_FRAME if stream_flags & 1 else "received stream settings without beginning of stream flag set: 2"
    if state == "idle":
        return "received frame for inactive request ID: 1"
    if state == "answered":
        return "received frame for request that has been answered: 1"
    if type_id == RESPONSE:
        return {
            0: "bytes response frame without flags",
            3: "bytes response frame with both continuation and eos flags",
        }.get(flags & 3, ResponseData)
    return {ERROR: ResponseError, TEXT: TextOutput}.get(
        type_id, f"received frame of unexpected type for request 1: {type_id}"
    )


@pytest.mark.parametrize("state", CLIENT_STATES)
@pytest.mark.parametrize("type_id", range(16))
def test_every_frame_in_every_state_of_the_client(state: str, type_id: int) -> None:
    payload = {TEXT: b"\x01\x00\x00\x00x", SETTINGS: b"\x04zlib"}.get(type_id, b"x")
    for flags, stream_flags in itertools.product(range(16), range(8)):
        reactor = client_in(state)
        action = reactor.receive_frame(Frame(1, 2, stream_flags, type_id, flags, payload))
        expected = expected_at_client(state, type_id, flags, stream_flags)
        where = (flags, stream_flags, action)
        if isinstance(expected, str):
            assert isinstance(action, Error), where
            assert action.message == expected, where
            assert reactor.receive_frame(frame("1 2 stream-begin bytes-response eos x")) is action
            assert reactor.receive_eof() is action
        else:
            assert reactor.failure is None, where
            assert is_expected(action, expected), where


# Sequences.

FRAMES = st.builds(
    Frame,
    st.sampled_from([1, 1, 1, 3, 3, 2, 65535]),
    st.sampled_from([1, 1, 1, 3, 2]),
    st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]),
    st.sampled_from([1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 15]),
    st.integers(0, 15),
    st.one_of(
        st.sampled_from([b"", b"c", b"\x01\x00\x01\x00kv", b"\x01\x00\x02\x00kv", b"\x08identity", b"\x04zlib"]),
        st.binary(max_size=12),
    ),
)


def outcome(action: Action) -> object:
    """An action without its identity."""
    return action.message if isinstance(action, Error) else action


@settings(max_examples=400)
@given(
    make=st.sampled_from([lambda: ServerReactor(EXP_0002), lambda: client_in("waiting")]),
    frames=st.lists(FRAMES, max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=10),
)
def test_sequences(make: Callable[[], ServerReactor], frames: list[Frame], cuts: list[int]) -> None:
    reactor = make()
    expected = []
    for item in frames:
        action = reactor.receive_frame(item)
        expected.append(outcome(action))
        if isinstance(action, Error):
            assert reactor.receive_frame(item) is action
            break
    data = b"".join(map(encode_frame, frames))
    for pieces in (whole(data), single(data), split_at(data, cuts)):
        reactor = make()
        found: list[Action] = []
        for piece in pieces:
            if reactor.failure is None:
                found += reactor.receive_data(piece)
        assert list(map(outcome, found)) == expected


# Arguments.

BEGIN = "1 1 stream-begin command-name have-args c"


class TestArguments:
    def test_value_over_frames_with_others_between(self) -> None:
        reactor = ServerReactor(EXP_0002)
        actions = feed(
            reactor,
            BEGIN,
            "3 3 stream-begin command-name have-args d",
            "1 1 0 command-argument continuation \\x03\\x00\\x04\\x00keya",
            "3 1 0 command-argument continuation \\x01\\x00\\x02\\x00k",
            "1 3 0 command-argument continuation b",
            "1 1 0 command-argument continuation ",
            "3 3 stream-end command-argument eoa yz",
            "5 1 0 command-name eos e",
            "1 1 0 command-argument 0 cd",
            "1 1 0 command-argument eoa \\x01\\x00\\x00\\x00x",
        )
        assert actions[-4:] == [
            RunCommand(3, b"d", {b"k": b"yz"}),
            RunCommand(5, b"e", {}),
            WANT_FRAME,
            RunCommand(1, b"c", {b"key": b"abcd", b"x": b""}),
        ]
        assert set(actions[:-4]) == {WANT_FRAME}

    @pytest.mark.parametrize(
        ("payloads", "message"),
        [
            (["0 "], "partial argument header"),
            (["eoa \\x01\\x00\\x01"], "partial argument header"),
            (["0 \\x02\\x00\\x00\\x00a"], "partial argument name"),
            (["continuation \\x02\\x00\\x00\\x00a"], "partial argument name"),
            (["0 \\x01\\x00\\x02\\x00ab"], "partial argument value"),
            (["0 \\x01\\x00\\x00\\x00ab"], "partial argument value"),
            (["continuation \\x01\\x00\\x00\\x00ab"], "partial argument value"),
            (["continuation \\x01\\x00\\x02\\x00ab", "eoa "], "partial argument value"),
            (["continuation \\x01\\x00\\x02\\x00ab", "continuation cd"], "partial argument value"),
            (["0 \\x00\\x00\\x01\\x00v"], "empty argument name"),
            (["0 \\x01\\x00\\x01\\x00ab", "eoa \\x01\\x00\\x01\\x00ac"], "duplicate argument name"),
        ],
    )
    def test_malformed(self, payloads: list[str], message: str) -> None:
        texts = [BEGIN] + [f"1 1 0 command-argument {payload}" for payload in payloads]
        *before, last = feed(ServerReactor(EXP_0002), *texts)
        assert set(before) == {WANT_FRAME}
        assert isinstance(last, Error)
        assert last.message == f"malformed argument frame: {message}"

    def test_number(self) -> None:
        reactor = ServerReactor(EXP_0002, Limits(command_arguments=2))
        texts = [f"1 1 0 command-argument 0 \\x01\\x00\\x00\\x00{name}" for name in "abc"]
        *before, last = feed(reactor, BEGIN, *texts)
        assert set(before) == {WANT_FRAME}
        assert isinstance(last, Error)
        assert isinstance(last.error, LimitExceeded)
        assert last.message == "more than 2 arguments"

    def test_bytes_of_all_commands_together(self) -> None:
        limits = Limits(command_argument_bytes=20)
        argument = "1 0 command-argument {} \\x01\\x00\\x03\\x00{}123"
        reactor = ServerReactor(EXP_0002, limits)
        # A command that was returned holds nothing any more.
        for _ in range(5):
            _, _, run = feed(reactor, BEGIN, "1 " + argument.format(0, "a"), "1 " + argument.format("eoa", "b"))
            assert isinstance(run, RunCommand)
            sent(reactor.send_response(OutgoingStream(2), 1, b""))
        actions = feed(
            reactor,
            BEGIN,
            "3 1 0 command-name have-args d",
            "1 " + argument.format(0, "a"),
            "3 " + argument.format(0, "a"),
            "3 " + argument.format(0, "b"),
        )
        assert set(actions[:-1]) == {WANT_FRAME}
        assert isinstance(actions[-1], Error)
        assert actions[-1].message == "command arguments exceed 20 bytes"

    def test_bytes_of_values_that_go_on(self) -> None:
        reactor = ServerReactor(EXP_0002, Limits(command_argument_bytes=20))
        first = "{} 1 0 command-argument continuation \\x01\\x00\\xff\\xffk12345"
        feed(reactor, BEGIN, "3 1 0 command-name have-args d")
        assert feed(reactor, first.format(1)) == [WANT_FRAME]
        *_, last = feed(reactor, first.format(3), "3 1 0 command-argument continuation 6")
        assert isinstance(last, Error)
        assert last.message == "command arguments exceed 20 bytes"

    def test_endless_value(self) -> None:
        reactor = ServerReactor(EXP_0002)
        feed(reactor, BEGIN, "1 1 0 command-argument continuation \\x01\\x00\\xff\\xffk")
        for _ in range(15):
            assert reactor.receive_frame(Frame(1, 1, 0, ARGUMENT, 1, bytes(4369))) is WANT_FRAME
        assert isinstance(reactor.receive_frame(frame("1 1 0 command-argument continuation x")), Error)


class TestCommands:
    def test_undefined_flags_are_ignored(self) -> None:
        reactor = ServerReactor(EXP_0002)
        assert feed(
            reactor,
            "1 1 stream-begin|248 command-name have-args|have-data|8 c",
            "1 1 128 command-argument eoa|12 \\x01\\x00\\x01\\x00kv",
            "1 1 64 command-data eos|12 d",
        ) == [WANT_FRAME, RunCommand(1, b"c", {b"k": b"v"}, has_data=True), CommandData(1, b"d", True)]

    def test_data_are_handed_on(self) -> None:
        reactor = ServerReactor(EXP_0002)
        assert feed(
            reactor,
            "1 1 stream-begin command-name have-data c",
            "1 1 0 command-data continuation ab",
            "3 1 0 command-name eos d",
            "1 1 0 command-data eos ",
        ) == [
            RunCommand(1, b"c", {}, has_data=True),
            CommandData(1, b"ab", False),
            RunCommand(3, b"d", {}),
            CommandData(1, b"", True),
        ]

    @pytest.mark.parametrize("request_id", [0, 2, 65534])
    def test_request_ids_of_servers(self, request_id: int) -> None:
        for texts in ([f"{request_id} 1 1 command-name eos c"], [f"{request_id} 1 1 stream-settings 0 \\x04zlib"]):
            action = feed(ServerReactor(EXP_0002), *texts)[-1]
            assert isinstance(action, Error)
            assert isinstance(action.error, BadRequestId)
            assert action.message == f"received frame with even numbered request ID: {request_id}"

    def test_name(self) -> None:
        assert feed(ServerReactor(EXP_0002), "1 1 1 command-name eos ") == [RunCommand(1, b"", {})]
        reactor = ServerReactor(EXP_0002, Limits(command_name=4))
        ok, refused = feed(reactor, "1 1 1 command-name eos name", "3 1 0 command-name eos names")
        assert isinstance(ok, RunCommand)
        assert isinstance(refused, Error)
        assert refused.message == "command name is longer than 4 bytes"

    def test_kinds_of_errors(self) -> None:
        for text, kind in (
            ("1 1 1 command-data eos x", UnexpectedFrame),
            ("1 1 0 command-name eos x", BadStream),
        ):
            (action,) = feed(ServerReactor(EXP_0002), text)
            assert isinstance(action, Error)
            assert isinstance(action.error, kind)
            assert action.error.http_status == 400


class TestSettings:
    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            ("", "malformed stream settings: partial profile name"),
            ("\\x00", "malformed stream settings: partial profile name"),
            ("\\x05zlib", "malformed stream settings: partial profile name"),
            ("\\x04zlip", "unknown stream encoding profile: zlip; known: identity, zlib, zstd-8mb"),
        ],
    )
    def test_refused(self, payload: str, message: str) -> None:
        (action,) = feed(ServerReactor(EXP_0002), f"1 1 stream-begin stream-settings 0 {payload}")
        assert isinstance(action, Error)
        assert action.message == message

    def test_supplement_is_ignored(self) -> None:
        assert feed(ServerReactor(EXP_0002), "1 1 1 stream-settings 0 \\x04zlibmore") == [WANT_FRAME]

    def test_an_encoded_command(self) -> None:
        """Even names and arguments may be encoded, though our client encodes data alone."""
        stream = OutgoingStream(1, ZLIB)
        reactor = ServerReactor(EXP_0002)
        frames = [
            stream.make_frame(1, SETTINGS, 0, b"\x04zlib"),
            stream.make_frame(1, NAME, 6, b"command", encode=True),
            stream.make_frame(1, ARGUMENT, 2, b"\x01\x00\x01\x00kv", encode=True),
            stream.make_frame(1, DATA, 2, b"data", encode=True, end=True),
        ]
        assert list(reactor.receive_data(b"".join(iter_chunks(frames)))) == [
            WANT_FRAME,
            WANT_FRAME,
            RunCommand(1, b"command", {b"k": b"v"}, has_data=True),
            CommandData(1, b"data", True),
        ]


# Encoders.


@given(st.text(max_size=12), st.integers(1, 12))
def test_cut_at_characters(text: str, size: int) -> None:
    data = text.encode()
    cut = _cut_utf8(data, size)
    assert data.startswith(cut)
    assert len(cut) <= size
    cut.decode()
    assert len(data) <= size or len(cut) > size - 4


@given(st.binary(min_size=1, max_size=12), st.integers(1, 12))
@example(b"\x80\x80\x00", 1)  # gave two bytes once
@example(b"a" + b"\x80" * 8, 6)  # more continuation bytes than any character has
def test_cut_what_is_no_text(data: bytes, size: int) -> None:
    cut = _cut_utf8(data, size)
    assert data.startswith(cut)
    assert len(cut) <= size
    assert len(data) <= size or len(cut) >= size - 3


class TestEncoders:
    def test_unknown_kind_of_error(self) -> None:
        known = "known: protocol, application, protocol|application, server"
        with pytest.raises(LocalProtocolError, match=re.escape(f"unknown kind of error: 'fatal'; {known}")):
            EXP_0002.encode_error(OutgoingStream(2), ANSWERED, b"", "fatal", False)

    def test_a_fault_of_the_server_has_no_flag_of_its_own(self) -> None:
        errors = EXP_0002.encode_error(OutgoingStream(2), ANSWERED, b"oops", "server", True)
        assert list(errors) == [frame("1 2 stream-begin|stream-end error-response application oops")]

    @given(
        data=st.binary(max_size=50) | st.lists(st.binary(max_size=20)),
        profile=st.sampled_from([None, ZLIB]),
        end=st.booleans(),
        size=st.integers(1, 80),
    )
    def test_responses_arrive(self, data: bytes | list[bytes], profile: Profile | None, end: bool, size: int) -> None:
        stream = OutgoingStream(2, profile, frame_size=size)
        frames = [EXP_0002.encode_settings(stream, 1)] if profile else []
        frames += EXP_0002.encode_response(stream, ANSWERED, data, True, end)
        assert [bool(item.stream_flags & 2) for item in frames] == [False] * (len(frames) - 1) + [end]
        client = ClientReactor(EXP_0002)
        list(client.send_command(OutgoingStream(1), b"c")[1].frames)
        actions = [item for item in map(client.receive_frame, frames) if item is not WANT_FRAME]
        assert all(isinstance(item, ResponseData) for item in actions)
        received = b"".join(item.data for item in actions if isinstance(item, ResponseData))
        assert received == (data if isinstance(data, bytes) else b"".join(data))
        # An empty frame only where there is nothing at all.
        assert len(actions) == 1 or all(item.data for item in actions if isinstance(item, ResponseData))
        assert client.receive_eof() is NOOP

    @pytest.mark.parametrize("type_id", [ERROR, TEXT])
    def test_messages_are_no_longer_than_a_frame(self, type_id: int) -> None:
        client, stream = ClientReactor(EXP_0002), OutgoingStream(2, ZLIB)
        list(client.send_command(OutgoingStream(1), b"c")[1].frames)
        client.receive_frame(EXP_0002.encode_settings(stream, 1))
        action = client.receive_frame(stream.make_frame(1, type_id, 0, bytes(65536), encode=True))
        assert isinstance(action, Error)
        assert action.message == "a message decodes to more than 65535 bytes"

    def test_no_objects(self) -> None:
        with pytest.raises(LocalProtocolError, match="the data of a response must be bytes, not Objects"):
            EXP_0002.encode_response(OutgoingStream(2), ANSWERED, Objects([1]), True, False)

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            (b"x" * 65536, {}, "command name of 65536 bytes"),
            (b"c", {b"k" * 65532: b""}, "argument name of 65532 bytes"),
            (b"c", {b"k": b"v" * 65536}, "has 65536 bytes; at most 65535"),
            (b"c", {"k": b"v"}, "the name of an argument must be bytes, not str"),
            (b"c", {b"k": "v"}, "the value of argument b'k' must be bytes, not str"),
            (b"c", {b"k": 5}, "must be bytes, not int"),
            (b"c", {b"a": b"", "b": b""}, "must be bytes, not str"),
            (b"c", [(b"k", b"v")], "arguments must be a mapping, not list"),
            ("c", {}, "the name of a command must be bytes, not str"),
        ],
    )
    def test_commands_that_cannot_be_sent(self, name: Any, arguments: Any, message: str) -> None:
        stream = OutgoingStream(1)
        reactor = ClientReactor(EXP_0002)
        with pytest.raises(LocalProtocolError, match=message):
            reactor.send_command(stream, name, arguments)
        assert not stream.is_open
        assert not reactor.requests

    def test_no_redirects(self) -> None:
        reactor = ClientReactor(EXP_0002)
        with pytest.raises(LocalProtocolError, match="exp-framing-0002 has no redirects"):
            reactor.send_command(OutgoingStream(1), b"c", redirect={b"targets": []})
        assert not reactor.requests

    def test_any_buffer_is_an_argument(self) -> None:
        arguments: dict[bytes, Any] = {b"a": bytearray(b"x"), b"b": memoryview(b"yz")[1:]}
        _, action = ClientReactor(EXP_0002).send_command(OutgoingStream(1), b"c", arguments)
        *_, run = map(ServerReactor(EXP_0002).receive_frame, action.frames)
        assert run == RunCommand(1, b"c", {b"a": b"x", b"b": b"z"})

    @pytest.mark.parametrize("name_size", [1, 65531])
    @pytest.mark.parametrize("value_size", [0, 65530, 65531, 65535])
    def test_largest_arguments(self, name_size: int, value_size: int) -> None:
        arguments = {b"n" * name_size: b"v" * value_size, b"a": b"first"}
        _, action = ClientReactor(EXP_0002).send_command(OutgoingStream(1), b"c", arguments)
        actions = list(ServerReactor(EXP_0002).receive_data(b"".join(iter_chunks(action.frames))))
        assert actions[-1] == RunCommand(1, b"c", arguments)

    @given(
        name=st.binary(max_size=20),
        arguments=st.dictionaries(st.binary(min_size=1, max_size=8), st.binary(max_size=20), max_size=5),
        data=st.none() | st.binary(max_size=50) | st.lists(st.binary(max_size=20)),
        profile=st.sampled_from([None, ZLIB]),
        end=st.booleans(),
        size=st.integers(1, 80),
    )
    def test_commands_arrive(
        self,
        name: bytes,
        arguments: dict[bytes, bytes],
        data: bytes | list[bytes] | None,
        profile: Profile | None,
        end: bool,
        size: int,
    ) -> None:
        stream = OutgoingStream(1, profile, frame_size=size)
        _, action = ClientReactor(EXP_0002).send_command(stream, name, arguments, data, end_stream=end)
        frames = list(action.frames)
        assert [bool(item.stream_flags & 2) for item in frames] == [False] * (len(frames) - 1) + [end]
        server = ServerReactor(EXP_0002)
        run, *rest = (item for item in map(server.receive_frame, frames) if item is not WANT_FRAME)
        assert run == RunCommand(1, name, arguments, has_data=data is not None)
        assert bool(rest) == (data is not None)
        received = b""
        for item in rest:
            assert isinstance(item, CommandData)
            assert item.final == (item is rest[-1])
            received += item.data
        assert received == (data if isinstance(data, bytes) else b"".join(data or []))
        assert server.receiving is False
        assert bool(server.incoming.open) != end

    def test_text_is_made_when_sent_but_checked_at_once(self) -> None:
        stream = OutgoingStream(2, frame_size=8)
        assert EXP_0002.encode_text is not None
        frames = EXP_0002.encode_text(stream, ANSWERED, [Atom(b"text")])
        assert not stream.is_open
        assert [item.payload for item in frames] == [b"\x04\x00\x00\x00text"]
        with pytest.raises(LocalProtocolError):
            EXP_0002.encode_text(stream, ANSWERED, [Atom(b"texts")])


def test_wire_of_the_patch() -> None:
    """The bytes that stand in the patch's own test of the HTTP API."""
    assert wire("1 1 stream-begin command-name eos customreadonly") == b"\x0e\0\0\1\0\1\1\x11customreadonly"
    assert wire("3 2 stream-begin bytes-response eos ") == b"\0\0\0\3\0\2\1B"
