"""Which command a request names, with which arguments, and what permission it needs.

This is what the transport itself runs on, so a forge or a proxy that calls :func:`classify` sees what will be run.  It
opens no repository, and whoever reads ``wsgi.input`` afterwards reads all of it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, MutableMapping
from typing import Any

import attrs

from ..compression import ENGINES, DecodingReader, Engine
from ..errors import BodyTruncated, RequestError, UnsupportedMediaType
from ..limits import Limits
from ..negotiation import (
    ServerCapabilities,
    content_length,
    media_type_version,
    parse_form,
    posted_arguments_length,
    read_header_arguments,
)
from ..streams import Readable, read_exactly
from .batch import SubCommand, split_commands
from .registry import CommandRegistry, stricter

__all__ = ["WireRequest", "classify", "describe", "names_command", "open_payload"]

_CACHE_KEY = "hgwire_wsgi.request"
_READ_AHEAD = 128 * 1024
"""How much more than the arguments themselves is read: decompression takes 64 KiB at a time."""


@attrs.frozen
class WireRequest:
    """A request for a command.

    Attributes:
        command: its name.
        arguments: bytes by name, headers and body before the query string, the first value of a repeated one.
        batch: the sub-commands, if the command is ``batch``.
        permission: ``pull`` or ``push``: the strictest that the command and its sub-commands need.  What the registry
            does not know counts as ``push``.
        posted: how many bytes of the body, after decompression, are arguments.
    """

    command: str
    arguments: Mapping[str, bytes]
    batch: tuple[SubCommand, ...]
    permission: str
    posted: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The command and its sub-commands."""
        return (self.command, *(sub.name for sub in self.batch))


def names_command(environ: Mapping[str, Any]) -> tuple[str, ...]:
    """The commands that a query string names; usually one, or none."""
    query = environ.get("QUERY_STRING") or ""
    if query.startswith("cmd=") and not any(mark in query for mark in "&%+"):
        values = [query[4:]]
    else:
        values = [value.decode("latin-1") for name, value in parse_form(query) if name == "cmd"]
    return tuple(value for value in values if value)


def classify(
    environ: MutableMapping[str, Any],
    commands: CommandRegistry,
    *,
    capabilities: ServerCapabilities | None = None,
    limits: Limits | None = None,
) -> WireRequest | None:
    """Say what a request asks for.

    Args:
        environ: the WSGI environ.  ``wsgi.input`` is replaced if it had to be read, by one that gives the same bytes.
        commands: the registry of the application.  With that of a ``WireApp`` the answer is the one its transport acts
            on; commands that only a repository's extensions bring are unknown here, hence ``push``.
        capabilities: what the application offers; ``X-HgArgs-Post`` counts only if that includes ``post_args``.
        limits: bounds on arguments and batches.

    Returns:
        The request, or ``None`` if it names no command: it is not for the wire protocol.

    Raises:
        RequestError: if it is malformed.
        NegotiationError: if posted arguments come in a body that the server does not receive.
    """
    cached = environ.get(_CACHE_KEY)
    if cached is not None and cached[0] is commands:
        request: WireRequest = cached[1]
        return request
    offer, limits = capabilities or ServerCapabilities(), limits or Limits()
    query = environ.get("QUERY_STRING") or ""
    if len(query) > limits.argument_bytes:
        raise RequestError(f"arguments exceed {limits.argument_bytes} bytes")
    most = limits.command_arguments
    pairs = parse_form(query, most)
    named = [value for name, value in pairs if name == "cmd"]
    if not any(named):
        return None
    if len(named) > 1:
        raise RequestError("the query string names cmd more than once")
    posted = posted_arguments_length(environ, limits.argument_bytes) if offer.post_args else 0
    if posted:
        given = parse_form(_read_posted(environ, posted, offer, limits).decode("latin-1"), most)
    else:
        given = read_header_arguments(environ, limits.argument_bytes, most)
    arguments: dict[str, bytes] = {}
    for name, value in given:
        if name == "cmd":
            raise RequestError("only the query string may name cmd")
        arguments.setdefault(name, value)
    for name, value in pairs:
        if name != "cmd":
            arguments.setdefault(name, value)
    request = describe(named[0].decode("latin-1"), arguments, commands, limits, posted)
    environ[_CACHE_KEY] = (commands, request)
    return request


def describe(
    command: str, arguments: Mapping[str, bytes], commands: CommandRegistry, limits: Limits, posted: int = 0
) -> WireRequest:
    """Say what a command with its arguments asks for, however it came here.

    Raises:
        RequestError: for a malformed ``batch``.
    """
    batch: tuple[SubCommand, ...] = ()
    if command == "batch":
        if "cmds" not in arguments:
            raise RequestError("batch: missing argument cmds")
        batch = split_commands(arguments["cmds"], limits.batch_commands)
    permission = stricter(*{commands.permission_of(name) for name in (command, *(sub.name for sub in batch))})
    return WireRequest(command, arguments, batch, permission, posted)


def _read_posted(environ: MutableMapping[str, Any], size: int, offer: ServerCapabilities, limits: Limits) -> bytes:
    """Read the arguments off the front of the body, and put back what was read."""
    version = media_type_version(offer, environ.get("CONTENT_TYPE"), required=False)
    length = content_length(environ, limits.body)
    if length is None and not environ.get("wsgi.input_terminated"):
        length = 0
    if version == "0.1" and length is not None and size > length:
        raise RequestError("X-HgArgs-Post exceeds the length of the body")
    recorder = _Recorder(environ["wsgi.input"], length, limits.argument_bytes + _READ_AHEAD)
    try:
        reader = open_payload(recorder, version, offer, limits)
        data = read_exactly(reader, size)
    finally:
        environ["wsgi.input"] = recorder.replay()
    if len(data) < size:
        raise RequestError("X-HgArgs-Post exceeds the length of the body")
    return data


def open_payload(source: Readable, version: str, offer: ServerCapabilities, limits: Limits) -> Readable:
    """A reader of a request body's content, decompressed if its media type is 0.2.

    A 0.2 body starts with a length byte and the name of an engine; any engine this package or the host knows will do.

    Raises:
        UnsupportedMediaType: for an unknown engine.
        BodyTruncated: if the body ends before its engine is named.
    """
    if version == "0.1":
        return source
    length = source.read(1)
    if not length:
        return io.BytesIO()
    name = read_exactly(source, length[0])
    if len(name) < length[0]:
        raise BodyTruncated("the request body ends inside the name of its compression engine")
    engines: dict[str, Engine] = {**ENGINES, **{engine.name: engine for engine in offer.engines}}
    engine = engines.get(name.decode("latin-1"))
    if engine is None:
        raise UnsupportedMediaType(f"unknown compression engine; known are {', '.join(sorted(engines))}")
    return DecodingReader(source, engine, limits)


class _Recorder:
    """Reads on and remembers, within the length of the body, so that a second reader can start over.

    Compressed data can go on for ever and decompress to nothing, so what is remembered is bounded.
    """

    def __init__(self, source: Readable, length: int | None, limit: int) -> None:
        self._source = source
        self._left = length
        self._room = limit
        self._pieces: list[bytes] = []

    def read(self, size: int, /) -> bytes:
        try:
            piece = self._source.read(size if self._left is None else min(size, self._left))
        except Exception as error:  # every server has its own exceptions for a lost client or a bad chunk
            raise BodyTruncated("the request body is cut short or malformed") from error
        self._pieces.append(piece)
        if self._left is not None:
            self._left -= len(piece)
        self._room -= len(piece)
        if self._room < 0:
            raise RequestError("the posted arguments have no end")
        return piece

    def replay(self) -> io.BufferedReader:
        return io.BufferedReader(_Replay(b"".join(self._pieces), self._source, self._left))


class _Replay(io.RawIOBase):
    """Bytes already read, then the rest of the body, however much a buffer around it asks for."""

    def __init__(self, front: bytes, source: Readable, left: int | None) -> None:
        self._front = memoryview(front)
        self._source = source
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = len(buffer)
        if self._front:
            data, self._front = bytes(self._front[:size]), self._front[size:]
        else:
            data = self._source.read(size if self._left is None else min(size, self._left))
            if self._left is not None:
                self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)
