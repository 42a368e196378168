"""The server's reactor: responses, deferred output, request IDs, limits and the end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from framing_support import Source, frame, sent, wire

from hgwire_wsgi.errors import (
    BadStream,
    CommandFailed,
    FrameTooLarge,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    TruncatedFrame,
)
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
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
    SendFrames,
    ServerReactor,
    iter_chunks,
)
from hgwire_wsgi.framing.frame import DEFAULT_LIMITS
from hgwire_wsgi.limits import Limits

COMMANDS = ("1 1 stream-begin command-name eos a", "3 1 0 command-name eos b", "5 1 0 command-name eos c")


def started(*texts: str, limits: Limits = DEFAULT_LIMITS, defer_output: bool = False) -> ServerReactor:
    reactor = ServerReactor(EXP_0002, limits, defer_output=defer_output)
    for text in texts:
        assert not isinstance(reactor.receive_frame(frame(text)), Error)
    return reactor


class TestResponses:
    def test_frames_are_made_when_they_are_taken(self) -> None:
        reactor = started(*COMMANDS)
        source = Source(*[bytes(32768)] * 4)
        stream = OutgoingStream(2)
        action = reactor.send_response(stream, 1, source)
        assert isinstance(action, SendFrames)
        assert len(source.pieces) == 4
        assert not stream.is_open
        first = next(action.frames)
        assert first.flags == 1
        assert len(source.pieces) == 2
        assert [item.flags for item in action.frames] == [1, 1, 2]
        assert source.closed

    def test_memory_is_that_of_a_piece(self) -> None:
        reactor = started(*COMMANDS)
        # In a list, each frame would be alive.
        action = reactor.send_response(OutgoingStream(2), 1, (bytes(32768) for _ in range(100)))
        assert isinstance(action, SendFrames)
        gc.collect()
        alive = []
        for _ in action.frames:
            alive.append(sum(isinstance(item, Frame) for item in gc.get_objects()))
        assert max(alive) <= min(alive) + 2

    def test_end_of_stream(self) -> None:
        reactor = started(*COMMANDS)
        stream = OutgoingStream(2)
        flags = [
            [item.stream_flags for item in sent(action)]
            for action in (
                reactor.send_response(stream, 1, bytes(40000), end_stream=True),
                reactor.send_response(stream, 3, b"x", end_stream=True),
                reactor.send_error(stream, 5, "x", end_stream=True),
            )
        ]
        assert flags == [[1, 2], [3], [3]]

    @pytest.mark.parametrize("profile", [None, ZLIB])
    def test_end_of_stream_of_data_made_while_they_are_sent(self, profile: Profile | None) -> None:
        for pieces, error in (([], None), ([bytes(32768)] * 3, None), ([b"x"], CommandFailed("no"))):
            reactor = started(COMMANDS[0])
            stream = OutgoingStream(2, profile)
            frames = sent(reactor.send_response(stream, 1, Source(*pieces, error=error), end_stream=True))
            assert [bool(item.stream_flags & STREAM_END) for item in frames] == [False] * (len(frames) - 1) + [True]
            assert not stream.is_open

    def test_one_encoder_for_all_responses(self) -> None:
        reactor, client = started(*COMMANDS), TestFailure().waiting()
        stream = OutgoingStream(2, ZLIB)
        data = bytes(range(256)) * 20
        frames = [item for number in (1, 3) for item in sent(reactor.send_response(stream, number, data))]
        frames += sent(reactor.send_response(stream, 5, data, end_stream=True))
        # One frame of settings, and what repeats is found in the responses before.
        assert [(item.type_id, item.stream_flags) for item in frames] == [(8, 1), (4, 4), (4, 4), (4, 6)]
        assert len(frames[2].payload) < len(frames[1].payload) / 2
        assert [action.data for action in map(client.receive_frame, frames) if isinstance(action, ResponseData)] == [
            data
        ] * 3

    def test_data_that_are_not_encoded_in_an_encoded_stream(self) -> None:
        reactor = started(*COMMANDS)
        stream = OutgoingStream(2, ZLIB)
        frames = [
            each
            for request_id, encode in ((1, True), (3, False), (5, True))
            for each in sent(reactor.send_response(stream, request_id, b"data", encode=encode))
        ]
        assert [each.stream_flags for each in frames] == [STREAM_BEGIN, STREAM_ENCODED, 0, STREAM_ENCODED]
        assert frames[2].payload == b"data"

    def test_parallel_streams_interleaved(self) -> None:
        reactor = started(*COMMANDS)
        data = {1: b"a" * 100_000, 3: b"b" * 70_000, 5: b"c" * 10}
        responses = []
        for number, request_id in enumerate(data, start=1):
            stream = OutgoingStream(2 * number, ZLIB if request_id == 3 else None)
            action = reactor.send_response(stream, request_id, data[request_id], end_stream=True)
            assert isinstance(action, SendFrames)
            responses.append(action.frames)
        client = ClientReactor(EXP_0002)
        for _ in data:
            list(client.send_command(OutgoingStream(1), b"c")[1].frames)
        received = dict.fromkeys(data, b"")
        while responses:
            frames = responses.pop(0)
            item = next(frames, None)
            if item is not None:
                responses.append(frames)
                action = client.receive_frame(item)
                if isinstance(action, ResponseData):
                    received[action.request_id] += action.data
                else:
                    assert action is WANT_FRAME
        assert received == data
        assert not reactor.requests
        assert not client.requests
        assert not client.incoming.open
        assert client.receive_eof() is NOOP

    def test_errors(self) -> None:
        reactor = started(*COMMANDS)
        stream = OutgoingStream(2)
        assert sent(reactor.send_error(stream, 1, "naïve")) + sent(
            reactor.send_error(stream, 3, b"\xff", kind="protocol")
        ) == [
            frame("1 2 stream-begin error-response application na\\xc3\\xafve"),
            frame("3 2 0 error-response protocol \\xff"),
        ]
        # The ID is free again.
        assert isinstance(reactor.receive_frame(frame("1 1 0 command-name eos again")), RunCommand)

    def test_long_message_is_cut_at_a_character(self) -> None:
        (item,) = sent(started(*COMMANDS).send_error(OutgoingStream(2), 1, "x" + "é" * 20000))
        assert item.payload == ("x" + "é" * 16383).encode()

    def test_text_before_the_response(self) -> None:
        reactor = started(*COMMANDS)
        stream = OutgoingStream(2, ZLIB)
        frames = sent(reactor.send_text(stream, 1, [Atom(b"working")]))
        frames += sent(reactor.send_text(stream, 1, [Atom(b"%s", [b"still"])]))
        frames += sent(reactor.send_response(stream, 1, b"done"))
        assert [(item.type_id, item.stream_flags) for item in frames] == [(8, 1), (6, 0), (6, 0), (4, 4)]
        with pytest.raises(LocalProtocolError, match="no command of request 1 is running"):
            reactor.send_text(stream, 1, [])
        with pytest.raises(LocalProtocolError, match="single frame"):
            reactor.send_text(stream, 3, [Atom(bytes(40000))])

    def test_an_encoding_is_announced_before_anything_else(self) -> None:
        for first in ("send_error", "send_response", "send_text"):
            reactor = started(*COMMANDS)
            stream = OutgoingStream(2, ZLIB)
            argument = [Atom(b"x")] if first == "send_text" else b"x"
            frames = sent(getattr(reactor, first)(stream, 1, argument))
            frames += sent(reactor.send_response(stream, 3, b"data", end_stream=True))
            frames += sent(reactor.send_error(stream, 5, "no"))
            assert [(item.type_id, item.stream_flags & 1) for item in frames if item.type_id == 8] == [(8, 1)] * 2
            assert frames[0].type_id == frames[3].type_id == 8
            client = ClientReactor(EXP_0002)
            for _ in range(3):
                client.send_command(OutgoingStream(1), b"c")
            for item in frames:
                assert not isinstance(client.receive_frame(item), Error)

    def test_failure_in_the_middle(self) -> None:
        reactor = started(*COMMANDS)
        stream = OutgoingStream(2)
        source = Source(bytes(32768), bytes(32768), error=CommandFailed("disk on fire"))
        frames = sent(reactor.send_response(stream, 1, source))
        assert [item.type_id for item in frames] == [4, 5]
        assert frames[-1] == frame("1 2 0 error-response application disk on fire")
        assert source.closed
        assert sent(reactor.send_response(stream, 3, b"fine")) == [frame("3 2 0 bytes-response eos fine")]
        assert set(reactor.requests) == {5}

    def test_failure_at_the_start(self) -> None:
        reactor = started(*COMMANDS)
        source = Source(error=RemoteProtocolError("bad data"))
        assert sent(reactor.send_response(OutgoingStream(2), 1, source)) == [
            frame("1 2 stream-begin error-response protocol bad data")
        ]

    def test_other_exceptions_are_for_the_owner(self) -> None:
        reactor = started(*COMMANDS)
        source = Source(bytes(65536), error=ZeroDivisionError())
        action = reactor.send_response(OutgoingStream(2), 1, source)
        assert isinstance(action, SendFrames)
        assert next(action.frames).flags == 1
        with pytest.raises(ZeroDivisionError):
            list(action.frames)
        assert source.closed
        assert 1 in reactor.requests

    def test_given_up(self) -> None:
        reactor = started(*COMMANDS)
        sources = [Source(bytes(65536), bytes(65536)) for _ in range(2)]
        begun, unbegun = (
            reactor.send_response(OutgoingStream(2), 2 * number + 1, source) for number, source in enumerate(sources)
        )
        assert isinstance(begun, SendFrames)
        assert isinstance(unbegun, SendFrames)
        next(begun.frames)
        begun.close()
        unbegun.close()
        assert list(begun.frames) == list(unbegun.frames) == []
        assert all(source.closed for source in sources)

    def test_the_owner_may_be_wrong(self) -> None:
        reactor = started(*COMMANDS, "7 1 0 command-name have-args d")
        sends: list[Callable[..., object]] = [reactor.send_response, reactor.send_error, reactor.send_text]
        for stream_id in (1, 255):
            message = f"server should only write to even numbered streams; {stream_id} is not even"
            for send in sends:
                with pytest.raises(LocalProtocolError, match=message):
                    send(OutgoingStream(stream_id), 1, b"")
        stream = OutgoingStream(2)
        for request_id in (7, 9):
            with pytest.raises(LocalProtocolError, match=f"no command of request {request_id} is running"):
                reactor.send_response(stream, request_id, b"")
        reactor.send_response(stream, 1, b"")
        for send in sends:
            with pytest.raises(LocalProtocolError, match="request 1 has been answered"):
                send(stream, 1, b"")


class TestMistakesOfTheOwner:
    """Each is raised by the call that is wrong, which has no effect."""

    @pytest.mark.parametrize("data", ["text", 5, None, Objects([1])])
    def test_data(self, data: Any) -> None:
        reactor, stream = started(*COMMANDS), OutgoingStream(2)
        with pytest.raises(LocalProtocolError, match=f"must be bytes, not {type(data).__name__}"):
            reactor.send_response(stream, 1, data)
        assert sent(reactor.send_response(stream, 1, b"x")) == [frame("1 2 stream-begin bytes-response eos x")]

    @pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc"), [bytearray(b"a"), memoryview(b"bc")]])
    def test_any_buffer_is_data(self, data: Any) -> None:
        (item,) = sent(started(*COMMANDS).send_response(OutgoingStream(2), 1, data))
        assert type(item.payload) is bytes
        assert item.payload == b"abc"

    def test_a_buffer_may_change_after_the_call(self) -> None:
        reactor, data = started(*COMMANDS, defer_output=True), bytearray(b"abc")
        reactor.send_response(OutgoingStream(2), 1, data)
        data[:] = b"xyz"
        assert sent(reactor.receive_eof())[0].payload == b"abc"

    def test_pieces_are_only_known_when_the_frames_are_taken(self) -> None:
        reactor = started(*COMMANDS)
        source = Source(bytes(32768), bytes(32768), "text")  # type: ignore[arg-type]  # what is tested
        action = reactor.send_response(OutgoingStream(2), 1, source)
        assert isinstance(action, SendFrames)
        assert next(action.frames).flags == 1
        with pytest.raises(LocalProtocolError, match="a piece of data must be bytes, not str"):
            list(action.frames)
        assert source.closed

    @pytest.mark.parametrize("wrong", [{"kind": "fatal"}, {"message": 5}, {"message": None}, {"kind": None}])
    def test_errors(self, wrong: dict[str, Any]) -> None:
        reactor, stream = started(*COMMANDS), OutgoingStream(2)
        with pytest.raises(LocalProtocolError):
            reactor.send_error(stream, 1, **{"message": "no", **wrong})
        assert not stream.is_open
        assert sent(reactor.send_error(stream, 1, bytearray(b"no"))) == [
            frame("1 2 stream-begin error-response application no")
        ]

    def test_text_where_there_is_none(self) -> None:
        reactor = ServerReactor(attrs.evolve(EXP_0002, encode_text=None))
        reactor.receive_frame(frame(COMMANDS[0]))
        with pytest.raises(LocalProtocolError, match="exp-framing-0002 has no text output"):
            reactor.send_text(OutgoingStream(2), 1, [Atom(b"x")])

    @pytest.mark.parametrize("atoms", [None, "text", [b"text"], [Atom("text")]])  # type: ignore[arg-type]  # tested
    def test_text(self, atoms: Any) -> None:
        reactor, stream = started(*COMMANDS), OutgoingStream(2)
        with pytest.raises(LocalProtocolError):
            reactor.send_text(stream, 1, atoms)
        assert not stream.is_open

    def test_a_source_is_the_owners_until_it_was_accepted(self) -> None:
        reactor, source = started(*COMMANDS), Source(b"x")
        with pytest.raises(LocalProtocolError):
            reactor.send_response(OutgoingStream(2), 9, source)
        assert (source.pieces, source.closed) == ([b"x"], 0)


class TestFailure:
    """How a client learns of its error in frames."""

    def waiting(self) -> ClientReactor:
        client = ClientReactor(EXP_0002)
        for _ in range(4):
            list(client.send_command(OutgoingStream(1), b"c")[1].frames)
        return client

    def test_what_is_incomplete_fails_and_what_was_complete_is_answered(self) -> None:
        reactor = started(
            "1 1 1 command-name eos a", "3 1 0 command-name have-data b", "5 1 0 command-name have-args c"
        )
        assert isinstance(reactor.receive_frame(frame("7 1 0 command-data eos x")), Error)
        stream = OutgoingStream(2, ZLIB)
        frames = sent(reactor.send_failure(stream)) + sent(reactor.send_response(stream, 1, b"fine", end_stream=True))
        message = b"received frame for request that is not receiving: 7"
        client = self.waiting()
        assert [action for action in map(client.receive_frame, frames) if action is not WANT_FRAME] == [
            ResponseError(3, message, "protocol"),
            ResponseError(5, message, "protocol"),
            ResponseError(7, message, "protocol"),
            ResponseData(1, b"fine", True),
        ]
        assert client.receive_eof() is NOOP
        assert not reactor.requests
        # Once is enough.
        assert reactor.send_failure(stream) is NOOP

    def test_deferred_responses_come_first(self) -> None:
        reactor = started(*COMMANDS[:2], "5 1 0 command-name have-args c", defer_output=True)
        stream = OutgoingStream(2)
        assert reactor.send_response(stream, 1, b"one") is NOOP
        assert isinstance(reactor.receive_eof(), Error)
        # Received before the error, so it can still be answered.
        assert reactor.send_response(stream, 3, b"two") is NOOP
        message = "received end of input inside a command: request 5"
        assert sent(reactor.send_failure(stream, end_stream=True)) == [
            frame("1 2 stream-begin bytes-response eos one"),
            frame("3 2 0 bytes-response eos two"),
            frame(f"5 2 stream-end error-response protocol {message}"),
        ]

    def test_a_request_that_ran_fails_if_its_data_do(self) -> None:
        reactor = started("1 1 1 command-name have-data a", "3 1 0 command-name have-data b")
        stream = OutgoingStream(2)
        sent(reactor.send_response(stream, 3, b"early"))
        assert isinstance(reactor.receive_frame(frame("1 1 0 command-data 0 x")), Error)
        assert sent(reactor.send_failure(stream)) == [
            frame("1 2 0 error-response protocol command data frame without flags")
        ]
        with pytest.raises(LocalProtocolError, match="no command of request 1 is running"):
            reactor.send_response(stream, 1, b"late")

    def test_no_second_answer(self) -> None:
        """The frame that was wrong belongs to a request that runs, and gets its answer."""
        reactor = started(*COMMANDS)
        assert isinstance(reactor.receive_frame(frame(COMMANDS[1])), Error)
        assert reactor.send_failure(OutgoingStream(2)) is NOOP
        assert sent(reactor.send_response(OutgoingStream(2), 3, b"x"))

    @pytest.mark.parametrize("text", ["9 1 1 command-name eos toolong", "9 1 0 command-name eos x", "9 1 1 9 0 x"])
    def test_of_the_first_frame(self, text: str) -> None:
        for feed in (
            lambda reactor: list(reactor.receive_data(wire(text))),
            lambda reactor: [reactor.receive_frame(frame(text))],
        ):
            reactor = ServerReactor(EXP_0002, Limits(frame_payload=5))
            (error,) = feed(reactor)
            (item,) = sent(reactor.send_failure(OutgoingStream(2), end_stream=True))
            assert (item.request_id, item.stream_flags, item.payload.decode()) == (9, 3, error.message)

    @pytest.mark.parametrize("data", [b"\1", b"\1\0\0\1\0\1\1\x11"])
    def test_of_no_frame_at_all(self, data: bytes) -> None:
        reactor = ServerReactor(EXP_0002)
        list(reactor.receive_data(data))
        assert isinstance(reactor.receive_eof(), Error)
        assert reactor.send_failure(OutgoingStream(2)) is NOOP

    def test_the_owner_may_be_wrong(self) -> None:
        reactor = started(*COMMANDS)
        with pytest.raises(LocalProtocolError, match="there is no terminal error"):
            reactor.send_failure(OutgoingStream(2))
        reactor.fail(RemoteProtocolError("enough"))
        with pytest.raises(LocalProtocolError, match="even numbered"):
            reactor.send_failure(OutgoingStream(1))


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "texts", "message"),
        [
            (Limits(command_name=3), ["1 1 1 command-name eos name"], "command name is longer than 3 bytes"),
            (
                Limits(command_argument_bytes=9),
                [
                    "1 1 1 command-name have-args c",
                    "1 1 0 command-argument 0 \\x01\\x00\\x00\\x00k",
                    "1 1 0 command-argument 0 \\x01\\x00\\x00\\x00l",
                ],
                "command arguments exceed 9 bytes",
            ),
        ],
    )
    def test_what_is_kept(self, limits: Limits, texts: list[str], message: str) -> None:
        reactor = ServerReactor(EXP_0002, limits)
        *_, action = map(reactor.receive_frame, map(frame, texts))
        assert isinstance(action, Error)
        assert isinstance(action.error, LimitExceeded)
        assert action.message == message


class TestRequestIds:
    def test_even_numbers_are_the_servers(self) -> None:
        action = ServerReactor(EXP_0002).receive_frame(frame("2 1 1 command-name eos c"))
        assert isinstance(action, Error)
        assert action.message == "received frame with even numbered request ID: 2"

    def test_free_once_the_last_frame_was_taken(self) -> None:
        reactor = started(COMMANDS[0])
        action = reactor.send_response(OutgoingStream(2), 1, bytes(40000))
        assert isinstance(action, SendFrames)
        next(action.frames)
        assert 1 in reactor.requests
        # The last frame is out, but its taker has not come back: only then is it known to be sent.
        next(action.frames)
        assert 1 in reactor.requests
        assert next(action.frames, None) is None
        assert 1 not in reactor.requests
        assert reactor.receive_frame(frame("1 1 0 command-name eos b")) == RunCommand(1, b"b", {})

    def test_answered_before_its_data_have_ended(self) -> None:
        reactor = started("1 1 stream-begin command-name have-data a", "1 1 0 command-data continuation x")
        sent(reactor.send_error(OutgoingStream(2), 1, "no"))
        assert reactor.receive_frame(frame("1 1 0 command-data continuation y")) is WANT_FRAME
        assert reactor.receiving
        assert reactor.receive_frame(frame("1 1 0 command-data eos z")) is WANT_FRAME
        assert not reactor.requests
        assert reactor.receive_frame(frame("1 1 0 command-name eos b")) == RunCommand(1, b"b", {})

    def test_answered_but_its_data_have_not_ended(self) -> None:
        reactor = started("1 1 stream-begin command-name have-data a")
        sent(reactor.send_response(OutgoingStream(2), 1, b""))
        action = reactor.receive_frame(frame("1 1 0 command-name eos b"))
        assert isinstance(action, Error)
        assert action.message == "request with ID 1 already received"

    def test_data_end_before_the_response_was_sent(self) -> None:
        reactor = started("1 1 stream-begin command-name have-data a")
        action = reactor.send_response(OutgoingStream(2), 1, b"early")
        reactor.receive_frame(frame("1 1 0 command-data eos z"))
        assert 1 in reactor.requests
        sent(action)
        assert not reactor.requests

    def test_open_requests(self) -> None:
        reactor = started(*COMMANDS, limits=Limits(open_requests=3))
        sent(reactor.send_response(OutgoingStream(2), 3, b""))
        assert isinstance(reactor.receive_frame(frame("9 1 0 command-name have-args d")), type(WANT_FRAME))
        action = reactor.receive_frame(frame("11 1 0 command-name eos e"))
        assert isinstance(action, Error)
        assert isinstance(action.error, LimitExceeded)
        assert action.message == "more than 3 requests are open"


class TestDeferredOutput:
    def test_in_the_order_given(self) -> None:
        reactor = started(*COMMANDS, defer_output=True)
        stream = OutgoingStream(2)
        for action in (
            reactor.send_text(stream, 1, [Atom(b"t")]),
            reactor.send_response(stream, 5, b"c"),
            reactor.send_error(stream, 1, "a"),
            reactor.send_response(stream, 3, b"b"),
        ):
            assert action is NOOP
        assert set(reactor.requests) == {1, 3, 5}
        assert sent(reactor.receive_eof()) == [
            frame("1 2 stream-begin text-output 0 \\x01\\x00\\x00\\x00t"),
            frame("5 2 0 bytes-response eos c"),
            frame("1 2 0 error-response application a"),
            frame("3 2 0 bytes-response eos b"),
        ]
        assert not reactor.requests
        assert reactor.receive_eof() is NOOP

    def test_at_once_after_the_end(self) -> None:
        reactor = started(*COMMANDS, defer_output=True)
        assert reactor.receive_eof() is NOOP
        assert sent(reactor.send_response(OutgoingStream(2), 1, b"x")) == [
            frame("1 2 stream-begin bytes-response eos x")
        ]

    def test_nothing_runs_before(self) -> None:
        reactor = started(*COMMANDS, defer_output=True)
        source = Source(b"x")
        reactor.send_response(OutgoingStream(2), 1, source)
        assert source.pieces
        action = reactor.receive_eof()
        assert source.pieces
        assert isinstance(action, SendFrames)
        action.close()
        assert source.closed

    def test_dropped(self) -> None:
        reactor = started(*COMMANDS, defer_output=True)
        sources = [Source(b"x"), Source(b"y")]
        for request_id, source in zip((1, 3), sources, strict=True):
            reactor.send_response(OutgoingStream(2), request_id, source)
        reactor.close()
        assert [source.closed for source in sources] == [1, 1]
        assert reactor.flush() is NOOP
        reactor.close()


class TestEnd:
    def test_nothing_at_all(self) -> None:
        assert ServerReactor(EXP_0002).receive_eof() is NOOP

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\x05", "received incomplete frame: got 1 of 8 bytes of its header"),
            (wire(COMMANDS[0])[:-1], "frame length error: expected 1; got 0"),
            (
                wire("1 1 1 command-name have-args a"),
                "received end of input inside a command: request 1",
            ),
            (
                wire(COMMANDS[0], "3 1 0 command-name have-data b", "3 1 0 command-data continuation x"),
                "received end of input inside a command: request 3",
            ),
        ],
    )
    def test_inside_something(self, data: bytes, message: str) -> None:
        reactor = ServerReactor(EXP_0002)
        actions = list(reactor.receive_data(data))
        assert not any(isinstance(action, Error) for action in actions)
        action = reactor.receive_eof()
        assert isinstance(action, Error)
        assert isinstance(action.error, TruncatedFrame)
        assert action.message == message
        assert reactor.receive_eof() is action

    def test_before_the_frames_were_taken(self) -> None:
        reactor = ServerReactor(EXP_0002)
        actions = reactor.receive_data(wire(*COMMANDS))
        next(actions)
        with pytest.raises(LocalProtocolError, match="before its frames were taken"):
            reactor.receive_eof()
        assert list(actions) == [RunCommand(3, b"b", {}), RunCommand(5, b"c", {})]
        assert reactor.receive_eof() is NOOP

    def test_nothing_follows(self) -> None:
        reactor = started(*COMMANDS)
        reactor.receive_eof()
        with pytest.raises(LocalProtocolError, match="after its end"):
            reactor.receive_frame(frame("7 1 0 command-name eos d"))
        with pytest.raises(LocalProtocolError, match="after its end"):
            reactor.receive_data(b"x")


def test_arguments_belong_to_the_owner_once_the_command_runs() -> None:
    reactor = ServerReactor(EXP_0002)
    (_, run) = reactor.receive_data(
        wire("1 1 1 command-name have-args a", "1 1 0 command-argument eoa \\x01\\x00\\x01\\x00kv")
    )
    assert run == RunCommand(1, b"a", {b"k": b"v"})
    # While the request waits for its answer, the reactor keeps none of them.
    assert not reactor.requests[1].arguments


def test_requests_may_end_in_other_threads() -> None:
    """While the end of the input is looked at, the last frame of another response is taken elsewhere."""
    reactor = ServerReactor(EXP_0002)

    class Ending(Request):
        def __getattribute__(self, name: str) -> Any:
            if name == "complete":
                reactor.requests.pop(3, None)
                return True
            return super().__getattribute__(name)

    for ask in (lambda: reactor.receiving, reactor.receive_eof):
        reactor.requests = {number: Ending(number, "running") for number in (1, 3)}
        assert ask() in (False, NOOP)
        assert list(reactor.requests) == [1]


class TestErrors:
    def test_what_came_before_counts(self) -> None:
        reactor = ServerReactor(EXP_0002)
        data = wire("1 1 1 command-name have-data a", "1 1 0 command-data continuation x", "1 2 1 1 1 bad", COMMANDS[1])
        run, more, error = reactor.receive_data(data)
        assert run == RunCommand(1, b"a", {}, has_data=True)
        assert more == CommandData(1, b"x", False)
        assert isinstance(error, Error)
        assert isinstance(error.error, BadStream)
        # A response to what ran before still goes out.
        assert len(sent(reactor.send_response(OutgoingStream(2), 1, b"x"))) == 1

    def test_frames_are_looked_at_one_by_one(self) -> None:
        reactor = ServerReactor(EXP_0002)
        actions = reactor.receive_data(wire(*COMMANDS))
        assert next(actions) == RunCommand(1, b"a", {})
        sent(reactor.send_response(OutgoingStream(2), 1, b""))
        assert not reactor.requests
        # Those not taken are not lost.
        assert list(reactor.receive_data(b"")) == [RunCommand(3, b"b", {}), RunCommand(5, b"c", {})]

    def test_too_large(self) -> None:
        for feed in (
            lambda reactor: list(reactor.receive_data(wire(COMMANDS[0], "3 1 0 command-name eos abc")))[-1],
            lambda reactor: reactor.receive_frame(frame("3 1 1 command-name eos abc")),
        ):
            reactor = ServerReactor(EXP_0002, Limits(frame_payload=2))
            action: Action = feed(reactor)
            assert isinstance(action, Error)
            assert isinstance(action.error, FrameTooLarge)
            assert action.message == "received frame with a payload of 3 bytes; at most 2 are allowed"
            assert list(reactor.receive_data(wire(*COMMANDS))) == [action]

    def test_the_owner_may_fail_it(self) -> None:
        reactor = started(*COMMANDS)
        action = reactor.fail(RemoteProtocolError("enough"))
        assert reactor.fail(RemoteProtocolError("more")) is action
        assert reactor.receive_frame(frame("7 1 0 command-name eos d")) is action
        assert reactor.failure is action

    def test_does_not_raise_for_encodings_that_break(self) -> None:
        reactor = started("1 1 1 stream-settings 0 \\x04zlib")
        action = reactor.receive_frame(frame("1 1 encoded command-name eos rubbish"))
        assert isinstance(action, Error)
        assert action.message == "cannot decode frame on stream 1: compressed data are corrupt"


def test_upload_in_constant_memory() -> None:
    """Nothing of the data that were handed on stays."""
    client = ClientReactor(EXP_0002)
    _, action = client.send_command(OutgoingStream(1), b"unbundle", {}, (bytes(32768) for _ in range(200)))
    reactor = ServerReactor(EXP_0002)
    size = 0
    for chunk in iter_chunks(action.frames):
        for received in reactor.receive_data(chunk):
            if isinstance(received, CommandData):
                size += len(received.data)
    assert size == 200 * 32768
    assert reactor.requests[1].partial is None


def test_a_bug_in_a_response_is_not_told_to_the_peer() -> None:
    def data() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise LocalProtocolError("bug in /srv/secret")

    reactor = ServerReactor(EXP_0002)
    reactor.receive_frame(frame("1 1 stream-begin command-name eos command"))
    action = reactor.send_response(OutgoingStream(2), 1, data())
    assert isinstance(action, SendFrames)
    with pytest.raises(LocalProtocolError, match="secret"):
        list(action.frames)


def test_size_of_arguments() -> None:
    reactor = started("1 1 stream-begin command-name have-args c")
    action = reactor.receive_frame(frame("1 1 0 command-argument eoa \\x04\\x00\\x05\\x00namevalue"))
    assert isinstance(action, RunCommand)
    assert reactor.size_of(action) == len(b"namevalue")
    # Values of other types are measured by their frames.
    reactor.requests[1].held = 50
    assert reactor.size_of(RunCommand(1, b"c", {b"name": [1, 2, 3]})) == 50
