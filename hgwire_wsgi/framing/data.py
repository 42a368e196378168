"""Bytes that the owner of a reactor passes in: checked at the call, converted once, cut to the size of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import attrs

from ..errors import LocalProtocolError
from ..streams import close_source

__all__ = ["BytesLike", "Data", "Objects", "as_bytes", "check_data", "rechunk"]

BytesLike: TypeAlias = bytes | bytearray | memoryview

Data: TypeAlias = BytesLike | Iterable[BytesLike]
"""Bytes to send: at once, or as they are produced."""


@attrs.frozen
class Objects:
    """A response made of objects, for a revision whose responses are objects rather than bytes.

    Attributes:
        values: the objects, in order.  They are taken while the frames are, and closed afterwards.
        status: the object in front of them; ``None`` stands for the revision's own "success".
    """

    values: Iterable[Any] = ()
    status: Any = None

    def close(self) -> None:
        """Close the source of the objects."""
        close_source(self.values)


def as_bytes(value: object, what: str) -> bytes:
    """Convert anything with the buffer protocol to bytes; bytes themselves are not copied.

    Args:
        value: bytes, a bytearray, a memoryview, an array, ….
        what: what the value is, for the message.

    Raises:
        LocalProtocolError: ``value`` does not hold bytes.
    """
    if isinstance(value, bytes):
        return value
    try:
        # bytes(5) would be five bytes.
        return bytes(memoryview(value))  # type: ignore[arg-type]  # whether it has a buffer is the question
    except TypeError:
        raise LocalProtocolError(f"{what} must be bytes, not {type(value).__name__}") from None


def check_data(data: object, what: str) -> bytes | Iterable[BytesLike]:
    """Check data as far as possible without taking any: a buffer is converted, an iterable returned as it is.

    Raises:
        LocalProtocolError: ``data`` is text, or neither bytes nor iterable.
    """
    if isinstance(data, bytes):
        return data
    try:
        return as_bytes(data, what)
    except LocalProtocolError:
        # Text is iterable too, but its pieces are never bytes.
        if isinstance(data, str) or not isinstance(data, Iterable):
            raise
        return data


def rechunk(data: bytes | Iterable[BytesLike], size: int) -> Iterator[bytes]:
    """Cut data into pieces of exactly ``size`` bytes, the last one shorter; none is empty.

    A chunk that fits exactly is not copied.

    Raises:
        LocalProtocolError: a chunk is not bytes; the pieces before it have been returned.
    """
    held: list[bytes] = []
    room = size
    for item in (data,) if isinstance(data, bytes) else data:
        chunk = item if isinstance(item, bytes) else as_bytes(item, "a piece of data")
        start = 0
        while len(chunk) - start >= room:
            held.append(chunk[start : start + room])
            yield b"".join(held)
            start += room
            held, room = [], size
        if start < len(chunk):
            held.append(chunk[start:])
            room -= len(chunk) - start
    if held:
        yield b"".join(held)
