"""``WireTestApp``: requests as a client sends them, and replies decoded as a client decodes them."""

from __future__ import annotations

from typing import Any

import pytest

from hgwire_wsgi import BZIP2, ZSTD, CommandRegistry, Engine, ServerCapabilities, StreamResponse, WireApp
from hgwire_wsgi.testing import MemoryProvider, MemoryRepository, WireTestApp


def make_app(**options: Any) -> WireTestApp:
    commands = CommandRegistry.standard()
    commands.command("echo", permission="pull", args=["*"])(lambda context, rest: b"%r" % sorted(rest.items()))
    commands.command("whoami", permission="pull")(lambda context: (context.user or "").encode())
    commands.command("stream", permission="pull", reply="stream")(lambda context: StreamResponse([b"data" * 100]))
    commands.command("put", permission="push", body=True)(lambda context: context.body.read(100))
    repository = MemoryRepository(settings={"web.allow-push": "*", "web.push_ssl": "no"})
    return WireTestApp(WireApp(MemoryProvider({"repo": repository}), commands=commands, **options))


@pytest.mark.parametrize("via", ["headers", "query", "post"])
def test_arguments_travel_in_every_way(via: Any) -> None:
    app = make_app(capabilities=ServerCapabilities(post_args=True))
    arguments = {"long": "x" * 3000, "short": b"\xff"}
    assert app.wire("/repo", "echo", arguments, via=via).data == b"%r" % sorted(
        {"long": b"x" * 3000, "short": b"\xff"}.items()
    )


def test_replies_are_decoded() -> None:
    app = make_app(capabilities=ServerCapabilities(engines=(ZSTD, BZIP2)))
    assert app.wire("/repo", "stream").engine == "zlib"
    newer = app.wire("/repo", "stream", protocol="0.2", compression=["bzip2"])
    assert (newer.media_type, newer.engine, newer.data) == ("application/mercurial-0.2", "bzip2", b"data" * 100)
    assert app.wire("/repo", "stream", protocol="0.1").media_type == "application/mercurial-0.1"
    assert app.wire("/repo", "whoami", user="ann").data == b"ann"


def test_an_engine_of_ones_own() -> None:
    mine = Engine(name="x-mine", start=ZSTD.start, start_decoder=ZSTD.start_decoder)
    app = make_app(capabilities=ServerCapabilities(engines=(mine,)))
    assert app.wire("/repo", "stream", protocol="0.2", compression=[mine]).engine == "x-mine"


@pytest.mark.parametrize(("media_type", "compression"), [("0.1", ()), ("0.2", ("zstd",)), ("0.2", ())])
def test_bodies_are_sent_in_both_media_types(media_type: str, compression: tuple[str, ...]) -> None:
    reply = make_app().wire(
        "/repo", "put", body=b"pushed", media_type=f"application/mercurial-{media_type}", compression=compression
    )
    assert reply.data == b"pushed"


def test_what_webtest_has_is_there() -> None:
    app = make_app()
    reply = app.wire(
        "/repo", "whoami", method="HEAD", headers={"X-Other": "1"}, environ={"REMOTE_ADDR": "::1"}, status=200
    )
    assert (reply.status, reply.data) == (200, b"")
    assert app.wire("/nowhere", "heads").status == 404
