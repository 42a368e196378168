"""Content negotiation of HTTP version 1: pure functions from request headers to decisions.

The rules are those of Mercurial's specification of the wire protocol ("Content Negotiation", "httpmediatype",
"compression").  Where it is silent, this module does what Mercurial 7.2's own server does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import attrs

from .compression import DEFAULT_ENGINES, NONE, ZLIB, Engine
from .errors import BodyTooLarge, NotAcceptable, RequestError, UnsupportedMediaType

__all__ = [
    "ANY_BYTES",
    "HG_ERROR",
    "MEDIA_TYPE_01",
    "MEDIA_TYPE_02",
    "ClientProtocol",
    "Encoding",
    "HeaderSource",
    "ServerCapabilities",
    "choose_encoding",
    "choose_plain_encoding",
    "content_length",
    "media_type_version",
    "numbered",
    "parse_form",
    "posted_arguments_length",
    "read_client_protocol",
    "read_header_arguments",
    "vary",
]

MEDIA_TYPE_01 = "application/mercurial-0.1"
MEDIA_TYPE_02 = "application/mercurial-0.2"
HG_ERROR = "application/hg-error"

ANY_BYTES = "application/octet-stream"
"""The media type of a body that is not described further.  Some programs send pushes with it, and hgweb takes them."""

_VERSIONS = ("0.1", "0.2")
_MEDIA_TYPES = {"0.1": MEDIA_TYPE_01, "0.2": MEDIA_TYPE_02}
_MEDIA_TYPE_VERSIONS = {media_type: version for version, media_type in _MEDIA_TYPES.items()} | {ANY_BYTES: "0.1"}


class HeaderSource(Protocol):
    """Request headers by name, as HTTP spells them: ``X-HgProto-1``, ``Content-Length``.  A ``dict`` will do.

    Everything here looks names up in exactly these spellings, so a source may keep a table of them.  A source may also
    have a method ``numbered(prefix)`` that does what :func:`numbered` does.
    """

    def get(self, name: str, /) -> str | None: ...


def _versions(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if not value or not set(value) <= set(_VERSIONS):
        raise ValueError(f"{attribute.name} must name some of {', '.join(_VERSIONS)}, not {value!r}")


@attrs.frozen(kw_only=True)
class ServerCapabilities:
    """The server's side of the negotiation, as its ``capabilities`` reply announces it.

    Attributes:
        engines: compression engines, best first.  The order of the server decides.
        legacy_engine: the engine for streams of ``application/mercurial-0.1``.  Clients expect zlib.
        receive: media type versions accepted for request bodies; ``0.2`` bodies are decompressed.
        send: media type versions of responses.
        max_header_length: longest ``X-HgArg-<N>`` header line a client should send, in bytes; 0 asks for arguments in
            the query string.
        post_args: whether arguments may be posted (``httppostargs``).

    Raises:
        ValueError: for an unknown version, an engine named twice, or 0.2 without an engine.
    """

    engines: tuple[Engine, ...] = DEFAULT_ENGINES
    legacy_engine: Engine = ZLIB
    receive: tuple[str, ...] = attrs.field(default=_VERSIONS, validator=_versions)
    send: tuple[str, ...] = attrs.field(default=_VERSIONS, validator=_versions)
    max_header_length: int = attrs.field(default=1024, validator=attrs.validators.ge(0))
    post_args: bool = False

    def __attrs_post_init__(self) -> None:
        if len({engine.name for engine in self.engines}) != len(self.engines):
            raise ValueError("a compression engine is listed twice")
        if self._uses_02 and not self.engines:
            raise ValueError("application/mercurial-0.2, sent or received, requires at least one compression engine")

    @property
    def _uses_02(self) -> bool:
        return "0.2" in self.send or "0.2" in self.receive

    def capabilities(self) -> list[bytes]:
        """The tokens for a ``capabilities`` reply.

        A lowest version other than 0.1 is announced as ``minrx`` or ``mintx``, so that a client can explain the
        failure to its user.  ``compression`` is there for both directions: a client that sends 0.2 has to know what
        the server decompresses.
        """
        media = sorted({f"{version}rx" for version in self.receive} | {f"{version}tx" for version in self.send})
        if "0.1" not in self.receive:
            media.append(f"minrx={min(self.receive)}")
        if "0.1" not in self.send:
            media.append(f"mintx={min(self.send)}")
        tokens = [f"httpheader={self.max_header_length}", f"httpmediatype={','.join(media)}"]
        if self.post_args:
            tokens.append("httppostargs")
        if self._uses_02:
            tokens.append("compression=" + ",".join(quote(engine.name) for engine in self.engines))
        return [token.encode("ascii") for token in tokens]


@attrs.frozen
class ClientProtocol:
    """The client's side of the negotiation, from ``X-HgProto-<N>``.

    Attributes:
        tokens: all parameters in the order sent.
        media_types: the versions among 0.1 and 0.2 that the client accepts; 0.1 if it names neither.
        engines: names of the compression formats it accepts; ``zlib`` and ``none`` if it names none.
    """

    tokens: tuple[str, ...] = ()
    media_types: frozenset[str] = frozenset({"0.1"})
    engines: tuple[str, ...] = ("zlib", "none")


@attrs.frozen
class Encoding:
    """The encoding of a response body.

    Attributes:
        media_type: the value of ``Content-Type``.
        engine: ``None`` for an uncompressed body in 0.1.
    """

    media_type: str
    engine: Engine | None


_PROTOCOL_LENGTH = 4096
"""Maximum length of ``X-HgProto``, all headers together.

Clients send about 60 bytes.  A thousand headers could hold megabytes.
"""

_USUAL_PROTOCOL = 500
"""Maximum length of a value whose parsed form is cached."""


def numbered(headers: HeaderSource, prefix: str) -> Sequence[str]:
    """The values of the headers ``<prefix>1``, ``<prefix>2``, …, up to the first that is absent."""
    own: Callable[[str], Sequence[str]] | None = getattr(headers, "numbered", None)
    if own is not None:
        return own(prefix)
    values: list[str] = []
    while (value := headers.get(f"{prefix}{len(values) + 1}")) is not None:
        values.append(value)
    return values


def _parse_client_protocol(value: str) -> ClientProtocol:
    tokens = tuple(token for token in value.split(" ") if token)
    media_types = frozenset(_VERSIONS).intersection(tokens) or frozenset({"0.1"})
    for token in tokens:
        if token.startswith("comp="):
            return ClientProtocol(tokens, media_types, tuple(token[len("comp=") :].split(",")))
    return ClientProtocol(tokens, media_types)


_parse_usual_protocol = functools.lru_cache(maxsize=64)(_parse_client_protocol)


def read_client_protocol(headers: HeaderSource) -> ClientProtocol:
    """Read ``X-HgProto-<N>``.

    The headers are joined before they are split at spaces, so a value may break anywhere.  The first ``comp`` parameter
    counts.  Names are compared exactly.

    Raises:
        RequestError: for more than 4096 bytes.
    """
    value = "".join(numbered(headers, "X-HgProto-"))
    if len(value) > _PROTOCOL_LENGTH:
        raise RequestError(f"X-HgProto exceeds {_PROTOCOL_LENGTH} bytes")
    return (_parse_usual_protocol if len(value) <= _USUAL_PROTOCOL else _parse_client_protocol)(value)


def choose_encoding(
    server: ServerCapabilities, client: ClientProtocol, *, prefer_uncompressed: bool = False
) -> Encoding:
    """Choose media type and engine of a stream.

    Args:
        server: its order of engines decides.
        client: the client's side.
        prefer_uncompressed: the data are incompressible; 0.2 then uses ``none``, which every client accepts.

    Raises:
        NotAcceptable: the client accepts only what the server does not send.
    """
    if "0.2" in server.send and "0.2" in client.media_types:
        if prefer_uncompressed:
            return Encoding(MEDIA_TYPE_02, NONE)
        for engine in server.engines:
            if engine.name in client.engines:
                return Encoding(MEDIA_TYPE_02, engine)
        if not ("0.1" in server.send and "0.1" in client.media_types):
            return Encoding(MEDIA_TYPE_02, NONE)
    if "0.1" in server.send:
        return Encoding(MEDIA_TYPE_01, server.legacy_engine)
    raise NotAcceptable(
        "this server only sends application/mercurial-0.2, which your client does not accept; "
        "use Mercurial 4.1 or newer"
    )


def choose_plain_encoding(server: ServerCapabilities, client: ClientProtocol) -> Encoding:
    """Choose the encoding of a response that is not a stream, or of a stream that is never compressed.

    It is 0.1 without compression, as in Mercurial's own server, unless this server does not send 0.1.

    Raises:
        NotAcceptable: as for :func:`choose_encoding`.
    """
    if "0.1" in server.send:
        return Encoding(MEDIA_TYPE_01, None)
    return choose_encoding(server, client, prefer_uncompressed=True)


def media_type_version(server: ServerCapabilities, content_type: str | None, *, required: bool) -> str:
    """The version of a request body by its ``Content-Type``, without regard to parameters.

    Args:
        server: the server's side.
        content_type: the value of the header; an absent one counts as 0.1.
        required: refuse a foreign media type, instead of reading it as 0.1.

    Returns:
        ``"0.1"`` or ``"0.2"``.

    Raises:
        UnsupportedMediaType: a foreign media type, or one that this server does not receive.
    """
    media_type = (content_type or MEDIA_TYPE_01).partition(";")[0].strip().lower()
    version = _MEDIA_TYPE_VERSIONS.get(media_type)
    received = " or ".join(_MEDIA_TYPES[each] for each in server.receive)
    if version is None:
        if required:
            raise UnsupportedMediaType(f"the request body must be {received}")
        version = "0.1"
    if version not in server.receive:
        raise UnsupportedMediaType(
            f"this server only receives request bodies as {received}, not as {_MEDIA_TYPES[version]}; "
            "use a client that sends that"
        )
    return version


_ESCAPES = re.compile(rb"(?:%[0-9A-Fa-f]{2}){1,1024}")
"""Runs of percent escapes.  The bound keeps the memory of a match small."""


def _unquote(value: bytes) -> bytes:
    """Decode percent escapes and plus signs; malformed escapes are kept as they are.

    Its memory is the size of the value, which ``urllib`` exceeds seventyfold for a value of escapes alone.
    """
    value = value.replace(b"+", b" ")
    if b"%" not in value:
        return value
    decoded, start = bytearray(), 0
    # Long values have few escapes, and find() is ten times as fast as a search for the expression.
    while (found := value.find(b"%", start)) >= 0:
        decoded += value[start:found]
        if (run := _ESCAPES.match(value, found)) is None:
            decoded += b"%"
            start = found + 1
        else:
            decoded += bytes.fromhex(run[0].replace(b"%", b"").decode("ascii"))
            start = run.end()
    decoded += value[start:]
    return bytes(decoded)


def parse_form(value: str, maximum: int | None = None) -> list[tuple[str, bytes]]:
    """Parse ``application/x-www-form-urlencoded`` text, as WSGI provides it, into names and bytes.

    Only ``&`` separates.  Blank values and names without ``=`` are kept; malformed escapes are kept as they are.

    Args:
        value: text whose characters are bytes.
        maximum: number of pairs accepted; ``None`` accepts any number.

    Raises:
        RequestError: too many pairs, or characters above U+00FF.
    """
    if maximum is not None and value.count("&") >= maximum:
        raise RequestError(f"more than {maximum} arguments")
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raise RequestError("invalid WSGI environ: non-latin-1 characters") from None
    pairs = []
    for part in filter(None, raw.split(b"&")):
        name, _, data = part.partition(b"=")
        pairs.append((_unquote(name).decode("latin-1"), _unquote(data)))
    return pairs


def read_header_arguments(headers: HeaderSource, limit: int, maximum: int | None = None) -> list[tuple[str, bytes]]:
    """Read the arguments in ``X-HgArg-<N>``.  They are joined before they are parsed, so an escape may be split.

    Args:
        headers: of the request.
        limit: maximum length of all headers together, in bytes.
        maximum: number of arguments accepted; ``None`` accepts any number.

    Raises:
        RequestError: more bytes or arguments than accepted, or a header sent twice: servers join repeated headers
            with a comma, which no client leaves unescaped in a value.
    """
    value = "".join(numbered(headers, "X-HgArg-"))
    if len(value) > limit:
        raise RequestError(f"arguments exceed {limit} bytes")
    if "," in value:
        raise RequestError("an X-HgArg header was sent twice, or contains an unescaped comma")
    return parse_form(value, maximum)


def _parse_length(header: str, value: str, limit: int, too_long: type[RequestError]) -> int:
    if not (value.isascii() and value.isdigit()):
        raise RequestError(f"{header} is not a number of bytes")
    if len(value) > 18 or int(value) > limit:
        raise too_long(f"{header} exceeds {limit} bytes")
    return int(value)


def content_length(headers: HeaderSource, limit: int) -> int | None:
    """The length of a request body by its ``Content-Length``, in bytes; ``None`` if absent or empty.

    Raises:
        RequestError: it is not a decimal number.
        BodyTooLarge: it exceeds ``limit``.
    """
    value = headers.get("Content-Length")
    return _parse_length("Content-Length", value, limit, BodyTooLarge) if value else None


def posted_arguments_length(headers: HeaderSource, limit: int) -> int:
    """How many bytes at the start of the body are arguments, by ``X-HgArgs-Post``; 0 if absent.

    Raises:
        RequestError: it is not a decimal number, or exceeds ``limit``.
    """
    value = headers.get("X-HgArgs-Post")
    return 0 if value is None else _parse_length("X-HgArgs-Post", value, limit, RequestError)


def vary(headers: HeaderSource) -> str:
    """The ``Vary`` header of a reply: the numbered headers that decided it, and the first absent one of each kind.

    An added ``X-HgArg-3`` could change the reply, so a cache must compare that as well.
    """
    counts = len(numbered(headers, "X-HgArg-")), len(numbered(headers, "X-HgProto-"))
    return _usual_vary(*counts) if sum(counts) <= _USUAL_HEADERS else _vary(*counts)


_USUAL_HEADERS = 50
"""Maximum number of headers for a ``Vary`` to be cached; clients choose it, and each takes 12 bytes."""


def _vary(arguments: int, protocol: int) -> str:
    names = [f"X-HgArg-{number}" for number in range(1, arguments + 2)]
    names += [f"X-HgProto-{number}" for number in range(1, protocol + 2)]
    return ", ".join(names)


_usual_vary = functools.lru_cache(maxsize=256)(_vary)
