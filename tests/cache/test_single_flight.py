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

from hgwire_wsgi.cache.single_flight import Chunks, Flight, StreamChanged, Whole
from hgwire_wsgi.cache.stores.folder import Part, Store, has_maker

# The processes that fork here have threads, none of which holds a lock the children need.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

DIGEST = "ab" + "0" * 62
CHUNK = 1000
DATA = random.Random(0).randbytes(10 * CHUNK + 17)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", 1 << 20)


@pytest.fixture
def flight(store: Store) -> Flight:
    return Flight(store, CHUNK)


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


def read(stream: Whole | bytes | Chunks) -> bytes:
    if isinstance(stream, Whole):
        with open(stream.descriptor, "rb") as file:
            data = file.read()
        assert len(data) == stream.size
        return data
    return stream if isinstance(stream, bytes) else b"".join(stream)


def following(stream: Whole | bytes | Chunks) -> Chunks:
    """A stream of which nothing is complete yet."""
    assert not isinstance(stream, Whole | bytes)
    return stream


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_made_once_and_kept(flight: Flight) -> None:
    make = Maker()
    assert read(flight.get(DIGEST, make, always)) == DATA
    wait_until(lambda: make.closed == 1)
    wait_until(lambda: isinstance(flight.get(DIGEST, make, always), Whole))
    again = flight.get(DIGEST, make, always)
    assert isinstance(again, Whole)
    assert read(again) == DATA
    assert make.made == 1


@pytest.mark.parametrize("size", [1, CHUNK - 1])
def test_a_short_stream_comes_at_once(flight: Flight, size: int) -> None:
    make = Maker(DATA[:size])
    assert flight.get(DIGEST, make, always) == DATA[:size]
    assert isinstance(flight.get(DIGEST, make, always), Whole)
    assert make.closed == 1


def test_an_empty_stream_is_not_kept_for_files_are_empty_after_a_loss_of_power(flight: Flight) -> None:
    make = Maker(b"")
    assert [flight.get(DIGEST, make, always) for _ in range(2)] == [b"", b""]
    assert make.made == 2


@pytest.mark.parametrize("size", [CHUNK, CHUNK + 1, 3 * CHUNK])
def test_streams_that_end_with_a_whole_chunk(flight: Flight, size: int) -> None:
    assert read(flight.get(DIGEST, Maker(DATA[:size]), always)) == DATA[:size]


def test_followers_read_while_it_grows(flight: Flight) -> None:
    make = Maker()
    make.may_go_on.clear()
    streams = [flight.get(DIGEST, make, always) for _ in range(5)]
    heads = [next(following(stream)) for stream in streams]
    assert all(DATA.startswith(head) for head in heads)
    make.may_go_on.set()
    assert [head + read(stream) for head, stream in zip(heads, streams, strict=True)] == [DATA] * 5
    assert make.made == 1


def test_a_maker_finishes_though_its_client_vanishes(flight: Flight) -> None:
    make = Maker()
    make.may_go_on.clear()
    stream, follower = (flight.get(DIGEST, make, always) for _ in range(2))
    next(following(stream))
    following(stream).close()
    make.may_go_on.set()
    assert read(follower) == DATA
    assert (make.made, make.closed) == (1, 1)


def test_what_is_no_longer_valid_is_sent_but_not_kept(flight: Flight, store: Store) -> None:
    make = Maker()
    assert read(flight.get(DIGEST, make, lambda: False)) == DATA
    wait_until(lambda: make.closed == 1)
    wait_until(lambda: not [path for path in store.folder.rglob("*") if path.is_file()])
    assert read(flight.get(DIGEST, make, always)) == DATA
    assert make.made == 2


def test_an_early_failure_reaches_the_client_as_it_is(flight: Flight, store: Store) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="early"):
            flight.get(DIGEST, fail_early, always)
    assert read(flight.get(DIGEST, Maker(), always)) == DATA


def test_a_late_failure_breaks_every_transfer(flight: Flight) -> None:
    gate = threading.Event()

    def fail() -> Generator[bytes, None, None]:
        yield DATA[:CHUNK]
        assert gate.wait(30)
        raise ValueError("late")

    streams = [flight.get(DIGEST, fail, always) for _ in range(2)]
    assert [next(following(stream)) for stream in streams] == [DATA[:CHUNK]] * 2
    gate.set()
    for stream in streams:
        with pytest.raises(StreamChanged):
            read(stream)
    assert read(flight.get(DIGEST, Maker(), always)) == DATA


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_full_disk_serves_without_the_cache_and_complains_once(
    flight: Flight, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    write, count = Part.write, 0

    def full(self: Part, data: bytes) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(Part, "write", full)
    assert read(flight.get(DIGEST, Maker(), always)) == DATA
    assert read(flight.get(DIGEST, Maker(), always)) == DATA
    assert caplog.text.count("cannot be written") == 1


def test_a_cache_that_is_gone_serves_without_it(flight: Flight, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Store, digest: str) -> Any:
        raise PermissionError

    monkeypatch.setattr(Store, "join", gone)
    assert read(flight.get(DIGEST, Maker(), always)) == DATA
    assert flight.get(DIGEST, Maker(b""), always) == b""
    with pytest.raises(ValueError, match="early"):
        flight.get(DIGEST, fail_early, always)


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked process, which ends like one that is killed: without any cleaning up."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return pid


def killed_maker(store: Store, data: bytes) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)
    part.write(data)
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def made_elsewhere(store: Store, go_on: Callable[[Part], object]) -> Iterator[Callable[[], object]]:
    """Another process that has made half of a stream; it goes on when what this gives is called, then is killed."""
    half_reading, half_writing = os.pipe()
    go_reading, go_writing = os.pipe()

    def work() -> None:
        part = store.join(DIGEST)
        assert isinstance(part, Part)
        part.write(DATA[:5000])
        os.write(half_writing, b"x")
        os.read(go_reading, 1)
        go_on(part)

    pid = in_child(work)
    os.read(half_reading, 1)
    try:
        yield lambda: os.write(go_writing, b"x")
    finally:
        os.write(go_writing, b"x")
        os.waitpid(pid, 0)
        for descriptor in (half_reading, half_writing, go_reading, go_writing):
            os.close(descriptor)


def test_following_another_process(store: Store) -> None:
    def finish(part: Part) -> None:
        for chunk in chunked(DATA[5000:]):
            part.write(chunk)
        part.finish(keep=True)

    make = Maker()
    with made_elsewhere(store, finish) as go_on:
        stream = Flight(store, CHUNK).get(DIGEST, make, always)
        head = next(following(stream))
        assert head == DATA[:5000]
        go_on()
        assert head + read(stream) == DATA
    assert make.made == 0


def test_a_follower_takes_over_from_a_dead_maker(store: Store) -> None:
    make = Maker()
    with made_elsewhere(store, lambda part: None) as die:
        streams = [Flight(store, CHUNK).get(DIGEST, make, always) for _ in range(3)]
        heads = [next(following(stream)) for stream in streams]
        assert heads == [DATA[:5000]] * 3
        die()
        assert [head + read(stream) for head, stream in zip(heads, streams, strict=True)] == [DATA] * 3
    assert make.made == 1


@pytest.mark.parametrize("other", [DATA[:4000] + b"other" + DATA[4005:], DATA[:100]])
def test_a_stream_that_has_changed_is_never_joined_to_what_was_sent(store: Store, other: bytes) -> None:
    with made_elsewhere(store, lambda part: None) as die:
        stream = Flight(store, CHUNK).get(DIGEST, Maker(other), always)
        assert next(following(stream)) == DATA[:5000]
        die()
        with pytest.raises(StreamChanged):
            read(stream)
    wait_until(lambda: os.path.exists(store.path(DIGEST)))


def test_a_dead_makers_part_is_no_obstacle(store: Store) -> None:
    pid = os.fork()
    if pid == 0:
        killed_maker(store, b"half")
    os.waitpid(pid, 0)
    assert read(Flight(store, CHUNK).get(DIGEST, Maker(), always)) == DATA


def test_many_threads_make_one(flight: Flight) -> None:
    make = Maker()
    results: list[bytes] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait(30)
        results.append(read(flight.get(DIGEST, make, always)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [DATA] * 8
    assert make.made == 1


def test_makers_killed_at_any_moment_leave_a_usable_cache(store: Store) -> None:
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            while True:
                read(Flight(store, CHUNK).get(DIGEST, Maker(), always))
                os.unlink(store.path(DIGEST)) if os.path.exists(store.path(DIGEST)) else None
        time.sleep(random.random() / 50)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        descriptor = store.open(DIGEST)
        if descriptor is not None:
            assert read(Whole(descriptor, os.fstat(descriptor).st_size)) == DATA
        assert read(Flight(store, CHUNK).get(DIGEST, Maker(), always)) == DATA


def test_no_more_makers_than_a_few_and_others_are_served_for_themselves(flight: Flight, store: Store) -> None:
    makers = [Maker() for _ in range(6)]
    for make in makers:
        make.may_go_on.clear()
    streams = [flight.get(f"{number:02x}" + DIGEST[2:], make, always) for number, make in enumerate(makers)]
    heads = [next(following(stream)) for stream in streams]
    assert len(list(store.folder.rglob("*.part"))) == 4
    for stream in streams[4:]:
        following(stream).close()
    assert [make.closed for make in makers] == [0, 0, 0, 0, 1, 1], "what nobody follows ends with its client"
    for make in makers:
        make.may_go_on.set()
    assert [head + read(stream) for head, stream in zip(heads[:4], streams[:4], strict=True)] == [DATA] * 4


def test_what_is_too_large_is_not_stored_and_tried_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", 5000)
    flight = Flight(store, CHUNK)
    make = Maker()
    assert read(flight.get(DIGEST, make, always)) == DATA
    assert make.made == 2
    assert read(flight.get(DIGEST, make, always)) == DATA
    assert make.made == 3
    wait_until(lambda: not [path for path in store.folder.rglob("*") if path.is_file()])


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_a_repository_that_is_gone_when_its_bundle_is_done(flight: Flight, size: int) -> None:
    def gone() -> bool:
        raise ValueError("gone")

    make = Maker(DATA[:size])
    assert read(flight.get(DIGEST, make, gone)) == DATA[:size]
    wait_until(lambda: make.closed == 1)
    assert read(flight.get(DIGEST, Maker(DATA[:size]), always)) == DATA[:size], "nobody waits for ever"


def test_without_threads_streams_are_made_for_their_clients(flight: Flight, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    descriptors = set(os.listdir("/dev/fd"))
    for _ in range(6):
        assert read(flight.get(DIGEST, Maker(), always)) == DATA
    assert set(os.listdir("/dev/fd")) <= descriptors


def test_followers_of_a_maker_that_cannot_clean_up_come_to_an_end(flight: Flight) -> None:
    results: list[bytes] = []
    stream = flight.get(DIGEST, lambda: Stubborn(DATA), always)
    reader = threading.Thread(target=lambda: results.append(read(stream)), daemon=True)
    reader.start()
    reader.join(30)
    assert results == [DATA]
    wait_until(lambda: flight._makers._value == 4)


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_an_entry_that_cannot_get_its_name_is_sent_nevertheless(
    flight: Flight, store: Store, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    os.makedirs(store.path(DIGEST))
    descriptors = set(os.listdir("/dev/fd"))
    for _ in range(2):
        assert read(flight.get(DIGEST, Maker(DATA[:size]), always)) == DATA[:size]
        wait_until(lambda: flight._makers._value == 4)
        wait_until(lambda: not [path for path in store.folder.rglob("*") if path.is_file()])
    assert caplog.text.count("cannot be written") == 1
    assert "failed" not in caplog.text
    wait_until(lambda: set(os.listdir("/dev/fd")) <= descriptors)


def test_a_short_stream_that_cannot_clean_up_is_kept(flight: Flight) -> None:
    assert read(flight.get(DIGEST, lambda: Stubborn(DATA[:10]), always)) == DATA[:10]
    assert isinstance(flight.get(DIGEST, Maker(), always), Whole)


def test_a_failure_of_whoever_takes_over_reaches_its_client_as_it_is(
    flight: Flight, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)

    def gives_up(descriptor: int) -> bool:
        monkeypatch.setattr("hgwire_wsgi.cache.single_flight.has_maker", has_maker)
        part.abandon()
        return has_maker(descriptor)

    monkeypatch.setattr("hgwire_wsgi.cache.single_flight.has_maker", gives_up)
    with pytest.raises(ValueError, match="early"):
        flight.get(DIGEST, fail_early, always)


def test_an_empty_stream_that_another_one_makes(flight: Flight, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    part = store.join(DIGEST)
    assert isinstance(part, Part)

    def finishes(descriptor: int) -> bool:
        part.finish(keep=True)
        return False

    monkeypatch.setattr("hgwire_wsgi.cache.single_flight.has_maker", finishes)
    assert flight.get(DIGEST, Maker(), always) == b""


def test_a_client_follows_its_own_maker_though_the_folder_was_emptied(flight: Flight, store: Store) -> None:
    others: list[Part] = []

    def emptied() -> Generator[bytes, None, None]:
        os.unlink(store.path(DIGEST) + ".part")
        other = store.join(DIGEST)
        assert isinstance(other, Part)
        others.append(other)
        return chunked(DATA)

    results: list[bytes] = []
    reader = threading.Thread(target=lambda: results.append(read(flight.get(DIGEST, emptied, always))), daemon=True)
    reader.start()
    reader.join(30)
    others[0].abandon()
    assert results == [DATA]
