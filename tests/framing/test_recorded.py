"""The vectors recorded from the reference, corrected by the specification, through the public API.

A value that begins with ``spec_`` is what the specification asks, and wins.  Where the specification is silent,
:data:`deviations.FRAME_RULES` says what is a protocol error here.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from deviations import FRAME_RULES, FrameStep, is_plain_notation
from framing_support import ANY_SIZE, load, raw_bytes, recorded_frame, single, whole
from vector_files import parameters

from hgwire_wsgi.errors import FrameTooLarge, LocalProtocolError, TruncatedFrame
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

LARGEST = 65535
"""What the payload of a frame may have without permission."""


def cases(name: str, **having: str) -> Any:
    """Parameters of a test: the cases of a file with these values."""
    return parameters([case for case in load(name) if all(case.get(key) == value for key, value in having.items())])


def human(case: Any) -> str | bytes:
    return raw_bytes(case["human_hex"]) if case.get("human") is None else case["human"]


class TestFrames:
    @cases("frames.json", op="make")
    def test_make(self, case: Any) -> None:
        if not is_plain_notation(human(case)):
            with pytest.raises(ValueError):
                parse_frame(human(case), EXP_0002)
            return
        frame = parse_frame(human(case), EXP_0002)
        assert frame == recorded_frame(case)
        assert parse_frame(format_frame(frame, EXP_0002), EXP_0002) == frame
        if len(frame.payload) > LARGEST:
            with pytest.raises(LocalProtocolError):
                encode_frame(frame)
            buffer = FrameBuffer()
            with pytest.raises(FrameTooLarge):
                buffer.feed(raw_bytes(case["wire_hex"]))
                list(buffer)

    @pytest.mark.parametrize("number", ["+1", "-0", "1_0", "0x1", "1L", "\u0661", "000000001"])
    @pytest.mark.parametrize("place", range(5))
    def test_lenient_numbers_are_refused(self, number: str, place: int) -> None:
        """The deviation ``human-numbers``."""
        fields = ["1", "1", "0", "3", "0", "x"]
        assert is_plain_notation(" ".join(fields))
        fields[place] = number
        assert not is_plain_notation(" ".join(fields))
        with pytest.raises(ValueError):
            parse_frame(" ".join(fields), EXP_0002)

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


def expected(case: Any, name: str) -> Any:
    """A value of a case, or what the specification asks instead; ``None`` if there is none."""
    return case.get(f"spec_{name}", case.get(name))


def stream_of(case: Any, **options: Any) -> OutgoingStream:
    stream = OutgoingStream(case["streamid"], **options)
    if case["stream_already_begun"]:
        stream.make_frame(case["requestid"], 1, 0, b"")
    return stream


def asked(case: Any) -> Request:
    """The request of a recorded response."""
    return Request(case["requestid"], "running")


def client_frames(case: Any) -> Iterator[Frame]:
    """The frames of a command.  A client counts its requests by odd numbers; another number is put in afterwards."""
    reactor = ClientReactor(EXP_0002)
    arguments = {raw_bytes(item["name_hex"]): raw_bytes(item["value_hex"]) for item in case["args"]}
    data = None if case["data_hex"] is None else raw_bytes(case["data_hex"])
    stream = stream_of(case)
    for _ in range(min(case["requestid"] // 2, 100)):
        reactor.send_command(OutgoingStream(1), b"x", {}, None)
    request_id, action = reactor.send_command(stream, raw_bytes(case["command_hex"]), arguments, data)
    for frame in action.frames:
        assert frame.request_id == request_id
        frame.request_id = case["requestid"]
        yield frame


class TestCommandFrames:
    @cases("command_frames.json")
    def test_encode(self, case: Any) -> None:
        assert EXP_0002.encode_text is not None
        if "raises" in case and "spec_frames" not in case:
            with pytest.raises(LocalProtocolError):
                list(client_frames(case))
            return
        frames = list(client_frames(case))
        wanted = [recorded_frame(each) for each in expected(case, "frames")]
        # Where the reference exceeds the largest frame the specification wants the value split.
        merged: list[Frame] = []
        for frame in frames:
            assert len(encode_frame(frame)) == len(frame.payload) + 8
            if merged and merged[-1].type_id == 2 and merged[-1].flags & 1:
                merged[-1].payload += frame.payload
                merged[-1].flags = frame.flags
            else:
                merged.append(frame)
        assert merged == wanted
        assert (len(frames) > len(wanted)) == any(len(frame.payload) > LARGEST for frame in wanted)


def check_cut(payload: bytes, message: bytes) -> None:
    """An error message that does not fit is cut, and no character with it."""
    assert message.startswith(payload) and len(payload) <= LARGEST
    assert len(payload) > min(len(message), 32768) - 4
    with contextlib.suppress(UnicodeDecodeError):
        message.decode()
        payload.decode("utf-8", "strict")


class TestResponses:
    @cases("bytes_response.json", op="bytesresponse")
    def test_response(self, case: Any) -> None:
        stream = stream_of(case, frame_size=case["maxframesize"])
        data = raw_bytes(case["data_hex"])
        wanted = [recorded_frame(each) for each in expected(case, "frames")]
        assert list(EXP_0002.encode_response(stream, asked(case), data, True, False)) == wanted
        # The same bytes in any pieces give the same frames.
        for size in (1, 7, 10, 4096):
            pieces = (data[start : start + size] for start in range(0, len(data), size))
            again = stream_of(case, frame_size=case["maxframesize"])
            assert list(EXP_0002.encode_response(again, asked(case), pieces, True, False)) == wanted

    @cases("bytes_response.json", op="error")
    def test_error(self, case: Any) -> None:
        kind = "|".join(name for name in ("protocol", "application") if case[name])
        message = raw_bytes(case["message_hex"])
        (frame,) = EXP_0002.encode_error(stream_of(case), asked(case), message, kind, False)
        if wanted := expected(case, "frames"):
            assert [frame] == [recorded_frame(each) for each in wanted]
        else:
            check_cut(frame.payload, message)


def text(value: Any) -> Any:
    return raw_bytes(value["bytes_hex"]) if "bytes_hex" in value else value["text"]


def texts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [text(value["repeat"])] * value["count"]
    return [text(item) for item in value]


class TestTextOutput:
    @cases("textoutput.json")
    def test_encode(self, case: Any) -> None:
        atoms = [Atom(text(atom["formatting"]), texts(atom["args"]), texts(atom["labels"])) for atom in case["atoms"]]
        refusal = case.get("spec_expect_error", None if "spec_expect_frame" in case else case.get("expect_error"))
        if refusal is None:
            frames = list(EXP_0002.encode_text(stream_of(case), asked(case), atoms))
            assert frames == [recorded_frame(expected(case, "expect_frame"))]
            return
        with pytest.raises(LocalProtocolError) as caught:
            EXP_0002.encode_text(stream_of(case), asked(case), atoms)
        if case.get("message_normative", True) and "message" in refusal:
            assert caught.value.message == refusal["message"]


class TestWhatTheSpecificationExpects:
    """Values that begin with ``spec_`` win over what the reference did."""

    ATOM = {"formatting": {"bytes_hex": b"foo".hex()}, "args": [], "labels": []}
    FRAME = {
        "header": {"length": 7, "requestid": 1, "streamid": 2, "streamflags": 1, "typeid": 6, "flags": 0},
        "payload_hex": "03000000666f6f",
        "wire_hex": "070000010002016003000000666f6f",
    }
    CASE = {"atoms": [ATOM], "requestid": 1, "streamid": 2, "stream_already_begun": False}

    @pytest.mark.parametrize(
        "recorded", [{"expect_error": {"message": "no"}}, {"expect_frame": {**FRAME, "header": {}}}]
    )
    def test_a_frame(self, recorded: Any) -> None:
        text_output = TestTextOutput()
        text_output.test_encode({**self.CASE, **recorded, "spec_expect_frame": self.FRAME})
        with pytest.raises(AssertionError):
            text_output.test_encode({**self.CASE, "spec_expect_frame": {**self.FRAME, "payload_hex": "00"}})
        with pytest.raises(pytest.fail.Exception):
            text_output.test_encode({**self.CASE, "expect_frame": self.FRAME, "spec_expect_error": {"message": "no"}})

    def test_the_frame_of_a_step(self) -> None:
        wire = encode_frame(parse_frame("1 2 stream-begin error-response application bad", EXP_0002))
        named = {"header": vars_of(parse_header(wire)), "payload_hex": b"bad".hex(), "wire_hex": wire.hex()}
        command = parse_frame("1 1 stream-begin command-name eos a", EXP_0002)
        begin = {
            "op": "frame",
            "header": vars_of(parse_header(encode_frame(command))),
            "payload_hex": command.payload.hex(),
            "wire_hex": encode_frame(command).hex(),
            "expect": {"action": "runcommand"},
        }
        error = {"op": "apperror", "stream": 2, "requestid": 1, "data_hex": b"bad".hex(), "consume": True}
        failed = {"action": "sendframes", "frames": [], "raises": {"type": "AssertionError", "message": ""}}
        for wanted, right in ((named, True), ({**named, "payload_hex": b"sad".hex()}, False)):
            steps = [begin, {**error, "expect": failed, "spec_expect_frame": wanted}]
            with contextlib.nullcontext() if right else pytest.raises(AssertionError):
                TestReactor().play({"deferoutput": False, "steps": steps})


class Scenario:
    """One recorded scenario, and what is known of its requests so far."""

    def __init__(self, case: Any) -> None:
        self.reactor = ServerReactor(EXP_0002, ANY_SIZE, defer_output=case["deferoutput"])
        self.commands = BufferedCommands(self.reactor)
        self.streams: dict[int, OutgoingStream] = {}
        self.saved: dict[str, Iterator[Frame]] = {}
        self.active: set[int] = set()
        self.receiving: set[int] = set()
        self.partial: set[int] = set()
        self.names: dict[int, frozenset[bytes]] = {}
        self.failed = False
        self.deferred = case["deferoutput"]
        # Streams that may have begun, there, with a frame that we refused to make.
        self.loose: set[int] = set()
        # The responses that wait for the end of the input: whether we made them, and frames that were sent early.
        self.waiting: list[tuple[bool, list[Any]]] = []

    def look_at(self, step: Any) -> FrameStep:
        frame = recorded_frame(step) if step["op"] == "frame" else None
        known = (frozenset(each) for each in (self.active, self.receiving, self.partial))
        return FrameStep(step, *known, dict(self.names), self.failed, frame)

    def note(self, look: FrameStep, action: Any) -> None:
        """Take note of what a step did."""
        frame = look.frame
        self.failed = self.failed or isinstance(action, Error)
        if isinstance(action, RunCommand):
            self.receiving.discard(action.request_id)
            self.active.add(action.request_id)
            self.names.pop(action.request_id, None)
        elif frame is None or isinstance(action, Error):
            return
        elif frame.type_id == 1:
            self.receiving.add(frame.request_id)
        elif frame.type_id == 2:
            name = look.argument
            self.names[frame.request_id] = self.names.get(frame.request_id, frozenset()) | ({name} if name else set())
            (self.partial.add if frame.flags & 1 else self.partial.discard)(frame.request_id)

    def may_answer(self, step: Any) -> bool:
        return step["requestid"] in self.active and step["stream"] % 2 == 0

    def wait(self, step: Any, *, made: bool) -> None:
        """Take note of a response that the reference, or we, hold back."""
        if self.deferred and (made or step["op"] == "respond"):
            self.waiting.append((made, step["expect"].get("frames", [])))

    def held_back(self, recorded: list[Any]) -> list[Frame]:
        """The frames at the end of the input: of the recorded ones, and those sent early, those of what we made."""
        runs: list[list[Any]] = [[]]
        for each in recorded:
            runs[-1].append(each)
            if each["header"]["typeid"] == 5 or each["header"]["flags"] & 2:
                runs.append([])
        answers = iter(runs)
        kept = [(made, early or next(answers, [])) for made, early in self.waiting]
        self.waiting = []
        return [recorded_frame(each) for made, frames in kept if made for each in frames]

    def same(self, frames: list[Frame], wanted: list[Frame]) -> None:
        for frame in frames + wanted:
            if frame.stream_id in self.loose:
                frame.stream_flags = 0
        assert frames == wanted

    def stream(self, step: Any) -> OutgoingStream:
        return self.streams.setdefault(step["stream"], OutgoingStream(step["stream"]))

    def operate(self, step: Any) -> Any:
        return getattr(self, step["op"])(step)

    def frame(self, step: Any) -> Any:
        if "human" in step:
            assert parse_frame(step["human"], EXP_0002) == recorded_frame(step)
        return self.commands.receive_frame(recorded_frame(step))

    def respond(self, step: Any) -> Any:
        return self.answer(step, self.reactor.send_response)

    def apperror(self, step: Any) -> Any:
        return self.answer(step, self.reactor.send_error)

    def answer(self, step: Any, send: Any) -> Any:
        action = send(self.stream(step), step["requestid"], raw_bytes(step["data_hex"]))
        self.active.discard(step["requestid"])
        return action

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
    if expect["action"] == "error" and "meta" in expect and expect.get("message_normative", True):
        found["meta"] = {"message": expect["meta"]["message"]}
    if expect["action"] == "runcommand" and "meta" in expect:
        meta = expect["meta"]
        found["meta"] = {
            "requestid": meta["requestid"],
            "command": raw_bytes(meta["command_hex"]),
            "args": {raw_bytes(item["name_hex"]): raw_bytes(item["value_hex"]) for item in meta["args"]},
            "data": None if meta["data_hex"] is None else raw_bytes(meta["data_hex"]),
        }
    return found


def agrees(spec: Any, expect: Any) -> bool:
    """Whether the specification asks for what the reference did."""
    return all(expect.get(key) == value for key, value in spec.items())


class TestReactor:
    @cases("reactor.json")
    def test_scenario(self, case: Any) -> None:
        self.play(case)

    @cases("reactor_random.json")
    def test_walk(self, case: Any) -> None:
        self.play(case)

    def play(self, case: Any) -> None:
        """Take the steps, up to the first that is a protocol error here and was none there."""
        scenario = Scenario(case)
        binding = True
        for number, step in enumerate(case["steps"]):
            look = scenario.look_at(step)
            if any(deviation.rule(look) for deviation in FRAME_RULES if deviation.rule):
                assert isinstance(scenario.operate(step), Error), number
                return
            if spec := step.get("spec_expect"):
                binding = agrees(spec, step["expect"])
            elif not binding:
                # Nothing says what comes out, but the steps after it may depend on it.
                with contextlib.suppress(LocalProtocolError):
                    scenario.note(look, scenario.operate(step))
                continue
            if "stream" in step and not scenario.may_answer(step):
                # The reference makes the frames of a response before it finds, if ever, that no request waits for it.
                with pytest.raises(LocalProtocolError):
                    scenario.operate(step)
                scenario.loose.add(step["stream"])
                scenario.wait(step, made=False)
                continue
            if step["op"] == "apperror" and scenario.deferred and not spec:
                # The reference sends it at once.
                assert scenario.operate(step) is NOOP
                scenario.wait(step, made=True)
                continue
            action = scenario.operate(step)
            scenario.note(look, action)
            if step["op"] == "frame" and "raises" in step["expect"] and not spec:
                # The reference fails at what it cannot do.  We can continue an argument; all else is an error.
                assert isinstance(action, Error) or (look.frame.type_id == 2 and look.frame.flags & 1), number
                binding = False
                continue
            self.compare(number, step, spec or step["expect"], action, scenario)

    def compare(self, number: int, step: Any, expect: Any, action: Any, scenario: Scenario) -> None:
        if "save_as" in step:
            scenario.saved[step["save_as"]] = action.frames
        if step["op"] == "respond":
            scenario.wait(step, made=True)
        elif step["op"] == "eof" and scenario.waiting and "spec_expect" not in step:
            self.compare_held_back(step, action, scenario)
            return
        if "action" in expect:
            found, said = describe(action), expectation(expect)
            if "meta" not in said:
                found.pop("meta", None)
            assert (number, found) == (number, said)
        wanted = [step["spec_expect_frame"]] if "spec_expect_frame" in step else expect.get("frames")
        if wanted is None:
            return
        frames = action if isinstance(action, list) else list(action.frames)
        if expect.get("raises", {}).get("type") == "AssertionError" and "spec_expect_frame" not in step:
            (frame,) = frames
            check_cut(frame.payload, raw_bytes(step["data_hex"]))
        else:
            scenario.same(frames, [recorded_frame(each) for each in wanted])

    def compare_held_back(self, step: Any, action: Any, scenario: Scenario) -> None:
        wanted = scenario.held_back(step["expect"].get("frames", []))
        frames = list(action.frames) if action is not NOOP else []
        # Where the reference fails in the middle, it made the first of the frames.
        scenario.same(frames[: len(wanted)] if "raises" in step["expect"] else frames, wanted)


MADE = {
    "contradicting-flags": [
        ["1 1 stream-begin command-name eos|have-data cmd"],
        ["1 1 stream-begin command-name have-args cmd", r"1 1 0 command-argument continuation|eoa \1\0\1\0ab"],
        ["1 1 stream-begin command-name have-data cmd", "1 1 0 command-data continuation|eos x"],
    ],
    "even-request-id": [["6 1 stream-begin command-name have-args|have-data cmd"]],
    "empty-argument-name": [["1 1 stream-begin command-name have-args cmd", r"1 1 0 command-argument 0 \0\0\1\0x"]],
    "duplicate-argument-name": [
        [
            "1 1 stream-begin command-name have-args cmd",
            r"1 1 0 command-argument continuation \1\0\2\0kv",
            "1 1 0 command-argument 0 w",
            r"1 1 0 command-argument eoa \1\0\1\0kv",
        ]
    ],
    "end-inside-a-command": [
        [
            "1 1 stream-begin command-name eos a",
            "3 1 0 command-name have-data b",
            "3 1 0 command-data continuation x",
            "",
        ],
    ],
    "unknown-profile": [
        [r"1 1 stream-begin stream-settings 0 \4zstd"],
        ["1 1 stream-begin stream-settings 0 "],
        ["1 1 stream-begin command-name have-data a", r"1 3 stream-begin stream-settings 0 \10identit?"],
    ],
    "ignored-frames": [["1 1 stream-begin command-name have-data a", "1 1 0 text-output 0 x"]],
}
"""Scenarios by the rule that their last step meets; an empty line is the end of the input."""


@pytest.mark.parametrize(
    ("rule", "lines"), [pytest.param(rule, lines, id=rule) for rule, each in MADE.items() for lines in each]
)
def test_rules_by_scenarios(rule: str, lines: list[str]) -> None:
    scenario = Scenario({"deferoutput": True})
    for number, line in enumerate(lines):
        frame = parse_frame(line, EXP_0002) if line else None
        step = {"op": "frame" if frame else "eof", "expect": {"returns_none": rule == "ignored-frames" and number == 1}}
        look = FrameStep(
            step,
            frozenset(scenario.active),
            frozenset(scenario.receiving),
            frozenset(scenario.partial),
            dict(scenario.names),
            scenario.failed,
            frame,
        )
        met = [each.name for each in FRAME_RULES if each.rule and each.rule(look)]
        action = scenario.commands.receive_frame(frame) if frame else scenario.commands.receive_eof()
        scenario.note(look, action)
        last = number == len(lines) - 1
        assert (met, isinstance(action, Error)) == ([rule] if last else [], last)


def test_every_rule_has_a_scenario() -> None:
    assert MADE.keys() == {deviation.name for deviation in FRAME_RULES}
