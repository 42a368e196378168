from __future__ import annotations

import zlib
from typing import Any

import pytest
from fakes import OPEN, FakeProvider, ask, returning

from hgwire_wsgi import (
    ZSTD,
    BytesResponse,
    CommandContext,
    CommandRegistry,
    LegacyStreamResponse,
    OutOfBandError,
    PushError,
    PushResponse,
    ServerCapabilities,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.testing import WireTestApp


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


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
