"""``hgwire frames``: there and back, dumps, and recorded exchanges through the reactors."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from hgwire_wsgi.cli import main
from hgwire_wsgi.cli.frames import _SHOWN
from hgwire_wsgi.framing import EXP_0002, RunCommand, actions, encode_frame, parse_frame

VECTORS = Path(__file__).parent.parent / "vectors" / "framing-0002"

TEXT = [
    "1 1 stream-begin command-name have-args listkeys",
    "1 1 0 command-argument eoa \\t\\x00\\t\\x00namespacebookmarks",
    "3 1 stream-end|encoded command-data eos \\x00\\xff\\\\ \\n",
    "65535 255 248 15 15 ",
]
FRAMES = b"".join(encode_frame(parse_frame(line, EXP_0002)) for line in TEXT)


class Out:
    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


@pytest.fixture
def frames(capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str | Path, given: bytes = b"") -> Out:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = main(["frames", *map(str, arguments)])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Out(code, out, err.decode())

    return run


class TestEncode:
    def test_lines_to_bytes(self, frames: Any, tmp_path: Path) -> None:
        given = ("# a comment\n\n" + "\n".join(TEXT) + "\n").encode()
        assert frames("encode", given=given).out == FRAMES
        file = tmp_path / "frames.txt"
        file.write_bytes(given.replace(b"\n", b"\r\n"))
        assert frames("encode", file).out == FRAMES

    def test_a_payload_of_spaces_is_kept(self, frames: Any) -> None:
        assert frames("encode", given=b"1 1 0 3 0   \n").out == bytes([2, 0, 0, 1, 0, 1, 0, 0x30]) + b"  "

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b"1 1", "needs 6 fields"),
            (b"1 1 0 nonsense 0 x", "not a frame type"),
            (b"70000 1 0 3 0 x", "request ID 70000 exceeds"),
            (b"1 1 0 3 0 \\x", "malformed escape"),
        ],
    )
    def test_a_malformed_line(self, frames: Any, line: bytes, problem: str) -> None:
        done = frames("encode", given=TEXT[0].encode() + b"\n" + line)
        assert done.code == 2
        assert done.err.startswith("hgwire: line 2: ") and problem in done.err

    def test_vectors(self, frames: Any) -> None:
        cases = json.loads((VECTORS / "frames.json").read_text())["cases"]
        makes = [case for case in cases if case.get("op") == "make" and case.get("human")]
        plain = [case for case in makes if isinstance(case.get("wire_hex"), str)]
        assert plain
        for case in plain[:40]:
            assert frames("encode", given=case["human"].encode()).out.hex() == case["wire_hex"], case["name"]


class TestDecode:
    def test_bytes_to_lines(self, frames: Any, tmp_path: Path) -> None:
        assert frames("decode", given=FRAMES).lines == TEXT
        file = tmp_path / "frames"
        file.write_bytes(FRAMES)
        assert frames("decode", file).lines == TEXT

    def test_there_and_back(self, frames: Any) -> None:
        raw_bytes = bytes(range(256)) * 250
        line = encode_frame(parse_frame("1 2 0 bytes-response eos ", EXP_0002).__class__(1, 2, 0, 4, 2, raw_bytes))
        assert frames("encode", given=frames("decode", given=line).out).out == line

    def test_frames_larger_than_the_limit_can_be_looked_at(self, frames: Any) -> None:
        large = (100_000).to_bytes(3, "little") + bytes.fromhex("0100010011") + b"x" * 100_000
        assert frames("decode", given=large).lines[0].endswith("x" * 100)

    @pytest.mark.parametrize(
        "dump",
        [
            FRAMES.hex(),
            FRAMES.hex(" "),
            "\n".join(FRAMES.hex(" ")[start : start + 30] for start in range(0, len(FRAMES) * 3, 30)) + "\n\n",
            FRAMES.hex().upper(),
        ],
    )
    def test_plain_hex(self, frames: Any, dump: str) -> None:
        assert frames("decode", "--hex", given=dump.encode()).lines == TEXT

    def test_xxd(self, frames: Any) -> None:
        dump = "".join(
            f"{start:08x}: {FRAMES[start : start + 16].hex(' ', 2):39}  ab cd\n" for start in range(0, len(FRAMES), 16)
        )
        assert frames("decode", "--hex", given=dump.encode()).lines == TEXT

    def test_hexdump(self, frames: Any) -> None:
        rows = [FRAMES[start : start + 16] for start in range(0, len(FRAMES), 16)]
        dump = "".join(
            f"{16 * number:08x}  {row[:8].hex(' ')}  {row[8:].hex(' '):23}  |ab cd|\n"
            for number, row in enumerate(rows)
        )
        assert frames("decode", "--hex", given=f"{dump}{len(FRAMES):08x}\n".encode()).lines == TEXT

    @pytest.mark.parametrize(
        "command", [["xxd"], ["xxd", "-p"], ["hexdump", "-C"]], ids=["xxd", "xxd -p", "hexdump -C"]
    )
    def test_dumps_of_tools(self, frames: Any, command: list[str]) -> None:
        if shutil.which(command[0]) is None:
            pytest.skip(f"not installed here: {command[0]}")
        dump = subprocess.run(command, input=FRAMES, capture_output=True, check=True).stdout
        assert frames("decode", "--hex", given=dump).lines == TEXT

    @pytest.mark.parametrize("dump", ["0g", "00000000  00 00\n*\n", "000"])
    def test_no_dump(self, frames: Any, dump: str) -> None:
        done = frames("decode", "--hex", given=dump.encode())
        assert done.code == 2
        assert "not a hexadecimal dump" in done.err

    def test_explain(self, frames: Any) -> None:
        lines = frames("decode", "--explain", given=FRAMES).lines
        assert lines[0] == TEXT[0]
        assert any(line.startswith("01 ") and "stream ID     1 (client)" in line for line in lines)

    @pytest.mark.parametrize("cut", [1, 8, 30])
    def test_a_frame_that_is_cut(self, frames: Any, cut: int) -> None:
        done = frames("decode", given=FRAMES[:-8][:-cut])
        assert done.code == 1
        assert done.lines == TEXT[: len(done.lines)] and len(done.lines) < 3
        assert done.err.startswith("hgwire: ")

    def test_no_file(self, frames: Any) -> None:
        done = frames("decode", "/no/such/file")
        assert (done.code, done.out) == (2, b"")
        assert "No such file" in done.err


class TestCheck:
    REQUESTS = (
        "5 1 stream-begin command-name have-args listkeys",
        "5 1 0 command-argument eoa \\x09\\x00\\x09\\x00namespacebookmarks",
        "7 1 0 command-name have-data unbundle",
        "7 1 0 command-data continuation abc",
        "7 1 0 command-data eos ",
    )
    RESPONSES = (
        "5 2 stream-begin text-output 0 \\x03\\x00\\x00\\x01\\x02\\x00a%syo",
        "5 2 0 bytes-response eos reply",
        "7 2 0 error-response application no",
    )

    def files(self, folder: Path, *texts: tuple[str, ...]) -> list[Path]:
        paths = []
        for number, lines in enumerate(texts):
            paths.append(folder / str(number))
            paths[-1].write_bytes("\n".join(lines).encode())
        return paths

    def test_an_exchange(self, frames: Any, tmp_path: Path) -> None:
        done = frames("check", "--format", "text", *self.files(tmp_path, self.REQUESTS, self.RESPONSES))
        assert done.code == 0
        assert done.lines == [
            "server receives",
            "  WANT_FRAME",
            "  RunCommand     request 5: 'listkeys' 'namespace'='bookmarks'",
            "  RunCommand     request 7: 'unbundle' with data",
            "  CommandData    request 7: 3 bytes 'abc'",
            "  CommandData    request 7: 0 bytes (final) ''",
            "  NOOP",
            "client receives",
            "  TextOutput     request 5: 'ayo'",
            "  ResponseData   request 5: 5 bytes (final) 'reply'",
            "  ResponseError  request 7: application 'no'",
            "  NOOP",
        ]

    def test_raw_and_hex(self, frames: Any, tmp_path: Path) -> None:
        (path,) = self.files(tmp_path, self.REQUESTS)
        expected = frames("check", "--format", "text", path).lines
        raw_bytes = frames("encode", path).out
        assert frames("check", "-", given=raw_bytes).lines == expected
        assert frames("check", "--format", "hex", "-", given=raw_bytes.hex().encode()).lines == expected

    def test_a_request_that_breaks_the_protocol(self, frames: Any, tmp_path: Path) -> None:
        (path,) = self.files(tmp_path, ("1 1 0 command-name eos heads",))
        done = frames("check", "--format", "text", path)
        assert done.code == 1
        assert done.lines[-1].startswith("  Error          received frame on unknown inactive stream")

    @pytest.mark.parametrize(
        "responses",
        [("9 2 stream-begin bytes-response eos x",), ("5 2 stream-begin bytes-response continuation x",), ()],
    )
    def test_a_response_that_breaks_the_protocol(self, frames: Any, tmp_path: Path, responses: Any) -> None:
        done = frames("check", "--format", "text", *self.files(tmp_path, self.REQUESTS, responses))
        assert done.code == 1
        assert done.lines[-1].startswith("  Error ")

    def test_arguments_may_have_types(self) -> None:
        shown = _SHOWN[RunCommand](RunCommand(1, b"known", {b"nodes": [b"a", 1], b"raw": b"x"}))
        assert shown == "request 1: 'known' 'nodes'=[b'a', 1] 'raw'='x'"

    def test_every_action_can_be_shown(self) -> None:
        assert set(_SHOWN) == set(get_args(actions.Action))


def test_a_reader_that_has_seen_enough() -> None:
    program = f"{sys.executable} -c 'print(\"1 1 stream-begin command-name eos heads\\n\" * 50000)' 2>/dev/null"
    pipe = f"{program} | {sys.executable} -m hgwire_wsgi frames encode | head -c 10 | wc -c"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == ("10", "")
