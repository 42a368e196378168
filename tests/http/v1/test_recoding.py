"""A bundle for one engine is made from the cached bundle for another; nothing is generated for it."""

from __future__ import annotations

import functools
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes import NOISE, Exchange, FakeProvider, FakeRepository, makers_are_done, returning, streaming

from hgwire_wsgi import CacheSettings, CommandRegistry, ServerCapabilities, StreamResponse, WireApp
from hgwire_wsgi.cache.stores.base import StoredFile, StoredUrl
from hgwire_wsgi.compression import BZIP2, NONE, ZLIB, ZSTD, Engine
from hgwire_wsgi.http.v1.recoding import find_source, sources
from hgwire_wsgi.http.v1.renderers import Encodings
from hgwire_wsgi.negotiation import ClientProtocol
from hgwire_wsgi.testing import WireTestApp

BOTH = frozenset({"0.1", "0.2"})


def encodings(engine: str, *versions: str) -> Encodings:
    """Those of a client with one engine, on a server with the usual ones."""
    client = ClientProtocol((), frozenset(versions) or BOTH, (engine,))
    return Encodings.negotiate(ServerCapabilities(engines=(ZSTD, ZLIB, NONE)), client)


def payload(engine: Engine, content: Iterable[bytes], prefix: bytes | None = None) -> bytes:
    return (engine.prefix if prefix is None else prefix) + b"".join(engine.compress(content))


@attrs.define
class Kept:
    """Cached bundles by the name of their engine, and what was asked for."""

    folder: Path
    bundles: dict[str, bytes]
    asked: list[str] = attrs.Factory(list)

    def open(self, other: Encodings) -> StoredFile | None:
        assert other.stream.engine is not None
        name = other.stream.engine.name
        self.asked.append(name)
        if name not in self.bundles:
            return None
        path = self.folder / name
        path.write_bytes(self.bundles[name])
        return StoredFile(os.open(path, os.O_RDONLY), len(self.bundles[name]), None)

    def find(self, wanted: Encodings, server: ServerCapabilities | None = None) -> bytes | None:
        """The content that is found; no descriptor stays open."""
        before = len(os.listdir("/proc/self/fd"))
        source = find_source(wanted, sources(server or ServerCapabilities()), self.open)
        try:
            return None if source is None else b"".join(source.chunks)
        finally:
            if source is not None:
                source.close()
            assert len(os.listdir("/proc/self/fd")) == before


def test_sources_are_the_encodings_of_the_engines_that_the_server_offers() -> None:
    server = ServerCapabilities(engines=(ZSTD, BZIP2, NONE, ZLIB))
    assert [each.stream.engine for each in sources(server)] == [ZSTD, BZIP2, ZLIB]
    for engine, each in zip(("zstd,zlib,none", "bzip2,none", "zlib"), sources(server), strict=True):
        assert each == Encodings.negotiate(server, ClientProtocol((), BOTH, tuple(engine.split(","))))
    assert sources(attrs.evolve(server, send=("0.1",))) == ()
    (only,) = sources(ServerCapabilities(engines=(ZSTD,), send=("0.2",)))
    assert only.plain.engine == NONE


@pytest.mark.parametrize("content", [[b""], [NOISE], [bytes(1 << 20)] * 8], ids=["empty", "noise", "zeros"])
@pytest.mark.parametrize(("kept", "wanted"), [(ZSTD, "zlib"), (ZLIB, "zstd"), (ZSTD, "none")])
def test_a_cached_bundle_is_decoded(tmp_path: Path, kept: Engine, wanted: str, content: list[bytes]) -> None:
    bundles = Kept(tmp_path, {kept.name: payload(kept, content)})
    assert bundles.find(encodings(wanted)) == b"".join(content)


def test_clients_before_0_2_profit_too(tmp_path: Path) -> None:
    bundles = Kept(tmp_path, {"zlib": payload(ZLIB, [NOISE])})
    assert bundles.find(encodings("zlib", "0.1")) == NOISE
    assert bundles.asked == ["zstd", "zlib"]


def test_the_wanted_encoding_is_not_looked_for_again(tmp_path: Path) -> None:
    bundles = Kept(tmp_path, {"zstd": payload(ZSTD, [NOISE])})
    assert bundles.find(encodings("zstd")) is None
    assert bundles.asked == ["zlib"]


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        payload(NONE, [NOISE]),
        payload(ZLIB, [NOISE]),
        ZSTD.prefix + b"no frame of zstd",
        ZSTD.prefix,
        # A frame whose header states a window of 256 MiB.
        ZSTD.prefix + bytes.fromhex("28b52ffd0090") + bytes(100),
    ],
    ids=["empty", "incompressible", "another engine", "corrupt", "cut", "large window"],
)
def test_what_cannot_be_decoded_is_not_used(tmp_path: Path, bundle: bytes, caplog: pytest.LogCaptureFixture) -> None:
    bundles = Kept(tmp_path, {"zstd": bundle, "zlib": payload(ZLIB, [b"from zlib"])})
    assert bundles.find(encodings("none")) == b"from zlib"
    names_it = bundle.startswith(ZSTD.prefix)
    assert ("engine zstd is not used for others" in caplog.text) == names_it


def test_a_bundle_that_only_a_front_end_can_read_is_not_used() -> None:
    assert find_source(encodings("zlib"), sources(ServerCapabilities()), lambda _: StoredUrl("/objects/1", 6)) is None


def test_a_failure_to_read_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "written"
    before = len(os.listdir("/proc/self/fd"))

    def unreadable(_: Encodings) -> StoredFile:
        return StoredFile(os.open(path, os.O_WRONLY | os.O_CREAT), 6, None)

    with pytest.raises(OSError):
        find_source(encodings("zlib"), sources(ServerCapabilities()), unreadable)
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_does_not_grow_with_the_bundle(tmp_path: Path) -> None:
    def peak(size: int) -> int:
        bundle = payload(ZSTD, (NOISE[:65536] for _ in range(size)))
        source = find_source(encodings("zlib"), sources(ServerCapabilities()), Kept(tmp_path, {"zstd": bundle}).open)
        assert source is not None
        del bundle
        tracemalloc.start()
        try:
            assert sum(map(len, ZLIB.compress(source.chunks)))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            source.close()

    peak(10)
    assert peak(400) < peak(40) + 100_000


# In an application.


@attrs.define
class Generator:
    """Counts how often a stream was made."""

    made: int = 0
    started: Callable[[], object] = lambda: None

    def __call__(self) -> Iterator[bytes]:
        self.made += 1
        self.started()
        yield from (NOISE[start : start + 50_000] for start in range(0, len(NOISE), 50_000))


def test_many_clients_with_another_engine_get_one_recompressed_bundle(tmp_path: Path) -> None:
    generator = Generator()
    app = WireTestApp(WireApp(FakeProvider(), commands=streaming(generator), cache=CacheSettings(folder=tmp_path)))
    ask = functools.partial(app.wire, "/repo", "x", protocol="0.2")
    assert ask(compression=["zstd"]).data == NOISE
    makers_are_done()
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(ask(compression=["zlib"]).data)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [NOISE] * 4
    makers_are_done()
    assert (generator.made, len(list(tmp_path.glob("??/*.sum")))) == (1, 2)


def test_a_short_bundle_is_recompressed_too(tmp_path: Path) -> None:
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        made.append(1)
        yield b"short"

    app = WireTestApp(WireApp(FakeProvider(), commands=streaming(chunks), cache=CacheSettings(folder=tmp_path)))
    for engine in ("zstd", "zlib"):
        assert app.wire("/repo", "x", protocol="0.2", compression=[engine]).data == b"short"
    assert made == [1]


def test_an_incompressible_stream_is_not_compressed_for_anyone(tmp_path: Path) -> None:
    response = StreamResponse([NOISE], prefer_uncompressed=True)
    commands = returning(response, cacheable=True, reply="stream")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands, cache=CacheSettings(folder=tmp_path)))
    for engine in ("zstd", "zlib"):
        reply = app.wire("/repo", "x", protocol="0.2", compression=[engine])
        assert (reply.engine, reply.data) == ("none", NOISE)
        makers_are_done()


def test_another_state_is_generated_anew(tmp_path: Path) -> None:
    generator, provider = Generator(), FakeProvider()
    app = WireTestApp(WireApp(provider, commands=streaming(generator), cache=CacheSettings(folder=tmp_path)))
    assert app.wire("/repo", "x", protocol="0.2", compression=["zstd"]).data == NOISE
    makers_are_done()
    provider.repository.content_token = lambda: b"changed"
    assert app.wire("/repo", "x", protocol="0.2", compression=["zlib"]).data == NOISE
    assert generator.made == 2


def test_a_client_that_disconnects_leaves_nothing_open(tmp_path: Path) -> None:
    generator, provider = Generator(), FakeProvider()
    app = WireApp(provider, commands=streaming(generator), cache=CacheSettings(folder=tmp_path))
    Exchange(app, "cmd=x", HTTP_X_HGPROTO_1="0.1 0.2 comp=zstd").read()
    makers_are_done()
    before = len(os.listdir("/proc/self/fd"))
    exchange = Exchange(app, "cmd=x", HTTP_X_HGPROTO_1="0.1 0.2 comp=zlib")
    assert next(iter(exchange.response))
    exchange.close()
    makers_are_done()
    assert (provider.held, len(os.listdir("/proc/self/fd")), generator.made) == (0, before, 1)


class Growing(FakeRepository):
    """A repository whose clones can be sent in two parts."""

    def metadata_token(self) -> bytes | None:
        return None

    def clone_family(self, command: str, arguments: Mapping[str, Any]) -> tuple[object, ...] | None:
        return ("family",)

    def is_full_clone(self, heads: Sequence[bytes]) -> bool:
        return list(heads) == self.heads()

    def count_missing(self, have: Sequence[bytes]) -> tuple[int, int] | None:
        return 1, 100

    def is_worth_sending(self, have: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
        return True


def test_a_recompressed_clone_can_be_the_first_part_of_later_ones(tmp_path: Path) -> None:
    generator, provider = Generator(), FakeProvider()
    provider.repository = Growing()
    commands = CommandRegistry.standard()
    commands.override("getbundle", lambda context, **arguments: StreamResponse(generator()), cacheable=True)
    app = WireApp(provider, commands=commands, cache=CacheSettings(folder=tmp_path))

    def clone(engine: str, head: str) -> bytes:
        protocol = f"0.1 0.2 comp={engine} partial-pull"
        data = Exchange(app, f"cmd=getbundle&heads={head}", HTTP_X_HGPROTO_1=protocol).read()
        makers_are_done()
        return data

    clone("zstd", "11" * 20)
    recompressed = clone("zlib", "11" * 20)
    provider.repository.content_token = lambda: b"changed"
    assert clone("zlib", "22" * 20) == recompressed
    assert generator.made == 1
