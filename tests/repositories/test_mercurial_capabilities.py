"""Settings of negotiation, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import ui as uimod

from hgwire_wsgi import ServerCapabilities
from hgwire_wsgi.compression import BZIP2, NONE, ZLIB, ZSTD
from hgwire_wsgi.repositories.mercurial.capabilities import adjust_capabilities

OWN = attrs.evolve(NONE, name="own")


def adjust(server: ServerCapabilities | None = None, **settings: str) -> tuple[ServerCapabilities, list[str]]:
    ui = uimod.ui()
    for name, value in settings.items():
        ui.setconfig(b"server", name.encode(), value.encode(), b"test")
    reported: list[str] = []
    return adjust_capabilities(ui, server or ServerCapabilities(), reported.append), reported


def test_without_settings_nothing_changes() -> None:
    server = ServerCapabilities(engines=(OWN,), max_header_length=99)
    assert adjust(server) == (server, [])


def test_engines_levels_and_headers() -> None:
    server, reported = adjust(compressionengines="bz2, none zlib", bz2level="3", zliblevel="-1", maxhttpheaderlen="0")
    bzip2, zlib = attrs.evolve(BZIP2, level=3), attrs.evolve(ZLIB, level=-1)
    assert server == ServerCapabilities(engines=(bzip2, NONE, zlib), legacy_engine=zlib, max_header_length=0)
    assert reported == []


def test_an_engine_of_the_hosts_own() -> None:
    server, reported = adjust(ServerCapabilities(engines=(OWN, ZSTD)), compressionengines="zstd own")
    assert server.engines == (ZSTD, OWN) and reported == []


@pytest.mark.parametrize(
    ("engines", "expected", "message"),
    [
        ("zstd, zstd", (ZSTD,), "server.compressionengines names an engine twice; the first one counts"),
        ("bz2 zlib bzip2", (BZIP2, ZLIB), "names an engine twice"),
        ("nosuch, zlib, x", (ZLIB,), "names unknown engines, which are ignored: nosuch, x"),
        ("nosuch", (ZSTD, ZLIB), "names unknown engines, which are ignored: nosuch"),
    ],
)
def test_engines_that_make_no_sense(engines: str, expected: tuple[Any, ...], message: str) -> None:
    server, reported = adjust(compressionengines=engines)
    assert server.engines == expected
    assert len(reported) == 1 and message in reported[0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("zstdlevel", "abc", "server.zstdlevel is not a valid integer ('abc'); the default is used"),
        ("zstdlevel", "23", "server.zstdlevel is out of range (23); the default is used"),
        ("zstdlevel", "0", "out of range"),
        ("zliblevel", "10", "server.zliblevel is out of range"),
        ("bz2level", "0", "server.bz2level is out of range"),
        ("maxhttpheaderlen", "abc", "server.maxhttpheaderlen is not a valid integer"),
        ("maxhttpheaderlen", "-1", "server.maxhttpheaderlen is out of range (-1)"),
    ],
)
def test_numbers_that_make_no_sense(name: str, value: str, message: str) -> None:
    server, reported = adjust(ServerCapabilities(engines=(ZSTD, ZLIB, BZIP2)), **{name: value})
    assert server == ServerCapabilities(engines=(ZSTD, ZLIB, BZIP2))
    assert reported and message in reported[0]


def test_settings_that_make_no_sense_do_not_stop_a_repository(
    demonstration: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from hgwire_wsgi import WireApp
    from hgwire_wsgi.repositories.mercurial import MercurialProvider
    from hgwire_wsgi.testing import WireTestApp

    config = ["server.compressionengines=zstd, zstd", "server.zstdlevel=abc", "server.maxhttpheaderlen=abc"]
    served = WireTestApp(WireApp(MercurialProvider(demonstration, config=config)))
    for _ in range(2):
        assert {b"compression=zstd", b"httpheader=1024"} <= set(served.wire("/", "capabilities").data.split())
        assert served.wire("/", "getbundle", protocol="0.2", compression=["zstd"]).engine == "zstd"
    for setting in ("compressionengines", "zstdlevel", "maxhttpheaderlen"):
        assert caplog.text.count(f"repository / at {demonstration}: server.{setting} ") == 1
