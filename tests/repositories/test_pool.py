from __future__ import annotations

import functools
import multiprocessing
import threading

import pytest

from hgwire_wsgi.errors import RepositoryBusy, RepositoryNotFound
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
