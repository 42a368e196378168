from __future__ import annotations

import os
import re
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi.cache.bundles import BundleCache, StoredFile
from hgwire_wsgi.cache.responses import CachedResponse
from hgwire_wsgi.cache.settings import (
    CacheSettings,
    PerProcess,
    default_folder,
    open_bundle_cache,
    open_bundle_store,
    open_response_cache,
)
from hgwire_wsgi.cache.stores.folder import FolderStore
from hgwire_wsgi.cache.stores.memory import MemoryStore

KEY = ("repo", b"state", (("cmd=heads",), (), ()))
REPLY = CachedResponse(("heads",), (), b"0" * 41)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CacheSettings().folder == default_folder() == tmp_path / "hgwire-wsgi"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CacheSettings().folder == tmp_path / ".cache" / "hgwire-wsgi"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", fail)
    assert default_folder() is None
    assert open_bundle_store(CacheSettings()) is None
    assert "no folder is configured, and this user has no home" in caplog.text


@pytest.mark.parametrize("wrong", [{"memory": -1}, {"disk": -1}, {"accel_header": "X-Send"}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CacheSettings(**wrong)


def test_a_folder_is_opened(tmp_path: Path) -> None:
    store = open_bundle_store(CacheSettings(folder=tmp_path / "cache", disk=5000))
    assert isinstance(store, FolderStore)
    assert (store.folder, store.capacity) == (tmp_path / "cache", 5000)
    assert isinstance(open_bundle_cache(CacheSettings(folder=tmp_path / "cache"), chunk=1000), BundleCache)


def test_a_cache_that_is_switched_off_is_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = CacheSettings(disk=0, memory=0, folder=tmp_path / "cache")
    assert open_bundle_store(settings) is None
    assert open_bundle_cache(settings, chunk=1000) is None
    responses = open_response_cache(settings)
    responses.put(KEY, REPLY)
    assert responses.get(KEY) is None
    assert not (tmp_path / "cache").exists()
    assert caplog.text == ""


def test_a_folder_that_cannot_be_used_is_named_once_in_each_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    settings = CacheSettings(folder=tmp_path / "file" / "cache")
    caches = PerProcess(partial(open_bundle_cache, settings, chunk=1000))
    assert [caches.get() for _ in range(3)] == [None] * 3
    assert caplog.text.count("there is no bundle cache") == caplog.text.count(f"{tmp_path}/file") == 1


def test_stores_of_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine, bundles = MemoryStore[CachedResponse](10_000), FolderStore(tmp_path / "mine", 5000)
    settings = CacheSettings(
        memory=0, disk=0, folder=tmp_path / "none", response_store=lambda: mine, bundle_store=lambda: bundles
    )
    open_response_cache(settings).put(KEY, REPLY)
    assert mine.get(KEY) == open_response_cache(settings).get(KEY) == REPLY
    assert open_bundle_store(settings) is bundles
    assert not (tmp_path / "none").exists()

    def fail() -> Any:
        raise ConnectionError("the server is down")

    settings = CacheSettings(response_store=fail, bundle_store=fail)
    assert open_bundle_store(settings) is None
    responses = open_response_cache(settings)
    responses.put(KEY, REPLY)
    assert responses.get(KEY) is None
    assert "there is no bundle cache: the server is down" in caplog.text
    assert "there is no cache for small replies: the server is down" in caplog.text


def test_the_store_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "caching.rst").read_text()
    block = re.search(r"counts its hits.*?::\n\n((?: {4}.*\n|\n)+)", text)
    assert block is not None
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block[1]).replace("/srv", str(tmp_path)), names)
    cache = open_bundle_cache(names["cache"], chunk=1000)
    assert cache is not None
    for outcome in ("miss", "hit"):
        bundle = cache.join_or_make(KEY, lambda: (chunk for chunk in [b"data"]), lambda: True)
        assert bundle.outcome == outcome
    assert isinstance(bundle.body, StoredFile)
    bundle.body.close()
    store = open_bundle_store(names["cache"])
    assert isinstance(store, names["CountingStore"]) and store.hits == 0
    stored = store.open(KEY)
    assert store.hits == 1
    stored.close()


def test_memory_is_the_default_for_small_replies() -> None:
    responses = open_response_cache(CacheSettings())
    responses.put(KEY, REPLY)
    assert responses.get(KEY) is REPLY


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_each_process_opens_its_own() -> None:
    opened = PerProcess(object)
    mine = opened.get()
    assert opened.get() is mine
    pid = os.fork()
    if pid == 0:
        own = opened.get()
        os._exit(0 if own is not mine and opened.get() is own else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert opened.get() is mine
