"""The client of HTTP version 1.

The capabilities of the server decide how a request is sent: where its arguments go, whether a body is sent as 0.1 or
0.2, and with which engine.  The client fails before it sends anything if client and server have nothing in common.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from urllib.parse import urlencode

import attrs

from ..commands.batch import escape, unescape
from ..compression import BZIP2, NONE, ZLIB, ZSTD, DecodingReader, Engine
from ..errors import CommandRefused, LimitExceeded, LocalProtocolError, NegotiationError, RemoteProtocolError
from ..limits import Limits
from ..negotiation import HG_ERROR, MEDIA_TYPE_01, MEDIA_TYPE_02
from ..streams import read_exactly
from .base import COMMANDS, REPLY_BYTES, Call, Client, Outcome, Reply, read_all, refusal
from .capabilities import Capabilities
from .connection import PIECE, Response, Source, pieces_of, printable

__all__ = ["DECODED_ENGINES", "V1Client", "argument_headers"]

DECODED_ENGINES = (ZSTD, ZLIB, NONE, BZIP2)
"""The engines used by default, in the order in which Mercurial's own client lists them."""

_HANDSHAKE = "capabilities"
_CAPABILITIES_BYTES = 1024 * 1024
"""Maximum size of that reply.  Mercurial's own has less than 1 KiB."""

_IDLE_BYTES = 16 * 1024 * 1024
"""Maximum number of bytes in a row that decompress to nothing; otherwise a client could be made to read forever.

Every format yields data after each block.  bzip2 has the largest blocks, with 900 kB.
"""

_PLAIN_STREAMS = frozenset({"stream_out"})
"""Streams that 0.1 does not compress.  It compresses all others, without indicating it."""

_VERSIONS = ("0.1", "0.2")


def argument_headers(name: str, value: str, limit: int) -> list[tuple[str, str]]:
    """Split a value into headers ``<name>-1``, ``<name>-2``, …

    Args:
        name: the name without its number.
        value: the value.
        limit: maximum length of a header line in bytes, with name and line end.

    Returns:
        The headers; none if a line has no room for a value, or the value requires a thousand lines.
    """
    room = limit - len(f"{name}-000: \r\n")
    if room < 1 or len(value) > 999 * room:
        return []
    return [
        (f"{name}-{number}", value[start : start + room])
        for number, start in enumerate(range(0, len(value), room), start=1)
    ]


def _by_name(engines: Iterable[Engine]) -> Mapping[str, Engine]:
    return {engine.name: engine for engine in engines}


@attrs.define(eq=False, repr=False)
class V1Client(Client):
    """Speaks HTTP version 1.

    The first call asks the server for its capabilities, which decide how arguments travel and what is negotiated.

    Args:
        url, auth, timeout, ssl_context, limits: as for :class:`Client`.
        engines: compression engines to accept, in the order to list them; the server's order decides.  Request bodies
            are compressed with one of these, or of :data:`DECODED_ENGINES`.
    """

    _engines: Mapping[str, Engine] = attrs.field(default=DECODED_ENGINES, converter=_by_name, kw_only=True)
    _capabilities: Capabilities | None = attrs.field(default=None, init=False)

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the server, requested once."""
        if self._capabilities is None:
            reply = self._reply(self._request(Call(_HANDSHAKE), Capabilities()), compressed=False)
            self._capabilities = Capabilities(read_all(reply, _CAPABILITIES_BYTES))
        return self._capabilities

    def run(self, call: Call, *, compressed: bool | None = None) -> Reply:
        """Run a command, as :meth:`Client.call` does.

        Args:
            call: the command.
            compressed: whether a 0.1 reply is compressed, which the reply does not indicate.  It is known for the
                standard commands.  For any other, a stream of unknown length is taken as compressed if it starts as
                zlib data do.
        """
        if compressed is None and call.name in COMMANDS:
            compressed = COMMANDS[call.name].reply == "stream" and call.name not in _PLAIN_STREAMS
        capabilities = self.capabilities
        if not set(capabilities.sends) & set(_VERSIONS):
            announced = printable(capabilities["httpmediatype"][:100])
            raise self._nothing_in_common(f"this client only reads replies of 0.1 and 0.2; httpmediatype={announced}")
        return self._reply(self._request(call, capabilities), compressed=compressed)

    def _nothing_in_common(self, reason: str) -> NegotiationError:
        return NegotiationError(f"{self.connection.address.url}: no common media type: {reason}")

    def call_many(self, calls: Sequence[Call], *, limit: int = REPLY_BYTES) -> list[Outcome]:
        """Run several commands: as a ``batch`` if all of them can be batched, otherwise one after the other.

        A server refuses a batch as a whole; this is raised.
        """
        unfit = any(call.data is not None or not _batchable(call.name) for call in calls)
        if unfit or len(calls) < 2 or "batch" not in self.capabilities:
            return list(self._one_by_one(calls, limit))
        cmds = b";".join(map(_batch_command, calls))
        permission = "push" if any(call.writes for call in calls) else None
        replies = self.call_bytes("batch", {"cmds": cmds}, permission=permission, limit=limit)
        # Check the size before splitting: a separator is one byte in the reply, but an object in a list.
        if (count := replies.count(b";") + 1) != len(calls):
            raise RemoteProtocolError(f"the server gave {count} replies to a batch of {len(calls)} commands")
        return [Outcome(unescape(reply)) for reply in replies.split(b";")]

    def _one_by_one(self, calls: Iterable[Call], limit: int) -> Iterator[Outcome]:
        room = limit
        for call in calls:
            try:
                reply = self.run(call)
            except CommandRefused as error:
                yield Outcome(error=error)
            else:
                try:
                    data = read_all(reply, room)
                except LimitExceeded:
                    raise LimitExceeded(f"the replies have more than {limit} bytes") from None
                room -= len(data)
                yield Outcome(data)

    def _request(self, call: Call, capabilities: Capabilities) -> Response:
        query: list[tuple[str, bytes | str]] = [("cmd", call.name)]
        headers = [("Accept", MEDIA_TYPE_01)]
        body: list[Source] = []
        encoded = urlencode(call.encoded_arguments)
        if encoded and capabilities.post_args:
            headers.append(("X-HgArgs-Post", str(len(encoded))))
            body.append(encoded.encode("ascii"))
        elif encoded:
            in_headers = argument_headers("X-HgArg", encoded, capabilities.max_header_length)
            headers += in_headers
            if not in_headers:
                query += call.encoded_arguments.items()
        if "httpmediatype" in capabilities:
            accepted = f"0.1 0.2 comp={','.join(self._engines)}"
            headers += argument_headers("X-HgProto", accepted, capabilities.max_header_length or 1024)
        if call.data is not None:
            body.append(call.data)
        # Like Mercurial's client, send a command that writes as a POST, with an empty body if necessary.
        post = bool(body) or call.writes
        if post:
            media_type, body = self._encode_body(body, capabilities)
            headers.append(("Content-Type", media_type))
        return self.connection.request(
            "POST" if post else "GET",
            "?" + urlencode(query),
            headers,
            body,
            repeatable=call.data is None and not call.writes,
        )

    def _encode_body(self, body: list[Source], capabilities: Capabilities) -> tuple[str, list[Source]]:
        """Choose media type and engine of a request body, and compress it for 0.2.

        Posted arguments and data are compressed as one, as the server reads them.  The length stays known unless a file
        or an iterable has to be compressed, which is then sent in chunks.

        Raises:
            NegotiationError: the server accepts nothing that this client can send.
        """
        receives = capabilities.receives
        if "0.1" in receives:
            return MEDIA_TYPE_01, body
        if "0.2" not in receives:
            announced = printable(capabilities["httpmediatype"][:100])
            raise self._nothing_in_common(f"this client only sends 0.1 and 0.2; httpmediatype={announced}")
        if not body:
            return MEDIA_TYPE_02, body
        offered = capabilities.words("compression")
        engines = {**_by_name(DECODED_ENGINES), **self._engines}
        engine = next((engines[name] for name in offered if name in engines), None)
        if engine is None:
            raise self._nothing_in_common(
                "the server only receives 0.2, and supports no engine of this client; "
                f"compression={printable(','.join(offered)[:100])}"
            )
        if engine.name == NONE.name:
            return MEDIA_TYPE_02, [engine.prefix, *body]
        compressed = _compress(engine, body)
        in_memory = all(isinstance(source, bytes) for source in body)
        return MEDIA_TYPE_02, [b"".join(compressed) if in_memory else compressed]

    def _reply(self, response: Response, *, compressed: bool | None) -> Reply:
        media_type = response.media_type
        if response.status != 200 or media_type == HG_ERROR:
            raise refusal(response)
        engine: Engine | None = None
        start = b""
        try:
            if media_type == MEDIA_TYPE_02:
                engine = self._named_engine(response)
            elif media_type != MEDIA_TYPE_01:
                shown = media_type or "no media type"
                raise RemoteProtocolError(f"{self.connection.address.url}: the reply is {shown}, not {MEDIA_TYPE_01}")
            elif compressed:
                engine = ZLIB
            elif compressed is None and "Content-Length" not in response.headers:
                start = read_exactly(response, 2)
                if _begins_as_zlib(start):
                    engine = ZLIB
        except BaseException:
            response.close()
            raise
        pieces: Iterator[bytes] = iter(lambda: response.read(PIECE), b"")
        if start:
            pieces = chain([start], pieces)
        if engine is None:
            return Reply(pieces, response.close, media_type=media_type)
        return Reply(_decode(pieces, engine, self.limits), response.close, media_type=media_type, engine=engine.name)

    def _named_engine(self, response: Response) -> Engine:
        """Read the name of the engine at the start of a 0.2 reply."""
        length = read_exactly(response, 1)
        encoded = read_exactly(response, length[0]) if length else b""
        if not encoded or len(encoded) < length[0]:
            raise RemoteProtocolError("the reply does not begin with the name of a compression engine")
        name = encoded.decode("latin-1")
        engine = self._engines.get(name)
        if engine is None:
            raise RemoteProtocolError(f"the reply is compressed with {name[:40]!r}, which the client did not request")
        return engine


def _compress(engine: Engine, sources: Iterable[Source]) -> Iterator[bytes]:
    with closing(_chain(sources)) as chunks:
        yield engine.prefix
        yield from engine.compress(chunks)


def _chain(sources: Iterable[Source]) -> Generator[bytes, None, None]:
    for source in sources:
        with closing(pieces_of(source)) as pieces:
            yield from pieces


@attrs.define
class _Idle:
    """The source of a decoder.  ``size`` counts the bytes read since it last yielded any."""

    pieces: Iterator[bytes]
    size: int = 0

    def read(self, size: int, /) -> bytes:
        data = next(self.pieces, b"")
        self.size += len(data)
        if self.size > _IDLE_BYTES:
            raise LimitExceeded(f"the server sent {self.size} bytes in a row that decompress to nothing")
        return data


def _decode(pieces: Iterator[bytes], engine: Engine, limits: Limits) -> Iterator[bytes]:
    source = _Idle(pieces)
    reader = DecodingReader(source, engine, limits)
    while piece := reader.read(PIECE):
        source.size = 0
        yield piece


def _begins_as_zlib(start: bytes) -> bool:
    # RFC 1950: deflate with a window of 32 KiB, and the two bytes are a multiple of 31.
    return len(start) == 2 and start[0] == 0x78 and not int.from_bytes(start, "big") % 31


def _batchable(name: str) -> bool:
    return name not in COMMANDS or COMMANDS[name].batchable


def _batch_command(call: Call) -> bytes:
    if set(call.name) & set(" ;,=:"):
        raise LocalProtocolError(f"not a name for a command: {call.name!r}")
    pairs = (escape(name.encode()) + b"=" + escape(value) for name, value in call.encoded_arguments.items())
    return call.name.encode() + b" " + b",".join(pairs)
