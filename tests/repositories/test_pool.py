from __future__ import annotations

import functools
import gc
import multiprocessing
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from hgwire_wsgi.errors import RepositoryBusy, RepositoryNotFound
from hgwire_wsgi.logcontext import CURRENT
from hgwire_wsgi.repositories.pool import _ENOUGH as ENOUGH
from hgwire_wsgi.repositories.pool import Pool


class Opened:
    def __init__(self, name: str, state: bytes = b"") -> None:
        self.name = name
        self.current = True


class Held:
    """What is acquired, until it is released."""

    def __init__(self, pool: Pool[Opened, bytes], name: str) -> None:
        self.pool, self.name = pool, name
        self.repository = pool.acquire(name, b"")

    def release(self) -> None:
        self.pool.release(self.name, self.repository)

    def __enter__(self) -> Opened:
        return self.repository

    def __exit__(self, *_: object) -> None:
        self.release()


class Leasing(Pool[Opened, bytes]):
    def lease(self, name: str) -> Held:
        return Held(self, name)


make = functools.partial(Leasing, Opened, lambda repository, state: repository.current)


def test_a_repository_is_used_again() -> None:
    pool = make()
    with pool.lease("a") as first:
        pass
    with pool.lease("a") as second:
        assert second is first
    with pool.lease("b") as other:
        assert other is not first


def test_two_requests_never_share_one() -> None:
    pool = make()
    with pool.lease("a") as first, pool.lease("a") as second:
        assert first is not second


def test_a_changed_repository_is_opened_anew() -> None:
    pool = make()
    with pool.lease("a") as first:
        first.current = False
    with pool.lease("a") as second:
        assert second is not first


def test_leases_are_bounded_for_each_repository() -> None:
    pool = make(leases=2, timeout=0)
    first, second = pool.lease("a"), pool.lease("a")
    with pytest.raises(RepositoryBusy):
        pool.lease("a")
    pool.lease("b").release()
    first.release()
    third = pool.lease("a")
    with pytest.raises(RepositoryBusy):
        pool.lease("a")
    second.release()
    third.release()


def test_a_waiting_request_gets_what_is_given_back() -> None:
    pool = make(leases=1, timeout=30)
    held = pool.lease("a")
    got: list[Opened] = []

    def wait() -> None:
        with pool.lease("a") as repository:
            got.append(repository)

    waiter = threading.Thread(target=wait)
    waiter.start()
    held.release()
    waiter.join(30)
    assert got == [held.repository]


def test_a_waiter_is_woken_though_another_repository_is_waited_for_too() -> None:
    pool = make(leases=1, timeout=30)
    held = {name: pool.lease(name) for name in "ab"}
    done: list[str] = []

    def wait(name: str) -> None:
        pool.lease(name).release()
        done.append(name)

    waiters = [threading.Thread(target=wait, args=(name,)) for name in "ab"]
    for waiter in waiters:
        waiter.start()
    held["b"].release()
    waiters[1].join(30)
    assert done == ["b"]
    held["a"].release()
    waiters[0].join(30)
    assert done == ["b", "a"]


def test_unused_repositories_are_bounded_and_the_oldest_go() -> None:
    pool = make(idle=2)
    first = {name: pool.lease(name) for name in "abc"}
    for name in "abc":
        first[name].release()
    again = {name: pool.lease(name).repository for name in "abc"}
    assert [again[name] is first[name].repository for name in "abc"] == [False, True, True]


def test_several_unused_objects_of_one_repository() -> None:
    pool = make(idle=2)
    first, second, third = (pool.lease("a") for _ in range(3))
    for lease in (first, second, third):
        lease.release()
    # The oldest went; the other two are used again.
    again = {id(pool.lease("a").repository), id(pool.lease("a").repository)}
    assert again == {id(second.repository), id(third.repository)}


def test_failing_to_open_takes_no_lease() -> None:
    def fail(name: str, state: bytes) -> Opened:
        raise RepositoryNotFound(name)

    pool = Pool(fail, lambda repository, state: True, leases=1, timeout=0)
    for _ in range(3):
        with pytest.raises(RepositoryNotFound):
            pool.acquire("a", b"")


def test_threads_never_hold_more_than_the_bound() -> None:
    pool = make(leases=3, timeout=30)
    lock, held, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal held, most
        for _ in range(200):
            with pool.lease("a"):
                with lock:
                    held += 1
                    most = max(most, held)
                with lock:
                    held -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert held == 0
    assert 1 <= most <= 3


class Slow:
    """Opens the repository ``slow`` only after ``go`` is set, and all others at once."""

    def __init__(self, patience: float) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)
        self.opened: list[str] = []
        self.pool = Leasing(self.open, lambda repository, state: repository.current, patience=patience, timeout=0)

    def end(self) -> None:
        """Let it open, and wait until its thread has ended."""
        self.go.set()
        deadline = time.monotonic() + 30
        while any(thread.name == "hgwire-open" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def open(self, name: str, state: bytes) -> Opened:
        self.began.release()
        if name == "slow":
            assert self.go.wait(30)
        self.opened.append(name)
        return Opened(name)


def test_a_repository_that_does_not_open_is_refused_and_disturbs_no_other() -> None:
    slow = Slow(patience=0.2)
    for _ in range(3):
        with pytest.raises(RepositoryBusy, match="too long to open"):
            slow.pool.acquire("slow", b"")
    slow.pool.lease("other").release()
    assert slow.opened == ["other"]
    slow.end()


def test_only_the_first_request_waits_for_a_repository_that_hangs() -> None:
    before = threading.active_count()
    slow = Slow(patience=1)
    with pytest.raises(RepositoryBusy):
        slow.pool.acquire("slow", b"")
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(RepositoryBusy) as refused:
            slow.pool.acquire("slow", b"")
    assert time.monotonic() - started < 1
    assert dict(refused.value.headers)["Retry-After"]
    assert threading.active_count() == before + 1
    slow.end()


def test_what_opened_too_late_serves_the_next_request() -> None:
    slow = Slow(patience=0.1)
    with pytest.raises(RepositoryBusy):
        slow.pool.acquire("slow", b"")
    slow.end()
    slow.pool.lease("slow").release()
    assert slow.opened == ["slow"]


def test_a_failure_that_comes_too_late_is_forgotten() -> None:
    go = threading.Event()

    def fail(name: str, state: bytes) -> Opened:
        go.wait(30)
        raise RepositoryNotFound(name)

    pool = Pool(fail, lambda repository, state: True, patience=0.1)
    with pytest.raises(RepositoryBusy):
        pool.acquire("a", b"")
    go.set()
    deadline = time.monotonic() + 30
    while pool._openings and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not pool._openings and not pool._idle and not pool._used


def test_requests_for_one_repository_open_it_one_after_the_other() -> None:
    slow = Slow(patience=30)
    done: list[Opened] = []
    threads = [threading.Thread(target=lambda: done.append(slow.pool.acquire("slow", b""))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert slow.began.acquire(timeout=30) and not slow.began.acquire(timeout=0.1)
    slow.go.set()
    for thread in threads:
        thread.join(30)
    assert len(set(map(id, done))) == 3


def test_opening_has_the_context_of_its_request() -> None:
    class Described:
        def describe(self) -> str:
            return "request 7"

    request, seen = Described(), []

    def opener(name: str, state: bytes) -> Opened:
        seen.append(CURRENT.get())
        return Opened(name)

    token = CURRENT.set(request)
    try:
        Pool(opener, lambda repository, state: True).acquire("a", b"")
    finally:
        CURRENT.reset(token)
    assert seen == [request]


def test_a_repository_that_opened_before_a_fork_is_not_in_the_way() -> None:
    slow = Slow(patience=0.1)
    with pytest.raises(RepositoryBusy):
        slow.pool.acquire("slow", b"")
    slow.pool._start()
    slow.end()
    assert slow.pool.acquire("slow", b"").name == "slow"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_starts_with_an_empty_pool() -> None:
    pool = make(leases=1, timeout=0)
    held = pool.lease("a")

    def child(queue: multiprocessing.Queue[bool]) -> None:
        held.release()
        with pool.lease("a") as repository:
            queue.put(repository is not held.repository)

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=30)
    process.join(30)


@pytest.fixture
def _quiet_collector() -> Iterator[None]:
    """Let Python collect nothing on its own."""
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    yield
    gc.set_threshold(*thresholds)


def test_an_outdated_repository_is_emptied_before_its_successor_is_opened() -> None:
    emptied: list[Opened] = []
    pool = Leasing(Opened, lambda repository, state: repository.current, emptied.append)
    with pool.lease("a") as first:
        first.current = False
    opened: list[list[Opened]] = []
    pool._open = lambda name, state: opened.append([*emptied]) or Opened(name)
    with pool.lease("a"):
        assert opened == [[first]]
    assert emptied == [first]


def test_an_evicted_repository_is_emptied_without_the_lock() -> None:
    emptied: list[Opened] = []

    def empty(repository: Opened) -> None:
        assert not pool._changed._is_owned()
        emptied.append(repository)

    pool = Leasing(Opened, lambda repository, state: repository.current, empty, idle=1)
    with pool.lease("a") as first:
        pass
    with pool.lease("b"):
        assert not emptied
    assert emptied == [first]


class Cyclic(Opened):
    """A repository as Mercurial's are: reference counts alone never free it."""

    def __init__(self, name: str, state: bytes = b"") -> None:
        super().__init__(name)
        self.itself = self


@pytest.mark.usefixtures("_quiet_collector")
def test_dropped_repositories_are_collected_when_they_are_many() -> None:
    pool = Leasing(Cyclic, lambda repository, state: repository.current)
    dropped = []
    for _ in range(ENOUGH):
        assert not dropped or dropped[0]() is not None
        with pool.lease("a") as repository:
            repository.current = False
        dropped.append(weakref.ref(repository))
        del repository
    with pool.lease("a"):
        assert [old() for old in dropped[:-1]] == [None] * (ENOUGH - 1)


def drop(pool: Leasing, count: int = ENOUGH) -> None:
    for _ in range(count):
        pool._cycles.add()


@pytest.mark.usefixtures("_quiet_collector")
def test_collections_take_a_bounded_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, used, collections = [1000.0], [0.0], []

    def collect() -> None:
        used[0] += 0.02
        collections.append(now[0])

    monkeypatch.setattr("hgwire_wsgi.repositories.pool.time.monotonic", lambda: now[0])
    monkeypatch.setattr("hgwire_wsgi.repositories.pool.time.thread_time", lambda: used[0])
    monkeypatch.setattr("hgwire_wsgi.repositories.pool.gc.collect", collect)
    pool = make()
    for _ in range(1000):
        drop(pool)
        with pool.lease("a"):
            now[0] += 0.01
    assert len(collections) == pytest.approx(25, abs=1), "20 ms each in 10 s, at most 5 %"


@pytest.mark.usefixtures("_quiet_collector")
def test_a_collection_that_had_to_wait_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[float] = [1000.0]
    collections: list[float] = []
    monkeypatch.setattr("hgwire_wsgi.repositories.pool.time.monotonic", lambda: now[0])
    monkeypatch.setattr("hgwire_wsgi.repositories.pool.gc.collect", lambda: collections.append(now[0]))
    pool = make()
    pool._cycles._next = 2000.0
    drop(pool)
    with pool.lease("a"):
        pass
    assert not collections
    now[0] = 2000.0
    for _ in range(3):
        with pool.lease("a"):
            pass
    assert collections == [2000.0], "nothing else was dropped"


@pytest.mark.usefixtures("_quiet_collector")
def test_an_application_that_has_switched_the_collector_off_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[object] = []
    monkeypatch.setattr("hgwire_wsgi.repositories.pool.gc.isenabled", lambda: False)
    monkeypatch.setattr("hgwire_wsgi.repositories.pool.gc.collect", lambda: collections.append(1))
    pool = make()
    drop(pool)
    with pool.lease("a"):
        pass
    assert not collections
