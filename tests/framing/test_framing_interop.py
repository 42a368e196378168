"""Mercurial's own framing as a peer, where its revision and ours agree: headers up to 65,535 bytes, and encodings."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import pytest
from framing_support import any_frame
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.framing import (
    PROFILES,
    STREAM_BEGIN,
    STREAM_ENCODED,
    Frame,
    FrameBuffer,
    OutgoingStream,
    Profile,
    encode_frame,
    parse_frame,
    parse_header,
    read_frame,
)
from hgwire_wsgi.framing.exp0002 import EXP_0002
from hgwire_wsgi.framing.streams import IncomingStreams
from hgwire_wsgi.limits import Limits

hgframing: Any = pytest.importorskip("mercurial.wireprotoframing")
hgui: Any = pytest.importorskip("mercurial.ui")
hgframing.populatestreamencoders()

FRAMES = any_frame(st.binary(max_size=60) | st.sampled_from([bytes(255), bytes(256), bytes(32768), bytes(65535)]))


def made_by_hg(frame: Frame) -> bytes:
    return bytes(
        hgframing.makeframe(
            requestid=frame.request_id,
            streamid=frame.stream_id,
            streamflags=frame.stream_flags,
            typeid=frame.type_id,
            flags=frame.flags,
            payload=frame.payload,
        )
    )


def ours(frame: Any) -> Frame:
    return Frame(frame.requestid, frame.streamid, frame.streamflags, frame.typeid, frame.flags, bytes(frame.payload))


@given(FRAMES)
def test_frames(frame: Frame) -> None:
    data = encode_frame(frame)
    assert data == made_by_hg(frame)
    assert ours(hgframing.readframe(io.BytesIO(data))) == frame
    assert read_frame(io.BytesIO(made_by_hg(frame))) == frame


@given(st.lists(FRAMES, max_size=5))
def test_series_of_frames(frames: list[Frame]) -> None:
    data = b"".join(map(made_by_hg, frames))
    buffer = FrameBuffer()
    buffer.feed(data)
    assert list(buffer) == frames


def test_where_mercurial_is_wrong() -> None:
    """Its third byte counts 16,384; ours 65,536, as the specification says."""
    data = struct.pack("<I", 65536)[:3] + bytes(5)
    assert parse_header(data).length == 65536
    assert hgframing.parseheader(bytearray(data)).length == 16384


@pytest.mark.parametrize(
    "text", [b"1 1 1 2 3 pay load", b"65535 255 stream-begin|encoded 9 15 \\x00\\\\\\n", b"3 2 stream-end 3 1|2 "]
)
def test_human_notation(text: bytes) -> None:
    assert encode_frame(parse_frame(text, EXP_0002)) == bytes(hgframing.makeframefromhumanstring(text))


CODED = [
    pytest.param(profile, id=name) for name, profile in PROFILES.items() if name.encode() in hgframing.STREAM_ENCODERS
]
rng = random.Random(2907)
DATA = [rng.randbytes(size) if size % 2 else b"abc" * size for size in (1, 0, 10, 333, 5000, 20001, 30000, 7)]


def test_all_profiles_are_mercurials() -> None:
    assert len(CODED) == len(PROFILES)


@pytest.mark.parametrize("profile", CODED)
def test_mercurial_decodes_ours(profile: Profile) -> None:
    stream = OutgoingStream(2, profile)
    stream.make_frame(1, 8, 0, b"")
    peer = hgframing.inputstream(2)
    peer.setdecoder(hgui.ui(), profile.name.encode(), [])
    for data in DATA:
        assert bytes(peer.decode(stream.make_frame(1, 4, 1, data, encode=True).payload)) == data


@pytest.mark.parametrize("profile", CODED)
def test_we_decode_mercurials(profile: Profile) -> None:
    peer = hgframing.outputstream(2)
    peer.setencoder(hgui.ui(), profile.name.encode())
    streams = IncomingStreams(0, Limits())
    streams.accept(Frame(1, 2, STREAM_BEGIN, 8, 0, b""))
    streams.configure(2, profile.name.encode())
    for data in DATA:
        # It flushes at the end of a response, not of a frame.
        payloads = [bytes(peer.encode(data[:100])), bytes(peer.encode(data[100:])), bytes(peer.flush())]
        frames = [Frame(1, 2, STREAM_ENCODED, 4, 1, payload) for payload in payloads]
        assert b"".join(streams.accept(frame).payload for frame in frames) == data
