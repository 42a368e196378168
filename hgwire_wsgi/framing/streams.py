"""Streams: which of them are open, and how each is encoded.

Idea: a stream is frames in a fixed order, because a decoder needs its input in the order in which it was encoded.  So a
stream has one encoder, one decoder at the other end, and one writer at a time.  Parallel work needs a stream for each
worker.

Rules (specification, "Streams" and "Stream States and Flags"):

- A stream is a series of frames in one direction.  Streams of a client have odd IDs, those of a server even ones.
- A frame with ``stream-begin`` opens a stream, the one with ``stream-end`` closes it.  The last frame of a stream must
  have ``stream-end``.  ``stream-begin`` on an open stream starts it again, without the encoding it had.
- Streams and requests are independent: frames of many requests share a stream, and a request may use several.
- A profile, named in a ``stream-settings`` frame, gives the stream one encoding context, which lives as long as the
  stream is open.  Only frames with the flag ``encoded`` pass through it.

An encoder holds back bytes until it is flushed.  What it holds at the end of a response would come out in a frame of
another request, so every response ends with a flush.  ``make_frame(encode=True)`` flushes every frame, which is what
0002 requires, as its frames are decoded one by one.  A revision that flushes only once per response calls
:meth:`OutgoingStream.encode` and cuts the output into frames itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import zstandard

from .. import compression
from ..compression import Decompressor
from ..errors import BadEncoding, BadStream, DecodeError, LimitExceeded, LocalProtocolError
from ..limits import Limits
from .frame import Frame
from .header import STREAM_BEGIN, STREAM_ENCODED, STREAM_END

__all__ = [
    "DEFAULT_FRAME_SIZE",
    "IDENTITY",
    "PROFILES",
    "ZLIB",
    "ZSTD_8MB",
    "Encoder",
    "IncomingStream",
    "IncomingStreams",
    "OutgoingStream",
    "Profile",
]

DEFAULT_FRAME_SIZE = 32768
_WINDOW_LOG_8MB = 23
# The largest payload that a header can announce.
_LARGEST_FRAME = (1 << 24) - 1


class Encoder(Protocol):
    """One running encoding."""

    def encode(self, data: bytes, /, *, flush: bool = True) -> bytes:
        """Encode ``data``.  After a flush, all input so far can be decoded from the output so far."""
        ...


@attrs.frozen(kw_only=True)
class Profile:
    """A content encoding profile.

    Attributes:
        name: as in ``stream-settings``, 1 to 255 ASCII characters.
        start_encoder: makes an :class:`Encoder` for a level.
        start_decoder: makes a decoder within limits.
        overhead: how many bytes the output for one flushed frame may be longer than its input.
        level: the argument of ``start_encoder``; ``None`` is the format's default.

    Raises:
        LocalProtocolError: the name does not fit in the frame, or there is no such level.
    """

    name: str
    start_encoder: Callable[[int | None], Encoder]
    start_decoder: Callable[[Limits], Decompressor]
    overhead: int
    level: int | None = None

    def __attrs_post_init__(self) -> None:
        if not (self.name.isascii() and 1 <= len(self.name) <= 255):
            raise LocalProtocolError(f"a profile needs a name of 1 to 255 ASCII characters, not {self.name!r}")
        if self.level is not None:
            try:
                self.start_encoder(self.level)
            except (TypeError, ValueError, zlib.error, zstandard.ZstdError) as error:
                raise LocalProtocolError(f"profile {self.name} has no level {self.level!r}: {error}") from error


class _Identity:
    def encode(self, data: bytes, /, *, flush: bool = True) -> bytes:
        return data


class _ZlibEncoder:
    def __init__(self, level: int | None) -> None:
        self._compressor = zlib.compressobj(-1 if level is None else level)

    def encode(self, data: bytes, /, *, flush: bool = True) -> bytes:
        encoded = self._compressor.compress(data)
        return encoded + self._compressor.flush(zlib.Z_SYNC_FLUSH) if flush else encoded


class _ZstdEncoder:
    def __init__(self, level: int | None) -> None:
        # Levels above 19 would need a larger window than the profile's name promises.
        settings = zstandard.ZstdCompressionParameters.from_level(3 if level is None else level)
        if settings.window_log > _WINDOW_LOG_8MB:
            settings = zstandard.ZstdCompressionParameters.from_level(19, window_log=_WINDOW_LOG_8MB)
        self._compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()

    def encode(self, data: bytes, /, *, flush: bool = True) -> bytes:
        encoded = self._compressor.compress(data)
        return encoded + self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) if flush else encoded


def _start_zstd_decoder(limits: Limits) -> Decompressor:
    window = min(limits.stream_window, 1 << _WINDOW_LOG_8MB)
    return compression.ZSTD.start_decoder(attrs.evolve(limits, decode_window=window))


IDENTITY = Profile(
    name="identity",
    start_encoder=lambda level: _Identity(),
    start_decoder=compression.NONE.start_decoder,
    overhead=0,
)
ZLIB = Profile(
    name="zlib",
    start_encoder=_ZlibEncoder,
    start_decoder=compression.ZLIB.start_decoder,
    # Stored blocks cost 5 bytes per 16 KiB at level 0, plus 2 for the header and 5 for the flush; see deflateBound().
    overhead=64,
)
ZSTD_8MB = Profile(
    name="zstd-8mb",
    start_encoder=_ZstdEncoder,
    start_decoder=_start_zstd_decoder,
    # A raw block costs 3 bytes, the frame header at most 18; see ZSTD_COMPRESSBOUND.
    overhead=64,
)

PROFILES = {profile.name: profile for profile in (IDENTITY, ZLIB, ZSTD_8MB)}
"""Every profile that this package knows, by name."""


class OutgoingStream:
    """A stream that this side writes.

    It opens with its first frame.  It may serve one response (``end_stream=True``) or all responses of an exchange; its
    encoder then continues from one to the next.  Frames must be sent in the order in which they are made.

    Args:
        stream_id: even for a server, odd for a client, from 0 to 255.
        profile: the encoding of the stream, or ``None`` to announce none.
        frame_size: maximum payload of a frame, in bytes.  The reference uses 32 KiB; a peer need not accept more than
            65,535.

    Raises:
        LocalProtocolError: a number is out of range, or ``profile`` is, for example, only a name.
    """

    def __init__(self, stream_id: int, profile: Profile | None = None, *, frame_size: int = DEFAULT_FRAME_SIZE) -> None:
        _check_range("stream ID", stream_id, 0, 0xFF)
        _check_range("frame size", frame_size, 1, _LARGEST_FRAME)
        if profile is not None and not isinstance(profile, Profile):
            raise LocalProtocolError(f"a profile must be a Profile, not {profile!r}")
        self.stream_id = stream_id
        self.profile = profile
        self.frame_size = frame_size
        self.is_open = False
        self.unflushed = False
        """True if the encoder may hold back some of its input."""
        self._encoder: Encoder | None = None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        encoding = f" {self.profile.name}" if self.profile else ""
        return f"<OutgoingStream {self.stream_id} {state}{encoding}>"

    @property
    def must_announce(self) -> bool:
        """True if the next frame must be the one with the settings of the stream."""
        return self.profile is not None and not self.is_open

    @property
    def capacity(self) -> int:
        """How many bytes of data fit in a frame of ``frame_size`` bytes, however badly they compress."""
        return self.frame_size if self.profile is None else max(self.frame_size - self.profile.overhead, 1)

    def encode(self, data: bytes, *, flush: bool = True) -> bytes:
        """Pass data through the encoder, for frames made with ``encoded=True``.

        Args:
            data: the next data.
            flush: return everything that the encoder holds.  Without it the output may be empty, or longer than
                ``data`` by what was held back.

        Raises:
            LocalProtocolError: the stream has announced no encoding.
        """
        if self._encoder is None:
            raise LocalProtocolError(f"stream {self.stream_id} has announced no encoding")
        self.unflushed = not flush
        return self._encoder.encode(data, flush=flush)

    def make_frame(
        self,
        request_id: int,
        type_id: int,
        flags: int,
        payload: bytes,
        *,
        encode: bool = False,
        encoded: bool = False,
        end: bool = False,
    ) -> Frame:
        """Make the next frame of the stream; it opens the stream if necessary.

        Args:
            request_id: the request it belongs to.
            type_id: its type in the revision.
            flags: the flags of that type.
            payload: its content.
            encode: pass the payload through the encoder, and flush.
            encoded: the payload comes from :meth:`encode`.
            end: close the stream with this frame.  The next frame opens it again, with a new encoder.

        Raises:
            LocalProtocolError: an encoded frame on a stream that has announced no encoding.
        """
        stream_flags = 0
        if not self.is_open:
            stream_flags = STREAM_BEGIN
            self.is_open = True
            self._encoder = self.profile.start_encoder(self.profile.level) if self.profile else None
            self.unflushed = False
        if encode or encoded:
            if self._encoder is None or stream_flags:
                raise LocalProtocolError(f"stream {self.stream_id} has announced no encoding")
            if encode:
                payload = self.encode(payload)
            stream_flags |= STREAM_ENCODED
        if end:
            stream_flags |= STREAM_END
            self.is_open = False
            self._encoder = None
        return Frame(request_id, self.stream_id, stream_flags, type_id, flags, payload)


def _check_range(what: str, number: int, low: int, high: int) -> None:
    if not isinstance(number, int) or not low <= number <= high:
        raise LocalProtocolError(f"a {what} is a number from {low} to {high}, not {number!r}")


@attrs.define(eq=False)
class IncomingStream:
    """An open stream that the peer writes."""

    stream_id: int
    profile: Profile | None = None
    decoder: Decompressor | None = None
    partial: Any = None
    """Settings that were received incompletely, in a revision where they may span frames."""


class IncomingStreams:
    """The open streams of the peer.

    Args:
        parity: 1 if the peer is a client, whose streams are odd; 0 if it is a server.
        limits: bounds on their number, their windows, and the decoded size of a frame.
    """

    def __init__(self, parity: int, limits: Limits) -> None:
        self._parity = parity
        self._limits = limits
        self.open: dict[int, IncomingStream] = {}

    def accept(self, frame: Frame) -> Frame:
        """Apply the stream rules to the next frame, and return it with its payload decoded.

        A frame without stream flags on an open stream passes unchanged, so a caller may skip the call.

        Raises:
            BadStream: the wrong parity, a closed stream, or an encoding that was never announced.
            LimitExceeded: too many open streams, or too much decoded data.
            RemoteProtocolError: the data do not decode.
        """
        flags = frame.stream_flags
        stream = self.open.get(frame.stream_id)
        if stream is None or flags & STREAM_BEGIN:
            stream = self._begin(frame)
        if flags & STREAM_ENCODED:
            payload = self._decode(stream, frame.payload)
            frame = Frame(frame.request_id, frame.stream_id, flags, frame.type_id, frame.flags, payload)
        if flags & STREAM_END:
            del self.open[frame.stream_id]
        return frame

    def _begin(self, frame: Frame) -> IncomingStream:
        stream_id = frame.stream_id
        if stream_id & 1 != self._parity:
            number = "odd" if stream_id & 1 else "even"
            raise BadStream(f"received frame with {number} numbered stream ID: {stream_id}")
        if not frame.stream_flags & STREAM_BEGIN:
            raise BadStream("received frame on unknown inactive stream without beginning of stream flag set")
        self.open.pop(stream_id, None)
        if len(self.open) >= self._limits.open_streams:
            raise LimitExceeded(f"more than {self._limits.open_streams} streams are open")
        stream = self.open[stream_id] = IncomingStream(stream_id)
        return stream

    def _decode(self, stream: IncomingStream, payload: bytes) -> bytes:
        if stream.decoder is None:
            raise BadEncoding(f"received encoded frame on stream without encoding settings: {stream.stream_id}")
        pieces = []
        room = self._limits.frame_decoded
        try:
            for piece in stream.decoder.feed(payload):
                room -= len(piece)
                if room < 0:
                    raise LimitExceeded(f"frame decodes to more than {self._limits.frame_decoded} bytes")
                pieces.append(piece)
        except DecodeError as error:
            raise BadEncoding(f"cannot decode frame on stream {stream.stream_id}: {error}") from error
        return b"".join(pieces)

    def configure(self, stream_id: int, name: bytes) -> None:
        """Set the encoding of a stream, instead of the one it had.

        Raises:
            BadEncoding: the profile is unknown.
            LimitExceeded: too many encoded streams.
        """
        profile = PROFILES.get(name.decode("latin-1"))
        if profile is None:
            raise BadEncoding(f"unknown stream encoding profile: {ascii(name)[2:-1]}; known: {', '.join(PROFILES)}")
        stream = self.open.get(stream_id)
        if stream is None:
            # The frame with the settings has also closed the stream, so nothing follows that could be encoded.
            return
        stream.profile = profile
        if sum(other.profile not in (None, IDENTITY) for other in self.open.values()) > self._limits.encoded_streams:
            raise LimitExceeded(f"more than {self._limits.encoded_streams} encoded streams are open")
        stream.decoder = profile.start_decoder(self._limits)
