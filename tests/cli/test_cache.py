"""``hgwire cache check``, and damage in the cache of a running server."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import PATIENCE, Running, environment

from hgwire_wsgi.cache.stores.base import PendingEntry
from hgwire_wsgi.cache.stores.folder import FolderStore
from hgwire_wsgi.cli import cache as cache_module
from hgwire_wsgi.cli import main
from hgwire_wsgi.cli.demo import hg_command

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


FLIPS = int(os.environ.get("HGWIRE_FLIPS", "3"))
"""Bits that are flipped, of 24 for the whole test."""


@pytest.mark.parametrize("noticeable", [True, False])
def test_damage_never_reaches_a_client_of_a_server(
    serve: Callable[..., Running],
    demonstration: Path,
    hg: Callable[..., str],
    tmp_path: Path,
    noticeable: bool,
) -> None:
    """A write shows in the time of the last modification; a disk that loses bits leaves it alone.

    A process that has checked the bundle before finds only the former.  Then the checksum of zstd shows the damage to
    the client, whose clone fails.
    """
    # A smaller bundle would come from memory.
    shutil.copytree(demonstration, tmp_path / "large")
    (tmp_path / "large" / "noise").write_bytes(random.Random(0).randbytes(300_000))
    hg("-R", tmp_path / "large", "commit", "-q", "-A", "-u", "test", "-m", "noise")
    running = serve(tmp_path / "large", "--workers", "1", "--cache-dir", tmp_path / "cache")
    for name in ("first", "second"):
        hg("clone", "-U", running.url, tmp_path / name)
    expected = hg("-R", tmp_path / "second", "log", "-T", "{node} ")
    outcomes = []
    for number in range(FLIPS):
        (path,) = [path for path in (tmp_path / "cache").glob("??/" + "?" * 64) if Path(f"{path}.sum").exists()]
        flip(path, number / FLIPS, keep_time=not noticeable)
        command = [*hg_command(), "clone", "-U", running.url, str(tmp_path / "clone")]
        outcomes.append(subprocess.run(command, env=environment(), capture_output=True, timeout=PATIENCE).returncode)
        if noticeable:
            assert hg("-R", tmp_path / "clone", "log", "-T", "{node} ") == expected
        else:
            flip(path, number / FLIPS, keep_time=True)
        shutil.rmtree(tmp_path / "clone", ignore_errors=True)
    assert main(["cache", "check", "--cache-dir", str(tmp_path / "cache")]) == 0
    assert [code == 0 for code in outcomes] == [noticeable] * FLIPS
    _, errors = running.stop()
    assert errors.count("was damaged in the cache, and has been removed") == (FLIPS if noticeable else 0)


def flip(path: Path, place: float, *, keep_time: bool) -> None:
    """Flip a bit of a file."""
    found = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(int(place * found.st_size))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1 << int(place * 24) % 8]))
    path.chmod(0o400)
    if keep_time:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_server_says_that_its_cache_is_not_private(
    serve: Callable[..., Running], demonstration: Path, hg: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    running = serve(demonstration, "--workers", "1", "--cache-dir", tmp_path / "cache")
    hg("clone", running.url, tmp_path / "clone")
    _, errors = running.stop()
    assert f"hgwire: bundles are not cached: {tmp_path}/cache: other users can write to the folder" in errors
    assert "there is no bundle cache" in errors
    assert list((tmp_path / "cache").iterdir()) == []
