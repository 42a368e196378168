from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from fakes import NOISE, OPEN, Exchange, FakeProvider, makers_are_done, streaming

from hgwire_wsgi import (
    CacheSettings,
    CommandRegistry,
    OutOfBandError,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.testing import WireTestApp


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


def test_bundles_are_made_once_for_each_encoding(tmp_path: Path) -> None:
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        made.append(1)
        yield from (NOISE[start : start + 50_000] for start in range(0, len(NOISE), 50_000))

    cache = CacheSettings(folder=tmp_path)
    apps = [WireTestApp(WireApp(FakeProvider(), commands=streaming(chunks), cache=cache)) for _ in range(2)]
    for app in apps:
        for engine in ("zstd", "zlib"):
            reply = app.wire("/repo", "x", protocol="0.2", compression=[engine])
            assert (reply.engine, reply.data) == (engine, NOISE)
        assert app.wire("/repo", "x").data == NOISE
        makers_are_done()
    assert len(made) == 3
    head = apps[0].wire("/repo", "x", protocol="0.2", compression=["zstd"], method="HEAD")
    assert int(head.response.headers["Content-Length"]) > len(NOISE)
    assert head.response.body == b""


def test_a_bundle_in_a_file_goes_out_through_the_servers_wrapper(tmp_path: Path) -> None:
    app = WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE])), cache=CacheSettings(folder=tmp_path))
    expected = Exchange(app, "cmd=x").read()
    makers_are_done()
    wrapped: list[Any] = []

    def wrap(file: Any, size: int) -> Any:
        wrapped.append(file)
        return FileWrapper(file, size)

    exchange = Exchange(app, "cmd=x", **{"wsgi.file_wrapper": wrap})
    assert exchange.headers["Content-Length"] == str(len(expected))
    assert exchange.read() == expected
    assert wrapped[0].fileno
    assert wrapped[0].closed


def test_a_bundle_can_be_left_to_the_proxy_in_front(tmp_path: Path) -> None:
    cache = CacheSettings(folder=tmp_path, accel_header="X-Accel-Redirect", accel_prefix="/bundles/")
    app = WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE])), cache=cache)
    expected = Exchange(app, "cmd=x").read()
    makers_are_done()
    exchange = Exchange(app, "cmd=x")
    location = exchange.headers["X-Accel-Redirect"]
    assert exchange.read() == b""
    assert (tmp_path / location.removeprefix("/bundles/")).read_bytes() == expected


def test_a_bundle_that_is_about_to_get_its_name_is_not_left_to_the_proxy(tmp_path: Path) -> None:
    cache = CacheSettings(folder=tmp_path, accel_header="X-Accel-Redirect", accel_prefix="/bundles/")
    app = WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE])), cache=cache)
    expected = Exchange(app, "cmd=x").read()
    makers_are_done()
    for thread in threading.enumerate():
        if thread.name == "hgwire-maker":
            thread.join(30)
    (entry,) = tmp_path.glob("??/" + "?" * 64)
    entry.rename(f"{entry}.part")
    exchange = Exchange(app, "cmd=x")
    assert "X-Accel-Redirect" not in exchange.headers
    assert exchange.read() == expected


def test_a_bundle_uses_its_repository_until_it_is_closed(tmp_path: Path) -> None:
    provider = FakeProvider()
    held: list[int] = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield NOISE
        finally:
            held.append(provider.held)

    app = WireApp(provider, commands=streaming(chunks), cache=CacheSettings(folder=tmp_path, disk=3 * len(NOISE)))
    exchange = Exchange(app, "cmd=x")
    for chunk in exchange.response:
        if held:
            break
        assert chunk
    exchange.close()
    assert held[0] == 1, "by the maker, when the bundle was too large to be kept"


def test_a_bundle_that_does_not_keep_its_promise_is_not_kept(tmp_path: Path) -> None:
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True, reply="stream")(lambda context: OutOfBandError(b"no"))
    provider = FakeProvider()
    app = WireTestApp(WireApp(provider, commands=commands, cache=CacheSettings(folder=tmp_path)))
    for _ in range(2):
        assert app.wire("/repo", "x").media_type == "application/hg-error"
    assert provider.held == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_caches_everything_is_made_each_time(tmp_path: Path) -> None:
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        made.append(1)
        yield b"x" * 100_000

    off = CacheSettings(memory=0, disk=0, folder=tmp_path / "none")
    app = WireTestApp(WireApp(FakeProvider(), commands=streaming(chunks), cache=off))
    assert [app.wire("/repo", "x").data for _ in range(2)] == [b"x" * 100_000] * 2
    assert len(made) == 2
    assert not (tmp_path / "none").exists()


def test_a_cache_folder_that_cannot_be_used_is_told_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = CacheSettings(folder=tmp_path / "file" / "cache")
    app = WireTestApp(WireApp(FakeProvider(), commands=streaming(lambda: iter([b"x" * 100_000])), cache=cache))
    for _ in range(2):
        assert app.wire("/repo", "x").data == b"x" * 100_000
    assert caplog.text.count("there is no bundle cache") == 1


def test_an_overridden_command_does_not_get_another_applications_bundles(tmp_path: Path) -> None:
    cache = CacheSettings(folder=tmp_path)

    def serve(data: bytes, cacheable: bool) -> WireTestApp:
        commands = streaming(lambda: iter([data]))
        commands.override("x", lambda context: StreamResponse([data]), cacheable=cacheable)
        return WireTestApp(WireApp(FakeProvider(), commands=commands, cache=cache))

    plain = WireTestApp(WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE])), cache=cache))
    assert plain.wire("/repo", "x").data == NOISE
    assert serve(NOISE[1:], cacheable=False).wire("/repo", "x").data == NOISE[1:]
    assert serve(NOISE[2:], cacheable=True).wire("/repo", "x").data == NOISE[2:]


def test_a_user_without_a_home_has_no_bundle_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    app = WireTestApp(WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE]))))
    assert app.wire("/repo", "x").data == NOISE
