"""Arguments of commands: how their values are written on the wire, and what a handler gets."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from ..errors import InvalidArgument

__all__ = ["KINDS", "Argument", "ArgumentType", "decode_nodes", "encode_nodes"]

_HEX_LENGTHS = (40, 64)


def _node(value: bytes) -> bytes:
    if len(value) not in _HEX_LENGTHS:
        raise ValueError(f"{_show(value)} is not a node of 40 or 64 hexadecimal digits")
    return _unhex(value)


def _unhex(value: bytes) -> bytes:
    try:
        return binascii.unhexlify(value)
    except binascii.Error:
        raise ValueError(f"{_show(value)} is not hexadecimal") from None


def _show(value: bytes) -> str:
    text = value[:48].decode("ascii", "backslashreplace")
    return repr(text) if len(value) <= 48 else repr(text) + "…"


def decode_nodes(value: bytes) -> list[bytes]:
    """Decode a list of nodes in hexadecimal, separated by one space each.

    Raises:
        ValueError: saying what is wrong.
    """
    return [_node(part) for part in value.split(b" ")] if value else []


def encode_nodes(nodes: list[bytes]) -> bytes:
    """The opposite of :func:`decode_nodes`."""
    return b" ".join(map(binascii.hexlify, nodes))


def _pairs(value: bytes) -> list[tuple[bytes, bytes]]:
    pairs = []
    for part in value.split(b" ") if value else ():
        ends = part.split(b"-")
        if len(ends) != 2:
            raise ValueError(f"{_show(part)} is not a pair of nodes joined by a hyphen")
        pairs.append((_node(ends[0]), _node(ends[1])))
    return pairs


def _heads_check(value: bytes) -> list[bytes]:
    """The ``heads`` of ``unbundle``: nodes, or ``force``, or ``hashed`` and a SHA-1; all of it in hexadecimal."""
    return [_unhex(part) for part in value.split(b" ")] if value else []


def _boolean(value: bytes) -> bool:
    return value not in (b"", b"0")


def _commas(value: bytes) -> list[bytes]:
    return value.split(b",")


ArgumentType = Literal["bytes", "nodes", "pairs", "heads", "boolean", "csv"]

KINDS: Mapping[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "nodes": decode_nodes,
    "pairs": _pairs,
    "heads": _heads_check,
    "boolean": _boolean,
    "csv": _commas,
}
"""How the value of each kind of argument is decoded; decoders raise ``ValueError``.

``boolean`` is false for ``0`` and for nothing, true otherwise, as ``getbundle`` has it.
"""


@attrs.frozen
class Argument:
    """The declaration of one argument.

    Attributes:
        name: its name on the wire, and of the handler's parameter.
        type: one of :data:`KINDS`.
        required: whether a request without it is refused.
    """

    name: str
    type: ArgumentType = attrs.field(default="bytes", validator=attrs.validators.in_(KINDS))
    required: bool = True

    def decode(self, command: str, value: bytes) -> Any:
        """Decode a value.

        Raises:
            InvalidArgument: if it is malformed.
        """
        try:
            return KINDS[self.type](value)
        except ValueError as error:
            raise InvalidArgument(f"{command}: argument {self.name}: {error}") from None
