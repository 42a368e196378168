"""Frames as values, and their conversion from and to bytes.

Input: :class:`FrameBuffer` for bytes that are pushed, :func:`read_frame` for a file.  Output: :func:`encode_frame` for
one frame, :func:`iter_chunks` for many.  What a frame means is up to :mod:`hgwire_wsgi.framing.revision`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import attrs

from ..errors import FrameTooLarge, LocalProtocolError, TruncatedFrame
from ..limits import Limits
from ..streams import Readable
from .data import BytesLike, as_bytes
from .header import HEADER_SIZE, LAYOUT, Header, pack_header, parse_header

__all__ = ["DEFAULT_LIMITS", "Frame", "FrameBuffer", "encode_frame", "iter_chunks", "read_frame"]

DEFAULT_LIMITS = Limits()

_unpack = LAYOUT.unpack_from
# Below this size a payload is joined to its header: a copy costs less than writing one more chunk.
_JOIN_BELOW = 2048
_REPR_PAYLOAD = 24
_PAYLOAD = "the payload of a frame"


@attrs.define(repr=False)
class Frame:
    """One frame.

    Mutable and unvalidated, because a frozen instance costs four times as much.  Numbers are checked when they are
    packed.
    """

    request_id: int
    stream_id: int
    stream_flags: int
    type_id: int
    flags: int
    payload: bytes
    """As on the wire: encoded if ``stream_flags`` say so."""

    def __repr__(self) -> str:
        shown = repr(self.payload[:_REPR_PAYLOAD]) + "..." * (len(self.payload) > _REPR_PAYLOAD)
        return (
            f"<Frame request={self.request_id} stream={self.stream_id} stream_flags={self.stream_flags:#x}"
            f" type={self.type_id} flags={self.flags:#x} payload[{len(self.payload)}]={shown}>"
        )


def encode_frame(frame: Frame, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Convert a frame to bytes.

    Raises:
        LocalProtocolError: a field does not fit in the header, the payload exceeds ``limits.frame_payload``, or is not
            bytes.
    """
    payload = frame.payload
    if type(payload) is not bytes:
        payload = as_bytes(payload, _PAYLOAD)
    return _header_of(frame, len(payload), limits.frame_payload) + payload


def iter_chunks(frames: Iterable[Frame], limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """Convert frames to chunks of bytes.  A large payload is not copied: it is a chunk of its own after its header.

    Raises:
        LocalProtocolError: as :func:`encode_frame`, after the chunks of the frames before.
    """
    limit = limits.frame_payload
    for frame in frames:
        payload = frame.payload
        if type(payload) is not bytes:
            payload = as_bytes(payload, _PAYLOAD)
        length = len(payload)
        header = _header_of(frame, length, limit)
        if length < _JOIN_BELOW:
            yield header + payload
        else:
            yield header
            yield payload


def _header_of(frame: Frame, length: int, limit: int) -> bytes:
    if length > limit:
        raise LocalProtocolError(f"frame payload of {length} bytes exceeds the limit of {limit}")
    return pack_header(length, frame.request_id, frame.stream_id, frame.stream_flags, frame.type_id, frame.flags)


def read_frame(file: Readable, limits: Limits = DEFAULT_LIMITS) -> Frame | None:
    """Read the next frame of a file; ``None`` at its end.

    A short read is not the end: the file is read until it returns nothing.

    Raises:
        FrameTooLarge: the header announces more than ``limits.frame_payload`` bytes; none of them was read.
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
    """Finds the frames in bytes that are pushed in pieces of any size.

    Idea: no byte is copied more often than necessary.  The current piece is read in place, at an offset; pieces that
    were fed after it wait in a queue.

    - A payload inside the current piece is sliced from it.
    - A payload that crosses pieces is joined from them once all of it is there.
    - A header that crosses pieces is joined with what follows it in its last piece.

    So most bytes are copied once, none more than twice, and the cost is linear for pieces of any size.  A frame that is
    too large is refused as soon as its header is there: beyond what was fed at once, the buffer holds less than one
    frame.

    Iteration returns the frames that are complete so far; feed more and iterate again.  Frames before a bad one are
    returned first; after that every call raises the same error.

    Attributes:
        refused: the header of the frame that was too large, once there is one.
    """

    # What is always true: the next frame begins at ``_piece[_offset]``.  ``_end`` is the size of the current piece and
    # all waiting ones together, so ``_end - _offset`` bytes are unread.  No waiting piece is empty.

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limit = limits.frame_payload
        self._piece = b""
        self._waiting: deque[bytes] = deque()
        self._offset = 0
        self._end = 0
        self._error: FrameTooLarge | None = None
        self.refused: Header | None = None

    def feed(self, data: BytesLike) -> None:
        """Take bytes, without parsing them.

        Raises:
            LocalProtocolError: ``data`` is something else.
        """
        if not isinstance(data, bytes):
            data = as_bytes(data, "input")
        if self._offset == self._end:
            self._piece, self._offset, self._end = data, 0, len(data)
        elif data:
            self._waiting.append(data)
            self._end += len(data)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.next_frame()) is not None:
            yield frame

    def next_frame(self) -> Frame | None:
        """Return the next frame, or ``None`` while it is incomplete.

        Raises:
            FrameTooLarge: its header announces more than ``limits.frame_payload`` bytes.
        """
        piece, offset = self._piece, self._offset
        start = offset + HEADER_SIZE
        if start > len(piece):
            if start > self._end:
                return None
            piece, offset, start = self._join_header(), 0, HEADER_SIZE
        low, high, request_id, stream_id, stream_flags, type_flags = _unpack(piece, offset)
        length = low | high << 16
        if length > self._limit:
            if self._error is None:
                self._error = too_large(length, self._limit)
                self.refused = parse_header(piece, offset)
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
        """Make the current piece begin with the whole next header, and return it.  All bytes of it must be there."""
        piece = self._piece[self._offset :]
        while len(piece) < HEADER_SIZE:
            piece += self._waiting.popleft()
        self._piece = piece
        self._end -= self._offset
        self._offset = 0
        return piece

    def _take(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` to ``end``, which lies in a waiting piece, and move on to ``end``."""
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
        """Take the end of the input.

        Raises:
            TruncatedFrame: a part of a frame is left.
            LocalProtocolError: a whole frame is left that was not taken.
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
    """Make the error for a payload of ``length`` bytes where ``most`` are allowed."""
    return FrameTooLarge(f"received frame with a payload of {length} bytes; at most {most} are allowed")


def _truncated_header(size: int) -> TruncatedFrame:
    return TruncatedFrame(f"received incomplete frame: got {size} of {HEADER_SIZE} bytes of its header")


def _truncated_payload(expected: int, size: int) -> TruncatedFrame:
    return TruncatedFrame(f"frame length error: expected {expected}; got {size}")
