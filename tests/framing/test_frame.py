"""Frames out of bytes and back, however the bytes are cut."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
from framing_support import ANY_SIZE, Split, any_frame, frame, single, split_at, whole, wire
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import FrameTooLarge, LocalProtocolError, TruncatedFrame
from hgwire_wsgi.framing import Frame, FrameBuffer, Header, encode_frame, iter_chunks, read_frame
from hgwire_wsgi.limits import Limits

FRAMES = any_frame(st.binary(max_size=40))
ONE = wire("1 1 stream-begin command-name eos heads")


class TestFrame:
    def test_repr_is_bounded(self) -> None:
        assert repr(frame("1 2 1 bytes-response eos hello")) == (
            "<Frame request=1 stream=2 stream_flags=0x1 type=4 flags=0x2 payload[5]=b'hello'>"
        )
        long = repr(Frame(1, 2, 0, 4, 2, b"x" * 100000))
        assert "payload[100000]" in long
        assert long.endswith("xxx'...>")
        assert len(long) < 130


class TestEncode:
    def test_payload_above_the_limit(self) -> None:
        encode_frame(Frame(1, 1, 0, 3, 1, bytes(65535)))
        large = Frame(1, 1, 0, 3, 1, bytes(65536))
        with pytest.raises(LocalProtocolError, match="65536 bytes exceeds the limit of 65535"):
            encode_frame(large)
        assert encode_frame(large, ANY_SIZE)[:3] == b"\x00\x00\x01"

    def test_number_that_does_not_fit(self) -> None:
        with pytest.raises(LocalProtocolError):
            encode_frame(Frame(1 << 16, 1, 0, 3, 1, b""))

    @pytest.mark.parametrize("payload", ["text", "text" * 1000, None, 5, [1]])
    def test_payload_that_is_not_bytes(self, payload: Any) -> None:
        bad = Frame(1, 1, 0, 3, 1, payload)
        for encode in (encode_frame, lambda item: list(iter_chunks([item]))):
            with pytest.raises(LocalProtocolError, match="the payload of a frame must be bytes, not "):
                encode(bad)

    @pytest.mark.parametrize("size", [5, 5000])
    def test_payload_of_other_kinds_of_bytes(self, size: int) -> None:
        for kind in (bytearray, memoryview):
            item = Frame(1, 1, 0, 3, 1, kind(bytes(size)))
            chunks = list(iter_chunks([item]))
            assert {type(chunk) for chunk in chunks} == {bytes}
            assert b"".join(chunks) == encode_frame(item) == encode_frame(Frame(1, 1, 0, 3, 1, bytes(size)))

    @given(st.lists(FRAMES))
    def test_chunks_hold_the_same(self, frames: list[Frame]) -> None:
        frames.append(Frame(1, 1, 0, 3, 1, bytes(5000)))
        assert b"".join(iter_chunks(frames)) == b"".join(map(encode_frame, frames))

    def test_a_large_payload_is_not_copied(self) -> None:
        payload = bytes(32768)
        header, chunk = iter_chunks([Frame(1, 1, 0, 3, 1, payload)])
        assert chunk is payload
        assert header == encode_frame(Frame(1, 1, 0, 3, 1, payload))[:8]

    def test_frames_before_a_bad_one_leave(self) -> None:
        chunks = iter_chunks([frame("1 1 0 3 1 good"), Frame(1, 1, 0, 3, 1, bytes(11))], Limits(frame_payload=10))
        assert next(chunks) == wire("1 1 0 3 1 good")
        with pytest.raises(LocalProtocolError):
            next(chunks)


class Trickle(io.RawIOBase):
    """A file that returns at most three bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 3))


class TestReadFrame:
    @given(st.lists(FRAMES))
    def test_files(self, frames: list[Frame]) -> None:
        data = b"".join(map(encode_frame, frames))
        for file in (io.BytesIO(data), Trickle(data)):
            assert [read_frame(file) for _ in frames] == frames
            assert read_frame(file) is None

    @pytest.mark.parametrize("size", range(1, len(ONE)))
    def test_truncated(self, size: int) -> None:
        expected = "incomplete frame: got" if size < 8 else "expected 5; got"
        for file in (io.BytesIO(ONE[:size]), Trickle(ONE[:size])):
            with pytest.raises(TruncatedFrame, match=expected):
                read_frame(file)

    def test_too_large_is_not_read(self) -> None:
        file = io.BytesIO(ONE)
        with pytest.raises(FrameTooLarge, match="5 bytes; at most 4"):
            read_frame(file, Limits(frame_payload=4))
        assert file.tell() == 8


def parse(pieces: Iterable[bytes], limits: Limits = ANY_SIZE) -> list[Frame]:
    buffer = FrameBuffer(limits)
    frames = []
    for piece in pieces:
        buffer.feed(piece)
        frames += buffer
    buffer.end()
    return frames


class TestFrameBuffer:
    @given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 400)))
    def test_any_pieces(self, frames: list[Frame], cuts: list[int]) -> None:
        data = b"".join(map(encode_frame, frames))
        assert parse(whole(data)) == parse(single(data)) == parse(split_at(data, cuts)) == frames

    @given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 400)))
    def test_fed_before_asked(self, frames: list[Frame], cuts: list[int]) -> None:
        buffer = FrameBuffer()
        for piece in split_at(b"".join(map(encode_frame, frames)), cuts):
            buffer.feed(piece)
        assert list(buffer) == frames
        buffer.end()

    @given(st.lists(FRAMES, min_size=1, max_size=8), st.lists(st.integers(0, 400)), st.data())
    def test_one_frame_at_a_time(self, frames: list[Frame], cuts: list[int], data: st.DataObject) -> None:
        buffer = FrameBuffer()
        seen = []
        for piece in split_at(b"".join(map(encode_frame, frames)), cuts):
            buffer.feed(piece)
            if data.draw(st.booleans()) and (found := buffer.next_frame()):
                seen.append(found)
        assert seen + list(buffer) == frames

    def test_other_kinds_of_bytes(self) -> None:
        source = bytearray(ONE)
        buffer = FrameBuffer()
        buffer.feed(memoryview(source)[:6])
        buffer.feed(source[6:])
        source[:] = bytes(len(source))
        assert list(buffer) == [frame("1 1 stream-begin command-name eos heads")]

    def test_what_is_not_bytes(self) -> None:
        buffer = FrameBuffer()
        for data in ("text", 5, None, [1]):
            with pytest.raises(LocalProtocolError, match="input must be bytes"):
                buffer.feed(data)  # type: ignore[arg-type]  # that it refuses is what is tested
        buffer.end()

    def test_large_frames_in_small_pieces(self) -> None:
        frames = [Frame(1, 1, 0, 3, 1, bytes([n]) * 1_000_000) for n in range(4)]
        data = b"".join(encode_frame(item, ANY_SIZE) for item in frames)
        assert parse(split_at(data, range(0, len(data), 4096))) == frames

    @pytest.mark.parametrize("split", [whole, single])
    def test_too_large(self, split: Split) -> None:
        data = ONE + wire("1 1 0 3 1 123456") + ONE
        buffer = FrameBuffer(Limits(frame_payload=5))
        seen = []
        with pytest.raises(FrameTooLarge, match="6 bytes; at most 5") as first:
            for piece in split(data):
                buffer.feed(piece)
                for found in buffer:
                    seen.append(found)
        assert seen == [frame("1 1 stream-begin command-name eos heads")]
        assert buffer.refused == Header(6, 1, 1, 0, 3, 1)
        # The header that says so is there, and nothing of its payload is awaited.
        buffer.feed(data)
        for again in (buffer.next_frame, buffer.end):
            with pytest.raises(FrameTooLarge) as second:
                again()
            assert second.value is first.value

    @pytest.mark.parametrize("split", [whole, single])
    def test_end_before_the_frames_were_taken(self, split: Split) -> None:
        buffer = FrameBuffer()
        for piece in split(ONE + ONE[:3]):
            buffer.feed(piece)
        with pytest.raises(LocalProtocolError, match="before its frames were taken"):
            buffer.end()
        assert list(buffer) == [frame("1 1 stream-begin command-name eos heads")]
        with pytest.raises(TruncatedFrame, match="got 3 of 8"):
            buffer.end()

    @pytest.mark.parametrize("split", [whole, single])
    @pytest.mark.parametrize("size", range(1, len(ONE)))
    def test_truncated(self, size: int, split: Split) -> None:
        buffer = FrameBuffer()
        for piece in split(ONE + ONE[:size]):
            buffer.feed(piece)
            list(buffer)
        expected = f"got {size} of 8" if size < 8 else f"expected 5; got {size - 8}"
        with pytest.raises(TruncatedFrame, match=expected):
            buffer.end()
