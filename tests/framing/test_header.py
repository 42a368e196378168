"""The eight bytes of a header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import LocalProtocolError
from hgwire_wsgi.framing import HEADER_SIZE, Header, pack_header, parse_header

FIELDS = st.tuples(
    st.integers(0, (1 << 24) - 1),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0xFF),
    st.integers(0, 15),
    st.integers(0, 15),
)


def test_every_field_has_its_place() -> None:
    assert pack_header(0x030201, 0x0504, 0x06, 0x07, 0x0A, 0x0B) == bytes.fromhex("01 02 03 04 05 06 07 ab")
    assert parse_header(bytes.fromhex("010203040506 07ab")) == Header(0x030201, 0x0504, 0x06, 0x07, 0x0A, 0x0B)


@given(FIELDS)
def test_round_trip(fields: tuple[int, int, int, int, int, int]) -> None:
    packed = pack_header(*fields)
    assert len(packed) == HEADER_SIZE
    assert parse_header(packed) == Header(*fields)


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), st.binary(max_size=5))
def test_any_eight_bytes_are_a_header(data: bytes, before: bytes) -> None:
    header = parse_header(before + data, len(before))
    assert (
        pack_header(
            header.length,
            header.request_id,
            header.stream_id,
            header.stream_flags,
            header.type_id,
            header.flags,
        )
        == data
    )


@pytest.mark.parametrize("size", range(HEADER_SIZE))
def test_fewer_are_none(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        parse_header(bytes(3 + size), 3)
    with pytest.raises(ValueError, match="not 0"):
        parse_header(b"", 4)


@pytest.mark.parametrize("place", range(6))
def test_fields_that_do_not_fit(place: int) -> None:
    limits = [1 << 24, 1 << 16, 256, 256, 16, 16]
    for value in (limits[place], -1):
        fields = [1] * 6
        fields[place] = value
        with pytest.raises(LocalProtocolError, match="fit"):
            pack_header(*fields)
    fields[place] = limits[place] - 1
    pack_header(*fields)
