"""Frames: their value, and the way between them and octets.

In: :class:`FrameBuffer` for octets that are pushed, :func:`read_frame` for a file.  Out: :func:`encode_frame` for one,
:func:`iter_chunks` for many.  Neither knows what a frame means; see :mod:`hgwire_wsgi.framing.revision`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import attrs

from ..compression import Readable
from ..errors import FrameTooLarge, LocalProtocolError, TruncatedFrame
from ..limits import Limits
from .header import HEADER_SIZE, LAYOUT, pack_header

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
    """The octets of many frames.  A large payload leaves as it is, as a chunk of its own behind its header.

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
        raise LocalProtocolError(f"frame payload of {length} octets exceeds the limit of {most}")
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
    """Frames out of octets that are pushed in pieces of any size.

    Plan: the piece at hand is read in place, with an offset; those fed meanwhile wait in a queue.  A payload that
    lies within one piece is sliced out of it, one that lies across several is joined out of them when all of it is
    there.  So every octet is copied once, and the cost is linear whatever the pieces.  A frame that is too large is
    refused when its header is there, so no more than one payload waits here beyond what was fed at once.

    Iterating gives the frames that are complete so far; feed more and iterate again.  Frames before a bad one are
    given first; then every call raises the same error.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._most = limits.frame_payload
        self._piece = b""
        self._offset = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_size = 0
        # Of the frame whose payload is incomplete.
        self._header: tuple[int, ...] | None = None
        self._error: FrameTooLarge | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take octets.  Parses nothing."""
        if not data:
            return
        if self._offset == len(self._piece) and not self._waiting:
            self._piece, self._offset = bytes(data), 0
        else:
            self._waiting.append(bytes(data))
            self._waiting_size += len(data)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.next_frame()) is not None:
            yield frame

    def next_frame(self) -> Frame | None:
        """The next frame, or ``None`` while it is incomplete.

        Raises:
            FrameTooLarge: its header announces more than ``limits.frame_payload``.
        """
        piece, start = self._piece, self._offset
        header = self._header
        if header is None:
            if start + HEADER_SIZE <= len(piece):
                header = _unpack(piece, start)
                start += HEADER_SIZE
            elif len(piece) - start + self._waiting_size < HEADER_SIZE:
                return None
            else:
                self._header = header = _unpack(self._take(HEADER_SIZE), 0)
                piece, start = self._piece, self._offset
        low, high, request_id, stream_id, stream_flags, type_flags = header
        length = low | high << 16
        if length > self._most:
            if self._error is None:
                self._error = too_large(length, self._most)
            raise self._error
        end = start + length
        if end <= len(piece):
            payload = piece[start:end]
            self._offset = end
        else:
            self._offset = start
            if len(piece) - start + self._waiting_size < length:
                self._header = header
                return None
            payload = self._take(length)
        self._header = None
        return Frame(request_id, stream_id, stream_flags, type_flags >> 4, type_flags & 0x0F, payload)

    def _take(self, size: int) -> bytes:
        """The next ``size`` octets, which are there but not all in the piece at hand."""
        parts = [memoryview(self._piece)[self._offset :]]
        size -= len(parts[0])
        piece = self._waiting.popleft()
        self._waiting_size -= len(piece)
        while len(piece) < size:
            parts.append(memoryview(piece))
            size -= len(piece)
            piece = self._waiting.popleft()
            self._waiting_size -= len(piece)
        parts.append(memoryview(piece)[:size])
        self._piece, self._offset = piece, size
        return b"".join(parts)

    def end(self) -> None:
        """Say that nothing follows.

        Raises:
            TruncatedFrame: part of a frame is left.
        """
        have = len(self._piece) - self._offset + self._waiting_size
        if self._header is not None:
            raise _truncated_payload(self._header[0] | self._header[1] << 16, have)
        if have:
            raise _truncated_header(have)


def too_large(length: int, most: int) -> FrameTooLarge:
    """The error for a payload of ``length`` octets where ``most`` are allowed."""
    return FrameTooLarge(f"received frame with a payload of {length} octets; at most {most} are allowed")


def _truncated_header(size: int) -> TruncatedFrame:
    return TruncatedFrame(f"received incomplete frame: got {size} of {HEADER_SIZE} octets of its header")


def _truncated_payload(expected: int, size: int) -> TruncatedFrame:
    return TruncatedFrame(f"frame length error: expected {expected}; got {size}")
