from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hgwire_wsgi.cache.stores import folder
from hgwire_wsgi.cache.stores.base import DamagedEntry, GrowingEntry, PendingEntry, StoredFile
from hgwire_wsgi.cache.stores.folder import FolderStore

# The processes that fork here have threads, none of which holds a lock the children need.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

KEY = "ab" + "0" * 62
ENTRY = 2 * 4096
"""Bytes on the disk of a bundle of one block, and of its digest."""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "cache", 4 * ENTRY - 1)


def begin(store: FolderStore, key: str) -> PendingEntry:
    pending = store.open_or_begin(key)
    assert isinstance(pending, PendingEntry)
    return pending


def follow(store: FolderStore, key: str) -> GrowingEntry:
    growing = store.open_or_begin(key)
    assert isinstance(growing, GrowingEntry)
    return growing


def make(store: FolderStore, key: str, data: bytes, *, keep: bool = True) -> None:
    pending = begin(store, key)
    pending.write(data)
    pending.finish(keep=keep)


def read(stored: object) -> bytes:
    assert isinstance(stored, StoredFile)
    with open(stored.descriptor, "rb") as file:
        data = file.read()
    assert len(data) == stored.size
    return data


def files(store: FolderStore) -> list[str]:
    """The files except the digests, of which each complete entry has one."""
    names = {path.name for path in store.folder.rglob("*") if path.is_file()}
    return sorted(name for name in names if not name.endswith(".sum") or name.removesuffix(".sum") not in names)


def test_an_entry_is_there_once_it_is_complete(store: FolderStore) -> None:
    assert store.open(KEY) is None
    pending = begin(store, KEY)
    pending.write(b"data")
    assert store.open(KEY) is None
    pending.finish(keep=True)
    assert read(store.open(KEY)) == b"data"
    assert files(store) == [KEY]


def test_the_second_one_follows(store: FolderStore) -> None:
    pending = begin(store, KEY)
    pending.write(b"some")
    follower = follow(store, KEY)
    assert follower.has_maker()
    assert not follower.is_complete()
    assert follower.read(0, 10) == b"some"
    pending.write(b"more")
    pending.finish(keep=True)
    assert follower.is_complete()
    assert follower.read(0, 10) == b"somemore"
    follower.close()


def test_an_entry_that_is_finished_while_one_looks_is_not_made_again(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = begin(store, KEY)
    pending.write(b"data")
    look = FolderStore.open

    def look_then_finish(self: FolderStore, key: str, *, shared: bool = False) -> StoredFile | None:
        found = look(self, key, shared=shared)
        if found is None:
            monkeypatch.setattr(FolderStore, "open", look)
            pending.finish(keep=True)
        return found

    monkeypatch.setattr(FolderStore, "open", look_then_finish)
    assert read(store.open_or_begin(KEY)) == b"data"
    assert files(store) == [KEY]


def test_a_given_up_entry_leaves_nothing(store: FolderStore) -> None:
    pending = begin(store, KEY)
    pending.write(b"some")
    follower = follow(store, KEY)
    pending.abandon()
    assert not follower.has_maker()
    assert not follower.is_complete()
    follower.close()
    assert files(store) == []
    make(store, KEY, b"again")


def test_an_entry_not_worth_keeping_serves_its_followers(store: FolderStore) -> None:
    pending = begin(store, KEY)
    follower = follow(store, KEY)
    pending.write(b"x" * 40_000)
    pending.finish(keep=True)
    assert follower.is_complete()
    follower.close()
    make(store, "cd" + KEY[2:], b"data", keep=False)
    assert files(store) == []


def test_a_part_of_a_dead_maker_is_replaced_and_never_written_again(store: FolderStore) -> None:
    pid = os.fork()
    if pid == 0:
        pending = begin(store, KEY)
        pending.write(b"dead")
        os._exit(0)
    os.waitpid(pid, 0)
    assert files(store) == [KEY + ".part"]
    with open(store.path(KEY) + ".part", "rb") as old:
        make(store, KEY, b"alive and well")
        assert old.read() == b"dead"
    assert read(store.open(KEY)) == b"alive and well"


def test_the_least_recently_used_entries_go(store: FolderStore) -> None:
    names = [f"{number:02x}" + KEY[2:] for number in range(4)]
    for age, name in enumerate(names):
        make(store, name, b"x" * 4096)
        if age < 3:
            os.utime(store.path(name), (age, age))
    assert files(store) == names[1:]
    stored = store.open(names[1])
    assert stored is not None
    stored.close()
    make(store, names[0], b"x" * 4096)
    assert files(store) == sorted([names[0], names[1], names[3]])


def test_a_full_folder_is_not_looked_through_for_every_small_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "cache", 64 << 20)
    for number in range(64):
        name = f"{number:02x}" + KEY[2:]
        make(store, name, b"")
        os.chmod(store.path(name), 0o600)
        os.truncate(store.path(name), 1 << 20)
    store.trim()
    trims = 0
    trim = FolderStore.trim

    def count(self: FolderStore) -> None:
        nonlocal trims
        trims += 1
        trim(self)

    monkeypatch.setattr(FolderStore, "trim", count)
    for number in range(50):
        store.put(f"{number:064x}", b"small")
    assert trims <= 1
    assert sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()) <= store.capacity


def test_an_entry_that_fills_the_folder_stays(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "cache", 4096 * 10)
    make(store, KEY, b"x" * 4096 * 10)
    assert files(store) == [KEY]


def test_a_file_left_behind_under_a_name_of_ours_is_no_obstacle(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of different containers may have the same number, and one may have been killed."""

    def kill(*paths: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(os, "link", kill)
        killed.setattr(os, "unlink", lambda path: None)
        with pytest.raises(KeyboardInterrupt):
            store.open_or_begin(KEY)
    assert len(files(store)) == 1
    make(store, KEY, b"data")
    assert KEY in files(store)


def test_a_part_that_is_not_worth_keeping_is_never_found_complete(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker may be killed at any moment, and what is found complete is taken for the entry."""
    pending = begin(store, KEY)
    pending.write(b"data")
    mark, found = os.fchmod, []

    def look(descriptor: int, mode: int) -> None:
        mark(descriptor, mode)
        found.extend(files(store))

    monkeypatch.setattr(os, "fchmod", look)
    pending.finish(keep=False)
    assert found == []


def test_parts_of_dead_makers_are_swept(store: FolderStore) -> None:
    shelf = store.folder / "ab"
    shelf.mkdir(mode=0o700)
    (shelf / (KEY + ".part")).write_bytes(b"dead")
    (store.folder / "stray").write_bytes(b"")
    store.trim()
    assert files(store) == ["stray"]


def test_complete_parts_of_dead_makers_are_swept_too(store: FolderStore) -> None:
    shelf = store.folder / "ab"
    shelf.mkdir(mode=0o700)
    (shelf / (KEY + ".part")).write_bytes(b"complete")
    (shelf / (KEY + ".part")).chmod(0o400)
    store.trim()
    assert files(store) == []


def test_files_that_have_no_name_yet_are_swept_when_they_are_old(store: FolderStore) -> None:
    shelf = store.folder / "ab"
    shelf.mkdir(mode=0o700)
    for name, age in (("young", 0), ("old", 7200)):
        (shelf / f"{KEY}.{name}.new").write_bytes(b"")
        os.utime(shelf / f"{KEY}.{name}.new", (time.time() - age,) * 2)
    store.trim()
    assert files(store) == [f"{KEY}.young.new"]


def test_a_living_maker_is_not_swept(store: FolderStore) -> None:
    pending = begin(store, KEY)
    store.trim()
    pending.finish(keep=True)
    assert files(store) == [KEY]


def test_an_entry_that_is_open_survives_its_removal(store: FolderStore) -> None:
    make(store, KEY, b"data")
    stored = store.open(KEY)
    os.unlink(store.path(KEY))
    assert read(stored) == b"data"


def test_others_cannot_read_the_cache(store: FolderStore) -> None:
    make(store, KEY, b"data")
    for path in (store.folder, store.folder / "ab", Path(store.path(KEY))):
        assert path.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        FolderStore(tmp_path / "file" / "cache", 1000)


def test_small_entries_are_replaced(store: FolderStore) -> None:
    assert store.get(KEY) is None
    store.put(KEY, b"one")
    store.put(KEY, b"two")
    assert store.get(KEY) == b"two"
    assert files(store) == [KEY]
    assert [(each.key, each.problem) for each in store.check()] == [(KEY, "")]


def test_a_small_entry_that_cannot_be_written_leaves_nothing(store: FolderStore) -> None:
    (store.folder / "ab" / KEY).mkdir(parents=True)
    with pytest.raises(OSError, match=KEY):
        store.put(KEY, b"one")
    assert files(store) == []


def test_what_may_be_written_is_no_entry(store: FolderStore) -> None:
    """As a backup leaves it that was put back without its permissions; nobody knows whether it is whole."""
    make(store, KEY, b"data")
    os.chmod(store.path(KEY), 0o600)
    with pytest.raises(DamagedEntry, match="not complete"):
        store.open(KEY)
    assert store.open(KEY) is None
    make(store, KEY, b"data")
    assert read(store.open(KEY)) == b"data"


@pytest.mark.parametrize("end", ["kept", "dropped", "abandoned"])
def test_a_maker_whose_folder_was_emptied_leaves_the_next_one_alone(store: FolderStore, end: str) -> None:
    first = begin(store, KEY)
    first.write(b"data")
    os.unlink(store.path(KEY) + ".part")
    second = begin(store, KEY)
    second.write(b"da")
    if end == "abandoned":
        first.abandon()
    else:
        first.finish(keep=end == "kept")
    assert files(store) == [KEY + ".part"]
    assert store.open(KEY) is None
    second.write(b"ta")
    second.finish(keep=True)
    assert read(store.open(KEY)) == b"data"


def test_a_given_up_entry_has_no_maker_in_forked_processes(store: FolderStore) -> None:
    pending, follower = begin(store, KEY), follow(store, KEY)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    pending.abandon()
    assert not follower.has_maker()
    follower.close()
    os.close(reading)
    os.close(writing)
    os.waitpid(pid, 0)


def test_files_of_others_are_left_alone(store: FolderStore) -> None:
    strangers = ["go/README", "hg/half.part", "ab/notes", "ab/old.new"]
    for name in strangers:
        path = store.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 800)
        os.utime(path, (0, 0))
    make(store, KEY, b"x" * 800)
    assert sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file()) == sorted(
        [*strangers, f"ab/{KEY}", f"ab/{KEY}.sum"]
    )


def test_the_name_of_an_entry_is_what_a_front_end_server_finds(store: FolderStore) -> None:
    make(store, KEY, b"data")
    stored = store.open(KEY)
    assert stored is not None and stored.name is not None
    assert (store.folder / stored.name).read_bytes() == read(stored)


def test_a_complete_entry_is_opened_whatever_its_name(store: FolderStore) -> None:
    pending = begin(store, KEY)
    pending.write(b"data")
    os.chmod(store.path(KEY) + ".part", 0o400)
    stored = store.open_or_begin(KEY)
    assert isinstance(stored, StoredFile) and stored.name is None
    assert read(stored) == b"data"
    assert pending.finish(keep=True)
    stored = store.open_or_begin(KEY)
    assert isinstance(stored, StoredFile) and stored.name == f"ab/{KEY}"
    assert read(stored) == b"data"


@pytest.fixture
def anyones() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="hgwire-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def test_an_entry_that_is_about_to_get_its_name_has_none(anyones: Path) -> None:
    """Nobody may write it any more, not even its owner, unless that is root."""
    pid = os.fork()
    if pid == 0:
        failed = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            store = FolderStore(anyones / "cache", 1000)
            begin(store, KEY).write(b"data")
            os.chmod(store.path(KEY) + ".part", 0o400)
            stored = store.open_or_begin(KEY)
            assert isinstance(stored, StoredFile) and stored.name is None
            assert read(stored) == b"data"
            failed = 0
        finally:
            os._exit(failed)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_handles_of_one_attempt_have_one_identity(store: FolderStore) -> None:
    pending = begin(store, KEY)
    handles = [follow(store, KEY), pending.follow()]
    pending.abandon()
    other = begin(store, KEY)
    handles.append(other.follow())
    assert handles[0].identity == handles[1].identity != handles[2].identity
    other.abandon()
    for handle in handles:
        handle.close()


def test_an_entry_that_has_ended_takes_no_more(store: FolderStore) -> None:
    pending = begin(store, KEY)
    pending.write(b"data")
    assert pending.finish(keep=True)
    pending.abandon()
    with pytest.raises(OSError, match="has ended"):
        pending.write(b"more")
    assert read(store.open(KEY)) == b"data"


@pytest.mark.parametrize("size", [4, 100_000])
def test_finishing_tells_whether_the_entry_was_kept(tmp_path: Path, size: int) -> None:
    store = FolderStore(tmp_path / "cache", 200_000)
    for keep in (False, True):
        pending = begin(store, KEY)
        pending.write(bytes(size))
        assert pending.finish(keep=keep) is keep
    large = begin(store, "cd" + KEY[2:])
    large.write(bytes(200_001))
    assert not large.finish(keep=True)


def test_a_folder_that_is_emptied_while_an_entry_gets_its_name(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = begin(store, KEY)
    pending.write(b"data")
    rename = os.rename

    def emptied(source: str, target: str) -> None:
        os.unlink(source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", emptied)
    assert not pending.finish(keep=True)
    assert files(store) == []


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other, pytest.raises(PermissionError, match="another user"):
        other.setattr(os, "geteuid", lambda: os.getuid() + 1)
        FolderStore(tmp_path / "cache", 1000)
    with monkeypatch.context() as readonly, pytest.raises(PermissionError, match="cache"):
        readonly.setattr(os, "access", lambda path, mode: False)
        FolderStore(tmp_path / "cache", 1000)


def test_a_file_system_without_locks(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pending, lock = begin(store, KEY), fcntl.flock
    descriptors = set(os.listdir("/dev/fd"))
    for failing in (fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_EX):

        def fail(descriptor: int, operation: int, failing: int = failing) -> None:
            if operation == failing:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            lock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", fail)
        with pytest.raises(OSError, match="locks"):
            store.open_or_begin(KEY)
    assert set(os.listdir("/dev/fd")) <= descriptors
    pending.abandon()
    assert files(store) == []


def test_a_part_that_goes_while_one_looks(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = begin(store, KEY)
    look = os.open

    def look_too_late(path: str, *arguments: int) -> int:
        if path.endswith(".part"):
            monkeypatch.setattr(os, "open", look)
            pending.abandon()
        return look(path, *arguments)

    monkeypatch.setattr(os, "open", look_too_late)
    begin(store, KEY).abandon()


def test_a_dead_part_that_was_replaced_already_stays(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes find the same dead part; the slower one must not remove the new part of the other one."""
    dead = store.folder / "ab" / (KEY + ".part")
    dead.parent.mkdir(mode=0o700)
    dead.write_bytes(b"dead")
    others: list[PendingEntry] = []
    lock = fcntl.flock

    def replaced(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX | fcntl.LOCK_NB:
            monkeypatch.setattr(fcntl, "flock", lock)
            os.unlink(dead)
            others.append(begin(store, KEY))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replaced)
    follower = follow(store, KEY)
    assert follower.has_maker()
    follower.close()
    others[0].abandon()


def test_only_one_thread_trims(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def scan(path: Path | str) -> object:
        calls.append(str(path))
        monkeypatch.setattr(os, "scandir", scandir)
        store.trim()
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scan)
    store.trim()
    assert calls == [str(store.folder)]


def test_a_folder_that_is_gone_is_named_in_the_log(store: FolderStore, caplog: pytest.LogCaptureFixture) -> None:
    store.folder.rmdir()
    with caplog.at_level(logging.WARNING, "hgwire_wsgi"):
        store.trim()
    assert f"the bundle cache in {store.folder} cannot be trimmed" in caplog.text
    assert str(store) == str(store.folder)
    make(store, KEY, b"data")
    assert read(store.open(KEY)) == b"data"


FLIPS = [(name, place) for name in ("", ".sum") for place in (0, 1, 1000, -1)]


def damage(path: str, place: int) -> None:
    """Flip a bit of a file."""
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(place % os.path.getsize(path))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1 << place % 8]))
    os.chmod(path, 0o400)


@pytest.mark.parametrize(("name", "place"), FLIPS)
@pytest.mark.parametrize("known", [False, True])
def test_a_flipped_bit_is_found(store: FolderStore, name: str, place: int, known: bool) -> None:
    make(store, KEY, b"data" * 1000)
    if known and not name:
        read(store.open(KEY))
    damage(store.path(KEY) + name, place)
    with pytest.raises(DamagedEntry, match=r"its content has changed|its digest is damaged|instead of"):
        store.open(KEY)
    assert store.open(KEY) is None
    make(store, KEY, b"data" * 1000)
    assert read(store.open(KEY)) == b"data" * 1000


@pytest.mark.parametrize("size", [0, 1, 3999, 4001])
def test_a_bundle_of_another_size_is_found(store: FolderStore, size: int) -> None:
    make(store, KEY, b"data" * 1000)
    read(store.open(KEY))
    os.chmod(store.path(KEY), 0o600)
    os.truncate(store.path(KEY), size)
    os.chmod(store.path(KEY), 0o400)
    with pytest.raises(DamagedEntry, match=f"it has {size} bytes instead of 4000" if size else "not complete"):
        store.open(KEY)
    assert KEY not in files(store)


def test_a_bundle_under_the_name_of_another_is_found(store: FolderStore) -> None:
    other = "ab" + "1" * 62
    make(store, KEY, b"data")
    for name in ("", ".sum"):
        os.rename(store.path(KEY) + name, store.path(other) + name)
    with pytest.raises(DamagedEntry, match="its content has changed"):
        store.open(other)


def test_a_bundle_without_a_digest_is_not_served(store: FolderStore) -> None:
    make(store, KEY, b"data")
    os.unlink(store.path(KEY) + ".sum")
    with pytest.raises(DamagedEntry, match="its digest is missing"):
        store.open(KEY)
    assert files(store) == []


def test_a_bundle_that_cannot_be_read_is_found(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, size: int, position: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    make(store, KEY, b"data")
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DamagedEntry, match="it cannot be read"):
        store.open(KEY)


@pytest.mark.parametrize("method", ["open", "get"])
def test_a_bundle_that_goes_while_it_is_checked(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Another process evicts it; that is no damage."""
    make(store, KEY, b"data")
    names = folder._names

    def evict(path: str, descriptor: int) -> bool:
        os.unlink(store.path(KEY))
        return names(path, descriptor)

    os.unlink(store.path(KEY) + ".sum")
    monkeypatch.setattr(folder, "_names", evict)
    assert getattr(store, method)(KEY) is None


def test_a_bundle_is_checked_once_in_a_process(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store, KEY, b"data")
    reads = []
    pread = os.pread

    def count(descriptor: int, size: int, position: int) -> bytes:
        reads.append(position)
        return pread(descriptor, size, position)

    monkeypatch.setattr(os, "pread", count)
    together = [threading.Thread(target=lambda: read(store.open(KEY))) for _ in range(8)]
    for each in together:
        each.start()
    for each in together:
        each.join()
    assert reads == [0, 4]
    read(FolderStore(store.folder, store.capacity).open(KEY))
    assert reads == [0, 4, 0, 4]


@pytest.mark.parametrize("place", range(0, 40, 3))
def test_a_damaged_small_entry_is_found(store: FolderStore, place: int) -> None:
    store.put(KEY, b"small data")
    damage(store.path(KEY), place)
    with pytest.raises(DamagedEntry, match="its content has changed"):
        store.get(KEY)
    assert store.get(KEY) is None


def test_all_entries_can_be_checked(store: FolderStore) -> None:
    keys = [f"{number:02x}" + KEY[2:] for number in range(3)]
    for key in keys[:2]:
        make(store, key, b"data")
        os.utime(store.path(key), (1, 1))
    store.put(keys[2], b"small")
    assert {(each.key, each.problem) for each in store.check()} == {(key, "") for key in keys}
    assert os.stat(store.path(keys[1])).st_atime == 1
    damage(store.path(keys[0]), 3)
    damage(store.path(keys[2]), 3)
    problem = "its content has changed"
    assert {(each.key, each.problem) for each in store.check()} == {
        (keys[0], problem),
        (keys[1], ""),
        (keys[2], problem),
    }
    assert [each.key for each in store.check()] == [keys[1]]
    entries = store._entries()
    os.unlink(store.path(keys[1]))
    store._entries = lambda: entries  # type: ignore[method-assign]  # an entry that is evicted meanwhile
    assert list(store.check()) == []


def test_digests_without_a_bundle_are_swept_when_they_are_old(store: FolderStore) -> None:
    keys = [f"ab{number:02x}" + KEY[4:] for number in range(3)]
    for key in keys:
        make(store, key, b"data")
        if key != keys[2]:
            os.unlink(store.path(key))
    for key in keys[1:]:
        os.utime(store.path(key) + ".sum", (0, 0))
    store.trim()
    assert sorted(path.name for path in store.folder.rglob("*.sum")) == [keys[0] + ".sum", keys[2] + ".sum"]


@pytest.mark.parametrize("name", ["", ".part", ".sum"])
@pytest.mark.parametrize("kind", ["pipe", "link", "socket", "other user"])
def test_only_files_of_this_user_count(store: FolderStore, tmp_path: Path, name: str, kind: str) -> None:
    make(store, KEY, b"data")
    path = store.path(KEY) + name
    if name == ".part":
        os.unlink(store.path(KEY))
    else:
        os.rename(path, tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        os.symlink(tmp_path / "moved", path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(os.path.dirname(path))
            try:
                server.bind(os.path.basename(path))
            finally:
                os.chdir(here)
    elif os.geteuid() == 0:
        Path(path).write_bytes(b"planted")
        os.chmod(path, 0o400)
        os.chown(path, 65534, 65534)
    else:
        pytest.skip("only root can give files away")
    with pytest.raises(DamagedEntry):
        store.open_or_begin(KEY)
    with contextlib.suppress(DamagedEntry):
        assert store.open(KEY) is None
    make(store, KEY, b"data")
    assert read(store.open(KEY)) == b"data"


def test_a_folder_in_place_of_an_entry(store: FolderStore) -> None:
    os.makedirs(store.path(KEY))
    with pytest.raises(OSError, match=KEY):
        store.open(KEY)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(PermissionError, match="other users can write"):
        FolderStore(tmp_path / "cache", 1000)
    (tmp_path / "cache").chmod(mode & 0o755)
    FolderStore(tmp_path / "cache", 1000)


@pytest.mark.parametrize("mode", [0o703, 0o777])
def test_a_folder_that_anyone_can_replace_is_refused(anyones: Path, mode: int) -> None:
    (anyones / "parent" / "cache").mkdir(parents=True, mode=0o700)
    (anyones / "link").symlink_to(anyones / "parent")
    for parent in ("parent", "link"):
        (anyones / "parent").chmod(mode)
        with pytest.raises(PermissionError, match="any user can replace"):
            FolderStore(anyones / parent / "cache", 1000)
        for sane in (mode | 0o1000, 0o775):
            (anyones / "parent").chmod(sane)
            FolderStore(anyones / parent / "cache", 1000)


def test_requests_of_one_client_do_not_evict_what_several_need(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "cache", 200 * ENTRY)
    needed = [f"{number:02x}" + "f" * 62 for number in range(100)]
    for key in needed:
        make(store, key, b"data")
        stored = store.open(key, shared=True)
        assert stored is not None
        stored.close()
    requests = int(os.environ.get("HGWIRE_REQUESTS", "1000"))
    for number in range(requests):
        make(store, f"{number:064x}", b"data")
    kept = files(store)
    assert set(needed) < set(kept)
    assert len(kept) <= 200
    assert f"{requests - 1:064x}" in kept


def test_what_several_needed_goes_when_it_is_old(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "cache", 20 * ENTRY)
    for number in range(100):
        make(store, f"{number:064x}", b"data")
        stored = store.open(f"{number:064x}", shared=True)
        assert stored is not None
        stored.close()
    assert 15 <= len(files(store)) <= 20
    assert f"{0:064x}" not in files(store)
    for number in range(100, 120):
        make(store, f"{number:064x}", b"data")
    lonely = [name for name in files(store) if int(name, 16) >= 100]
    assert 4 <= len(lonely) <= 6
