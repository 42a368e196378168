"""Input of version 1 requests: the command, its arguments, and the data that it reads.

Arguments travel in the query string, in ``X-HgArg-<N>`` headers, or in front of the body (``X-HgArgs-Post``).  A body
of ``application/mercurial-0.2`` is compressed and names its engine.
"""

from __future__ import annotations

import io
from collections.abc import MutableMapping
from typing import Any

from ...commands.classify import WireRequest, describe
from ...commands.registry import CommandRegistry
from ...compression import ENGINES, DecodingReader, Engine
from ...errors import BodyTruncated, RequestError, UnsupportedMediaType
from ...limits import Limits
from ...negotiation import (
    ServerCapabilities,
    media_type_version,
    parse_form,
    posted_arguments_length,
    read_header_arguments,
)
from ...streams import BoundedReader, ProportionalReader, Readable, read_exactly
from ..message import Request

__all__ = ["classify", "open_payload", "read_payload", "read_request"]

_CACHE_KEY = "hgwire_wsgi.request"
_READ_AHEAD = 128 * 1024
"""Extra bytes that may be read beyond the arguments: decoders read 64 KiB at a time."""


def classify(
    environ: MutableMapping[str, Any],
    commands: CommandRegistry,
    *,
    capabilities: ServerCapabilities | None = None,
    limits: Limits | None = None,
) -> WireRequest | None:
    """Find the command that a request names, and the permission it needs.

    It opens no repository.  If it has to read ``wsgi.input``, it replaces it with a file that returns the same bytes.

    Args:
        environ: the WSGI environ.
        commands: the registry of the application.  With that of a ``WireApp``, the result is the one that its transport
            uses.  A command that the registry does not know needs ``push``.
        capabilities: those of the application; ``X-HgArgs-Post`` counts only if ``post_args`` is set.
        limits: limits on arguments and batches.

    Returns:
        The request; ``None`` if it names no command and is therefore not a wire protocol request.

    Raises:
        RequestError: if it is malformed.
        NegotiationError: if posted arguments come in a media type that the server does not receive.
    """
    limits = limits or Limits()
    request = Request(dict(environ), limits)
    try:
        wire = read_request(request, commands, capabilities or ServerCapabilities(), limits)
    finally:
        if request.bytes_in:
            environ["wsgi.input"] = request.body.as_file()
            environ["wsgi.input_terminated"] = True
            # WebOb remembers here that it can seek in the old one.
            environ["webob.is_body_seekable"] = False
    if wire is not None:
        environ[_CACHE_KEY] = commands, request.query, wire
    return wire


def read_request(
    request: Request, commands: CommandRegistry, server: ServerCapabilities, limits: Limits
) -> WireRequest | None:
    """Read the command and the arguments of a request; see :func:`classify`."""
    known = request.environ.get(_CACHE_KEY)
    if known is not None and known[0] is commands and known[1] == request.query:
        cached: WireRequest = known[2]
        return cached
    if len(request.query) > limits.argument_bytes:
        raise RequestError(f"arguments exceed {limits.argument_bytes} bytes")
    maximum = limits.command_arguments
    pairs = parse_form(request.query, maximum)
    named = [value for name, value in pairs if name == "cmd"]
    if not any(named):
        return None
    if len(named) > 1:
        raise RequestError("the query string names cmd more than once")
    posted = posted_arguments_length(request.headers, limits.argument_bytes) if server.post_args else 0
    if posted:
        given = parse_form(_read_posted(request, posted, server, limits).decode("latin-1"), maximum)
    else:
        given = read_header_arguments(request.headers, limits.argument_bytes, maximum)
    arguments: dict[str, bytes] = {}
    for name, value in given:
        if name == "cmd":
            raise RequestError("only the query string may name cmd")
        arguments.setdefault(name, value)
    for name, value in pairs:
        if name != "cmd":
            arguments.setdefault(name, value)
    return describe(named[0].decode("latin-1"), arguments, commands, limits, posted=posted)


def _read_posted(request: Request, size: int, server: ServerCapabilities, limits: Limits) -> bytes:
    """Read the arguments in front of the body without consuming them."""
    version = media_type_version(server, request.headers.get("Content-Type"), required=False)
    body = request.body.check()
    if version == "0.1" and body.length is not None and size > body.length:
        raise RequestError("X-HgArgs-Post exceeds the length of the body")
    with body.preview(limits.argument_bytes + _READ_AHEAD) as source:
        payload = open_payload(source, version, server, limits)
        data = read_exactly(ProportionalReader(payload, lambda: body.received, limits.argument_ratio), size)
    if len(data) < size:
        raise RequestError("X-HgArgs-Post exceeds the length of the body")
    return data


def open_payload(source: Readable, version: str, server: ServerCapabilities, limits: Limits) -> Readable:
    """A reader of a request body's content, decompressed if its media type is 0.2.

    A 0.2 body starts with a length byte and the name of an engine; any engine that this package or the host knows is
    accepted.

    Raises:
        UnsupportedMediaType: for an unknown engine.
        BodyTruncated: if the body ends before the end of the engine's name.
    """
    if version == "0.1":
        return source
    length = source.read(1)
    if not length:
        return io.BytesIO()
    name = read_exactly(source, length[0])
    if len(name) < length[0]:
        raise BodyTruncated("the request body ends inside the name of its compression engine")
    engines: dict[str, Engine] = {**ENGINES, **{engine.name: engine for engine in server.engines}}
    engine = engines.get(name.decode("latin-1"))
    if engine is None:
        raise UnsupportedMediaType(f"unknown compression engine; known are {', '.join(sorted(engines))}")
    return DecodingReader(source, engine, limits)


def read_payload(request: Request, posted: int, server: ServerCapabilities, limits: Limits) -> Readable:
    """Return the request body after its posted arguments, decompressed and bounded.

    Raises:
        NegotiationError: for a media type or engine that the server does not receive.
        RequestError: if the body cannot be read.
    """
    version = media_type_version(server, request.headers.get("Content-Type"), required=not posted)
    payload = BoundedReader(open_payload(request.body, version, server, limits), limits.body_decoded)
    read_exactly(payload, posted)
    return payload
