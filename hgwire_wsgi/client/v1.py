"""The client of HTTP version 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from urllib.parse import urlencode

import attrs

from ..commands.batch import escape, unescape
from ..compression import BZIP2, NONE, ZLIB, ZSTD, DecodingReader, Engine
from ..errors import CommandRefused, LimitExceeded, LocalProtocolError, RemoteProtocolError
from ..limits import Limits
from ..negotiation import HG_ERROR, MEDIA_TYPE_01, MEDIA_TYPE_02
from ..streams import read_exactly
from .base import COMMANDS, REPLY_BYTES, Call, Client, Outcome, Reply, read_all, refusal
from .capabilities import Capabilities
from .connection import PIECE, Response, Source

__all__ = ["DECODED_ENGINES", "V1Client", "argument_headers"]

DECODED_ENGINES = (ZSTD, ZLIB, NONE, BZIP2)
"""What replies are accepted in unless told otherwise, in the order in which Mercurial's own client lists them."""

_HANDSHAKE = "capabilities"
_CAPABILITIES_BYTES = 1024 * 1024
"""Most bytes of that reply, which is taken apart.  Mercurial's own has less than 1 KiB."""

_IDLE_BYTES = 16 * 1024 * 1024
"""Most bytes that decompress to nothing: without a bound, a server could make a client read for ever.

A format gives something after each of its blocks; the largest are those of bzip2, with 900 kB.
"""

_PLAIN_STREAMS = frozenset({"stream_out"})
"""Streams that version 0.1 sends as they are; it compresses all others, without saying so."""


def argument_headers(name: str, value: str, limit: int) -> list[tuple[str, str]]:
    """Spread a value over headers ``<name>-1``, ``<name>-2``, …

    Args:
        name: the name without its number.
        value: what to send.
        limit: longest header line, its name and line end included.

    Returns:
        The headers; none if a line has no room for a value.
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
        engines: compression engines to accept, in the order to name them; the server chooses.
    """

    _engines: Mapping[str, Engine] = attrs.field(default=DECODED_ENGINES, converter=_by_name, kw_only=True)
    _capabilities: Capabilities | None = attrs.field(default=None, init=False)

    @property
    def capabilities(self) -> Capabilities:
        """What the server can do, asked once."""
        if self._capabilities is None:
            reply = self._reply(self._request(Call(_HANDSHAKE), Capabilities()), compressed=False)
            self._capabilities = Capabilities(read_all(reply, _CAPABILITIES_BYTES))
        return self._capabilities

    def run(self, call: Call, *, compressed: bool | None = None) -> Reply:
        """Run a command, as :meth:`Client.call` does.

        Args:
            call: the command.
            compressed: whether a reply in 0.1 is compressed, which nothing in it says.  Known for the standard
                commands; of another one a stream of unknown length counts as compressed if it begins as zlib does.
        """
        if compressed is None and call.name in COMMANDS:
            compressed = COMMANDS[call.name].reply == "stream" and call.name not in _PLAIN_STREAMS
        return self._reply(self._request(call, self.capabilities), compressed=compressed)

    def call_many(self, calls: Sequence[Call], *, limit: int = REPLY_BYTES) -> list[Outcome]:
        """Run several commands: as a ``batch`` if all of them fit into one, else one after the other.

        A server refuses a batch as a whole; that is raised.
        """
        unfit = any(call.data is not None or not _batchable(call.name) for call in calls)
        if unfit or len(calls) < 2 or "batch" not in self.capabilities:
            return list(self._one_by_one(calls, limit))
        cmds = b";".join(map(_batch_command, calls))
        replies = self.call_bytes("batch", {"cmds": cmds}, limit=limit)
        # Before they are split: a separator costs one byte there, and an object here.
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
        if body:
            headers.append(("Content-Type", MEDIA_TYPE_01))
        return self.connection.request(
            "POST" if body or call.data is not None else "GET",
            "?" + urlencode(query),
            headers,
            body,
            repeatable=call.data is None and not call.writes,
        )

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
        """Read which engine a reply in 0.2 says it is compressed with."""
        length = read_exactly(response, 1)
        encoded = read_exactly(response, length[0]) if length else b""
        if not encoded or len(encoded) < length[0]:
            raise RemoteProtocolError("the reply does not begin with the name of a compression engine")
        name = encoded.decode("latin-1")
        engine = self._engines.get(name)
        if engine is None:
            raise RemoteProtocolError(f"the reply is compressed with {name[:40]!r}, which was not asked for")
        return engine


@attrs.define
class _Idle:
    """What a decoder reads from, and how many bytes it has taken without giving any."""

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
