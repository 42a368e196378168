"""Content negotiation of HTTP version 1: pure functions from request headers to decisions.

The rules are those of the content negotiation patch ("Content Negotiation", "httpmediatype", "compression"); where it
is silent, what Mercurial 7.2's own server was seen to do.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

import attrs

from .compression import DEFAULT_ENGINES, NONE, ZLIB, Engine
from .errors import BodyTooLarge, NotAcceptable, RequestError, UnsupportedMediaType

__all__ = [
    "HG_ERROR",
    "MEDIA_TYPE_01",
    "MEDIA_TYPE_02",
    "ClientProtocol",
    "Encoding",
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

_VERSIONS = ("0.1", "0.2")
_MEDIA_TYPES = {"0.1": MEDIA_TYPE_01, "0.2": MEDIA_TYPE_02}
_MEDIA_TYPE_VERSIONS = {media_type: version for version, media_type in _MEDIA_TYPES.items()}


def _versions(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if not value or not set(value) <= set(_VERSIONS):
        raise ValueError(f"{attribute.name} must name some of {', '.join(_VERSIONS)}, not {value!r}")


@attrs.frozen(kw_only=True)
class ServerCapabilities:
    """What a server offers to negotiate, as its ``capabilities`` reply tells.

    Attributes:
        engines: compression engines, best first.  The server's order decides.
        legacy_engine: what streams of ``application/mercurial-0.1`` are compressed with.  Clients expect zlib.
        receive: media type versions that request bodies may have; ``0.2`` bodies are decompressed.
        send: media type versions that responses may have.
        max_header_length: longest ``X-HgArg-<N>`` header line a client should send, in bytes; 0 asks for arguments in
            the query string.
        post_args: whether arguments may be posted (``httppostargs``).
    """

    engines: tuple[Engine, ...] = DEFAULT_ENGINES
    legacy_engine: Engine = ZLIB
    receive: tuple[str, ...] = attrs.field(default=_VERSIONS, validator=_versions)
    send: tuple[str, ...] = attrs.field(default=_VERSIONS, validator=_versions)
    max_header_length: int = attrs.field(default=1024, validator=attrs.validators.ge(0))
    post_args: bool = False

    def __attrs_post_init__(self) -> None:
        if len({engine.name for engine in self.engines}) != len(self.engines):
            raise ValueError("an engine is offered twice")
        if "0.2" in self.send and not self.engines:
            raise ValueError("sending application/mercurial-0.2 takes at least one compression engine")

    def capabilities(self) -> list[bytes]:
        """The tokens that this offer adds to a ``capabilities`` reply.

        A lower bound other than 0.1 is told as ``minrx`` or ``mintx``, for the client to explain it to its user.
        """
        media = sorted({f"{version}rx" for version in self.receive} | {f"{version}tx" for version in self.send})
        if "0.1" not in self.receive:
            media.append(f"minrx={min(self.receive)}")
        if "0.1" not in self.send:
            media.append(f"mintx={min(self.send)}")
        tokens = [f"httpheader={self.max_header_length}", f"httpmediatype={','.join(media)}"]
        if self.post_args:
            tokens.append("httppostargs")
        if "0.2" in self.send:
            tokens.append("compression=" + ",".join(quote(engine.name) for engine in self.engines))
        return [token.encode("ascii") for token in tokens]


@attrs.frozen
class ClientProtocol:
    """What a client said it understands, in ``X-HgProto-<N>``.

    Attributes:
        tokens: all parameters in the order sent.
        media_types: those of 0.1 and 0.2 that the client takes; 0.1 when it said nothing of either.
        engines: names of the compression formats it takes, ``zlib`` and ``none`` when it said nothing.
    """

    tokens: tuple[str, ...] = ()
    media_types: frozenset[str] = frozenset({"0.1"})
    engines: tuple[str, ...] = ("zlib", "none")


@attrs.frozen
class Encoding:
    """How a response body is encoded; ``engine`` is ``None`` for a body sent as it is in 0.1."""

    media_type: str
    engine: Engine | None


_PROTOCOL_LENGTH = 4096
"""The most of ``X-HgProto``.  Clients send some 60 bytes; a thousand headers could be megabytes, and it is cached."""


def numbered(environ: Mapping[str, Any], key: str) -> list[str]:
    """The values of headers ``<key>1``, ``<key>2``, …  A gap ends them."""
    values: list[str] = []
    while (value := environ.get(f"{key}{len(values) + 1}")) is not None:
        values.append(value)
    return values


@functools.lru_cache(maxsize=64)
def _parse_client_protocol(value: str) -> ClientProtocol:
    tokens = tuple(token for token in value.split(" ") if token)
    media_types = frozenset(_VERSIONS).intersection(tokens) or frozenset({"0.1"})
    for token in tokens:
        if token.startswith("comp="):
            return ClientProtocol(tokens, media_types, tuple(token[len("comp=") :].split(",")))
    return ClientProtocol(tokens, media_types)


def read_client_protocol(environ: Mapping[str, Any]) -> ClientProtocol:
    """Read ``X-HgProto-<N>`` of a WSGI environ.

    The headers are joined before they are split at spaces, so a value may break anywhere.  Of several ``comp``
    parameters the first counts.  Names are compared exactly.

    Raises:
        RequestError: for more than 4096 bytes.
    """
    value = "".join(numbered(environ, "HTTP_X_HGPROTO_"))
    if len(value) > _PROTOCOL_LENGTH:
        raise RequestError(f"X-HgProto exceeds {_PROTOCOL_LENGTH} bytes")
    return _parse_client_protocol(value)


def choose_encoding(
    offer: ServerCapabilities, client: ClientProtocol, *, prefer_uncompressed: bool = False
) -> Encoding:
    """Choose media type and engine of a stream.

    Args:
        offer: the server's side; its order of engines decides.
        client: the client's side.
        prefer_uncompressed: the data would not shrink; 0.2 then uses ``none``, which every client takes.

    Raises:
        NotAcceptable: for a client that takes only what the server does not send.
    """
    if "0.2" in offer.send and "0.2" in client.media_types:
        if prefer_uncompressed:
            return Encoding(MEDIA_TYPE_02, NONE)
        for engine in offer.engines:
            if engine.name in client.engines:
                return Encoding(MEDIA_TYPE_02, engine)
        if not ("0.1" in offer.send and "0.1" in client.media_types):
            return Encoding(MEDIA_TYPE_02, NONE)
    if "0.1" in offer.send:
        return Encoding(MEDIA_TYPE_01, offer.legacy_engine)
    raise NotAcceptable(
        "this server only sends application/mercurial-0.2, which your client does not take; Mercurial 4.1 and newer do"
    )


def choose_plain_encoding(offer: ServerCapabilities, client: ClientProtocol) -> Encoding:
    """Choose the encoding of a response that is not a stream, or is one that is never compressed.

    Such responses go out as they are in 0.1 (as Mercurial's own server sends them), unless the server does not send 0.1
    any more.
    """
    if "0.1" in offer.send:
        return Encoding(MEDIA_TYPE_01, None)
    return choose_encoding(offer, client, prefer_uncompressed=True)


def media_type_version(offer: ServerCapabilities, content_type: str | None, *, required: bool) -> str:
    """Tell the version of a request body from its ``Content-Type``, parameters aside.

    Args:
        offer: the server's side.
        content_type: the header's value; absent counts as 0.1.
        required: whether a foreign media type is refused rather than read as 0.1.

    Returns:
        ``"0.1"`` or ``"0.2"``.

    Raises:
        UnsupportedMediaType: for a foreign media type, or one this server does not receive.
    """
    media_type = (content_type or MEDIA_TYPE_01).partition(";")[0].strip().lower()
    version = _MEDIA_TYPE_VERSIONS.get(media_type)
    if version is None:
        if required:
            raise UnsupportedMediaType(
                f"the request body must be {' or '.join(_MEDIA_TYPES[v] for v in offer.receive)}"
            )
        version = "0.1"
    if version not in offer.receive:
        raise UnsupportedMediaType(
            f"this server receives request bodies as {' or '.join(_MEDIA_TYPES[v] for v in offer.receive)} only; "
            f"a {'newer' if version == '0.1' else 'different'} client is needed"
        )
    return version


def parse_form(value: str, most: int | None = None) -> list[tuple[str, bytes]]:
    """Parse ``application/x-www-form-urlencoded`` text, as WSGI hands it over, to names and bytes.

    Only ``&`` separates.  Blank values and names without ``=`` are kept; malformed escapes stand for themselves.

    Raises:
        RequestError: for more than ``most`` pairs, or characters that are no bytes.
    """
    if not value:
        return []
    try:
        pairs = parse_qsl(value, keep_blank_values=True, encoding="latin-1", max_num_fields=most, separator="&")
    except ValueError:
        raise RequestError(f"more than {most} arguments") from None
    try:
        return [(name, data.encode("latin-1")) for name, data in pairs]
    except UnicodeEncodeError:
        raise RequestError("the server hands on bytes as other characters than WSGI says") from None


def read_header_arguments(environ: Mapping[str, Any], limit: int, most: int | None = None) -> list[tuple[str, bytes]]:
    """Read the arguments in ``X-HgArg-<N>``, joined before they are parsed, so an escape may be broken in two.

    Raises:
        RequestError: for more than ``limit`` bytes or ``most`` arguments, or for a header sent twice.  Servers join
            repeated headers with a comma, which no client leaves unescaped in a value.
    """
    value = "".join(numbered(environ, "HTTP_X_HGARG_"))
    if len(value) > limit:
        raise RequestError(f"arguments exceed {limit} bytes")
    if "," in value:
        raise RequestError("an X-HgArg header was sent twice, or holds an unescaped comma")
    return parse_form(value, most)


def _parse_length(header: str, value: str, limit: int, too_long: type[RequestError]) -> int:
    if not (value.isascii() and value.isdigit()):
        raise RequestError(f"{header} is not a number of bytes")
    if len(value) > 18 or int(value) > limit:
        raise too_long(f"{header} exceeds {limit} bytes")
    return int(value)


def content_length(environ: Mapping[str, Any], limit: int) -> int | None:
    """How long a request body is by its ``Content-Length``; ``None`` when absent.

    Raises:
        RequestError: for what is not a decimal number.
        BodyTooLarge: if it exceeds ``limit``.
    """
    value = environ.get("CONTENT_LENGTH")
    return _parse_length("Content-Length", value, limit, BodyTooLarge) if value else None


def posted_arguments_length(environ: Mapping[str, Any], limit: int) -> int:
    """How many bytes of the body are arguments: ``X-HgArgs-Post``, 0 when absent.

    Raises:
        RequestError: for what is not a decimal number, or exceeds ``limit``.
    """
    value = environ.get("HTTP_X_HGARGS_POST")
    return 0 if value is None else _parse_length("X-HgArgs-Post", value, limit, RequestError)


def vary(environ: Mapping[str, Any]) -> str:
    """The ``Vary`` header of a reply: the numbered headers it was made from, and the first that is absent.

    With ``X-HgArg-3`` added the reply could be another, so a cache must compare that too.
    """
    return _vary(len(numbered(environ, "HTTP_X_HGARG_")), len(numbered(environ, "HTTP_X_HGPROTO_")))


@functools.lru_cache(maxsize=256)
def _vary(arguments: int, protocol: int) -> str:
    names = [f"X-HgArg-{number}" for number in range(1, arguments + 2)]
    names += [f"X-HgProto-{number}" for number in range(1, protocol + 2)]
    return ", ".join(names)
