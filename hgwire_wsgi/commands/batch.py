"""The encoding of ``batch``: several commands in one request, several replies in one.

``cmds`` is ``<command> <name>=<value>,<name>=<value>;<command> …``; the reply is the replies joined with ``;``.  In
names, values and replies ``: , ; =`` are written ``:c :o :s :e``.
"""

from __future__ import annotations

import attrs

from ..errors import RequestError

__all__ = ["SubCommand", "escape", "split_commands", "unescape"]


@attrs.frozen
class SubCommand:
    """One command of a batch.

    Attributes:
        name: its name.
        arguments: its arguments as bytes by name.
    """

    name: str
    arguments: dict[str, bytes]


def escape(plain: bytes) -> bytes:
    """Escape the separators in a name, value or reply."""
    return plain.replace(b":", b":c").replace(b",", b":o").replace(b";", b":s").replace(b"=", b":e")


def unescape(escaped: bytes) -> bytes:
    """Undo :func:`escape`; a colon that begins no escape stands for itself."""
    if b":" not in escaped:
        return escaped
    return escaped.replace(b":o", b",").replace(b":s", b";").replace(b":e", b"=").replace(b":c", b":")


def split_commands(cmds: bytes, limit: int, arguments: int) -> tuple[SubCommand, ...]:
    """Parse ``cmds``.

    Args:
        cmds: the argument as sent, without its outer encoding.
        limit: maximum number of commands.
        arguments: maximum number of arguments of one command.

    Returns:
        The commands in order.  Equal ones are one object, so that many of them cost the memory of one, and one
        computation where the reply can be used again.

    Raises:
        RequestError: if it is malformed or too long.
    """
    if cmds.count(b";") >= limit:
        raise RequestError(f"batch: more than {limit} commands")
    known: dict[bytes, SubCommand] = {}
    found = []
    for part in cmds.split(b";"):
        command = known.get(part)
        if command is None:
            command = known[part] = _split_command(part, arguments)
        found.append(command)
    return tuple(found)


def _split_command(part: bytes, limit: int) -> SubCommand:
    name, space, pairs = part.partition(b" ")
    if not name or not space:
        raise RequestError("batch: a command must be a name, a space, and arguments")
    if pairs.count(b",") >= limit:
        raise RequestError(f"batch: a command with more than {limit} arguments")
    arguments: dict[str, bytes] = {}
    for pair in filter(None, pairs.split(b",")):
        key, equals, value = pair.partition(b"=")
        if not equals or b"=" in value:
            raise RequestError("batch: an argument must be a name, one '=', and a value")
        arguments.setdefault(unescape(key).decode("latin-1"), unescape(value))
    return SubCommand(name.decode("latin-1"), arguments)
