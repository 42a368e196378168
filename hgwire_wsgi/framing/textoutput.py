"""The payload of ``text-output`` frames.

From the specification ("Human Output Side-Channel"); little endian.  A payload is a series of atoms::

    u16     length of the formatting string
    u8      number of labels
    u8      number of arguments
    u8[]    length of each label
    u16[]   length of each argument
            formatting string (UTF-8), labels (ASCII), arguments (UTF-8)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

import attrs

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = ["Atom", "decode_atoms", "encode_atoms"]

_ATOM = struct.Struct("<HBB")
_PLACEHOLDER = re.compile(rb"%[s%]")


def _strings(strings: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(strings)


@attrs.frozen
class Atom:
    """One piece of text.

    Attributes:
        formatting: text with a ``%s`` for each argument and ``%%`` for a percent sign; a client may translate it.
        arguments: the values for each ``%s``.
        labels: names of styles, such as ``ui.warning``.
    """

    formatting: bytes
    arguments: tuple[bytes, ...] = attrs.field(default=(), converter=_strings)
    labels: tuple[bytes, ...] = attrs.field(default=(), converter=_strings)

    def render(self) -> bytes:
        """Fill in the arguments.  A placeholder without an argument stays; an argument without one is dropped."""
        arguments = iter(self.arguments)

        def fill(match: re.Match[bytes]) -> bytes:
            return b"%" if match[0] == b"%%" else next(arguments, match[0])

        return _PLACEHOLDER.sub(fill, self.formatting)


def _utf8(text: bytes) -> bytes:
    # The specification requires UTF-8.  Like the reference, replace invalid bytes rather than lose the message.
    return text.decode("utf-8", "replace").encode("utf-8")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise LocalProtocolError(message)


def _encode_atom(atom: Atom) -> bytes:
    _check(isinstance(atom, Atom), "text output consists of atoms")
    _check(isinstance(atom.formatting, bytes), "must use bytes formatting strings")
    _check(all(isinstance(argument, bytes) for argument in atom.arguments), "must use bytes for arguments")
    _check(all(isinstance(label, bytes) for label in atom.labels), "must use bytes for labels")
    _check(len(atom.arguments) < 256, "cannot use more than 255 formatting arguments")
    _check(len(atom.labels) < 256, "cannot use more than 255 labels")
    formatting = _utf8(atom.formatting)
    arguments = [_utf8(argument) for argument in atom.arguments]
    _check(len(formatting) < 65536, "formatting string cannot be longer than 64k")
    _check(all(len(argument) < 65536 for argument in arguments), "argument string cannot be longer than 64k")
    _check(all(len(label) < 256 for label in atom.labels), "label string cannot be longer than 255 bytes")
    _check(all(label.isascii() for label in atom.labels), "labels must be ASCII")
    return b"".join(
        (
            _ATOM.pack(len(formatting), len(atom.labels), len(arguments)),
            bytes(map(len, atom.labels)),
            struct.pack(f"<{len(arguments)}H", *map(len, arguments)),
            formatting,
            *atom.labels,
            *arguments,
        )
    )


def encode_atoms(atoms: Iterable[Atom], size: int) -> bytes:
    """Encode atoms as a payload.

    Raises:
        LocalProtocolError: an atom exceeds a bound of the format, or they need more than ``size`` bytes together; the
            specification requires all text of one call in a single frame.
    """
    _check(isinstance(atoms, Iterable), "text output is an iterable of atoms")
    payload = b"".join(map(_encode_atom, atoms))
    _check(len(payload) <= size, "cannot encode data in a single frame")
    return payload


def decode_atoms(payload: bytes) -> tuple[Atom, ...]:
    """Decode a payload.  The text stays bytes, which is what a terminal takes.

    Raises:
        RemoteProtocolError: a length exceeds the payload.
    """
    atoms = []
    offset = 0
    try:
        while offset < len(payload):
            size, labels, arguments = _ATOM.unpack_from(payload, offset)
            lengths = struct.unpack_from(f"<{labels}B{arguments}H", payload, offset + _ATOM.size)
            offset += _ATOM.size + labels + 2 * arguments
            strings = []
            for length in (size, *lengths):
                strings.append(payload[offset : offset + length])
                offset += length
            atoms.append(Atom(strings[0], strings[1 + labels :], strings[1 : 1 + labels]))
    except struct.error as error:
        raise RemoteProtocolError("malformed text output: partial atom") from error
    if offset > len(payload):
        raise RemoteProtocolError("malformed text output: partial string")
    return tuple(atoms)
