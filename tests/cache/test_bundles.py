from __future__ import annotations

import os
import random
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from hgwire_wsgi.cache.bundles import BundleCache, IndexEntry, StoredFile, Uncacheable
from hgwire_wsgi.cache.stores.folder import FolderStore

KEY, OTHER, INDEX = "ab" + "0" * 62, "cd" + "0" * 62, "ef" + "0" * 62
DATA = random.Random(0).randbytes(100_000)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "cache", 1 << 20)


@pytest.fixture
def cache(store: FolderStore) -> BundleCache:
    return BundleCache(store, chunk=1000)


def produce() -> Generator[bytes, None, None]:
    for start in range(0, len(DATA), 1000):
        yield DATA[start : start + 1000]


def always() -> bool:
    return True


def never() -> bool:
    return False


def read(body: object) -> bytes:
    if isinstance(body, StoredFile):
        with open(body.descriptor, "rb") as file:
            return file.read()
    assert hasattr(body, "__iter__")
    return body if isinstance(body, bytes) else b"".join(body)


def test_a_bundle_is_made_then_opened(cache: BundleCache, store: FolderStore) -> None:
    assert cache.open(KEY) is None
    bundle = cache.join_or_make(KEY, produce, always)
    assert (bundle.outcome, read(bundle.body)) == ("miss", DATA)
    assert cache.wait(30)
    stored = cache.open(KEY)
    assert isinstance(stored, StoredFile) and stored.name is not None
    assert (stored.size, stored.name) == (len(DATA), f"ab/{KEY}")
    assert (store.folder / stored.name).read_bytes() == read(stored) == DATA
    hit = cache.join_or_make(KEY, produce, always)
    assert isinstance(hit.body, StoredFile)
    assert (hit.outcome, hit.body.name, read(hit.body)) == ("hit", stored.name, DATA)


def test_waiting_has_an_end(cache: BundleCache) -> None:
    may_go_on = threading.Event()

    def slow() -> Generator[bytes, None, None]:
        yield bytes(1000)
        assert may_go_on.wait(30)

    bundle = cache.join_or_make(KEY, slow, always)
    assert not cache.wait(0.01)
    may_go_on.set()
    assert cache.wait()
    assert read(bundle.body) == bytes(1000)


def test_what_must_not_be_cached_reaches_the_caller(cache: BundleCache) -> None:
    def refuse() -> Generator[bytes, None, None]:
        raise Uncacheable(["response"])

    with pytest.raises(Uncacheable) as caught:
        cache.join_or_make(KEY, refuse, always)
    assert caught.value.result == ["response"]


@pytest.mark.parametrize("heads", [(), (b"\x01" * 20,), (b"\x02" * 20, b"\xff" * 20)])
def test_the_index_names_a_bundle_once_it_is_kept(cache: BundleCache, heads: tuple[bytes, ...]) -> None:
    entry = IndexEntry(index_key=INDEX, bundle_key=KEY, heads=heads)
    assert cache.read_index(INDEX) is None
    read(cache.join_or_make(KEY, produce, never, index=lambda: entry).body)
    assert cache.wait(30)
    assert cache.read_index(INDEX) is None
    read(cache.join_or_make(KEY, produce, always, index=lambda: entry).body)
    assert cache.wait(30)
    assert cache.read_index(INDEX) == entry
    newer = IndexEntry(index_key=INDEX, bundle_key=OTHER, heads=(b"\x03" * 20,))
    read(cache.join_or_make(OTHER, produce, always, index=lambda: newer).body)
    assert cache.wait(30)
    assert cache.read_index(INDEX) == newer


@pytest.mark.parametrize(
    "data",
    [b"", b"../../etc/passwd", KEY.encode() + b"\nnot hexadecimal", KEY.encode() + b"\nabc", KEY.encode() + b"\n"],
)
def test_an_index_that_something_else_wrote_does_not_count(cache: BundleCache, store: FolderStore, data: bytes) -> None:
    store.put(INDEX, data)
    assert cache.read_index(INDEX) is None


def test_a_store_that_fails_is_as_good_as_none(
    cache: BundleCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: FolderStore, key: str, **options: object) -> None:
        raise OSError("the disk is broken")

    for name in ("open", "get", "open_or_begin"):
        monkeypatch.setattr(FolderStore, name, fail)
    assert cache.open(KEY) is None
    assert cache.read_index(INDEX) is None
    bundle = cache.join_or_make(KEY, produce, always)
    assert (bundle.outcome, read(bundle.body)) == ("uncached", DATA)
    assert caplog.text.count("the disk is broken") == 1


def test_log_lines_name_the_bundle(cache: BundleCache, caplog: pytest.LogCaptureFixture) -> None:
    def gone() -> bool:
        raise ValueError("the repository is gone")

    read(cache.join_or_make(KEY, produce, gone, label="getbundle of project").body)
    read(cache.join_or_make(OTHER, produce, gone).body)
    assert cache.wait(30)
    assert "getbundle of project is not cached: the repository is gone" in caplog.text
    assert f"bundle {OTHER} is not cached" in caplog.text


def test_nothing_stays_open(cache: BundleCache) -> None:
    before = set(os.listdir("/dev/fd"))
    for _ in range(3):
        read(cache.join_or_make(KEY, produce, never).body)
        assert cache.wait(30)
    assert set(os.listdir("/dev/fd")) <= before
