"""Frames for people: a line of text for each frame, and an explanation of its bytes.

The notation is that of the streams patch::

    <request-id> <stream-id> <stream-flags> <type> <flags> <payload>

separated by single spaces.  IDs are numbers.  Types and flags are names of the revision, or numbers; several flags are
joined by ``|``.  The payload is the rest of the line, with the escapes of a Python bytes literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from .frame import Frame
from .header import HEADER_SIZE, STREAM_FLAGS, parse_header
from .revision import Revision

__all__ = ["explain", "format_frame", "parse_frame"]

_SIMPLE = {
    b"\n": b"", b"\\": b"\\", b"'": b"'", b'"': b'"', b"a": b"\a", b"b": b"\b",
    b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
}  # fmt: skip
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([0-7]{1,3})|(.?))", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,8}", re.ASCII)

_SHOWN = {code: chr(code) for code in range(0x20, 0x7F)} | {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x5C: "\\\\"}
_ESCAPED = [_SHOWN.get(code, f"\\x{code:02x}") for code in range(256)]
_EXPLAINED_PAYLOAD = 64


def parse_frame(text: str | bytes, revision: Revision) -> Frame:
    """Parse a line of the notation.

    Args:
        text: the line, without its newline.  A ``str`` is encoded as UTF-8.
        revision: defines the names.

    Raises:
        ValueError: the line has too few fields, a number does not fit in its field, a name is unknown, or an escape is
            malformed.
    """
    data = text.encode("utf-8") if isinstance(text, str) else text
    fields = data.split(b" ", 5)
    if len(fields) < 6:
        raise ValueError(f"a frame needs 6 fields, separated by single spaces; got {len(fields)}")
    request_id, stream_id, stream_flags, type_id, flags = (field.decode("latin-1") for field in fields[:5])
    number = _parse_number(type_id, "frame type", 0x0F, revision.frame_types)
    return Frame(
        _parse_number(request_id, "request ID", 0xFFFF, {}),
        _parse_number(stream_id, "stream ID", 0xFF, {}),
        _parse_flags(stream_flags, "stream flag", 0xFF, STREAM_FLAGS),
        number,
        _parse_flags(flags, f"flag of {type_id}", 0x0F, revision.flags.get(number, {})),
        _ESCAPE.sub(_unescape, fields[5]),
    )


def _parse_number(text: str, what: str, most: int, names: Mapping[str, int]) -> int:
    if text in names:
        return names[text]
    if not _NUMBER.fullmatch(text):
        known = f"; known: {', '.join(names)}" if names else ""
        raise ValueError(f"not a {what}: {text!r}{known}")
    number = int(text)
    if number > most:
        raise ValueError(f"{what} {number} exceeds {most}")
    return number


def _parse_flags(text: str, what: str, most: int, names: Mapping[str, int]) -> int:
    flags = 0
    for flag in text.split("|"):
        flags |= _parse_number(flag, what, most, names)
    return flags


def _unescape(match: re.Match[bytes]) -> bytes:
    hexadecimal, octal, character = match.groups()
    if hexadecimal:
        return bytes.fromhex(hexadecimal.decode("ascii"))
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    if character in (b"", b"x"):
        raise ValueError(f"malformed escape: {match[0].decode('ascii')}")
    return _SIMPLE.get(character, match[0])


def format_frame(frame: Frame, revision: Revision) -> str:
    """Return the line of ASCII from which :func:`parse_frame` makes ``frame`` again, with names where there are any."""
    return " ".join(
        (
            str(frame.request_id),
            str(frame.stream_id),
            _format_flags(frame.stream_flags, STREAM_FLAGS),
            revision.type_name(frame.type_id),
            _format_flags(frame.flags, revision.flags.get(frame.type_id, {})),
            _escape(frame.payload),
        )
    )


def _format_flags(flags: int, names: Mapping[str, int]) -> str:
    parts = [name for name, bit in names.items() if flags & bit]
    unnamed = flags & ~sum(names.values())
    if unnamed or not parts:
        parts.append(str(unnamed))
    return "|".join(parts)


def _escape(payload: bytes) -> str:
    return "".join([_ESCAPED[code] for code in payload])


def explain(data: bytes, revision: Revision) -> str:
    """Explain the frame at the start of ``data``, one line for each field.  It need not be complete."""
    return "\n".join(_explain(data, revision))


def _explain(data: bytes, revision: Revision) -> Iterator[str]:
    if len(data) < HEADER_SIZE:
        yield f"{data.hex(' ')}: {len(data)} of the {HEADER_SIZE} bytes of a header"
        return
    header = parse_header(data)
    side = "client" if header.stream_id & 1 else "server"
    flags = _format_flags(header.flags, revision.flags.get(header.type_id, {}))
    yield f"{data[0:3].hex(' '):<12}length        {header.length}"
    yield f"{data[3:5].hex(' '):<12}request ID    {header.request_id}"
    yield f"{data[5:6].hex():<12}stream ID     {header.stream_id} ({side})"
    yield f"{data[6:7].hex():<12}stream flags  {_format_flags(header.stream_flags, STREAM_FLAGS)}"
    yield f"{data[7:8].hex():<12}type, flags   {revision.type_name(header.type_id)}, {flags}"
    payload = data[HEADER_SIZE : HEADER_SIZE + header.length]
    shown = _escape(payload[:_EXPLAINED_PAYLOAD]) + "..." * (len(payload) > _EXPLAINED_PAYLOAD)
    missing = f" ({header.length - len(payload)} bytes missing)" if len(payload) < header.length else ""
    yield f"{'':<12}payload       {shown}{missing}"
