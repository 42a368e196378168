"""Arguments: each type decodes what clients send, and refuses the rest with one error."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.commands.arguments import TEXT, VALUES, Argument, ArgumentType, decode_nodes, encode_nodes
from hgwire_wsgi.errors import InvalidArgument

PIECES = st.sampled_from([b"11" * 20, b"AB" * 20, b"ab" * 32, b"1", b"z", b" ", b"-", b","])
ONE, TWO = b"\x11" * 20, b"\xab" * 20


@pytest.mark.parametrize(
    ("type_", "value", "decoded"),
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
def test_decode(type_: Any, value: bytes, decoded: Any) -> None:
    assert Argument("x", type_).decode("command", value) == decoded


@pytest.mark.parametrize(
    ("type_", "value", "words"),
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
def test_malformed(type_: Any, value: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        Argument("x", type_).decode("command", value)
    assert caught.value.message.startswith("command: argument x: ")


@pytest.mark.parametrize("type_", sorted(TEXT))
@given(value=st.one_of(st.binary(max_size=90), st.lists(PIECES, max_size=6).map(b"".join)))
def test_a_value_or_the_documented_error(type_: Any, value: bytes) -> None:
    try:
        Argument("x", type_).decode("command", value)
    except InvalidArgument as error:
        assert error.message.isprintable() and len(error.message) < 400


@given(nodes=st.lists(st.binary(min_size=20, max_size=20)))
def test_nodes_round_trip(nodes: list[bytes]) -> None:
    assert decode_nodes(encode_nodes(nodes)) == nodes


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match="x: type must be one of"):
        Argument("x", "node")


NODE = b"\x11" * 20


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("bytes", b"x", b"x"),
        ("boolean", b"1", True),
        ("boolean", b"0", False),
        ("nodes", b"11" * 20, [NODE]),
        ("pairs", b"11" * 20 + b"-" + b"11" * 20, [[NODE, NODE]]),
        ("csv", b"a,b", [b"a", b"b"]),
        ("heads", b"11" * 20, [NODE]),
    ],
)
def test_both_codecs_give_the_handler_the_same(type_: Any, text: bytes, value: Any) -> None:
    argument = Argument("x", type_)
    assert argument.decode("command", text, TEXT) == argument.decode("command", value, VALUES)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("bytes", "text"),
        ("boolean", 1),
        ("nodes", b"x"),
        ("nodes", [b"short"]),
        ("nodes", [1]),
        ("pairs", b"x"),
        ("pairs", [[NODE]]),
        ("csv", {b"a": b"b"}),
        ("heads", None),
    ],
)
def test_values_of_another_type_are_refused(type_: Any, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="command: argument x: "):
        Argument("x", type_).decode("command", value, VALUES)


def test_every_type_has_both_codecs() -> None:
    assert set(TEXT) == set(VALUES) == set(get_args(ArgumentType))
