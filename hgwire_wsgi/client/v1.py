"""The client of HTTP version 1."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlencode

from ..commands.batch import escape, unescape
from ..compression import BZIP2, NONE, ZLIB, ZSTD, DecodingReader, Engine, Readable
from ..errors import CommandRefused, LimitExceeded, LocalProtocolError, RemoteProtocolError
from ..limits import Limits
from ..negotiation import HG_ERROR, MEDIA_TYPE_01, MEDIA_TYPE_02
from .base import _DEFAULT_LIMITS, COMMANDS, REPLY_BYTES, Call, Client, Outcome, Reply, read_all, refusal
from .capabilities import Capabilities
from .connection import PIECE, Response, Source

__all__ = ["DECODED_ENGINES", "V1Client", "argument_headers"]

DECODED_ENGINES = (ZSTD, ZLIB, NONE, BZIP2)
"""What replies are accepted in unless told otherwise, in the order in which Mercurial's own client lists them."""

_HANDSHAKE = "capabilities"
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


class V1Client(Client):
    """Speaks HTTP version 1.

    The first call asks the server for its capabilities, which decide how arguments travel and what is negotiated.

    Args:
        url, auth, timeout, ssl_context, limits: as for :class:`Client`.
        engines: compression engines to accept, in the order to name them; the server chooses.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        timeout: float | None = 60.0,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits = _DEFAULT_LIMITS,
        engines: Sequence[Engine] = DECODED_ENGINES,
    ) -> None:
        super().__init__(url, auth=auth, timeout=timeout, ssl_context=ssl_context, limits=limits)
        self._engines = {engine.name: engine for engine in engines}
        self._capabilities: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the server can do, asked once."""
        if self._capabilities is None:
            reply = self._reply(self._request(Call(_HANDSHAKE), Capabilities()), compressed=False)
            self._capabilities = Capabilities(read_all(reply, REPLY_BYTES))
        return self._capabilities

    def call(
        self,
        name: str,
        arguments: Mapping[str, bytes | str] | None = None,
        *,
        data: Source | None = None,
        permission: str | None = None,
        compressed: bool | None = None,
    ) -> Reply:
        """Run a command, as :meth:`Client.call` has it.

        Args:
            name, arguments, data, permission: as there.
            compressed: whether a reply in 0.1 is compressed, which nothing in it says.  Known for the standard
                commands; of another one a stream of unknown length counts as compressed if it begins as zlib does.
        """
        call = Call(name, arguments or {}, data, permission)
        if compressed is None and name in COMMANDS:
            compressed = COMMANDS[name].reply == "stream" and name not in _PLAIN_STREAMS
        return self._reply(self._request(call, self.capabilities), compressed=compressed)

    def call_many(self, calls: Sequence[Call], *, limit: int = REPLY_BYTES) -> list[Outcome]:
        """Run several commands: as a ``batch`` if all of them fit into one, else one after the other.

        A server refuses a batch as a whole; that is raised.
        """
        unfit = any(call.data is not None or not _batchable(call.name) for call in calls)
        if unfit or len(calls) < 2 or "batch" not in self.capabilities:
            return list(self._one_by_one(calls, limit))
        cmds = b";".join(map(_batch_command, calls))
        replies = self.call_bytes("batch", {"cmds": cmds}, limit=limit).split(b";")
        if len(replies) != len(calls):
            raise RemoteProtocolError(f"the server gave {len(replies)} replies to a batch of {len(calls)} commands")
        return [Outcome(unescape(reply)) for reply in replies]

    def _one_by_one(self, calls: Iterable[Call], limit: int) -> Iterator[Outcome]:
        room = limit
        for call in calls:
            try:
                reply = self.call(call.name, call.arguments, data=call.data, permission=call.permission)
            except CommandRefused as error:
                yield Outcome(error=error)
            else:
                try:
                    data = read_all(reply, room)
                except LimitExceeded:
                    raise LimitExceeded(f"the replies have more than {limit} octets") from None
                room -= len(data)
                yield Outcome(data)

    def _request(self, call: Call, capabilities: Capabilities) -> Response:
        query: list[tuple[str, bytes | str]] = [("cmd", call.name)]
        headers = [("Accept", MEDIA_TYPE_01)]
        body: list[Source] = []
        encoded = urlencode(call.octets)
        if encoded and capabilities.post_args:
            headers.append(("X-HgArgs-Post", str(len(encoded))))
            body.append(encoded.encode("ascii"))
        elif encoded:
            in_headers = argument_headers("X-HgArg", encoded, capabilities.max_header_length)
            headers += in_headers
            if not in_headers:
                query += call.octets.items()
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
        source: Readable = response
        engine: Engine | None = None
        try:
            if media_type == MEDIA_TYPE_02:
                engine = self._named_engine(response)
            elif media_type != MEDIA_TYPE_01:
                shown = media_type or "no media type"
                raise RemoteProtocolError(f"{self.connection.address.url}: the reply is {shown}, not {MEDIA_TYPE_01}")
            elif compressed or (compressed is None and "Content-Length" not in response.headers):
                start = response.read(2)
                while len(start) == 1 and (more := response.read(1)):
                    start += more
                source = _Pushed(start, response)
                if compressed or _begins_as_zlib(start):
                    engine = ZLIB
        except BaseException:
            response.close()
            raise
        reader = source if engine is None else DecodingReader(source, engine, self.limits)
        return Reply(
            iter(lambda: reader.read(PIECE), b""),
            response.close,
            media_type=media_type,
            engine=None if engine is None else engine.name,
        )

    def _named_engine(self, response: Response) -> Engine:
        """Read which engine a reply in 0.2 says it is compressed with."""
        length = _read_exactly(response, 1)[0]
        name = _read_exactly(response, length).decode("latin-1")
        engine = self._engines.get(name)
        if engine is None:
            raise RemoteProtocolError(f"the reply is compressed with {name[:40]!r}, which was not asked for")
        return engine


class _Pushed:
    """A source of which some octets were read already."""

    def __init__(self, start: bytes, source: Readable) -> None:
        self._start = start
        self._source = source

    def read(self, size: int, /) -> bytes:
        if not self._start:
            return self._source.read(size)
        data, self._start = self._start[:size], self._start[size:]
        return data


def _read_exactly(response: Response, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := response.read(size - len(data))):
        data += piece
    if len(data) < size or not size:
        raise RemoteProtocolError("the reply does not begin with the name of a compression engine")
    return data


def _begins_as_zlib(start: bytes) -> bool:
    # RFC 1950: deflate with a window of 32 KiB, and the two octets are a multiple of 31.
    return len(start) == 2 and start[0] == 0x78 and not int.from_bytes(start, "big") % 31


def _batchable(name: str) -> bool:
    return name not in COMMANDS or COMMANDS[name].batchable


def _batch_command(call: Call) -> bytes:
    if set(call.name) & set(" ;,=:"):
        raise LocalProtocolError(f"not a name for a command: {call.name!r}")
    pairs = (escape(name.encode()) + b"=" + escape(value) for name, value in call.octets.items())
    return call.name.encode() + b" " + b",".join(pairs)
