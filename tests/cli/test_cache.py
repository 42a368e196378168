"""``hgwire cache check``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hgwire_wsgi.cache.stores.base import PendingEntry
from hgwire_wsgi.cache.stores.folder import FolderStore
from hgwire_wsgi.cli import cache as cache_module
from hgwire_wsgi.cli import main

KEYS = [f"{number:064x}" for number in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "cache", 1 << 20)
    for key in KEYS[:2]:
        pending = store.open_or_begin(key)
        assert isinstance(pending, PendingEntry)
        pending.write(b"bundle")
        pending.finish(keep=True)
    store.put(KEYS[2], b"index")
    return store


def test_damaged_bundles_are_named_and_removed(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["cache", "check", "--cache-dir", str(store.folder)]
    assert main(command) == 0
    assert capsys.readouterr().out == "3 entries, 0.0 MiB, 0 damaged\n"
    os.chmod(store.path(KEYS[0]), 0o600)
    Path(store.path(KEYS[0])).write_bytes(b"bungle")
    os.chmod(store.path(KEYS[0]), 0o400)
    assert main(command) == 1
    assert capsys.readouterr().out == (
        f"{store.path(KEYS[0])}: its content has changed; removed\n3 entries, 0.0 MiB, 1 damaged\n"
    )
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("2 entries")


def test_the_default_is_the_cache_of_the_user(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(store.folder.parent))
    os.rename(store.folder, store.folder.parent / "hgwire-wsgi")
    assert main(["cache", "check"]) == 0
    assert capsys.readouterr().out.startswith("3 entries")
    monkeypatch.setattr(cache_module, "default_folder", lambda: None)
    assert main(["cache", "check"]) == 2
    assert "no cache folder" in capsys.readouterr().err


def test_what_is_not_a_cache(store: FolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "check", "--cache-dir", str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    store.folder.chmod(0o777)
    assert main(["cache", "check", "--cache-dir", str(store.folder)]) == 1
    assert "other users can write to the folder" in capsys.readouterr().err
