"""A look at the parts of a bundle2 stream while it is sent.

Mercurial reports a failure of ``getbundle`` in the bundle itself, as a part whose type begins with ``error:``.  Such a
bundle must not be cached: the failure may concern one user only, or be over in a moment.  Extensions can add such parts
anywhere, so the stream itself is followed.  That is cheap: payloads are skipped by their lengths.

The format, as 7.2 writes it: ``HG20``; stream parameters, after their length; parts; a length of zero.  A part is its
header after the header's length, then chunks of payload, each after its length, then a length of zero.  A length of -1
between chunks announces another part, and the payload continues after that.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator

__all__ = ["BundleFollower"]

_LENGTH = struct.Struct(">i")
_INTERRUPT = -1
_LONGEST_HEADER = 1 << 20
"""Maximum size in bytes of a header that is followed; Mercurial's are short."""

_Steps = Generator[tuple[int, int], bytes, None]
"""Yields how many bytes to skip, and how many to read after them; is sent the bytes that were read."""


class _Lost(Exception):
    """The stream is not what it should be, or is compressed."""


class BundleFollower:
    """Follows the stream of one reply; a stream that is not bundle2 is not followed."""

    def __init__(self) -> None:
        self._is_good = False
        self._steps: _Steps | None = self._follow()
        self._skip, self._wanted = next(self._steps)
        self._kept = b""

    def may_be_cached(self) -> bool:
        """Whether the stream is a complete bundle without an error, or no bundle2 at all; asked at its end."""
        return self._is_good

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on a stream, and follow it."""
        for chunk in chunks:
            self._feed(chunk)
            yield chunk

    def _feed(self, chunk: bytes) -> None:
        data, start = self._kept + chunk, self._skip
        while self._steps is not None and (end := start + self._wanted) <= len(data):
            try:
                skip, self._wanted = self._steps.send(data[start:end])
            except (StopIteration, _Lost):
                self._steps = None
            else:
                start = end + skip
        self._kept = b"" if self._steps is None else data[start:]
        self._skip = max(0, start - len(data))

    def _follow(self) -> _Steps:
        if (yield 0, 4) != b"HG20":
            self._is_good = True
            return
        if b"Compression" in (yield 0, _header_length((yield 0, 4))):
            raise _Lost
        has_error = False
        while length := _header_length((yield 0, 4)):
            has_error |= yield from self._part(length)
        self._is_good = not has_error

    def _part(self, length: int) -> Generator[tuple[int, int], bytes, bool]:
        """Follow a part.

        Returns:
            Whether it, or one that interrupts it, is an error.
        """
        header = yield 0, length
        has_error = header[1 : 1 + header[0]].lower().startswith(b"error:")
        skip = 0
        while size := _LENGTH.unpack((yield skip, 4))[0]:
            skip = max(0, size)
            if size == _INTERRUPT:
                if length := _header_length((yield 0, 4)):
                    has_error |= yield from self._part(length)
            elif size < 0:
                raise _Lost
        return has_error


def _header_length(field: bytes) -> int:
    length: int = _LENGTH.unpack(field)[0]
    if not 0 <= length <= _LONGEST_HEADER:
        raise _Lost
    return length
