from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hgwire_wsgi.cache.stores.folder import Part, Store, has_maker, is_complete

# The processes that fork here have threads, none of which holds a lock the children need.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

DIGEST = "ab" + "0" * 62


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", 4 * 4096 - 1)


def make(store: Store, digest: str, data: bytes, *, keep: bool = True) -> None:
    part = store.join(digest)
    assert isinstance(part, Part)
    part.write(data)
    part.finish(keep=keep)


def read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def files(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file())


def test_an_entry_is_there_once_it_is_complete(store: Store) -> None:
    assert store.open(DIGEST) is None
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    part.write(b"data")
    assert store.open(DIGEST) is None
    part.finish(keep=True)
    descriptor = store.open(DIGEST)
    assert descriptor is not None
    assert is_complete(descriptor)
    assert read(descriptor) == b"data"
    assert files(store) == [DIGEST]


def test_the_second_one_follows(store: Store) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    part.write(b"some")
    follower = store.join(DIGEST)
    assert isinstance(follower, int)
    assert has_maker(follower)
    assert not is_complete(follower)
    assert os.pread(follower, 10, 0) == b"some"
    part.write(b"more")
    part.finish(keep=True)
    assert is_complete(follower)
    assert os.pread(follower, 10, 0) == b"somemore"
    os.close(follower)


def test_an_entry_that_is_finished_while_one_looks_is_not_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    part.write(b"data")
    look = Store.open

    def look_then_finish(self: Store, digest: str) -> int | None:
        found = look(self, digest)
        if found is None:
            monkeypatch.setattr(Store, "open", look)
            part.finish(keep=True)
        return found

    monkeypatch.setattr(Store, "open", look_then_finish)
    joined = store.join(DIGEST)
    assert isinstance(joined, int)
    assert read(joined) == b"data"
    assert files(store) == [DIGEST]


def test_a_given_up_entry_leaves_nothing(store: Store) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    part.write(b"some")
    follower = store.join(DIGEST)
    assert isinstance(follower, int)
    part.abandon()
    assert not has_maker(follower)
    assert not is_complete(follower)
    os.close(follower)
    assert files(store) == []
    make(store, DIGEST, b"again")


def test_an_entry_not_worth_keeping_serves_its_followers(store: Store) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    follower = store.join(DIGEST)
    assert isinstance(follower, int)
    part.write(b"x" * 20_000)
    part.finish(keep=True)
    assert is_complete(follower)
    os.close(follower)
    make(store, "cd" + DIGEST[2:], b"data", keep=False)
    assert files(store) == []


def test_a_part_of_a_dead_maker_is_replaced_and_never_written_again(store: Store) -> None:
    pid = os.fork()
    if pid == 0:
        part = store.join(DIGEST)
        assert isinstance(part, Part)
        part.write(b"dead")
        os._exit(0)
    os.waitpid(pid, 0)
    assert files(store) == [DIGEST + ".part"]
    with open(store.path(DIGEST) + ".part", "rb") as old:
        make(store, DIGEST, b"alive and well")
        assert old.read() == b"dead"
    descriptor = store.open(DIGEST)
    assert descriptor is not None
    assert read(descriptor) == b"alive and well"


def test_the_least_recently_used_entries_go(store: Store) -> None:
    names = [f"{number:02x}" + DIGEST[2:] for number in range(4)]
    for age, name in enumerate(names):
        make(store, name, b"x" * 4096)
        if age < 3:
            os.utime(store.path(name), (age, age))
    assert files(store) == names[1:]
    descriptor = store.open(names[1])
    assert descriptor is not None
    os.close(descriptor)
    make(store, names[0], b"x" * 4096)
    assert files(store) == sorted([names[0], names[1], names[3]])


def test_a_full_folder_is_not_looked_through_for_every_small_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "cache", 64 << 20)
    for number in range(64):
        name = f"{number:02x}" + DIGEST[2:]
        make(store, name, b"")
        os.chmod(store.path(name), 0o600)
        os.truncate(store.path(name), 1 << 20)
    store.trim()
    trims = 0
    trim = Store.trim

    def count(self: Store) -> None:
        nonlocal trims
        trims += 1
        trim(self)

    monkeypatch.setattr(Store, "trim", count)
    for number in range(50):
        store.put(f"{number:064x}", b"small")
    assert trims <= 1
    assert sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()) <= store.capacity


def test_an_entry_that_fills_the_folder_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", 4096 * 10)
    make(store, DIGEST, b"x" * 4096 * 10)
    assert files(store) == [DIGEST]


def test_a_file_left_behind_under_a_name_of_ours_is_no_obstacle(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of different containers may have the same number, and one may have been killed."""

    def kill(*paths: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(os, "link", kill)
        killed.setattr(os, "unlink", lambda path: None)
        with pytest.raises(KeyboardInterrupt):
            store.join(DIGEST)
    assert len(files(store)) == 1
    make(store, DIGEST, b"data")
    assert DIGEST in files(store)


def test_a_part_that_is_not_worth_keeping_is_never_found_complete(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker may be killed at any moment, and what is found complete is taken for the entry."""
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    part.write(b"data")
    mark, found = os.fchmod, []

    def look(descriptor: int, mode: int) -> None:
        mark(descriptor, mode)
        found.extend(files(store))

    monkeypatch.setattr(os, "fchmod", look)
    part.finish(keep=False)
    assert found == []


def test_parts_of_dead_makers_are_swept(store: Store) -> None:
    shelf = store.folder / "ab"
    shelf.mkdir(mode=0o700)
    (shelf / (DIGEST + ".part")).write_bytes(b"dead")
    (store.folder / "stray").write_bytes(b"")
    store.trim()
    assert files(store) == ["stray"]


def test_complete_parts_of_dead_makers_are_swept_too(store: Store) -> None:
    shelf = store.folder / "ab"
    shelf.mkdir(mode=0o700)
    (shelf / (DIGEST + ".part")).write_bytes(b"complete")
    (shelf / (DIGEST + ".part")).chmod(0o400)
    store.trim()
    assert files(store) == []


def test_files_that_have_no_name_yet_are_swept_when_they_are_old(store: Store) -> None:
    shelf = store.folder / "ab"
    shelf.mkdir(mode=0o700)
    for name, age in (("young", 0), ("old", 7200)):
        (shelf / f"{DIGEST}.{name}.new").write_bytes(b"")
        os.utime(shelf / f"{DIGEST}.{name}.new", (time.time() - age,) * 2)
    store.trim()
    assert files(store) == [f"{DIGEST}.young.new"]


def test_a_living_maker_is_not_swept(store: Store) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    store.trim()
    part.finish(keep=True)
    assert files(store) == [DIGEST]


def test_an_entry_that_is_open_survives_its_removal(store: Store) -> None:
    make(store, DIGEST, b"data")
    descriptor = store.open(DIGEST)
    os.unlink(store.path(DIGEST))
    assert descriptor is not None
    assert read(descriptor) == b"data"


def test_others_cannot_read_the_cache(store: Store) -> None:
    make(store, DIGEST, b"data")
    for path in (store.folder, store.folder / "ab", Path(store.path(DIGEST))):
        assert path.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file" / "cache", 1000)


def test_small_entries_are_replaced(store: Store) -> None:
    assert store.get(DIGEST) is None
    store.put(DIGEST, b"one")
    store.put(DIGEST, b"two")
    assert store.get(DIGEST) == b"two"
    assert files(store) == [DIGEST]


def test_a_small_entry_that_cannot_be_written_leaves_nothing(store: Store) -> None:
    (store.folder / "ab" / DIGEST).mkdir(parents=True)
    with pytest.raises(OSError, match=DIGEST):
        store.put(DIGEST, b"one")
    assert files(store) == []


def test_what_may_be_written_is_no_entry(store: Store) -> None:
    """As a backup leaves it that was put back without its permissions; nobody knows whether it is whole."""
    make(store, DIGEST, b"data")
    os.chmod(store.path(DIGEST), 0o600)
    assert store.open(DIGEST) is None
    make(store, DIGEST, b"data")
    descriptor = store.open(DIGEST)
    assert descriptor is not None
    assert read(descriptor) == b"data"


@pytest.mark.parametrize("end", ["kept", "dropped", "abandoned"])
def test_a_maker_whose_folder_was_emptied_leaves_the_next_one_alone(store: Store, end: str) -> None:
    first = store.join(DIGEST)
    assert isinstance(first, Part)
    first.write(b"data")
    os.unlink(store.path(DIGEST) + ".part")
    second = store.join(DIGEST)
    assert isinstance(second, Part)
    second.write(b"da")
    if end == "abandoned":
        first.abandon()
    else:
        first.finish(keep=end == "kept")
    assert files(store) == [DIGEST + ".part"]
    assert store.open(DIGEST) is None
    second.write(b"ta")
    second.finish(keep=True)
    descriptor = store.open(DIGEST)
    assert descriptor is not None
    assert read(descriptor) == b"data"


def test_a_given_up_entry_has_no_maker_in_forked_processes(store: Store) -> None:
    part, follower = store.join(DIGEST), store.join(DIGEST)
    assert isinstance(part, Part) and isinstance(follower, int)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    part.abandon()
    assert not has_maker(follower)
    for descriptor in (reading, writing, follower):
        os.close(descriptor)
    os.waitpid(pid, 0)


def test_files_of_others_are_left_alone(store: Store) -> None:
    strangers = ["go/README", "hg/half.part", "ab/notes", "ab/old.new"]
    for name in strangers:
        path = store.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 800)
        os.utime(path, (0, 0))
    make(store, DIGEST, b"x" * 800)
    assert sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file()) == sorted(
        [*strangers, f"ab/{DIGEST}"]
    )
