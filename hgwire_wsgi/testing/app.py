"""Testing wire protocol applications with WebTest: for hosts that test their own commands and policies."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlencode

import attrs
from webtest import TestApp

from ..compression import ENGINES, DecodingReader, Engine
from ..limits import Limits
from ..negotiation import MEDIA_TYPE_01, MEDIA_TYPE_02

__all__ = ["WireReply", "WireTestApp"]

_HEADER_LENGTH = 1000
_ZLIB_HEADERS = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")


@attrs.frozen
class WireReply:
    """A reply, decoded as a client would decode it.

    Attributes:
        status: the HTTP status code.
        media_type: ``Content-Type``.
        engine: the compression engine that was used, ``None`` if the body was sent uncompressed.
        data: the body after decompression.
        response: WebTest's response, for everything else.
    """

    status: int
    media_type: str | None
    engine: str | None
    data: bytes
    response: Any


class WireTestApp(TestApp):  # type: ignore[misc]  # WebTest has no types
    """WebTest's ``TestApp`` that also speaks the wire protocol.

    Args:
        app: any WSGI application: a ``WireApp``, a middleware, or a whole site with one mounted in it.
        **options: those of ``TestApp``.  Its WSGI lint is on by default.
    """

    __test__ = False

    def wire(
        self,
        path: str,
        command: str,
        args: Mapping[str, bytes | str] | None = None,
        *,
        protocol: str | None = None,
        compression: Sequence[str | Engine] = (),
        via: Literal["headers", "query", "post"] = "headers",
        body: bytes | None = None,
        media_type: str = MEDIA_TYPE_01,
        user: str | None = None,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        status: int | str | None = "*",
        environ: Mapping[str, Any] | None = None,
    ) -> WireReply:
        """Send a command as a Mercurial client would.

        Args:
            path: the repository's URL path.
            command: the command's name.
            args: its arguments.
            protocol: the newest media type version to accept, ``"0.1"`` or ``"0.2"``; ``None`` sends no ``X-HgProto``.
            compression: engines to accept, best first, by name; the host's own engines as objects.
            via: how the arguments travel.  Posted ones need a server that offers ``httppostargs``.
            body: the data that the command reads in addition to its arguments; its presence makes the request a POST.
            media_type: of the body; ``application/mercurial-0.2`` compresses it with the first of ``compression``, or
                ``none``.
            user: sets ``REMOTE_USER``.
            method: overrides the method.
            headers: further request headers.
            status: the status to require, as in WebTest (default: any).
            environ: further WSGI variables.

        Returns:
            The reply.
        """
        engines = {**ENGINES, **{engine.name: engine for engine in compression if isinstance(engine, Engine)}}
        names = [engine.name if isinstance(engine, Engine) else engine for engine in compression]
        sent: dict[str, str] = {"Accept": MEDIA_TYPE_01}
        query: list[tuple[str, bytes | str]] = [("cmd", command)]
        encoded = urlencode(sorted((args or {}).items()))
        content = body
        if via == "query":
            query += sorted((args or {}).items())
        elif via == "post" and encoded:
            sent["X-HgArgs-Post"] = str(len(encoded))
            content = encoded.encode("ascii") + (body or b"")
        else:
            for start in range(0, len(encoded), _HEADER_LENGTH):
                sent[f"X-HgArg-{start // _HEADER_LENGTH + 1}"] = encoded[start : start + _HEADER_LENGTH]
        if protocol is not None:
            tokens = ["0.1"] if protocol == "0.1" else ["0.1", protocol]
            if names:
                tokens.append("comp=" + ",".join(names))
            sent["X-HgProto-1"] = " ".join(tokens)
        if content is not None:
            sent["Content-Type"] = media_type
            if media_type == MEDIA_TYPE_02:
                engine = engines[names[0] if names else "none"]
                content = engine.prefix + b"".join(engine.compress([content]))
        sent.update(headers or {})
        extra = {**(environ or {}), **({"REMOTE_USER": user} if user is not None else {})}
        response = self.request(
            f"{path}?{urlencode(query)}",
            method=method or ("GET" if content is None else "POST"),
            headers=sent,
            body=content or b"",
            environ={**self.extra_environ, **extra},
            status=status,
            expect_errors=status == "*",
        )
        return _decode(response, engines)


def _decode(response: Any, engines: Mapping[str, Engine]) -> WireReply:
    content: bytes = response.body
    media_type = response.content_type
    name: str | None = None
    if media_type == MEDIA_TYPE_02 and content:
        length = content[0]
        name, content = content[1 : 1 + length].decode("ascii"), content[1 + length :]
    elif media_type == MEDIA_TYPE_01 and content[:2] in _ZLIB_HEADERS:
        # A client knows this from the command; here the first two bytes show it: no plain text reply begins with them.
        name = "zlib"
    if name is not None:
        reader = DecodingReader(io.BytesIO(content), engines[name], Limits())
        content = b"".join(iter(lambda: reader.read(1 << 16), b""))
    return WireReply(response.status_int, media_type, name, content, response)
