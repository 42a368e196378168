"""The encoding of ``batch``: several commands in one request, several replies in one.

``cmds`` is ``<command> <name>=<value>,<name>=<value>;<command> …``; the reply is the replies joined with ``;``.  In
names, values and replies ``: , ; =`` are written ``:c :o :s :e``.
"""

from __future__ import annotations

import re

import attrs

from ..errors import RequestError

__all__ = ["SubCommand", "escape", "join_replies", "split_commands", "unescape"]

_ESCAPES = {b":": b":c", b",": b":o", b";": b":s", b"=": b":e"}
_UNESCAPES = {escaped: plain for plain, escaped in _ESCAPES.items()}
_SPECIAL = re.compile(rb"[:,;=]")
_ESCAPED = re.compile(rb":[cose]")


@attrs.frozen
class SubCommand:
    """One command of a batch, with its arguments as bytes by name."""

    name: str
    arguments: dict[str, bytes]


def escape(plain: bytes) -> bytes:
    """Escape the separators in a name, value or reply."""
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], plain)


def unescape(escaped: bytes) -> bytes:
    """Undo :func:`escape`; a colon that begins no escape stands for itself."""
    return _ESCAPED.sub(lambda match: _UNESCAPES[match[0]], escaped)


def split_commands(cmds: bytes, limit: int) -> tuple[SubCommand, ...]:
    """Parse ``cmds``.

    Args:
        cmds: the argument as sent, without its outer encoding.
        limit: maximum number of commands.

    Raises:
        RequestError: if it is malformed or too long.
    """
    parts = cmds.split(b";", limit)
    if len(parts) > limit:
        raise RequestError(f"batch: more than {limit} commands")
    return tuple(_split_command(part) for part in parts)


def _split_command(part: bytes) -> SubCommand:
    name, space, pairs = part.partition(b" ")
    if not name or not space:
        raise RequestError("batch: a command must be a name, a space, and arguments")
    arguments: dict[str, bytes] = {}
    for pair in filter(None, pairs.split(b",")):
        key, equals, value = pair.partition(b"=")
        if not equals or b"=" in value:
            raise RequestError("batch: an argument must be a name, one '=', and a value")
        arguments.setdefault(unescape(key).decode("latin-1"), unescape(value))
    return SubCommand(name.decode("latin-1"), arguments)


def join_replies(replies: list[bytes]) -> bytes:
    """Join the replies of a batch."""
    return b";".join(map(escape, replies))
