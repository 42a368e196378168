"""What the tests of frames share: the recorded vectors, and ways to cut bytes into pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from hypothesis import strategies as st
from vector_files import file_of, raw_bytes

from hgwire_wsgi.framing import EXP_0002, Action, Frame, SendFrames, encode_frame, parse_frame
from hgwire_wsgi.limits import Limits

__all__ = [
    "ANY_SIZE",
    "Source",
    "Split",
    "any_frame",
    "frame",
    "load",
    "raw_bytes",
    "recorded_frame",
    "sent",
    "single",
    "split_at",
    "whole",
    "wire",
]

Split: TypeAlias = Callable[[bytes], Iterator[bytes]]

# The vectors hold frames that are larger than the default permits.
ANY_SIZE = Limits(frame_payload=(1 << 24) - 1)


def load(name: str) -> list[Any]:
    """The cases of a file of vectors of exp-framing-0002."""
    return list(file_of(f"framing-0002/{name}")["cases"])


def recorded_frame(case: Any) -> Frame:
    """The frame of a step or of an expectation."""
    header = case["header"]
    frame = Frame(
        header["requestid"],
        header["streamid"],
        header["streamflags"],
        header["typeid"],
        header["flags"],
        raw_bytes(case["payload_hex"]),
    )
    assert len(frame.payload) == header["length"]
    assert encode_frame(frame, ANY_SIZE) == raw_bytes(case["wire_hex"])
    return frame


def frame(text: str) -> Frame:
    """A frame of exp-framing-0002 in the human notation."""
    return parse_frame(text, EXP_0002)


def wire(*texts: str) -> bytes:
    """Several of them as bytes."""
    return b"".join(encode_frame(frame(text)) for text in texts)


def any_frame(payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[Frame]:
    """Frames with any number that fits in every field."""
    byte, half = st.integers(0, 0xFF), st.integers(0, 0x0F)
    return st.builds(Frame, st.integers(0, 0xFFFF), byte, byte, half, half, payload)


def sent(action: Action) -> list[Frame]:
    """The frames of an action that must be ``SendFrames``."""
    assert isinstance(action, SendFrames)
    return list(action.frames)


class Source:
    """Bytes in pieces, which may end in an exception; knows what was asked of it."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.pieces = list(pieces)
        self.error = error
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.pieces:
            yield self.pieces.pop(0)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1


def whole(data: bytes) -> Iterator[bytes]:
    """One piece."""
    yield data


def single(data: bytes) -> Iterator[bytes]:
    """One byte at a time."""
    for start in range(len(data)):
        yield data[start : start + 1]


def split_at(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Pieces between the given places, some of which may be empty."""
    start = 0
    for cut in sorted(min(cut, len(data)) for cut in cuts):
        yield data[start:cut]
        start = cut
    yield data[start:]
