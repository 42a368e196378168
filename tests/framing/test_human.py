"""The human notation, both ways, and explanations."""

from __future__ import annotations

import pytest
from framing_support import any_frame, frame, wire
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.framing import EXP_0002, Frame, explain, format_frame, parse_frame

FRAMES = any_frame(st.binary(max_size=60))


@given(FRAMES)
def test_round_trip(frame: Frame) -> None:
    text = format_frame(frame, EXP_0002)
    assert text.isascii()
    assert text.isprintable()
    assert parse_frame(text, EXP_0002) == frame
    assert parse_frame(text.encode(), EXP_0002) == frame


@given(st.binary(max_size=40))
def test_any_line_parses_or_is_refused(text: bytes) -> None:
    for line in (text, b"1 1 0 1 1 " + text):
        try:
            frame = parse_frame(line, EXP_0002)
        except ValueError:
            continue
        assert parse_frame(format_frame(frame, EXP_0002), EXP_0002) == frame


@pytest.mark.parametrize(
    "text",
    [
        "1 1 stream-begin command-name eos heads",
        "1 1 stream-begin|stream-end command-name have-args|have-data x",
        "3 2 encoded bytes-response continuation \\x00\\xff\\\\ \\n\\r\\t'\"",
        "65535 255 248 15 15 ",
        "1 2 0 text-output 1 ",
        "1 2 stream-end|128 error-response protocol|application|12 a b  c",
        "1 1 1 0 0 ",
    ],
)
def test_canonical_form(text: str) -> None:
    expected = text.replace(" 1 0 0 ", " stream-begin 0 0 ")
    assert format_frame(frame(text), EXP_0002) == expected


@pytest.mark.parametrize(
    ("escape", "byte"),
    [
        (rb"\a\b\f\n\r\t\v", b"\a\b\f\n\r\t\v"),
        (rb"\'\"\\", b"'\"\\"),
        (rb"\0\7\12\377\400", b"\x00\x07\x0a\xff\x00"),
        (rb"\x00\xFf\xfF", b"\x00\xff\xff"),
        (b"a\\\nb", b"ab"),
        (rb"\d\8", rb"\d\8"),
        (b"\xc3\xa9", b"\xc3\xa9"),
        (rb"\1234", b"S4"),
    ],
)
def test_escapes(escape: bytes, byte: bytes) -> None:
    assert parse_frame(b"1 1 0 3 1 " + escape, EXP_0002).payload == byte


def test_text_is_utf8() -> None:
    assert frame("1 1 0 3 1 é").payload == "é".encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "6 fields, separated by single spaces; got 1"),
        ("1 1 0 3 1", "got 5"),
        ("1  1 0 3 1 x", "not a stream ID: ''"),
        ("1 1 begin 3 1 x", "not a stream flag: 'begin'; known: stream-begin, stream-end, encoded"),
        ("1 1 0 data 1 x", "not a frame type: 'data'; known: command-name, "),
        ("1 1 0 command-data eoa x", "not a flag of command-data: 'eoa'; known: continuation, eos"),
        ("1 1 0 text-output eos x", "not a flag of text-output: 'eos'$"),
        ("65536 1 0 3 1 x", "request ID 65536 exceeds 65535"),
        ("1 256 0 3 1 x", "stream ID 256 exceeds 255"),
        ("1 1 0 16 1 x", "frame type 16 exceeds 15"),
        ("1 1 0 3 16 x", "flag of 3 16 exceeds 15"),
        ("+1 1 0 3 1 x", "not a request ID"),
        ("1_0 1 0 3 1 x", "not a request ID"),
        ("٣ 1 0 3 1 x", "not a request ID"),
        ("9999999999 1 0 3 1 x", "not a request ID"),
        ("1 1 0 3 1 \\", "malformed escape"),
        ("1 1 0 3 1 \\x1", "malformed escape"),
        ("1 1 0 3 1 \\xg0", "malformed escape"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame(text)


def test_explain() -> None:
    data = wire("1 1 stream-begin command-name have-args|8 a\\x00b")
    assert explain(data + b"more", EXP_0002).splitlines() == [
        "03 00 00    length        3",
        "01 00       request ID    1",
        "01          stream ID     1 (client)",
        "01          stream flags  stream-begin",
        "1a          type, flags   command-name, have-args|8",
        "            payload       a\\x00b",
    ]
    assert explain(data[:9], EXP_0002).endswith("payload       a (2 bytes missing)")
    assert explain(data[:3], EXP_0002) == "03 00 00: 3 of the 8 bytes of a header"
    assert explain(b"", EXP_0002) == ": 0 of the 8 bytes of a header"
    long = explain(wire("1 2 0 15 1 " + "x" * 65), EXP_0002)
    assert "1 (client)" not in long
    assert "2 (server)" in long
    assert "15, 1" in long
    assert long.endswith("x" * 64 + "...")
