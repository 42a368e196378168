"""Typed arguments of commands, with a codec for each encoding.

A command declares the type of each argument and always gets the same Python values:

=============  ==========================================================
type           value that the handler gets
=============  ==========================================================
``bytes``      ``bytes``
``boolean``    ``bool``
``nodes``      list of nodes, 20 bytes each (32 with SHA-256)
``pairs``      list of pairs of nodes
``csv``        list of ``bytes``
``heads``      list of ``bytes``: nodes, or ``force``, or ``hashed`` and a SHA-1
=============  ==========================================================

:data:`TEXT` decodes what version 1 sends (query string, header, posted form, ``batch``) and what version 2 sends where
arguments in frames are bytes.  :data:`VALUES` takes values that a typed encoding such as CBOR has decoded already.
"""

from __future__ import annotations

import binascii
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import attrs

from ..errors import InvalidArgument

__all__ = ["TEXT", "VALUES", "Argument", "ArgumentType", "Codec", "decode_nodes", "encode_nodes", "one_of"]

ArgumentType = Literal["bytes", "boolean", "nodes", "pairs", "csv", "heads"]

Codec = Mapping[ArgumentType, Callable[[Any], Any]]
"""How a value of each type is decoded; decoders raise ``ValueError`` that says what is wrong."""

_HEX_LENGTHS = (40, 64)
_NODE_LENGTHS = (20, 32)
_NODE_AND_SPACE = 41


def one_of(literal: Any) -> Any:
    """An attrs validator for an attribute whose type is a ``Literal``; its error names the object and the choices."""
    choices = get_args(literal)

    def check(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in choices:
            raise ValueError(f"{instance.name}: {attribute.name} must be one of {', '.join(choices)}, not {value!r}")

    return check


def _show(value: bytes) -> str:
    text = value[:48].decode("ascii", "backslashreplace")
    return repr(text) if len(value) <= 48 else repr(text) + "…"


def _unhex(value: bytes) -> bytes:
    try:
        return binascii.unhexlify(value)
    except binascii.Error:
        raise ValueError(f"{_show(value)} is not hexadecimal") from None


def _node(value: bytes) -> bytes:
    if len(value) not in _HEX_LENGTHS:
        raise ValueError(f"{_show(value)} is not a node of 40 or 64 hexadecimal digits")
    return _unhex(value)


def decode_nodes(value: bytes) -> list[bytes]:
    """Decode a list of nodes in hexadecimal, separated by one space each.

    Raises:
        ValueError: with what is wrong.
    """
    if not value:
        return []
    count = (len(value) + 1) // _NODE_AND_SPACE
    digits = value.replace(b" ", b"")
    # Mostly all nodes have 40 digits; then they are decoded together.
    if len(digits) == 40 * count and value[40::_NODE_AND_SPACE] == b" " * (count - 1):
        with contextlib.suppress(binascii.Error):
            nodes = binascii.unhexlify(digits)
            return [nodes[start : start + 20] for start in range(0, len(nodes), 20)]
    return [_node(part) for part in value.split(b" ")]


def encode_nodes(nodes: list[bytes]) -> bytes:
    """Encode a list of nodes for :func:`decode_nodes`."""
    return b" ".join(map(binascii.hexlify, nodes))


def _text_pairs(value: bytes) -> list[tuple[bytes, bytes]]:
    pairs = []
    for part in value.split(b" ") if value else ():
        ends = part.split(b"-")
        if len(ends) != 2:
            raise ValueError(f"{_show(part)} is not a pair of nodes joined by a hyphen")
        pairs.append((_node(ends[0]), _node(ends[1])))
    return pairs


def _text_heads(value: bytes) -> list[bytes]:
    return [_unhex(part) for part in value.split(b" ")] if value else []


def _text_boolean(value: bytes) -> bool:
    # As getbundle has it: false for "0" and for nothing.
    return value not in (b"", b"0")


def _text_csv(value: bytes) -> list[bytes]:
    return value.split(b",")


TEXT: Codec = {
    "bytes": bytes,
    "boolean": _text_boolean,
    "nodes": decode_nodes,
    "pairs": _text_pairs,
    "csv": _text_csv,
    "heads": _text_heads,
}


def _value_bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("is not a byte string")
    return value


def _value_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is not a boolean")
    return value


def _value_list(value: object) -> list[bytes]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise ValueError("is not a list")
    return [_value_bytes(item) for item in value]


def _value_nodes(value: object) -> list[bytes]:
    nodes = _value_list(value)
    if any(len(node) not in _NODE_LENGTHS for node in nodes):
        raise ValueError("contains something other than nodes of 20 or 32 bytes")
    return nodes


def _value_pairs(value: object) -> list[tuple[bytes, bytes]]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list")
    pairs = [_value_nodes(pair) for pair in value]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("contains something other than pairs of nodes")
    return [(top, bottom) for top, bottom in pairs]


VALUES: Codec = {
    "bytes": _value_bytes,
    "boolean": _value_boolean,
    "nodes": _value_nodes,
    "pairs": _value_pairs,
    "csv": _value_list,
    "heads": _value_list,
}


@attrs.frozen
class Argument:
    """The declaration of one argument.

    Attributes:
        name: its name on the wire, and of the handler's parameter.
        type: see the table of this module.
        required: whether a request without it is refused.
    """

    name: str
    type: ArgumentType = attrs.field(default="bytes", validator=one_of(ArgumentType))
    required: bool = True

    def decode(self, command: str, value: Any, codec: Codec = TEXT) -> Any:
        """Decode a value.

        Raises:
            InvalidArgument: if it is malformed.
        """
        try:
            return codec[self.type](value)
        except ValueError as error:
            raise InvalidArgument(f"{command}: argument {self.name}: {error}") from None
