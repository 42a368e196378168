"""Long replies: which may be cached, who holds the repository while they are made, and how stored ones are sent."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import attrs
import pytest
from fakes import NOISE, OPEN, Exchange, FakeProvider, FakeRepository, Watch, makers_are_done, returning, streaming

from hgwire_wsgi import (
    AccessRequest,
    Argument,
    BytesResponse,
    CacheSettings,
    CommandContext,
    CommandRegistry,
    OutOfBandError,
    PermissionDenied,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.cache.bundles import Bundle, IndexEntry, StoredFile, StoredUrl
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.testing import WireTestApp


def test_bundles_are_made_once_for_all_encodings(tmp_path: Path) -> None:
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
            makers_are_done()
        assert app.wire("/repo", "x").data == NOISE
        makers_are_done()
    assert len(made) == 1
    entries = [path for path in tmp_path.glob("??/*") if len(path.name) == 64]
    assert len(entries) == 3
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


def test_a_damaged_bundle_is_not_left_to_the_proxy_in_front(tmp_path: Path) -> None:
    cache = CacheSettings(folder=tmp_path, accel_header="X-Accel-Redirect", accel_prefix="/bundles/")
    commands = streaming(lambda: iter([NOISE]))
    expected = Exchange(WireApp(FakeProvider(), commands=commands, cache=cache), "cmd=x").read()
    makers_are_done()
    (entry,) = tmp_path.glob("??/" + "?" * 64)
    entry.chmod(0o600)
    with entry.open("r+b") as file:
        file.seek(len(expected) // 2)
        flipped = file.read(1)[0] ^ 1
        file.seek(len(expected) // 2)
        file.write(bytes([flipped]))
    entry.chmod(0o400)
    # Another process opens it for the first time.
    app = WireApp(FakeProvider(), commands=commands, cache=cache)
    exchange = Exchange(app, "cmd=x")
    assert "X-Accel-Redirect" not in exchange.headers
    assert exchange.read() == expected
    assert app.bundles is not None and app.bundles.damaged == 1
    makers_are_done()
    again = Exchange(app, "cmd=x")
    location = again.headers["X-Accel-Redirect"]
    again.read()
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


@pytest.mark.parametrize(
    ("response", "media_type", "body"),
    [
        (OutOfBandError(b"no"), "application/hg-error", b"no"),
        (b"bytes", "application/mercurial-0.1", b"bytes"),
        (BytesResponse(b"bytes"), "application/mercurial-0.1", b"bytes"),
    ],
    ids=["error", "bytes", "response"],
)
@pytest.mark.parametrize("protocol", [None, "0.2"])
def test_a_stream_command_that_answers_otherwise_runs_once_for_each_request(
    response: Any, media_type: str, body: bytes, protocol: str | None, tmp_path: Path
) -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True, reply="stream")(lambda context: ran.append(1) or response)
    provider = FakeProvider()
    app = WireTestApp(WireApp(provider, commands=commands, cache=CacheSettings(folder=tmp_path, memory=0)))
    for count in (1, 2, 3):
        reply = app.wire("/repo", "x", protocol=protocol, compression=["zstd"] if protocol else ())
        assert (reply.media_type, reply.data) == (media_type, body)
        assert len(ran) == count
        assert provider.held == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_incompressible_stream_that_goes_out_otherwise_is_not_cached(tmp_path: Path) -> None:
    """As 0.2 to a client that accepts it, though no engine is common and streams would be 0.1."""
    made: list[int] = []
    provider = FakeProvider()
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True, reply="stream")(
        lambda context: StreamResponse(Once(made), prefer_uncompressed=True)
    )
    app = WireApp(provider, commands=commands, cache=CacheSettings(folder=tmp_path))
    for count in (1, 2):
        exchange = Exchange(app, "cmd=x", HTTP_X_HGPROTO_1="0.1 0.2 comp=unknown")
        assert exchange.headers["Content-Type"] == "application/mercurial-0.2"
        assert exchange.read() == b"\x04none" + NOISE
        assert (made, provider.held) == ([1, -1] * count, 0)


class Once:
    """A stream that counts its beginnings and closings."""

    def __init__(self, count: list[int]) -> None:
        self.count = count

    def __iter__(self) -> Iterator[bytes]:
        self.count.append(1)
        yield NOISE

    def close(self) -> None:
        self.count.append(-1)


def test_a_failure_before_the_first_chunk_reaches_its_own_client(tmp_path: Path) -> None:
    provider = FakeProvider()

    def fails() -> Iterator[bytes]:
        raise CommandFailed("no")
        yield b""

    app = WireApp(provider, commands=streaming(fails), cache=CacheSettings(folder=tmp_path))
    for _ in range(2):
        assert Exchange(app, "cmd=x").status == "400 no"
        assert provider.held == 0


def test_a_bundle_of_a_command_that_asked_for_more_is_not_kept(tmp_path: Path) -> None:
    commands = CommandRegistry.standard()

    @commands.command("x", permission="pull", cacheable=True, reply="stream")
    def secret(context: CommandContext) -> StreamResponse:
        context.authorize("push")
        return StreamResponse([NOISE])

    def policy(request: Any) -> None:
        if request.permission == "push" and request.user != "alice":
            raise PermissionDenied("no")

    app = WireApp(FakeProvider(), commands=commands, policy=policy, cache=CacheSettings(folder=tmp_path))
    for user, status in (("bob", "403"), ("alice", "200"), ("bob", "403")):
        exchange = Exchange(app, "cmd=x", REMOTE_USER=user, REQUEST_METHOD="POST")
        assert exchange.status[:3] == status
        exchange.read()
        makers_are_done()


def test_arguments_that_are_sets_give_one_bundle_in_any_order(tmp_path: Path) -> None:
    made: list[int] = []
    commands = CommandRegistry.standard()
    commands.command(
        "x",
        permission="pull",
        cacheable=True,
        reply="stream",
        optional=[Argument("nodes", "nodes"), Argument("caps", "csv"), Argument("text")],
    )(lambda context, **arguments: made.append(1) or StreamResponse([NOISE]))
    app = WireApp(FakeProvider(), commands=commands, cache=CacheSettings(folder=tmp_path))
    one, two = "11" * 20, "22" * 20
    for query, count in (
        (f"nodes={one}+{two}&caps=a,b&text=a,b", 1),
        (f"caps=b,a&text=a,b&nodes={two}+{one}", 1),
        (f"nodes={one}+{two}&caps=a,b&text=b,a", 2),
        (f"nodes={one}&caps=a,b&text=a,b", 3),
    ):
        Exchange(app, f"cmd=x&{query}").read()
        makers_are_done()
        assert len(made) == count, query


# With a bundle cache that does what the test says.


@attrs.define
class FakeBundles:
    """Returns preset values, and runs producers a preset number of times."""

    stored: dict[str, Any] = attrs.Factory(dict)
    index: IndexEntry | None = None
    times: int = 1
    between: Callable[[], object] = lambda: None
    asked: list[str] = attrs.Factory(list)
    entries: list[IndexEntry | None] = attrs.Factory(list)
    current: bool = False
    label: str = ""

    def open(self, key: str, *, client: str, label: str) -> Any:
        self.asked.append(key)
        return self.stored.get(key)

    def read_index(self, key: str) -> IndexEntry | None:
        return self.index

    def join_or_make(self, key: str, produce: Any, is_current: Any, *, index: Any, label: str, usual: bool) -> Bundle:
        assert usual
        body = b""
        for number in range(self.times):
            if number:
                self.between()
            chunks = produce()
            body = b"".join(chunks)
            chunks.close()
        self.entries.append(index())
        self.current = is_current()
        self.label = label
        return Bundle(body, "miss")


def serving(bundles: FakeBundles, provider: FakeProvider, commands: CommandRegistry, **settings: Any) -> WireApp:
    return WireApp(provider, commands=commands, cache=CacheSettings(memory=0, **settings))


@pytest.fixture
def bundles(monkeypatch: pytest.MonkeyPatch) -> FakeBundles:
    fake = FakeBundles()
    monkeypatch.setattr("hgwire_wsgi.http.app.open_bundle_cache", lambda settings, chunk: fake)
    return fake


def test_a_producer_that_runs_again_leases_the_repository_anew(bundles: FakeBundles) -> None:
    provider, seen = FakeProvider(), []
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True, reply="stream")(
        lambda context: seen.append(provider.leased) or StreamResponse([b"x"])
    )
    bundles.times = 3
    assert Exchange(serving(bundles, provider, commands), "cmd=x").status.startswith("200")
    assert [number - seen[0] for number in seen] == [0, 1, 2]
    assert provider.held == 0
    assert (bundles.current, bundles.entries, bundles.label) == (True, [None], "x of repo")


def test_a_producer_gives_up_if_the_repository_has_changed(bundles: FakeBundles) -> None:
    provider = FakeProvider()

    def change() -> None:
        provider.repository.token = b"another"

    bundles.times, bundles.between = 2, change
    exchange = Exchange(serving(bundles, provider, streaming(lambda: iter([b"x"]))), "cmd=x")
    assert exchange.status == "503 the repository has changed"
    assert provider.held == 0


def test_a_repository_at_the_root_has_a_name_in_the_log(bundles: FakeBundles) -> None:
    class Root(FakeProvider):
        def locate(self, path: str) -> tuple[str, str] | None:
            return "", path.strip("/")

    Exchange(serving(bundles, Root(), streaming(lambda: iter([b"x"]))), "cmd=x", path="/").read()
    assert bundles.label == "x of the repository at /"


class Growing(FakeRepository):
    """A repository whose clones can be sent in two parts."""

    family: tuple[object, ...] | None = ("family",)
    worth = True

    def metadata_token(self) -> bytes | None:
        return b"metadata"

    def clone_family(self, command: str, arguments: Mapping[str, Any]) -> tuple[object, ...] | None:
        return self.family

    def is_full_clone(self, heads: Sequence[bytes]) -> bool:
        return list(heads) == self.heads()

    def count_missing(self, have: Sequence[bytes]) -> tuple[int, int] | None:
        return 0, 0

    def is_worth_sending(self, have: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
        assert list(have) == [b"\x33" * 20]
        assert list(wanted) == self.heads()
        return self.worth


@pytest.fixture
def growing() -> FakeProvider:
    provider = FakeProvider()
    provider.repository = Growing()
    return provider


def cloning() -> CommandRegistry:
    commands = CommandRegistry.standard()
    commands.override("getbundle", lambda context, **arguments: StreamResponse([b"new"]), cacheable=True)
    return commands


CLONE = "cmd=getbundle&heads=" + "11" * 20
PARTIAL = {"HTTP_X_HGPROTO_1": "0.1 0.2 comp=none partial-pull"}


def test_a_full_clone_has_an_index_entry(bundles: FakeBundles, growing: FakeProvider) -> None:
    app = serving(bundles, growing, cloning())
    for query, indexed in (
        (CLONE, True),
        ("cmd=getbundle&heads=" + "22" * 20, False),
        ("cmd=getbundle", False),
    ):
        Exchange(app, query).read()
        entry = bundles.entries.pop()
        assert (entry is not None) == indexed
        if entry is not None:
            assert entry.heads == (b"\x11" * 20,)
            assert entry.bundle_key == bundles.asked[0]
    growing.repository.family = None
    Exchange(app, CLONE).read()
    assert bundles.entries == [None]


@pytest.fixture
def kept(bundles: FakeBundles, tmp_path: Path) -> Callable[[], None]:
    """Stores the bundle that was asked for first."""
    (tmp_path / "kept").write_bytes(b"kept")

    def keep() -> None:
        descriptor = os.open(tmp_path / "kept", os.O_RDONLY)
        bundles.stored = {bundles.asked[0]: StoredFile(descriptor, 4, None)}

    return keep


def test_the_same_request_is_not_parsed_again(
    bundles: FakeBundles, growing: FakeProvider, kept: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = serving(bundles, growing, cloning())
    Exchange(app, CLONE).read()
    kept()
    first = Exchange(app, CLONE)
    assert first.read() == b"kept"
    with monkeypatch.context() as watched:
        watched.setattr("hgwire_wsgi.http.v1.transport.read_request", None)
        kept()
        again = Exchange(app, CLONE)
        assert again.read() == b"kept"
        assert (again.status, again.headers) == (first.status, first.headers)
        assert growing.held == 0
    # The bundle has gone.
    bundles.stored = {}
    assert zlib.decompress(Exchange(app, CLONE).read()) == b"new"
    # In another state, the bundle is another one.
    kept()
    growing.repository.token = b"another"
    asked = len(bundles.asked)
    assert zlib.decompress(Exchange(app, CLONE).read()) == b"new"
    assert bundles.asked[asked] != bundles.asked[0]
    assert growing.held == 0


def test_the_policy_is_asked_about_the_same_request(
    bundles: FakeBundles, growing: FakeProvider, kept: Callable[[], None]
) -> None:
    denied = False
    asked: list[tuple[str, ...]] = []

    def policy(request: AccessRequest) -> None:
        asked.append(request.commands)
        if denied:
            raise PermissionDenied("no")

    app = WireApp(growing, commands=cloning(), cache=CacheSettings(memory=0), policy=policy)
    Exchange(app, CLONE).read()
    for _ in range(2):
        kept()
        assert Exchange(app, CLONE).read() == b"kept"
    assert asked[-1] == ("getbundle",)
    denied = True
    assert Exchange(app, CLONE).status.startswith("403")


def test_a_process_without_a_bundle_cache_forgets_bundles(
    bundles: FakeBundles, growing: FakeProvider, kept: Callable[[], None]
) -> None:
    found: list[FakeBundles | None] = [bundles]
    app = serving(bundles, growing, cloning())
    object.__setattr__(app._v1.long_replies, "bundles", lambda: found[0])
    Exchange(app, CLONE).read()
    kept()
    assert Exchange(app, CLONE).read() == b"kept"
    found[0] = None
    assert zlib.decompress(Exchange(app, CLONE).read()) == b"new"


def test_an_older_bundle_is_sent_to_clients_that_ask_for_the_rest(
    bundles: FakeBundles, growing: FakeProvider, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"old")

    def stored() -> StoredFile:
        return StoredFile(os.open(old, os.O_RDONLY), 3, None)

    app = serving(bundles, growing, cloning())
    bundles.index = IndexEntry(index_key="i", bundle_key="old", heads=(b"\x33" * 20,))
    bundles.stored["old"] = stored()
    assert Exchange(app, CLONE, **PARTIAL).read() == b"old"
    assert growing.held == 0
    bundles.stored["old"] = stored()
    assert zlib.decompress(Exchange(app, CLONE, HTTP_X_HGPROTO_1="0.1 0.2 comp=none").read()) == b"new"
    # Whether it is worth sending depends on the state.
    growing.repository.worth, growing.repository.token = False, b"another"
    assert zlib.decompress(Exchange(app, CLONE, **PARTIAL).read()) == b"new"
    growing.repository.worth = True
    bundles.index = None
    assert zlib.decompress(Exchange(app, CLONE, **PARTIAL).read()) == b"new"
    bundles.index = IndexEntry(index_key="i", bundle_key="gone", heads=(b"\x33" * 20,))
    assert zlib.decompress(Exchange(app, CLONE, **PARTIAL).read()) == b"new"
    growing.repository.family = None
    assert zlib.decompress(Exchange(app, CLONE, **PARTIAL).read()) == b"new"
    plain = serving(bundles, FakeProvider(), cloning())
    assert zlib.decompress(Exchange(plain, CLONE, **PARTIAL).read()) == b"new"
    bundles.stored["old"].close()


def test_a_stored_bundle_goes_out_as_the_settings_say(bundles: FakeBundles, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(b"bundle")
    commands = streaming(lambda: iter([b"x"]))
    closed = len(os.listdir("/proc/self/fd"))
    front = {"accel_header": "X-Sendfile", "accel_prefix": "/cache/"}
    for stored, settings, headers, body in (
        ("file", {}, {"Content-Length": "6"}, b"bundle"),
        ("file", front, {"X-Sendfile": "/cache/ab/cd"}, b""),
        ("nameless", front, {"Content-Length": "6"}, b"bundle"),
        (StoredUrl("/objects/1", 6), {}, {"X-Accel-Redirect": "/objects/1"}, b""),
        (StoredUrl("/objects/1", 6), front, {"X-Sendfile": "/objects/1"}, b""),
    ):
        app = serving(bundles, FakeProvider(), commands, **settings)
        Exchange(app, "cmd=x").read()
        if isinstance(stored, str):
            stored = StoredFile(os.open(path, os.O_RDONLY), 6, "ab/cd" if stored == "file" else None)
        bundles.stored[bundles.asked[0]] = stored
        exchange = Exchange(app, "cmd=x")
        assert {name: exchange.headers.get(name) for name in headers} == headers
        assert exchange.read() == body
        bundles.stored.clear()
        assert len(os.listdir("/proc/self/fd")) == closed


def test_a_stored_bundle_that_another_request_has_just_completed(
    bundles: FakeBundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(b"bundle")
    stored = StoredFile(os.open(path, os.O_RDONLY), 6, None)
    monkeypatch.setattr(FakeBundles, "join_or_make", lambda *arguments, **options: Bundle(stored, "hit"))
    provider = FakeProvider()
    exchange = Exchange(serving(bundles, provider, streaming(lambda: iter([b"x"]))), "cmd=x")
    assert exchange.headers["Content-Length"] == "6"
    assert (exchange.read(), provider.held) == (b"bundle", 0)


@pytest.mark.parametrize(
    ("outcome", "cache"), [("hit", "hit"), ("miss", "miss"), ("followed", "followed"), ("uncached", "")]
)
def test_observers_learn_where_a_bundle_came_from(
    outcome: Any, cache: str, bundles: FakeBundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBundles, "join_or_make", lambda *arguments, **options: Bundle(iter([b"x"]), outcome))
    watch = Watch()
    commands = streaming(lambda: iter([b"x"]))
    app = WireApp(FakeProvider(), commands=commands, cache=CacheSettings(memory=0), observers=[watch])
    assert Exchange(app, "cmd=x").read() == b"x"
    assert watch.closed.cache == cache


def test_pushes_and_short_replies_do_not_ask_the_bundle_cache(bundles: FakeBundles) -> None:
    app = serving(bundles, FakeProvider(OPEN), returning(b"1", permission="push"))
    assert Exchange(app, "cmd=x", REQUEST_METHOD="POST").read() == b"1"
    assert Exchange(app, "cmd=heads").status.startswith("200")
    assert bundles.asked == []


def test_bundles_by_view(tmp_path: Path) -> None:
    commands = CommandRegistry.standard()
    ran: list[str] = []

    @commands.command("x", permission="pull", cacheable=True, reply="stream")
    def mine(context: CommandContext) -> StreamResponse:
        ran.append(context.user or "")
        return StreamResponse(iter([(context.user or "nobody").encode(), NOISE]))

    cache = CacheSettings(folder=tmp_path, memory=0)
    app = WireTestApp(WireApp(FakeProvider(), commands=commands, cache=cache, view=lambda request: request.user))
    for user in ("alice", "bob", "alice", "bob", None, None):
        assert app.wire("/repo", "x", user=user).data == (user or "nobody").encode() + NOISE
        makers_are_done()
    assert ran == ["alice", "bob", "", ""]


@pytest.mark.parametrize("size", [100, len(NOISE)])
@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_a_reply_that_contains_a_failure_is_not_cached(tmp_path: Path, size: int, memory: int) -> None:
    commands = CommandRegistry.standard()
    ran: list[int] = []

    @commands.command("x", permission="pull", cacheable=True, reply="stream")
    def failing(context: CommandContext) -> StreamResponse:
        ran.append(1)
        return StreamResponse(iter([NOISE[:size]]), may_be_cached=lambda: False)

    cache = CacheSettings(folder=tmp_path, memory=memory)
    app = WireTestApp(WireApp(FakeProvider(), commands=commands, cache=cache))
    for _ in range(2):
        assert app.wire("/repo", "x").data == NOISE[:size]
        makers_are_done()
    assert len(ran) == 2


def test_a_bundle_is_not_cached_if_an_extension_was_loaded_meanwhile(tmp_path: Path) -> None:
    provider = FakeProvider()
    answers = iter([True, False, True, True])
    provider.repository.is_same_for_all = lambda: next(answers)  # type: ignore[method-assign]  # as a backend would
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        made.append(1)
        yield NOISE

    cache = CacheSettings(folder=tmp_path, memory=0)
    app = WireTestApp(WireApp(provider, commands=streaming(chunks), cache=cache))
    for _ in range(2):
        app.wire("/repo", "x")
        makers_are_done()
    assert len(made) == 2
