from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi.cache.single_flight import Bundle, BundleJob, Chunks, SingleFlight, Uncacheable
from hgwire_wsgi.cache.stores.base import GrowingEntry, PendingEntry, StoredFile, StoredUrl
from hgwire_wsgi.cache.stores.folder import FolderStore, _GrowingFile, _PendingFile
from hgwire_wsgi.errors import StreamChanged

# The processes that fork here have threads, none of which holds a lock the children need.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

KEY = "ab" + "0" * 62
CHUNK = 1000
DATA = random.Random(0).randbytes(10 * CHUNK + 17)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "cache", 1 << 20)


@pytest.fixture
def flight(store: FolderStore) -> SingleFlight:
    return SingleFlight(store, CHUNK)


def chunked(data: bytes) -> Generator[bytes, None, None]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


class Maker:
    """Makes a stream, and waits where a test says so."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.made = 0
        self.closed = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self) -> Generator[bytes, None, None]:
        self.made += 1
        try:
            for number, chunk in enumerate(chunked(self.data)):
                if number == 3:
                    assert self.may_go_on.wait(30)
                yield chunk
        finally:
            self.closed += 1


class Stubborn:
    """A stream that cannot clean up."""

    def __init__(self, data: bytes) -> None:
        self.chunks = chunked(data)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.chunks)

    def close(self) -> None:
        raise ValueError("cannot clean up")


def fail_early() -> Generator[bytes, None, None]:
    raise ValueError("early")
    yield b""


def always() -> bool:
    return True


def join(
    flight: SingleFlight,
    make: Callable[[], Chunks],
    is_current: Callable[[], bool] = always,
    key: str = KEY,
    companion: Callable[[], tuple[str, bytes] | None] = lambda: None,
) -> Bundle:
    return flight.join_or_make(BundleJob(key, make, is_current, companion, "the bundle"))


def get(
    flight: SingleFlight, make: Callable[[], Chunks], is_current: Callable[[], bool] = always, key: str = KEY
) -> bytes | StoredFile | StoredUrl | Chunks:
    return join(flight, make, is_current, key).body


def read(stream: StoredFile | StoredUrl | bytes | Chunks) -> bytes:
    assert not isinstance(stream, StoredUrl)
    if isinstance(stream, StoredFile):
        with open(stream.descriptor, "rb") as file:
            data = file.read()
        assert len(data) == stream.size
        return data
    return stream if isinstance(stream, bytes) else b"".join(stream)


def following(stream: StoredFile | StoredUrl | bytes | Chunks) -> Chunks:
    """A stream of which nothing is complete yet."""
    assert not isinstance(stream, StoredFile | StoredUrl | bytes)
    return stream


def begin(store: FolderStore) -> PendingEntry:
    pending = store.open_or_begin(KEY)
    assert isinstance(pending, PendingEntry)
    return pending


def files(store: FolderStore) -> list[str]:
    """The files except the digests of bundles."""
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".sum")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_made_once_and_kept(flight: SingleFlight) -> None:
    make = Maker()
    assert read(get(flight, make)) == DATA
    wait_until(lambda: make.closed == 1)
    wait_until(lambda: isinstance(get(flight, make), StoredFile))
    again = get(flight, make)
    assert isinstance(again, StoredFile)
    assert read(again) == DATA
    assert make.made == 1


@pytest.mark.parametrize("size", [1, CHUNK - 1])
def test_a_short_stream_comes_at_once(flight: SingleFlight, size: int) -> None:
    make = Maker(DATA[:size])
    assert get(flight, make) == DATA[:size]
    assert isinstance(get(flight, make), StoredFile)
    assert make.closed == 1


def test_an_empty_stream_is_not_kept_for_files_are_empty_after_a_loss_of_power(flight: SingleFlight) -> None:
    make = Maker(b"")
    assert [get(flight, make) for _ in range(2)] == [b"", b""]
    assert make.made == 2


@pytest.mark.parametrize("size", [CHUNK, CHUNK + 1, 3 * CHUNK])
def test_streams_that_end_with_a_whole_chunk(flight: SingleFlight, size: int) -> None:
    assert read(get(flight, Maker(DATA[:size]))) == DATA[:size]


def test_followers_read_while_it_grows(flight: SingleFlight) -> None:
    make = Maker()
    make.may_go_on.clear()
    streams = [get(flight, make) for _ in range(5)]
    heads = [next(following(stream)) for stream in streams]
    assert all(DATA.startswith(head) for head in heads)
    make.may_go_on.set()
    assert [head + read(stream) for head, stream in zip(heads, streams, strict=True)] == [DATA] * 5
    assert make.made == 1


def test_a_maker_finishes_though_its_client_vanishes(flight: SingleFlight) -> None:
    make = Maker()
    make.may_go_on.clear()
    stream, follower = (get(flight, make) for _ in range(2))
    next(following(stream))
    following(stream).close()
    make.may_go_on.set()
    assert read(follower) == DATA
    assert (make.made, make.closed) == (1, 1)


def test_what_is_no_longer_valid_is_sent_but_not_kept(flight: SingleFlight, store: FolderStore) -> None:
    make = Maker()
    assert read(get(flight, make, lambda: False)) == DATA
    wait_until(lambda: make.closed == 1)
    assert flight.wait(30) and files(store) == []
    assert read(get(flight, make)) == DATA
    assert make.made == 2


def test_an_early_failure_reaches_the_client_as_it_is(flight: SingleFlight, store: FolderStore) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="early"):
            get(flight, fail_early)
    assert read(get(flight, Maker())) == DATA


def test_a_late_failure_breaks_every_transfer(flight: SingleFlight) -> None:
    gate = threading.Event()

    def fail() -> Generator[bytes, None, None]:
        yield DATA[:CHUNK]
        assert gate.wait(30)
        raise ValueError("late")

    streams = [get(flight, fail) for _ in range(2)]
    assert [next(following(stream)) for stream in streams] == [DATA[:CHUNK]] * 2
    gate.set()
    for stream in streams:
        with pytest.raises(StreamChanged):
            read(stream)
    assert read(get(flight, Maker())) == DATA


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_full_disk_serves_without_the_cache_and_complains_once(
    flight: SingleFlight, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    write, count = _PendingFile.write, 0

    def full(self: _PendingFile, data: bytes) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(_PendingFile, "write", full)
    assert read(get(flight, Maker())) == DATA
    assert read(get(flight, Maker())) == DATA
    assert caplog.text.count("cannot be used") == 1


def test_a_cache_that_is_gone_serves_without_it(flight: SingleFlight, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: FolderStore, key: str) -> Any:
        raise PermissionError

    monkeypatch.setattr(FolderStore, "open_or_begin", gone)
    assert read(get(flight, Maker())) == DATA
    assert get(flight, Maker(b"")) == b""
    with pytest.raises(ValueError, match="early"):
        get(flight, fail_early)


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked process, which ends like one that is killed: without any cleaning up."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return pid


def killed_maker(store: FolderStore, data: bytes) -> None:
    pending = begin(store)
    pending.write(data)
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def made_elsewhere(store: FolderStore, go_on: Callable[[PendingEntry], object]) -> Iterator[Callable[[], object]]:
    """Another process that has made half of a stream; it goes on when what this gives is called, then is killed."""
    half_reading, half_writing = os.pipe()
    go_reading, go_writing = os.pipe()

    def work() -> None:
        pending = begin(store)
        pending.write(DATA[:5000])
        os.write(half_writing, b"x")
        os.read(go_reading, 1)
        go_on(pending)

    pid = in_child(work)
    os.read(half_reading, 1)
    try:
        yield lambda: os.write(go_writing, b"x")
    finally:
        os.write(go_writing, b"x")
        os.waitpid(pid, 0)
        for descriptor in (half_reading, half_writing, go_reading, go_writing):
            os.close(descriptor)


def test_following_another_process(store: FolderStore) -> None:
    def finish(pending: PendingEntry) -> None:
        for chunk in chunked(DATA[5000:]):
            pending.write(chunk)
        pending.finish(keep=True)

    make = Maker()
    with made_elsewhere(store, finish) as go_on:
        stream = get(SingleFlight(store, CHUNK), make)
        head = next(following(stream))
        assert head == DATA[:5000]
        go_on()
        assert head + read(stream) == DATA
    assert make.made == 0


def test_a_follower_takes_over_from_a_dead_maker(store: FolderStore) -> None:
    make = Maker()
    with made_elsewhere(store, lambda pending: None) as die:
        streams = [get(SingleFlight(store, CHUNK), make) for _ in range(3)]
        heads = [next(following(stream)) for stream in streams]
        assert heads == [DATA[:5000]] * 3
        die()
        assert [head + read(stream) for head, stream in zip(heads, streams, strict=True)] == [DATA] * 3
    assert make.made == 1


@pytest.mark.parametrize("other", [DATA[:4000] + b"other" + DATA[4005:], DATA[:100]])
def test_a_stream_that_has_changed_is_never_joined_to_what_was_sent(store: FolderStore, other: bytes) -> None:
    with made_elsewhere(store, lambda pending: None) as die:
        stream = get(SingleFlight(store, CHUNK), Maker(other))
        assert next(following(stream)) == DATA[:5000]
        die()
        with pytest.raises(StreamChanged):
            read(stream)
    wait_until(lambda: os.path.exists(store.path(KEY)))


def test_a_dead_makers_part_is_no_obstacle(store: FolderStore) -> None:
    pid = os.fork()
    if pid == 0:
        killed_maker(store, b"half")
    os.waitpid(pid, 0)
    assert read(get(SingleFlight(store, CHUNK), Maker())) == DATA


def test_many_threads_make_one(flight: SingleFlight) -> None:
    make = Maker()
    results: list[bytes] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait(30)
        results.append(read(get(flight, make)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [DATA] * 8
    assert make.made == 1


def test_makers_killed_at_any_moment_leave_a_usable_cache(store: FolderStore) -> None:
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            while True:
                read(get(SingleFlight(store, CHUNK), Maker()))
                os.unlink(store.path(KEY)) if os.path.exists(store.path(KEY)) else None
        time.sleep(random.random() / 50)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        stored = store.open(KEY)
        assert stored is None or read(stored) == DATA
        assert read(get(SingleFlight(store, CHUNK), Maker())) == DATA


def test_no_more_makers_than_a_few_and_others_are_served_for_themselves(
    flight: SingleFlight, store: FolderStore
) -> None:
    makers = [Maker() for _ in range(6)]
    for make in makers:
        make.may_go_on.clear()
    streams = [get(flight, make, key=f"{number:02x}" + KEY[2:]) for number, make in enumerate(makers)]
    heads = [next(following(stream)) for stream in streams]
    assert len(list(store.folder.rglob("*.part"))) == 4
    for stream in streams[4:]:
        following(stream).close()
    assert [make.closed for make in makers] == [0, 0, 0, 0, 1, 1], "what nobody follows ends with its client"
    for make in makers:
        make.may_go_on.set()
    assert [head + read(stream) for head, stream in zip(heads[:4], streams[:4], strict=True)] == [DATA] * 4


def test_what_is_too_large_is_not_stored_and_tried_once(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "cache", 5000)
    flight = SingleFlight(store, CHUNK)
    make = Maker()
    assert read(get(flight, make)) == DATA
    assert make.made == 2
    assert read(get(flight, make)) == DATA
    assert make.made == 3
    assert flight.wait(30) and files(store) == []


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_a_repository_that_is_gone_when_its_bundle_is_done(flight: SingleFlight, size: int) -> None:
    def gone() -> bool:
        raise ValueError("gone")

    make = Maker(DATA[:size])
    assert read(get(flight, make, gone)) == DATA[:size]
    wait_until(lambda: make.closed == 1)
    assert read(get(flight, Maker(DATA[:size]))) == DATA[:size], "nobody waits for ever"


def test_without_threads_streams_are_made_for_their_clients(
    flight: SingleFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    descriptors = set(os.listdir("/dev/fd"))
    for _ in range(6):
        assert read(get(flight, Maker())) == DATA
    assert set(os.listdir("/dev/fd")) <= descriptors


def test_followers_of_a_maker_that_cannot_clean_up_come_to_an_end(flight: SingleFlight) -> None:
    results: list[bytes] = []
    stream = get(flight, lambda: Stubborn(DATA))
    reader = threading.Thread(target=lambda: results.append(read(stream)), daemon=True)
    reader.start()
    reader.join(30)
    assert results == [DATA]
    assert flight.wait(30)


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_an_entry_that_cannot_get_its_name_is_sent_nevertheless(
    flight: SingleFlight, store: FolderStore, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    os.makedirs(store.path(KEY))
    descriptors = set(os.listdir("/dev/fd"))
    for _ in range(2):
        assert read(get(flight, Maker(DATA[:size]))) == DATA[:size]
        assert flight.wait(30)
        assert flight.wait(30) and files(store) == []
    assert caplog.text.count("cannot be used") == 1
    assert "failed" not in caplog.text
    wait_until(lambda: set(os.listdir("/dev/fd")) <= descriptors)


def test_a_short_stream_that_cannot_clean_up_is_kept(flight: SingleFlight) -> None:
    assert read(get(flight, lambda: Stubborn(DATA[:10]))) == DATA[:10]
    assert isinstance(get(flight, Maker()), StoredFile)


def test_a_failure_after_taking_over_reaches_the_client_as_it_is(
    flight: SingleFlight, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = begin(store)

    has_maker = _GrowingFile.has_maker

    def gives_up(entry: _GrowingFile) -> bool:
        monkeypatch.setattr(_GrowingFile, "has_maker", has_maker)
        pending.abandon()
        return has_maker(entry)

    monkeypatch.setattr(_GrowingFile, "has_maker", gives_up)
    with pytest.raises(ValueError, match="early"):
        get(flight, fail_early)


def test_an_empty_stream_that_another_one_makes(
    flight: SingleFlight, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = begin(store)

    def finishes(entry: GrowingEntry) -> bool:
        pending.finish(keep=True)
        return False

    monkeypatch.setattr(_GrowingFile, "has_maker", finishes)
    assert get(flight, Maker()) == b""


def test_a_client_follows_its_own_maker_though_the_folder_was_emptied(flight: SingleFlight, store: FolderStore) -> None:
    others: list[PendingEntry] = []

    def emptied() -> Generator[bytes, None, None]:
        os.unlink(store.path(KEY) + ".part")
        other = begin(store)
        others.append(other)
        return chunked(DATA)

    results: list[bytes] = []
    reader = threading.Thread(target=lambda: results.append(read(get(flight, emptied))), daemon=True)
    reader.start()
    reader.join(30)
    others[0].abandon()
    assert results == [DATA]


def test_what_became_of_a_request(flight: SingleFlight, tmp_path: Path) -> None:
    make = Maker()
    make.may_go_on.clear()
    bundles = [join(flight, make) for _ in range(2)]
    assert [bundle.outcome for bundle in bundles] == ["miss", "followed"]
    make.may_go_on.set()
    assert [read(bundle.body) for bundle in bundles] == [DATA] * 2
    assert flight.wait(30)
    hit = join(flight, make)
    assert (hit.outcome, read(hit.body)) == ("hit", DATA)
    small = SingleFlight(FolderStore(tmp_path / "small", 5000), CHUNK)
    for outcome in ("miss", "uncached"):
        bundle = join(small, Maker())
        assert (bundle.outcome, read(bundle.body)) == (outcome, DATA)


def test_waiting_for_what_is_being_made(flight: SingleFlight, store: FolderStore) -> None:
    assert flight.wait(0)
    make = Maker()
    make.may_go_on.clear()
    stream = following(get(flight, make))
    assert not flight.wait(0.01)
    make.may_go_on.set()
    assert flight.wait(30)
    assert files(store) == [KEY]
    stream.close()


def test_pieces_may_have_any_size(flight: SingleFlight) -> None:
    def pieces() -> Generator[bytes, None, None]:
        yield b""
        for start in range(0, len(DATA), 7):
            yield DATA[start : start + 7]

    assert read(get(flight, pieces)) == DATA
    assert flight.wait(30)
    assert read(get(flight, Maker(b"other"))) == DATA


class Refuse:
    """A command that answers something else than a bundle."""

    def __init__(self, result: object) -> None:
        self.result = result
        self.asked = 0

    def __call__(self) -> Chunks:
        self.asked += 1
        raise Uncacheable(self.result)


def test_what_must_not_be_cached_is_handed_to_the_caller(flight: SingleFlight, store: FolderStore) -> None:
    refuse = Refuse("an error, rendered")
    for _ in range(2):
        with pytest.raises(Uncacheable) as caught:
            get(flight, refuse)
        assert caught.value.result == "an error, rendered"
    assert refuse.asked == 2
    assert files(store) == []


def test_those_who_waited_for_what_must_not_be_cached_ask_for_themselves(flight: SingleFlight) -> None:
    barrier, results = threading.Barrier(4), []

    def refuse() -> Generator[bytes, None, None]:
        time.sleep(0.05)
        raise Uncacheable(threading.current_thread().name)
        yield b""

    def ask() -> None:
        barrier.wait(30)
        with pytest.raises(Uncacheable) as caught:
            get(flight, refuse)
        results.append(caught.value.result == threading.current_thread().name)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [True] * 4


def test_taking_over_what_must_not_be_cached_breaks_off(store: FolderStore) -> None:
    result = Maker()()
    next(result)
    with made_elsewhere(store, lambda pending: None) as die:
        stream = following(get(SingleFlight(store, CHUNK), Refuse(result)))
        assert next(stream) == DATA[:5000]
        die()
        with pytest.raises(StreamChanged, match="no longer"):
            read(stream)
    assert list(result) == [], "closed, since nobody will send it"


class Fragile:
    """A stream that fails, and is no generator, so only ``close`` ends it."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise ValueError("fragile")
        self.left -= 1
        return bytes(CHUNK)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_stream_that_fails_is_closed(flight: SingleFlight, chunks: int) -> None:
    fragile = Fragile(chunks)
    with pytest.raises(StreamChanged if chunks else ValueError):
        read(get(flight, lambda: fragile))
    assert flight.wait(30)
    assert fragile.closed == 1


def test_a_stream_that_nobody_reads_is_closed(flight: SingleFlight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgwire_wsgi.cache.single_flight._MAXIMUM_PRODUCERS", 0)
    fragile = Fragile(1)
    following(get(flight, lambda: fragile)).close()
    assert fragile.closed == 1


def test_an_interrupted_request_gives_its_entry_up(flight: SingleFlight, store: FolderStore) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(flight, Maker(b"short"), interrupt)
    assert files(store) == []
    assert get(flight, Maker(b"short")) == b"short"


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_the_companion_is_stored_after_a_bundle_that_is_kept(
    flight: SingleFlight, store: FolderStore, size: int
) -> None:
    companion = ("cd" + KEY[2:], b"index")
    assert read(join(flight, Maker(DATA[:size]), lambda: False, companion=lambda: companion).body) == DATA[:size]
    assert flight.wait(30)
    assert files(store) == []
    assert read(join(flight, Maker(DATA[:size]), companion=lambda: companion).body) == DATA[:size]
    assert flight.wait(30)
    assert store.get(companion[0]) == b"index"
    assert files(store) == [KEY, companion[0]]


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_a_companion_that_cannot_be_stored_harms_no_bundle(
    flight: SingleFlight, store: FolderStore, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    companion = ("cd" + KEY[2:], b"index")
    os.makedirs(store.path(companion[0]))
    assert read(join(flight, Maker(DATA[:size]), companion=lambda: companion).body) == DATA[:size]
    assert flight.wait(30)
    assert files(store) == [KEY]
    assert caplog.text.count("cannot be used") == 1


def test_log_lines_name_the_bundle_and_the_store(
    store: FolderStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hgwire_wsgi")
    flight = SingleFlight(store, CHUNK)
    with pytest.raises(StreamChanged):
        read(get(flight, lambda: Fragile(1)))
    assert flight.wait(30)
    assert "the bundle could not be made" in caplog.text
    read(get(SingleFlight(FolderStore(tmp_path / "small", 5000), CHUNK), Maker()))
    assert f"the bundle is not cached: it is larger than the bundle cache in {tmp_path}/small" in caplog.text


def test_a_follower_that_came_before_the_producer_is_woken_by_it(
    flight: SingleFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to ask for the status of the producer again."""
    begin_chunk, followed, statuses = threading.Event(), threading.Event(), []
    has_maker, status_of = _GrowingFile.has_maker, SingleFlight._status_of

    def ask(entry: _GrowingFile) -> bool:
        followed.set()
        return has_maker(entry)

    def note(self: SingleFlight, entry: GrowingEntry) -> Any:
        statuses.append(status_of(self, entry))
        return statuses[-1]

    monkeypatch.setattr(_GrowingFile, "has_maker", ask)
    monkeypatch.setattr(SingleFlight, "_status_of", note)
    make = Maker()
    make.may_go_on.clear()

    def slow() -> Generator[bytes, None, None]:
        assert begin_chunk.wait(30)
        yield from make()

    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(read(get(flight, slow)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert followed.wait(30)
    begin_chunk.set()
    wait_until(lambda: any(statuses))
    make.may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert results == [DATA] * 2
    assert statuses[0] is None and make.made == 1


def test_a_follower_whose_store_fails_is_served_without_it(
    flight: SingleFlight, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = begin(store)

    def fail(entry: _GrowingFile, offset: int, size: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_GrowingFile, "read", fail)
    bundle = join(flight, Maker())
    assert (bundle.outcome, read(bundle.body)) == ("uncached", DATA)
    pending.abandon()


def test_a_producer_wakes_its_followers_for_as_much_as_they_read_at_once(flight: SingleFlight) -> None:
    data, read_size = random.Random(1).randbytes(1_000_000), 256 * 1024
    gate = threading.Event()

    def slow() -> Generator[bytes, None, None]:
        yield data[:CHUNK]
        assert gate.wait(30)
        for start in range(CHUNK, len(data), CHUNK):
            yield data[start : start + CHUNK]

    streams = [following(get(flight, slow)) for _ in range(2)]
    assert [next(stream) for stream in streams] == [data[:CHUNK]] * 2
    gate.set()
    pieces = list(streams[0])
    assert data[:CHUNK] + b"".join(pieces) == data[:CHUNK] + b"".join(streams[1]) == data
    assert max(map(len, pieces)) == read_size


class Elsewhere:
    """A store that keeps complete bundles where only a front-end server can read them."""

    def __init__(self, store: FolderStore) -> None:
        self.store = store
        self.capacity = store.capacity

    def open(self, key: str) -> StoredUrl | None:
        stored = self.store.open(key)
        if stored is None:
            return None
        stored.close()
        return StoredUrl(f"https://files.example.com/{stored.name}", stored.size)

    def open_or_begin(self, key: str) -> StoredUrl | StoredFile | GrowingEntry | PendingEntry:
        return self.open(key) or self.store.open_or_begin(key)

    def get(self, key: str) -> bytes | None:
        return self.store.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data)


def test_a_store_may_keep_bundles_elsewhere(store: FolderStore) -> None:
    flight = SingleFlight(Elsewhere(store), CHUNK)
    assert read(get(flight, Maker())) == DATA
    assert flight.wait(30)
    bundle = join(flight, Maker())
    assert bundle == Bundle(StoredUrl(f"https://files.example.com/ab/{KEY}", len(DATA)), "hit")


def test_a_follower_makes_what_it_cannot_read_elsewhere(store: FolderStore) -> None:
    """Its maker dies, the next one finishes at once, and the rest is where only the front-end server can read it."""
    flight, make = SingleFlight(Elsewhere(store), CHUNK), Maker()
    with made_elsewhere(store, lambda pending: None) as die:
        stream = following(get(flight, make))
        assert next(stream) == DATA[:5000]
        die()
        assert read(get(SingleFlight(store, CHUNK), Maker())) == DATA
        wait_until(lambda: files(store) == [KEY])
        assert read(stream) == DATA[5000:]
    assert make.made == 1
