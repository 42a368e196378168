"""Bytes that the owner passes in: what is converted, what is refused, and how they are cut."""

from __future__ import annotations

import array
from typing import Any

import pytest
from framing_support import Source
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import LocalProtocolError
from hgwire_wsgi.framing import Objects
from hgwire_wsgi.framing.data import as_bytes, check_data, rechunk

BUFFERS: list[Any] = [bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"xabcdx")[1:5], array.array("B", b"abcd")]


@pytest.mark.parametrize("value", BUFFERS, ids=lambda value: type(value).__name__)
def test_buffers_are_converted(value: Any) -> None:
    for converted in (as_bytes(value, "it"), check_data(value, "it"), *rechunk([value], 9)):
        assert type(converted) is bytes
        assert converted == b"abcd"


def test_a_buffer_is_measured_in_bytes() -> None:
    assert list(rechunk([memoryview(array.array("H", [1, 2]))], 3)) == [b"\1\0\2", b"\0"]


def test_bytes_are_not_copied() -> None:
    data = bytes(range(10))
    assert as_bytes(data, "it") is check_data(data, "it") is data
    assert next(rechunk([data], 10)) is data


@pytest.mark.parametrize("value", ["text", 5, None, 1.5, object()])
def test_everything_else_is_refused(value: Any) -> None:
    for check in (as_bytes, check_data):
        with pytest.raises(LocalProtocolError, match=f"it must be bytes, not {type(value).__name__}"):
            check(value, "it")


def test_an_iterable_is_left_alone() -> None:
    source = Source(b"a")
    assert check_data(source, "it") is source
    assert source.pieces
    with pytest.raises(LocalProtocolError):
        as_bytes(source, "it")


@pytest.mark.parametrize("bad", ["text", 5, None])
def test_a_piece_of_another_type(bad: Any) -> None:
    pieces = rechunk([b"abc", bad], 2)
    assert next(pieces) == b"ab"
    with pytest.raises(LocalProtocolError, match=f"a piece of data must be bytes, not {type(bad).__name__}"):
        next(pieces)


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40))
def test_rechunk(chunks: list[bytes], size: int) -> None:
    pieces = list(rechunk(chunks, size))
    assert b"".join(pieces) == b"".join(chunks)
    assert pieces == list(rechunk(b"".join(chunks), size))
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(pieces)


def test_objects_close_their_source() -> None:
    source = Source(b"a")
    Objects(source).close()
    assert source.closed
    Objects([1, 2]).close()
