"""Responses of commands as media type and bytes, and errors as a status and text."""

from __future__ import annotations

import zlib
from typing import Any

import attrs
import pytest
from fakes import FakeProvider, ask, returning

from hgwire_wsgi import (
    BZIP2,
    ZLIB,
    ZSTD,
    BytesResponse,
    CommandContext,
    CommandRegistry,
    LegacyStreamResponse,
    OutOfBandError,
    PermissionDenied,
    PushError,
    PushResponse,
    ServerCapabilities,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.commands.responses import RESPONSE_TYPES
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.http.v1.renderers import RENDERERS, Encodings, render_error, status_line
from hgwire_wsgi.negotiation import ClientProtocol, read_client_protocol
from hgwire_wsgi.testing import WireTestApp


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"plain", b"plain"),
        (BytesResponse(b"bytes"), b"bytes"),
        (PushResponse(3, b"said\n"), b"3\nsaid\n"),
        (PushError(b"raced"), b"0\nraced\n"),
    ],
)
def test_short_replies_go_out_as_they_are_with_their_length(response: Any, body: bytes) -> None:
    for protocol in (None, "0.1", "0.2"):
        reply = ask(returning(response), protocol)
        assert (reply.media_type, reply.engine, reply.data) == ("application/mercurial-0.1", None, body)
        assert reply.response.status == "200 Script output follows"
        assert reply.response.content_length == len(body)


def test_stream_is_compressed_as_negotiated() -> None:
    data = b"data" * 10_000
    assert zlib.decompress(ask(returning(StreamResponse([data]))).response.body) == data
    reply = ask(returning(StreamResponse([data])), "0.2")
    assert (reply.media_type, reply.engine, reply.data) == ("application/mercurial-0.2", "zstd", data)
    reply = ask(returning(StreamResponse([data], prefer_uncompressed=True)), "0.2")
    assert (reply.engine, reply.data) == ("none", data)


def test_legacy_stream_is_never_compressed() -> None:
    for protocol in (None, "0.2"):
        reply = ask(returning(LegacyStreamResponse([b"as ", b"is"])), protocol)
        assert (reply.media_type, reply.response.body) == ("application/mercurial-0.1", b"as is")


def test_out_of_band_error() -> None:
    reply = ask(returning(OutOfBandError(b"too old\n")))
    assert (reply.status, reply.media_type, reply.data) == (200, "application/hg-error", b"too old\n")


def test_a_server_that_sends_only_0_2_sends_everything_so_and_says_so() -> None:
    offer = ServerCapabilities(send=("0.2",), receive=("0.2",))
    for response, body in ((b"plain", b"plain"), (LegacyStreamResponse([b"x"]), b"x"), (StreamResponse([b"y"]), b"y")):
        reply = ask(returning(response), "0.2", capabilities=offer)
        assert (reply.media_type, reply.data) == ("application/mercurial-0.2", body)
    refused = ask(returning(b"plain"), "0.1", capabilities=offer)
    assert refused.status == 406
    assert b"only sends application/mercurial-0.2" in refused.data
    app = WireTestApp(WireApp(FakeProvider(), capabilities=offer))
    reply = app.wire("/repo", "capabilities")
    assert b"httpmediatype=0.2rx,0.2tx,minrx=0.2,mintx=0.2" in reply.data.split()
    assert reply.media_type == "application/mercurial-0.1"


def test_an_engine_of_the_host() -> None:
    engine = type(ZSTD)(name="x-mine", start=ZSTD.start, start_decoder=ZSTD.start_decoder)
    app = WireTestApp(
        WireApp(
            FakeProvider(),
            commands=returning(StreamResponse([b"z"])),
            capabilities=ServerCapabilities(engines=(engine,)),
        )
    )
    assert b"compression=x-mine" in app.wire("/repo", "capabilities").data.split()
    reply = app.get("/repo?cmd=x", headers={"X-HgProto-1": "0.2 comp=x-mine"})
    assert reply.body.startswith(b"\x06x-mine")
    decoded = app.wire("/repo", "x", protocol="0.2", compression=[engine, "zlib"])
    assert (decoded.engine, decoded.data) == ("x-mine", b"z")


def test_errors_in_utf_8_reach_the_client() -> None:
    reply = ask(returning(b"").copy())
    assert reply.status == 200
    commands = CommandRegistry()

    @commands.command("x", permission="pull")
    def fails(context: CommandContext) -> bytes:
        raise CommandFailed("naïve\nsecond line")

    reply = ask(commands)
    assert reply.response.status == "400 na?ve"
    assert reply.data == "0\nnaïve\nsecond line\n".encode()


def test_every_response_type_has_a_renderer() -> None:
    assert set(RENDERERS) == set(RESPONSE_TYPES)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"", ""),
        (PushResponse(1, b"said\n"), ""),
        (PushResponse(0, b"hook failed\n"), "hook failed"),
        (PushResponse(0), "failed"),
        (PushError(b"raced\xff"), "raced\ufffd"),
        (OutOfBandError(b"too old\n"), "too old"),
        (StreamResponse([b""]), ""),
        (LegacyStreamResponse([b""]), ""),
    ],
)
def test_what_observers_learn_of_a_refusal(response: Any, error: str) -> None:
    response = BytesResponse(response) if isinstance(response, bytes) else response
    encodings = Encodings.negotiate(ServerCapabilities(), ClientProtocol())
    assert RENDERERS[type(response)](response, encodings).error == error


def test_a_rendered_stream_closes_what_it_is_made_of() -> None:
    closed: list[str] = []

    class Source(list[bytes]):
        def close(self) -> None:
            closed.append("source")

    encodings = Encodings.negotiate(ServerCapabilities(), ClientProtocol())
    rendered = RENDERERS[LegacyStreamResponse](LegacyStreamResponse(Source([b"x"])), encodings)
    rendered.close()
    assert closed == ["source"]


def test_the_identity_of_an_encoding_is_everything_that_decides_its_bytes() -> None:
    """Compared for pairs of server and client."""

    def identity(client: str = "0.1", **server: Any) -> tuple[object, ...]:
        protocol = read_client_protocol({"X-HgProto-1": client})
        return Encodings.negotiate(ServerCapabilities(**server), protocol).identity

    zstd = "0.1 0.2 comp=zstd"
    assert identity() == identity("0.1 unknown") == identity(engines=(BZIP2,))
    assert identity(zstd) == identity("0.2 0.1 comp=zstd,zlib")
    different = [
        identity(),
        identity(legacy_engine=attrs.evolve(ZLIB, level=9)),
        identity(zstd),
        identity(zstd, engines=(attrs.evolve(ZSTD, level=9),)),
        identity("0.1 0.2 comp=bzip2", engines=(BZIP2,)),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize(
    ("reply", "media_type"), [("legacy", "application/mercurial-0.1"), ("stream", "application/mercurial-0.2")]
)
def test_the_media_type_of_a_long_reply(reply: Any, media_type: str) -> None:
    protocol = read_client_protocol({"X-HgProto-1": "0.1 0.2 comp=zstd"})
    assert Encodings.negotiate(ServerCapabilities(), protocol).media_type_of(reply) == media_type


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (404, "", "404 Not Found"),
        (404, "no such\nsecond line", "404 no such"),
        (400, "na\xefve \x1b[0m\r", "400 na?ve ?[0m?"),
        (400, "x" * 500, "400 " + "x" * 160),
        (499, "", "499 Error"),
    ],
)
def test_a_status_line_is_safe_in_a_header(status: int, reason: str, line: str) -> None:
    assert status_line(status, reason) == line


def test_an_error_as_old_clients_read_a_failed_push() -> None:
    error = PermissionDenied("no \udcff", status=405, headers=[("Allow", "POST")])
    assert render_error(error) == ("application/hg-error", b"0\nno ?\n")
