"""Streams: which are open, and the content encoding of each.

Rules (specification, "Streams" and "Stream States and Flags"):

- A stream is a series of frames in one direction.  Those of a client have odd IDs, those of a server even ones.
- It is closed until a frame with ``stream-begin`` opens it, and again after one with ``stream-end``.  ``stream-begin``
  on an open stream starts it afresh: whatever encoding it had is gone.
- Streams and requests are independent: frames of many requests share a stream, and a request may use several.
- A profile, named in a ``stream-settings`` frame, gives the stream one encoding context, which lives as long as the
  stream is open.  Only frames flagged ``encoded`` pass through it.

Every encoded frame is flushed: what it encodes can be decoded when it has arrived.  Otherwise bytes of one request
would come out of a frame of another, and no ``command-argument`` frame could be encoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

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
    "IncomingStreams",
    "OutgoingStream",
    "Profile",
]

DEFAULT_FRAME_SIZE = 32768
_WINDOW_LOG_8MB = 23


class Encoder(Protocol):
    """One running encoding."""

    def encode(self, data: bytes, /) -> bytes:
        """Encode ``data`` and flush: everything so far can be decoded from everything returned so far."""
        ...


@attrs.frozen(kw_only=True)
class Profile:
    """A content encoding profile.

    Attributes:
        name: as it stands in ``stream-settings``, 1 to 255 ASCII characters.
        start_encoder: makes an :class:`Encoder` for a level.
        start_decoder: makes a decoder within limits.
        overhead: how many bytes longer than its input the output for one frame may be.
        level: what ``start_encoder`` is called with; ``None`` is the format's own default.
    """

    name: str
    start_encoder: Callable[[int | None], Encoder]
    start_decoder: Callable[[Limits], Decompressor]
    overhead: int
    level: int | None = None


class _Identity:
    def encode(self, data: bytes) -> bytes:
        return data


class _ZlibEncoder:
    def __init__(self, level: int | None) -> None:
        self._compressor = zlib.compressobj(-1 if level is None else level)

    def encode(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)


class _ZstdEncoder:
    def __init__(self, level: int | None) -> None:
        # Levels above 19 would ask for a larger window than the profile's name promises.
        settings = zstandard.ZstdCompressionParameters.from_level(3 if level is None else level)
        if settings.window_log > _WINDOW_LOG_8MB:
            settings = zstandard.ZstdCompressionParameters.from_level(19, window_log=_WINDOW_LOG_8MB)
        self._compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()

    def encode(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


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
    # Stored blocks cost 5 bytes each 16 KiB at level 0, plus 2 of header and 5 of flush; see zlib's deflateBound().
    overhead=64,
)
ZSTD_8MB = Profile(
    name="zstd-8mb",
    start_encoder=_ZstdEncoder,
    start_decoder=_start_zstd_decoder,
    # A raw block costs 3 bytes and the frame header 18 at most; see ZSTD_COMPRESSBOUND.
    overhead=64,
)

PROFILES = {profile.name: profile for profile in (IDENTITY, ZLIB, ZSTD_8MB)}
"""Every profile this package knows, by name."""


class OutgoingStream:
    """A stream that this side writes.

    It opens with its first frame.  Frames must be sent in the order they are made, for the receiver decodes them in
    the order they arrive; so a stream has one writer at a time, and parallel writers have a stream each.

    Args:
        stream_id: even for a server, odd for a client.
        profile: the encoding of the stream, or ``None`` for one that announces none.
        frame_size: the most that a frame of long data carries.  The reference uses 32 KiB; 65,535 is the most that a
            peer must accept.
    """

    def __init__(self, stream_id: int, profile: Profile | None = None, *, frame_size: int = DEFAULT_FRAME_SIZE) -> None:
        self.stream_id = stream_id
        self.profile = profile
        self.frame_size = frame_size
        self.is_open = False
        self._encoder: Encoder | None = None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        encoding = f" {self.profile.name}" if self.profile else ""
        return f"<OutgoingStream {self.stream_id} {state}{encoding}>"

    @property
    def must_announce(self) -> bool:
        """Whether a frame with the settings of the stream has to come next."""
        return self.profile is not None and not self.is_open

    @property
    def capacity(self) -> int:
        """How much data a frame takes so that it is no longer than ``frame_size``, whatever they encode to."""
        return self.frame_size if self.profile is None else max(self.frame_size - self.profile.overhead, 1)

    def make_frame(
        self, request_id: int, type_id: int, flags: int, payload: bytes, *, encode: bool = False, end: bool = False
    ) -> Frame:
        """The next frame of the stream, which opens it if need be.

        Args:
            request_id: the request it belongs to.
            type_id: its type, in the revision at hand.
            flags: the flags of that type.
            payload: what it carries, not yet encoded.
            encode: pass the payload through the encoding of the stream.
            end: close the stream with this frame.  The next one opens it again, with a new context.

        Raises:
            LocalProtocolError: ``encode`` on a stream that announced no encoding.
        """
        stream_flags = 0
        if not self.is_open:
            stream_flags = STREAM_BEGIN
            self.is_open = True
            self._encoder = self.profile.start_encoder(self.profile.level) if self.profile else None
        if encode:
            if self._encoder is None or stream_flags:
                raise LocalProtocolError(f"stream {self.stream_id} has announced no encoding")
            payload = self._encoder.encode(payload)
            stream_flags |= STREAM_ENCODED
        if end:
            stream_flags |= STREAM_END
            self.is_open = False
            self._encoder = None
        return Frame(request_id, self.stream_id, stream_flags, type_id, flags, payload)


@attrs.define(eq=False)
class IncomingStream:
    """An open stream that the peer writes."""

    stream_id: int
    profile: Profile | None = None
    decoder: Decompressor | None = None


class IncomingStreams:
    """The open streams of the peer.

    Args:
        parity: 1 when the peer is a client and its streams are odd, 0 when it is a server.
        limits: bounds on their number, windows, and on what a frame decodes to.
    """

    def __init__(self, parity: int, limits: Limits) -> None:
        self._parity = parity
        self._limits = limits
        self.open: dict[int, IncomingStream] = {}

    def accept(self, frame: Frame) -> Frame:
        """Apply the stream rules to the next frame; the result has the payload decoded.

        A frame without stream flags on an open stream always passes unchanged, so a caller may skip it.

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
        """Give a stream its encoding, in the place of any it had.

        Raises:
            BadStream: the profile is unknown.
            LimitExceeded: too many encoded streams.
        """
        profile = PROFILES.get(name.decode("latin-1"))
        if profile is None:
            raise BadEncoding(f"unknown stream encoding profile: {ascii(name)[2:-1]}; known: {', '.join(PROFILES)}")
        stream = self.open.get(stream_id)
        if stream is None:
            # The frame has closed the stream already, so nothing will ever be encoded in it.
            return
        stream.profile = profile
        if sum(other.profile not in (None, IDENTITY) for other in self.open.values()) > self._limits.encoded_streams:
            raise LimitExceeded(f"more than {self._limits.encoded_streams} encoded streams are open")
        stream.decoder = profile.start_decoder(self._limits)
