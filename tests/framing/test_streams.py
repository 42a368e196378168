"""Streams: open and closed, numbers, encodings."""

from __future__ import annotations

import random
import zlib
from typing import Any

import attrs
import pytest
from framing_support import frame
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import BadStream, LimitExceeded, LocalProtocolError, RemoteProtocolError
from hgwire_wsgi.framing import (
    IDENTITY,
    PROFILES,
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
    ZLIB,
    ZSTD_8MB,
    Frame,
    OutgoingStream,
    Profile,
    encode_frame,
)
from hgwire_wsgi.framing.frame import DEFAULT_LIMITS
from hgwire_wsgi.framing.streams import IncomingStreams
from hgwire_wsgi.limits import Limits

ALL = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
NOISE = random.Random(2907).randbytes(200_000)


def announced(profile: Profile | None, stream_id: int = 1) -> OutgoingStream:
    stream = OutgoingStream(stream_id, profile)
    stream.make_frame(1, 8, 0, b"settings")
    return stream


def receiver(profile: Profile, limits: Limits = DEFAULT_LIMITS) -> IncomingStreams:
    streams = IncomingStreams(1, limits)
    streams.accept(Frame(1, 1, STREAM_BEGIN, 8, 0, b""))
    streams.configure(1, profile.name.encode())
    return streams


class TestOutgoing:
    def test_first_frame_begins_and_last_ends(self) -> None:
        stream = OutgoingStream(2)
        flags = [stream.make_frame(1, 4, 1, b"", end=end).stream_flags for end in (False, False, True, True, False)]
        assert flags == [STREAM_BEGIN, 0, STREAM_END, STREAM_BEGIN | STREAM_END, STREAM_BEGIN]

    def test_repr(self) -> None:
        stream = OutgoingStream(2, ZLIB)
        assert repr(stream) == "<OutgoingStream 2 closed zlib>"
        stream.make_frame(1, 8, 0, b"")
        assert repr(stream) == "<OutgoingStream 2 open zlib>"
        assert repr(OutgoingStream(4)) == "<OutgoingStream 4 closed>"

    def test_announcement_is_due_at_every_beginning(self) -> None:
        stream = OutgoingStream(2, ZLIB)
        assert stream.must_announce
        stream.make_frame(1, 8, 0, b"")
        assert not stream.must_announce
        stream.make_frame(1, 4, 1, b"", end=True)
        assert stream.must_announce
        assert not OutgoingStream(2).must_announce

    def test_encoding_needs_an_announcement(self) -> None:
        for stream in (OutgoingStream(2, ZLIB), announced(None, 2)):
            with pytest.raises(LocalProtocolError, match="stream 2 has announced no encoding"):
                stream.make_frame(1, 4, 1, b"", encode=True)
        for stream in (OutgoingStream(2, ZLIB), announced(None, 2)):
            with pytest.raises(LocalProtocolError, match="stream 2 has announced no encoding"):
                stream.encode(b"")
            with pytest.raises(LocalProtocolError, match="stream 2 has announced no encoding"):
                stream.make_frame(1, 4, 1, b"", encoded=True)

    @ALL
    def test_capacity_leaves_room_for_what_does_not_compress(self, profile: Profile) -> None:
        for level in (None, 0 if profile is ZLIB else 1, 9):
            for size in (100, 32768, 65535):
                stream = OutgoingStream(1, attrs.evolve(profile, level=level), frame_size=size)
                stream.make_frame(1, 8, 0, b"")
                for start in range(0, 3 * stream.capacity, stream.capacity):
                    data = NOISE[start : start + stream.capacity]
                    assert len(stream.make_frame(1, 4, 1, data, encode=True).payload) <= size

    @pytest.mark.parametrize("profile", [ZLIB, ZSTD_8MB, IDENTITY])
    def test_an_encoder_may_be_flushed_later(self, profile: Profile) -> None:
        stream = announced(profile)
        streams = receiver(profile)
        assert not stream.unflushed
        held = [stream.encode(NOISE[start : start + 100], flush=False) for start in range(0, 1000, 100)]
        assert stream.unflushed
        last = stream.encode(b"")
        assert not stream.unflushed
        received = b""
        for payload in (*held, last):
            made = stream.make_frame(1, 3, 1, payload, encoded=bool(payload))
            assert made.payload == payload
            received += streams.accept(made).payload
        assert received == NOISE[:1000]
        # The context continues.
        again = stream.make_frame(3, 3, 1, NOISE[:1000], encode=True)
        assert streams.accept(again).payload == NOISE[:1000]
        assert len(again.payload) < 500 or profile is IDENTITY

    def test_a_new_context_holds_nothing(self) -> None:
        stream = announced(ZLIB)
        stream.encode(b"x", flush=False)
        stream.make_frame(1, 3, 1, b"", end=True)
        stream.make_frame(1, 8, 0, b"")
        assert not stream.unflushed

    @pytest.mark.parametrize("stream_id", [-1, 256, "2", None, 2.0])
    def test_numbers_of_streams(self, stream_id: Any) -> None:
        with pytest.raises(LocalProtocolError, match="a stream ID is a number from 0 to 255, not "):
            OutgoingStream(stream_id)

    @pytest.mark.parametrize("size", [0, -5, 1 << 24, "1", None])
    @pytest.mark.parametrize("profile", [None, ZLIB])
    def test_sizes_of_frames(self, size: Any, profile: Profile | None) -> None:
        with pytest.raises(LocalProtocolError, match="a frame size is a number from 1 to 16777215, not "):
            OutgoingStream(2, profile, frame_size=size)

    def test_a_name_is_not_a_profile(self) -> None:
        with pytest.raises(LocalProtocolError, match="a profile must be a Profile, not 'zlib'"):
            OutgoingStream(2, "zlib")  # type: ignore[arg-type]  # that it refuses is what is tested

    def test_capacity_is_never_nothing(self) -> None:
        assert OutgoingStream(1, ZLIB, frame_size=3).capacity == 1
        assert OutgoingStream(1, frame_size=3).capacity == 3


class TestProfiles:
    @pytest.mark.parametrize("name", ["", "x" * 256, "na\xefve"])
    def test_names_fit_in_the_settings(self, name: str) -> None:
        with pytest.raises(LocalProtocolError, match="a name of 1 to 255 ASCII characters"):
            attrs.evolve(ZLIB, name=name)

    @pytest.mark.parametrize(("profile", "level"), [(ZLIB, 10), (ZLIB, -2), (ZSTD_8MB, "best")])
    def test_levels(self, profile: Profile, level: Any) -> None:
        with pytest.raises(LocalProtocolError, match=f"profile {profile.name} has no level {level!r}: "):
            attrs.evolve(profile, level=level)


class TestOpening:
    @pytest.mark.parametrize("parity", [0, 1])
    def test_numbers(self, parity: int) -> None:
        streams = IncomingStreams(parity, Limits())
        for stream_id in range(256):
            item = Frame(1, stream_id, STREAM_BEGIN, 1, 1, b"")
            if stream_id & 1 == parity:
                assert streams.accept(item) is item
            else:
                number = "even" if parity else "odd"
                with pytest.raises(BadStream, match=f"received frame with {number} numbered stream ID: {stream_id}$"):
                    streams.accept(item)
        assert set(streams.open) == set(range(parity, 256, 2))

    def test_closed_until_begun_and_after_the_end(self) -> None:
        streams = IncomingStreams(1, Limits())
        message = "received frame on unknown inactive stream without beginning of stream flag set"
        for flags in (0, STREAM_END, 0xF8):
            with pytest.raises(BadStream, match=message):
                streams.accept(Frame(1, 1, flags, 1, 1, b""))
        streams.accept(frame("1 1 stream-begin 1 1 x"))
        streams.accept(frame("1 1 stream-end|248 1 1 x"))
        assert not streams.open
        with pytest.raises(BadStream, match=message):
            streams.accept(frame("1 1 0 1 1 x"))
        streams.accept(frame("1 1 stream-begin|stream-end 1 1 x"))
        assert not streams.open

    def test_limit(self) -> None:
        streams = IncomingStreams(1, Limits(open_streams=2))
        for text in ("1 1 1 1 1 x", "1 3 1 1 1 x", "1 3 1 1 1 x", "1 1 2 1 1 x", "1 5 1 1 1 x"):
            streams.accept(frame(text))
        with pytest.raises(LimitExceeded, match="more than 2 streams"):
            streams.accept(frame("1 1 1 1 1 x"))


class TestEncoding:
    def test_names(self) -> None:
        assert list(PROFILES) == ["identity", "zlib", "zstd-8mb"]

    @ALL
    @given(parts=st.lists(st.tuples(st.binary(max_size=200), st.booleans()), max_size=8))
    def test_frames_with_and_without(self, profile: Profile, parts: list[tuple[bytes, bool]]) -> None:
        stream = announced(profile)
        streams = receiver(profile)
        for data, encode in parts:
            made = stream.make_frame(1, 3, 1, data, encode=encode)
            assert bool(made.stream_flags & STREAM_ENCODED) == encode
            sent = Frame(**attrs.asdict(made))
            assert streams.accept(made).payload == data
            assert made == sent

    @pytest.mark.parametrize("profile", [ZLIB, ZSTD_8MB])
    def test_context_lives_as_long_as_the_stream(self, profile: Profile) -> None:
        data = NOISE[:3000]
        stream = announced(profile)
        streams = receiver(profile)
        first = stream.make_frame(1, 3, 1, data, encode=True)
        again = stream.make_frame(3, 3, 1, data, encode=True, end=True)
        assert len(again.payload) < 200 < len(first.payload)
        assert streams.accept(first).payload == streams.accept(again).payload == data
        # Open again, both sides start over.
        stream.make_frame(1, 8, 0, b"")
        fresh = stream.make_frame(1, 3, 1, data, encode=True)
        assert fresh.payload == first.payload
        with pytest.raises(RemoteProtocolError, match="cannot decode frame on stream 1: compressed data are corrupt"):
            receiver(profile).accept(again)

    @pytest.mark.parametrize("profile", [ZLIB, ZSTD_8MB])
    def test_streams_have_contexts_of_their_own(self, profile: Profile) -> None:
        outgoing = {number: announced(profile, number) for number in (1, 3)}
        streams = receiver(profile)
        streams.accept(Frame(1, 3, STREAM_BEGIN, 8, 0, b""))
        streams.configure(3, profile.name.encode())
        for turn in range(20):
            number = 1 if turn % 3 else 3
            data = NOISE[turn * 10 : turn * 50]
            assert streams.accept(outgoing[number].make_frame(1, 3, 1, data, encode=True)).payload == data

    def test_beginning_again_drops_the_encoding(self) -> None:
        streams = receiver(ZLIB)
        streams.accept(frame("1 1 stream-begin 1 1 x"))
        with pytest.raises(BadStream, match="encoded frame on stream without encoding settings: 1"):
            streams.accept(frame("1 1 encoded 1 1 x"))
        with pytest.raises(BadStream, match="without encoding settings"):
            receiver(ZLIB).accept(frame("1 1 stream-begin|encoded 1 1 x"))

    def test_last_frame_is_decoded(self) -> None:
        streams = receiver(ZLIB)
        assert streams.accept(announced(ZLIB).make_frame(1, 3, 2, b"data", encode=True, end=True)).payload == b"data"
        assert not streams.open

    def test_unknown_profile(self) -> None:
        streams = receiver(IDENTITY)
        for name in (b"brotli", b"ZLIB", b"\xff'\n"):
            with pytest.raises(BadStream, match="known: identity, zlib, zstd-8mb") as caught:
                streams.configure(1, name)
            assert caught.value.message.isprintable()
            assert caught.value.message.isascii()

    def test_settings_of_a_stream_that_ended_at_once(self) -> None:
        streams = IncomingStreams(1, Limits())
        streams.accept(frame("1 1 stream-begin|stream-end 8 0 x"))
        streams.configure(1, b"zlib")
        assert not streams.open

    @pytest.mark.parametrize("profile", [ZLIB, ZSTD_8MB])
    def test_bomb(self, profile: Profile) -> None:
        bomb = announced(profile).make_frame(1, 3, 1, bytes(50_000_000), encode=True)
        assert len(bomb.payload) < 65535
        with pytest.raises(LimitExceeded, match="frame decodes to more than 1000000 bytes"):
            receiver(profile, Limits(frame_decoded=1_000_000)).accept(bomb)
        with pytest.raises(LimitExceeded):
            receiver(profile).accept(bomb)

    def test_window(self) -> None:
        stream = announced(attrs.evolve(ZSTD_8MB, level=22))
        data = stream.make_frame(1, 3, 1, NOISE, encode=True)
        assert receiver(ZSTD_8MB).accept(data).payload == NOISE
        with pytest.raises(RemoteProtocolError, match="cannot decode"):
            receiver(ZSTD_8MB, Limits(stream_window=1 << 20)).accept(data)

    def test_number_of_contexts(self) -> None:
        streams = IncomingStreams(1, Limits(encoded_streams=2))
        for number, name in ((1, b"zlib"), (3, b"zstd-8mb"), (5, b"identity"), (3, b"zlib"), (7, b"identity")):
            streams.accept(Frame(1, number, STREAM_BEGIN, 8, 0, b""))
            streams.configure(number, name)
        streams.accept(Frame(1, 9, STREAM_BEGIN, 8, 0, b""))
        with pytest.raises(LimitExceeded, match="more than 2 encoded streams"):
            streams.configure(9, b"zlib")

    def test_data_after_the_end_of_the_encoding(self) -> None:
        streams = receiver(ZLIB)
        assert streams.accept(Frame(1, 1, STREAM_ENCODED, 3, 1, zlib.compress(b"all"))).payload == b"all"
        with pytest.raises(RemoteProtocolError, match="follow the end"):
            streams.accept(Frame(1, 1, STREAM_ENCODED, 3, 1, b"more"))

    @ALL
    def test_nothing_encodes_to_something_that_decodes(self, profile: Profile) -> None:
        stream = announced(profile)
        assert receiver(profile).accept(stream.make_frame(1, 3, 1, b"", encode=True)).payload == b""
        encode_frame(stream.make_frame(1, 3, 1, b"", encode=True))
