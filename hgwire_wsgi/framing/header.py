"""The eight bytes in front of every frame.

From the specification ("Frame Header"), as of the streams patch; little endian::

    0..2  payload length, as sent (after any content encoding)
    3..4  request ID: odd if the client began the request
    5     stream ID: odd for streams of the client, even for streams of the server
    6     stream flags
    7     frame type in the upper half, its flags in the lower

The length is a true 24-bit number.  Mercurial multiplies the third byte by 16,384, which gives the same up to 65,535.
"""

from __future__ import annotations

import struct

import attrs

from ..errors import LocalProtocolError

__all__ = [
    "HEADER_SIZE",
    "STREAM_BEGIN",
    "STREAM_ENCODED",
    "STREAM_END",
    "STREAM_FLAGS",
    "Header",
    "pack_header",
    "parse_header",
]

HEADER_SIZE = 8

STREAM_BEGIN = 0x01
STREAM_END = 0x02
STREAM_ENCODED = 0x04

STREAM_FLAGS = {"stream-begin": STREAM_BEGIN, "stream-end": STREAM_END, "encoded": STREAM_ENCODED}
"""Stream flags by name, the same in every revision with this header."""

# The 24-bit length is split into its lower 16 and upper 8 bits.
LAYOUT = struct.Struct("<HBHBBB")
_pack = LAYOUT.pack


@attrs.define
class Header:
    """One parsed header, as plain integers; their names belong to the revision."""

    length: int
    request_id: int
    stream_id: int
    stream_flags: int
    type_id: int
    flags: int


def parse_header(data: bytes, offset: int = 0) -> Header:
    """Parse the header at ``offset``.  Any eight bytes are a header.

    Raises:
        ValueError: there are fewer.
    """
    if len(data) - offset < HEADER_SIZE:
        raise ValueError(f"a header has {HEADER_SIZE} bytes, not {max(len(data) - offset, 0)}")
    low, high, request_id, stream_id, stream_flags, type_flags = LAYOUT.unpack_from(data, offset)
    return Header(low | high << 16, request_id, stream_id, stream_flags, type_flags >> 4, type_flags & 0x0F)


def pack_header(length: int, request_id: int, stream_id: int, stream_flags: int, type_id: int, flags: int) -> bytes:
    """Make the eight bytes.

    Raises:
        LocalProtocolError: a number does not fit in its field.
    """
    try:
        if flags >> 4:
            raise LocalProtocolError(f"frame flags do not fit in 4 bits: {flags}")
        return _pack(length & 0xFFFF, length >> 16, request_id, stream_id, stream_flags, type_id << 4 | flags)
    except (struct.error, TypeError) as error:
        fields = f"length {length}, request {request_id}, stream {stream_id} ({stream_flags}), type {type_id} ({flags})"
        raise LocalProtocolError(f"a number does not fit in the frame header: {fields}") from error
