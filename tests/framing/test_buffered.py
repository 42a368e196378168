"""Commands with all their data; the recorded vectors run through this as well."""

from __future__ import annotations

import attrs
import pytest
from framing_support import frame, sent, wire

from hgwire_wsgi.errors import LimitExceeded, LocalProtocolError
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    WANT_FRAME,
    Action,
    BufferedCommands,
    Error,
    Frame,
    OutgoingStream,
    Request,
    RunCommand,
    ServerReactor,
)
from hgwire_wsgi.limits import Limits

DATA = (
    "1 1 stream-begin command-name have-data a",
    "3 1 0 command-name have-args|have-data b",
    "1 1 0 command-data continuation one",
    "3 1 0 command-argument eoa \\x01\\x00\\x01\\x00kv",
    "3 1 0 command-data continuation ",
    "1 1 0 command-data eos two",
    "3 1 0 command-data eos ",
    "5 1 0 command-name eos c",
)


def test_collects() -> None:
    expected = [
        *[WANT_FRAME] * 5,
        RunCommand(1, b"a", {}, True, b"onetwo"),
        RunCommand(3, b"b", {b"k": b"v"}, True, b""),
        RunCommand(5, b"c", {}),
    ]
    commands = BufferedCommands(ServerReactor(EXP_0002))
    assert [commands.receive_frame(frame(text)) for text in DATA] == expected
    commands = BufferedCommands(ServerReactor(EXP_0002))
    assert list(commands.receive_data(wire(*DATA))) == expected
    assert commands.receive_eof() is NOOP


def test_bounded_for_all_commands() -> None:
    reactor = ServerReactor(EXP_0002, Limits(command_data=5))
    commands = BufferedCommands(reactor)
    *_, last = commands.receive_data(wire(*DATA))
    assert isinstance(last, Error)
    assert isinstance(last.error, LimitExceeded)
    assert last.message == "command data exceed 5 bytes"
    assert reactor.failure is last
    assert list(commands.receive_data(b"")) == [last]


def test_arguments_of_commands_that_wait_are_bounded_with_the_data() -> None:
    begin = (
        "1 1 stream-begin command-name have-args|have-data a",
        "1 1 0 command-argument eoa \\x01\\x00\\x04\\x00kabcd",
    )
    for limit, good in ((5, True), (4, False)):
        reactor = ServerReactor(EXP_0002, Limits(command_data=limit))
        *_, last = BufferedCommands(reactor).receive_data(wire(*begin))
        assert (last is WANT_FRAME) is good
        assert good or (isinstance(last, Error) and isinstance(last.error, LimitExceeded))


def test_what_was_handed_out_is_not_held() -> None:
    reactor = ServerReactor(EXP_0002, Limits(command_data=6))
    commands = BufferedCommands(reactor)
    stream = OutgoingStream(2)
    for _ in range(3):
        *_, run = commands.receive_data(
            wire(
                "1 1 1 command-name have-args|have-data a",
                "1 1 0 command-argument eoa \\x01\\x00\\x00\\x00k",
                "1 1 0 command-data continuation one",
                "1 1 0 command-data eos tw",
            )
        )
        assert isinstance(run, RunCommand)
        sent(reactor.send_response(stream, 1, b""))


def test_a_command_runs_when_its_data_are_there() -> None:
    """Until then there is nothing to answer, so nothing is lost by an early answer."""
    reactor = ServerReactor(EXP_0002)
    commands = BufferedCommands(reactor)
    *first, last = DATA[:1] + DATA[2:3] + DATA[5:6]
    for text in first:
        assert commands.receive_frame(frame(text)) is WANT_FRAME
        for send in (reactor.send_response, reactor.send_error, reactor.send_text):
            with pytest.raises(LocalProtocolError, match="no command of request 1 is running"):
                send(OutgoingStream(2), 1, b"")
    assert commands.receive_frame(frame(last)) == RunCommand(1, b"a", {}, True, b"onetwo")
    assert sent(reactor.send_response(OutgoingStream(2), 1, b"x")) == [frame("1 2 stream-begin bytes-response eos x")]
    assert not reactor.requests


def test_commands_that_never_ran_get_the_error() -> None:
    reactor = ServerReactor(EXP_0002, Limits(command_data=5))
    commands = BufferedCommands(reactor)
    # The data of request 1 are complete, but more than may be held.
    *_, last = commands.receive_data(wire(DATA[0], "1 1 0 command-data eos abcdef"))
    assert isinstance(last, Error)
    assert sent(reactor.send_failure(OutgoingStream(2))) == [
        frame("1 2 stream-begin error-response protocol command data exceed 5 bytes")
    ]


def test_typed_arguments_are_measured_by_their_frames() -> None:
    def receive(reactor: ServerReactor, request: Request, item: Frame) -> Action:
        reactor.register(request, b"typed")
        reactor.hold(request, len(item.payload))
        request.arguments = {b"nodes": [1, 2, 3]}
        request.has_data = True
        return reactor.run(request, "data", "running")

    typed = attrs.evolve(EXP_0002, server_table={("idle", 1): receive})
    for limit, good in ((20, True), (19, False)):
        commands = BufferedCommands(ServerReactor(typed, Limits(command_data=limit)))
        action = commands.receive_frame(Frame(1, 1, 1, 1, 0, bytes(20)))
        assert (action is WANT_FRAME) is good
        assert isinstance(action, Error) is not good


def test_after_an_error_as_recorded() -> None:
    reactor = ServerReactor(EXP_0002, defer_output=True)
    commands = BufferedCommands(reactor)
    commands.receive_frame(frame("1 1 stream-begin command-name eos a"))
    reactor.send_response(OutgoingStream(2), 1, b"x")
    answers = [
        commands.receive_frame(frame(text))
        for text in (
            "3 1 0 command-data eos x",
            "5 1 0 command-name eos x",
            "5 2 stream-begin command-name eos x",
            "5 3 0 command-name eos x",
            "5 3 stream-begin command-name eos x",
            "5 3 0 command-name eos x",
        )
    ]
    assert [action.message for action in answers if isinstance(action, Error)] == [
        "expected command frame; got 3",
        "server already errored",
        "received frame with even numbered stream ID: 2",
        "received frame on unknown inactive stream without beginning of stream flag set",
        "server already errored",
        "server already errored",
    ]
    assert reactor.failure is answers[0]
    assert sent(commands.receive_eof()) == [frame("1 2 stream-begin bytes-response eos x")]
    assert commands.receive_eof() is NOOP


def test_end_inside_data() -> None:
    commands = BufferedCommands(ServerReactor(EXP_0002))
    assert set(commands.receive_data(wire(*DATA[:3]))) == {WANT_FRAME}
    assert isinstance(commands.receive_eof(), Error)
