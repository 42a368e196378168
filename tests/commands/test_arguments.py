"""Arguments: each kind decodes what clients send, and refuses the rest with one error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.commands.arguments import KINDS, Argument, decode_nodes, encode_nodes
from hgwire_wsgi.errors import InvalidArgument

PIECES = st.sampled_from([b"11" * 20, b"AB" * 20, b"ab" * 32, b"1", b"z", b" ", b"-", b","])
ONE, TWO = b"\x11" * 20, b"\xab" * 20


@pytest.mark.parametrize(
    ("kind", "value", "decoded"),
    [
        ("bytes", b"\0\xff", b"\0\xff"),
        ("nodes", b"", []),
        ("nodes", b"11" * 20, [ONE]),
        ("nodes", b"11" * 20 + b" " + b"AB" * 20, [ONE, TWO]),
        ("nodes", b"11" * 32, [b"\x11" * 32]),
        ("pairs", b"", []),
        ("pairs", b"11" * 20 + b"-" + b"ab" * 20, [(ONE, TWO)]),
        ("heads", b"", []),
        ("heads", b"666f726365", [b"force"]),
        ("heads", b"686173686564 " + b"11" * 20, [b"hashed", ONE]),
        ("boolean", b"0", False),
        ("boolean", b"", False),
        ("boolean", b"1", True),
        ("boolean", b"no", True),
        ("csv", b"a,b", [b"a", b"b"]),
        ("csv", b"", [b""]),
    ],
)
def test_decode(kind: str, value: bytes, decoded: Any) -> None:
    assert Argument("x", kind).decode("command", value) == decoded


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("nodes", b"abc", "'abc' is not a node of 40 or 64 hexadecimal digits"),
        ("nodes", b"z" * 40, f"'{'z' * 40}' is not hexadecimal"),
        ("nodes", b"11" * 20 + b"  " + b"11" * 20, "'' is not a node"),
        ("nodes", b"\xff" * 49, r"\\xff'… is not a node"),
        ("pairs", b"11" * 20, "is not a pair of nodes joined by a hyphen"),
        ("pairs", b"-".join([b"11" * 20] * 3), "is not a pair"),
        ("pairs", b"-", "is not a node"),
        ("heads", b"abc", "'abc' is not hexadecimal"),
    ],
)
def test_malformed(kind: str, value: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        Argument("x", kind).decode("command", value)
    assert caught.value.message.startswith("command: argument x: ")


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(value=st.one_of(st.binary(max_size=90), st.lists(PIECES, max_size=6).map(b"".join)))
def test_a_value_or_the_documented_error(kind: str, value: bytes) -> None:
    try:
        Argument("x", kind).decode("command", value)
    except InvalidArgument as error:
        assert error.message.isprintable() and len(error.message) < 400


@given(nodes=st.lists(st.binary(min_size=20, max_size=20)))
def test_nodes_round_trip(nodes: list[bytes]) -> None:
    assert decode_nodes(encode_nodes(nodes)) == nodes


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="kind"):
        Argument("x", "node")
