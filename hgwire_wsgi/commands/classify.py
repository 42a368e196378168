"""Requests for commands: the command, its arguments, and the permission it needs.

Pure functions.  The transports act on the same values, so a forge or a proxy that classifies a request sees what will
run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import attrs

from ..errors import RequestError
from ..limits import Limits
from ..negotiation import parse_form
from .batch import SubCommand, split_commands
from .registry import CommandRegistry, Permission, ProtocolVersion, stricter

__all__ = ["WireRequest", "describe", "named_command", "names_command"]

_PLAIN = re.compile(r"cmd=([^&%+]+)")
"""The form of nearly all query strings."""

_NAMED = re.compile(r"(?:^|&)(?:c|%63)(?:m|%6[dD])(?:d|%64)(?:=([^&]*))?(?=&|\Z)")
"""A pair of a form whose name is ``cmd``."""


@attrs.frozen
class WireRequest:
    """A request for a command.

    Attributes:
        command: its name.
        arguments: values by name, as sent.  In version 1: bytes; headers and body go before the query string, and the
            first of repeated ones counts.
        batch: the sub-commands, if the command is ``batch``.
        permission: the strictest that the command and its sub-commands need.  Commands missing from
            the registry count as ``push``.
        posted: number of bytes of the body, after decompression, that are arguments.
    """

    command: str
    arguments: Mapping[str, Any]
    batch: tuple[SubCommand, ...]
    permission: Permission
    posted: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The command and its sub-commands."""
        return (self.command, *(sub.name for sub in self.batch))


def names_command(query: str) -> tuple[str, ...]:
    """Return the commands that a query string names; usually one, or none.

    Only the pairs that name a command are decoded.

    Raises:
        RequestError: for characters above U+00FF in such a pair.
    """
    plain = _PLAIN.fullmatch(query)
    if plain is not None:
        return (plain[1],)
    return tuple(filter(None, _values(query)))


def named_command(query: str) -> str:
    """Return the command that a query string names; empty if it names none.

    Raises:
        RequestError: if it names more than one, or one twice.
    """
    plain = _PLAIN.fullmatch(query)
    if plain is not None:
        return plain[1]
    # Two are enough to know, and a query string may have a million.
    named = list(islice(_values(query), 2))
    if any(named) and len(named) > 1:
        raise RequestError("the query string names cmd more than once")
    return named[0] if named else ""


def _values(query: str) -> Iterator[str]:
    """The values of ``cmd``, also empty ones.  Nothing else is decoded."""
    for found in _NAMED.finditer(query):
        yield parse_form(f"cmd={found[1] or ''}")[0][1].decode("latin-1")


def describe(
    command: str,
    arguments: Mapping[str, Any],
    commands: CommandRegistry,
    limits: Limits,
    *,
    posted: int = 0,
    version: ProtocolVersion = "v1",
) -> WireRequest:
    """Make the request for a command with its arguments, independent of its transport.

    Raises:
        RequestError: for a malformed ``batch``.
    """
    batch: tuple[SubCommand, ...] = ()
    if command == "batch":
        cmds = arguments.get("cmds")
        if not isinstance(cmds, bytes):
            raise RequestError("batch: missing argument cmds")
        batch = split_commands(cmds, limits.batch_commands, limits.command_arguments)
    names = {command, *(sub.name for sub in batch)}
    permission = stricter(*{commands.permission_of(name, version) for name in names})
    return WireRequest(command, arguments, batch, permission, posted)
