"""The vectors recorded from the reference, corrected by the specification, through the public API."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from framing_support import ANY_SIZE, load, raw_bytes, recorded_frame, single, whole

from hgwire_wsgi.errors import LocalProtocolError, TruncatedFrame
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    WANT_FRAME,
    Atom,
    BufferedCommands,
    ClientReactor,
    Error,
    Frame,
    FrameBuffer,
    OutgoingStream,
    Request,
    RunCommand,
    SendFrames,
    ServerReactor,
    encode_frame,
    format_frame,
    parse_frame,
    parse_header,
    read_frame,
)


def cases(name: str, **having: str) -> Any:
    """Parameters of a test: the cases of a file with these values, by name."""
    found = [case for case in load(name) if all(case.get(key) == value for key, value in having.items())]
    assert found
    return pytest.mark.parametrize("case", found, ids=[case["name"] for case in found])


def human(case: Any) -> str | bytes:
    return raw_bytes(case["human_hex"]) if case.get("human") is None else case["human"]


class TestFrames:
    @cases("frames.json", op="make")
    def test_make(self, case: Any) -> None:
        frame = parse_frame(human(case), EXP_0002)
        assert frame == recorded_frame(case)
        assert parse_frame(format_frame(frame, EXP_0002), EXP_0002) == frame

    @cases("frames.json", op="make_error")
    def test_refused(self, case: Any) -> None:
        with pytest.raises(ValueError):
            parse_frame(human(case), EXP_0002)

    @cases("frames.json", op="parse")
    def test_parse(self, case: Any) -> None:
        header = parse_header(raw_bytes(case["wire_hex"]))
        assert vars_of(header) == case["header"]

    @cases("frames.json", op="readframe")
    def test_read_file(self, case: Any) -> None:
        file = io.BytesIO(raw_bytes(case["input_hex"]))
        for expected in case["frames"]:
            assert read_frame(file) == recorded_frame(expected)
        if "error" in case["end"]:
            with pytest.raises(TruncatedFrame):
                read_frame(file)
        else:
            assert read_frame(file) is None

    @pytest.mark.parametrize("split", [whole, single])
    @cases("frames.json", op="readframe")
    def test_push(self, case: Any, split: Any) -> None:
        buffer = FrameBuffer()
        seen = []
        for piece in split(raw_bytes(case["input_hex"])):
            buffer.feed(piece)
            seen += buffer
        assert seen == [recorded_frame(expected) for expected in case["frames"]]
        if "error" in case["end"]:
            with pytest.raises(TruncatedFrame):
                buffer.end()
        else:
            buffer.end()


def vars_of(header: Any) -> dict[str, int]:
    return {
        "length": header.length,
        "requestid": header.request_id,
        "streamid": header.stream_id,
        "streamflags": header.stream_flags,
        "typeid": header.type_id,
        "flags": header.flags,
    }


def stream_of(case: Any, **options: Any) -> OutgoingStream:
    stream = OutgoingStream(case["streamid"], **options)
    if case["stream_already_begun"]:
        stream.make_frame(case["requestid"], 1, 0, b"")
    return stream


def asked(case: Any) -> Request:
    """The request of a recorded response."""
    return Request(case["requestid"], "running")


def client_frames(case: Any) -> Iterator[Frame]:
    reactor = ClientReactor(EXP_0002)
    arguments = {raw_bytes(item["name_hex"]): raw_bytes(item["value_hex"]) for item in case["args"]}
    data = None if case["data_hex"] is None else raw_bytes(case["data_hex"])
    stream = stream_of(case)
    while True:
        request_id, action = reactor.send_command(stream, raw_bytes(case["command_hex"]), arguments, data)
        if request_id == case["requestid"]:
            return action.frames


class TestCommandFrames:
    @cases("command_frames.json")
    def test_encode(self, case: Any) -> None:
        if "raises" in case:
            with pytest.raises(LocalProtocolError):
                client_frames(case)
            return
        frames = list(client_frames(case))
        expected = [recorded_frame(expected) for expected in case["frames"]]
        # Where the reference exceeds the largest frame the specification wants the value split.
        merged = []
        for frame in frames:
            assert len(encode_frame(frame)) == len(frame.payload) + 8
            if merged and merged[-1].type_id == 2 and merged[-1].flags & 1:
                merged[-1].payload += frame.payload
                merged[-1].flags = frame.flags
            else:
                merged.append(frame)
        assert merged == expected
        assert (len(frames) > len(expected)) == any(len(frame.payload) > 65535 for frame in expected)


class TestResponses:
    @cases("bytes_response.json", op="bytesresponse")
    def test_response(self, case: Any) -> None:
        stream = stream_of(case, frame_size=case["maxframesize"])
        data = raw_bytes(case["data_hex"])
        expected = [recorded_frame(expected) for expected in case["frames"]]
        assert list(EXP_0002.encode_response(stream, asked(case), data, True, False)) == expected
        # The same bytes in any pieces give the same frames.
        for size in (1, 7, 10, 4096):
            pieces = (data[start : start + size] for start in range(0, len(data), size))
            again = stream_of(case, frame_size=case["maxframesize"])
            assert list(EXP_0002.encode_response(again, asked(case), pieces, True, False)) == expected

    @cases("bytes_response.json", op="error")
    def test_error(self, case: Any) -> None:
        kind = "|".join(name for name in ("protocol", "application") if case[name])
        message = raw_bytes(case["message_hex"])
        (frame,) = EXP_0002.encode_error(stream_of(case), asked(case), message, kind, False)
        if case["frames"]:
            assert [frame] == [recorded_frame(expected) for expected in case["frames"]]
        else:
            assert frame.payload == message[:32768]


def text(value: Any) -> Any:
    return raw_bytes(value["bytes_hex"]) if "bytes_hex" in value else value["text"]


def texts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [text(value["repeat"])] * value["count"]
    return [text(item) for item in value]


class TestTextOutput:
    @cases("textoutput.json")
    def test_encode(self, case: Any) -> None:
        assert EXP_0002.encode_text is not None
        atoms = [Atom(text(atom["formatting"]), texts(atom["args"]), texts(atom["labels"])) for atom in case["atoms"]]
        if "expect_error" in case:
            with pytest.raises(LocalProtocolError) as caught:
                EXP_0002.encode_text(stream_of(case), asked(case), atoms)
            if case.get("message_normative", True):
                assert caught.value.message == case["expect_error"]["message"]
        else:
            frames = list(EXP_0002.encode_text(stream_of(case), asked(case), atoms))
            assert frames == [recorded_frame(case["expect_frame"])]


# Where the vectors are ambiguous this project decided for an error, at this step.
DECIDED_ERRORS = {
    "empty-name": 1,
    "empty-name-and-value": 1,
    "duplicate-name-last-wins": 2,
    "no-eoa-keeps-waiting": 3,
    "even-request-id-2": 0,
}


class Scenario:
    """One recorded scenario."""

    def __init__(self, case: Any) -> None:
        self.reactor = ServerReactor(EXP_0002, ANY_SIZE, defer_output=case["deferoutput"])
        self.commands = BufferedCommands(self.reactor)
        self.streams: dict[int, OutgoingStream] = {}
        self.saved: dict[str, Iterator[Frame]] = {}

    def stream(self, step: Any) -> OutgoingStream:
        return self.streams.setdefault(step["stream"], OutgoingStream(step["stream"]))

    def frame(self, step: Any) -> Any:
        if "human" in step:
            frame = parse_frame(step["human"], EXP_0002)
            assert "header" not in step or frame == recorded_frame(step)
        else:
            frame = recorded_frame(step)
        return self.commands.receive_frame(frame)

    def respond(self, step: Any) -> Any:
        return self.reactor.send_response(self.stream(step), step["requestid"], raw_bytes(step["data_hex"]))

    def apperror(self, step: Any) -> Any:
        return self.reactor.send_error(self.stream(step), step["requestid"], raw_bytes(step["data_hex"]))

    def eof(self, step: Any) -> Any:
        return self.commands.receive_eof()

    def consume(self, step: Any) -> Any:
        return list(itertools.islice(self.saved[step["ref"]], step["count"]))


def describe(action: Any) -> dict[str, Any]:
    """An action as the vectors have it."""
    if action is NOOP:
        return {"action": "noop"}
    if action is WANT_FRAME:
        return {"action": "wantframe"}
    if isinstance(action, Error):
        return {"action": "error", "meta": {"message": action.message}}
    if isinstance(action, SendFrames):
        return {"action": "sendframes"}
    assert isinstance(action, RunCommand)
    return {
        "action": "runcommand",
        "meta": {
            "requestid": action.request_id,
            "command": action.name,
            "args": dict(action.arguments),
            "data": action.data,
        },
    }


def expectation(expect: Any) -> dict[str, Any]:
    """What the vectors expect, in the same form, without what is not binding."""
    found = {"action": expect["action"]}
    if expect["action"] == "error" and "meta" in expect:
        found["meta"] = {"message": expect["meta"]["message"]}
    if expect["action"] == "runcommand":
        meta = expect["meta"]
        found["meta"] = {
            "requestid": meta["requestid"],
            "command": raw_bytes(meta["command_hex"]),
            "args": {raw_bytes(item["name_hex"]): raw_bytes(item["value_hex"]) for item in meta["args"]},
            "data": None if meta["data_hex"] is None else raw_bytes(meta["data_hex"]),
        }
    return found


class TestReactor:
    @cases("reactor.json")
    def test_scenario(self, case: Any) -> None:
        self.play(case)

    @cases("reactor_random.json")
    def test_walk(self, case: Any) -> None:
        self.play(case)

    def play(self, case: Any) -> None:
        scenario = Scenario(case)
        binding = True
        active: list[int] = []
        refused: set[int] = set()
        for number, step in enumerate(case["steps"]):
            expect = step.get("spec_expect", step["expect"])
            operate = getattr(scenario, step["op"])
            if "spec_expect" in step:
                binding = step["spec_expect"]["action"] == step["expect"].get("action")
            elif not binding:
                continue
            if DECIDED_ERRORS.get(case["name"]) == number or self.ends_inside_command(scenario, step):
                assert isinstance(operate(step), Error)
                return
            if "requestid" in step and (step["requestid"] not in active or step["stream"] % 2):
                # The reference makes the frames of a response before it finds, if ever, that nobody asked for it.
                with pytest.raises(LocalProtocolError):
                    operate(step)
                refused.add(step["requestid"])
                active = step["after"]["active"]
                continue
            action = operate(step)
            active = step["after"]["active"]
            if expect.get("returns_none"):
                # The reference forgot to answer; the specification allows no such frame here.
                assert isinstance(action, Error)
                return
            if refused and step["op"] == "eof" and action is NOOP:
                # Only what we refused was deferred.
                assert {item["header"]["requestid"] for item in expect.get("frames", ())} <= refused
                continue
            if "save_as" in step:
                scenario.saved[step["save_as"]] = action.frames
            if "action" in expect:
                found = describe(action)
                wanted = expectation(expect)
                if "meta" not in wanted:
                    found.pop("meta", None)
                assert (number, found) == (number, wanted)
            if "frames" in expect:
                frames = action if isinstance(action, list) else list(action.frames)
                if expect.get("raises", {}).get("type") == "AssertionError":
                    # An error message that does not fit a frame.
                    assert [frame.payload for frame in frames] == [raw_bytes(step["data_hex"])[:32768]]
                else:
                    self.compare(frames, [recorded_frame(item) for item in expect["frames"]], refused)

    def ends_inside_command(self, scenario: Scenario, step: Any) -> bool:
        # Here the reference sees nothing wrong, and the decisions of this project an error.
        return step["op"] == "eof" and scenario.reactor.receiving and scenario.reactor.failure is None

    def compare(self, frames: list[Frame], expected: list[Frame], refused: set[int]) -> None:
        expected = [frame for frame in expected if frame.request_id not in refused]
        if refused:
            # The stream may have begun with a frame that we refused to make.
            for frame in frames + expected:
                frame.stream_flags = 0
        assert frames == expected
