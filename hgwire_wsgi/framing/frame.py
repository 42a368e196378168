"""Frames: their value, and the way between them and bytes.

In: :class:`FrameBuffer` for bytes that are pushed, :func:`read_frame` for a file.  Out: :func:`encode_frame` for one,
:func:`iter_chunks` for many.  Neither knows what a frame means; see :mod:`hgwire_wsgi.framing.revision`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import attrs

from ..errors import FrameTooLarge, LocalProtocolError, TruncatedFrame
from ..limits import Limits
from ..streams import Readable
from .header import HEADER_SIZE, LAYOUT, pack_header, parse_header

__all__ = ["DEFAULT_LIMITS", "Frame", "FrameBuffer", "encode_frame", "iter_chunks", "read_frame"]

DEFAULT_LIMITS = Limits()

_unpack = LAYOUT.unpack_from
# Below this size a payload is joined to its header: one copy costs less than one more chunk for whoever writes it.
_JOIN_BELOW = 2048
_REPR_PAYLOAD = 24


@attrs.define(repr=False)
class Frame:
    """One frame.

    Mutable and unvalidated because one is made per frame: a frozen one costs four times as much.  Numbers are checked
    when they are packed.
    """

    request_id: int
    stream_id: int
    stream_flags: int
    type_id: int
    flags: int
    payload: bytes
    """As on the wire, thus encoded if ``stream_flags`` say so."""

    def __repr__(self) -> str:
        shown = repr(self.payload[:_REPR_PAYLOAD]) + "..." * (len(self.payload) > _REPR_PAYLOAD)
        return (
            f"<Frame request={self.request_id} stream={self.stream_id} stream_flags={self.stream_flags:#x}"
            f" type={self.type_id} flags={self.flags:#x} payload[{len(self.payload)}]={shown}>"
        )


def encode_frame(frame: Frame, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """A whole frame in one piece.

    Raises:
        LocalProtocolError: a field does not fit the header, or the payload exceeds ``limits.frame_payload``.
    """
    return _header_of(frame, limits.frame_payload) + frame.payload


def iter_chunks(frames: Iterable[Frame], limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """The bytes of many frames.  A large payload leaves as it is, as a chunk of its own behind its header.

    Raises:
        LocalProtocolError: as :func:`encode_frame`, after the chunks of the frames before.
    """
    most = limits.frame_payload
    for frame in frames:
        header = _header_of(frame, most)
        if len(frame.payload) < _JOIN_BELOW:
            yield header + frame.payload
        else:
            yield header
            yield frame.payload


def _header_of(frame: Frame, most: int) -> bytes:
    length = len(frame.payload)
    if length > most:
        raise LocalProtocolError(f"frame payload of {length} bytes exceeds the limit of {most}")
    return pack_header(length, frame.request_id, frame.stream_id, frame.stream_flags, frame.type_id, frame.flags)


def read_frame(file: Readable, limits: Limits = DEFAULT_LIMITS) -> Frame | None:
    """The next frame of a file, or ``None`` at its end.

    A short read is not taken for the end: the file is asked until it gives nothing.

    Raises:
        FrameTooLarge: the header announces more than ``limits.frame_payload``; none of it was read.
        TruncatedFrame: the file ends inside the frame.
    """
    header = _read_exactly(file, HEADER_SIZE)
    if not header:
        return None
    if len(header) < HEADER_SIZE:
        raise _truncated_header(len(header))
    low, high, request_id, stream_id, stream_flags, type_flags = _unpack(header, 0)
    length = low | high << 16
    if length > limits.frame_payload:
        raise too_large(length, limits.frame_payload)
    payload = _read_exactly(file, length)
    if len(payload) < length:
        raise _truncated_payload(length, len(payload))
    return Frame(request_id, stream_id, stream_flags, type_flags >> 4, type_flags & 0x0F, payload)


def _read_exactly(file: Readable, size: int) -> bytes:
    data = file.read(size)
    if len(data) == size or not data:
        return data
    pieces = [data]
    missing = size - len(data)
    while missing and (data := file.read(missing)):
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)


class FrameBuffer:
    """Frames out of bytes that are pushed in pieces of any size.

    Plan: the piece at hand is read in place, with an offset; those fed meanwhile wait in a queue.  A payload that
    lies within one piece is sliced out of it, one that lies across several is joined out of them when all of it is
    there; a header that lies across some joins them.  So no byte is copied more than twice, most of them once, and
    the cost is linear whatever the pieces.  A frame that is too large is refused when its header is there, so no more
    than one payload waits here beyond what was fed at once.

    Iterating gives the frames that are complete so far; feed more and iterate again.  Frames before a bad one are
    given first; then every call raises the same error.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._most = limits.frame_payload
        self._piece = b""
        self._waiting: deque[bytes] = deque()
        # Both count from the start of the piece at hand; all that was fed may end behind it, in those that wait.
        self._offset = 0
        self._end = 0
        self._error: FrameTooLarge | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes.  Parses nothing."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self._offset == self._end:
            self._piece, self._offset, self._end = data, 0, len(data)
        elif data:
            self._waiting.append(data)
            self._end += len(data)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.next_frame()) is not None:
            yield frame

    def next_frame(self) -> Frame | None:
        """The next frame, or ``None`` while it is incomplete.

        Raises:
            FrameTooLarge: its header announces more than ``limits.frame_payload``.
        """
        piece, offset = self._piece, self._offset
        start = offset + HEADER_SIZE
        if start > len(piece):
            if start > self._end:
                return None
            piece, offset, start = self._join_header(), 0, HEADER_SIZE
        low, high, request_id, stream_id, stream_flags, type_flags = _unpack(piece, offset)
        length = low | high << 16
        if length > self._most:
            if self._error is None:
                self._error = too_large(length, self._most)
            raise self._error
        end = start + length
        if end <= len(piece):
            payload = piece[start:end]
            self._offset = end
        elif end <= self._end:
            payload = self._take(start, end)
        else:
            return None
        return Frame(request_id, stream_id, stream_flags, type_flags >> 4, type_flags & 0x0F, payload)

    def _join_header(self) -> bytes:
        """The piece at hand, once it begins with the whole of the next header, whose bytes are there."""
        piece = self._piece[self._offset :]
        while len(piece) < HEADER_SIZE:
            piece += self._waiting.popleft()
        self._piece = piece
        self._end -= self._offset
        self._offset = 0
        return piece

    def _take(self, start: int, end: int) -> bytes:
        """What lies between, when it is there but ends behind the piece at hand; reading goes on after it."""
        piece = self._piece
        parts: list[bytes | memoryview] = [memoryview(piece)[start:]]
        while True:
            end -= len(piece)
            self._end -= len(piece)
            piece = self._waiting.popleft()
            if end <= len(piece):
                break
            parts.append(piece)
        parts.append(memoryview(piece)[:end])
        self._piece, self._offset = piece, end
        return b"".join(parts)

    def end(self) -> None:
        """Say that nothing follows.

        Raises:
            TruncatedFrame: part of a frame is left.
            LocalProtocolError: a whole frame is, which was not taken.
        """
        if self._error is not None:
            raise self._error
        have = self._end - self._offset
        if have >= HEADER_SIZE:
            length = parse_header(self._join_header()).length
            if have >= HEADER_SIZE + length:
                raise LocalProtocolError("received the end of the input before its frames were taken")
            raise _truncated_payload(length, have - HEADER_SIZE)
        if have:
            raise _truncated_header(have)


def too_large(length: int, most: int) -> FrameTooLarge:
    """The error for a payload of ``length`` bytes where ``most`` are allowed."""
    return FrameTooLarge(f"received frame with a payload of {length} bytes; at most {most} are allowed")


def _truncated_header(size: int) -> TruncatedFrame:
    return TruncatedFrame(f"received incomplete frame: got {size} of {HEADER_SIZE} bytes of its header")


def _truncated_payload(expected: int, size: int) -> TruncatedFrame:
    return TruncatedFrame(f"frame length error: expected {expected}; got {size}")
