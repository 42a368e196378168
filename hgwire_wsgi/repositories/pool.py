"""A bounded pool of open repositories, which are reopened when a repository changes.

Each object belongs to one request from :meth:`Pool.acquire` to :meth:`Pool.release`; the pool owns the unused ones.
Opening runs in a thread of its own, one at a time for each repository, while the request waits for a bounded time.  A
repository that never opens, because its file system hangs for example, costs one thread; its requests are refused, and
those of other repositories notice nothing.  One condition guards everything; nothing is opened while it is held.

What is always true: at most ``leases`` objects of a repository are in use, and at most ``idle`` objects are unused.
A request never gets an object in another state than it asked for.  A forked process starts with an empty pool and
ignores objects returned by requests of its parent.

Objects that the pool drops are reference cycles, which Python collects late: it counts objects, and a repository is a
few hundred objects with megabytes of caches.  So the caller empties the caches of each dropped object, which is cheap,
and the pool has the rest collected when there is enough of it (:class:`_Cycles`).
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import copy_context
from typing import Generic, TypeVar

import attrs

from ..errors import RepositoryBusy

__all__ = ["Pool"]


_R = TypeVar("_R")
_S = TypeVar("_S")


@attrs.define(eq=False)
class _Opening(Generic[_R]):
    """One attempt to open a repository.

    Attributes:
        started: when, in seconds of the monotonic clock.
        wanted: whether its request still waits for it.
        repository, failure: the result; both ``None`` until there is one.
    """

    started: float = attrs.Factory(time.monotonic)
    wanted: bool = True
    repository: _R | None = None
    failure: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.repository is not None or self.failure is not None


_COLLECTING = 0.05
"""Maximum part of a processor's time spent on collecting dropped objects."""

_ENOUGH = 32
"""Dropped objects for which a collection is worth its time; each keeps about 100 KiB."""


class _Cycles:
    """Dropped objects that wait to be collected.  A collection takes about 40 ms, during which no other thread runs."""

    def __init__(self) -> None:
        self._waiting = 0
        self._next = 0.0

    def add(self) -> None:
        """Record that an object was dropped."""
        self._waiting += 1

    def collect(self) -> None:
        """Collect them, unless they are few or the last collection was too recent; the caller must hold no lock."""
        if self._waiting >= _ENOUGH and time.monotonic() >= self._next and gc.isenabled():
            self._waiting = 0
            began = time.thread_time()
            gc.collect()
            self._next = time.monotonic() + (time.thread_time() - began) / _COLLECTING


class Pool(Generic[_R, _S]):
    """Open repositories by name, for all threads of a process.

    Args:
        opener: opens a repository by name, in a state; called in a thread that may be another one than the request's.
        is_current: returns whether an open repository is in a given state; must be cheap.
        empty: frees the memory of an object that is dropped; something else may still refer to the object.
        leases: maximum number of objects of one repository that are in use.  Further requests wait.
        idle: maximum total number of unused objects; the least recently used ones are dropped.
        timeout: seconds that a request waits for a lease.
        patience: seconds that opening a repository may take.
    """

    def __init__(
        self,
        opener: Callable[[str, _S], _R],
        is_current: Callable[[_R, _S], bool],
        empty: Callable[[_R], object] = lambda repository: None,
        *,
        leases: int = 64,
        idle: int = 64,
        timeout: float = 60.0,
        patience: float = 10.0,
    ) -> None:
        self._open = opener
        self._is_current = is_current
        self._empty = empty
        self._leases = leases
        self._max_idle = idle
        self._timeout = timeout
        self._patience = patience
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._openings: dict[str, _Opening[_R]] = {}
        self._used: dict[str, int] = {}
        self._idle: OrderedDict[str, list[_R]] = OrderedDict()
        self._idle_count = 0
        self._cycles = _Cycles()

    def acquire(self, name: str, state: _S) -> _R:
        """Take an object that has the repository in a given state; :meth:`release` must follow.

        Raises:
            RepositoryBusy: if none became free in time, or the repository takes too long to open.
            Exception: any exception of the opener.
        """
        if self._pid != os.getpid():
            self._start()
        repository = self._take(name)
        try:
            if repository is not None and not self._is_current(repository, state):
                self._drop(repository)
                repository = None
            if repository is None:
                repository = self._reopen(name, state)
        except BaseException:
            self.release(name, None)
            raise
        return repository

    def _take(self, name: str) -> _R | None:
        with self._changed:
            used = self._used.get(name, 0)
            if used >= self._leases:
                if not self._changed.wait_for(lambda: self._used.get(name, 0) < self._leases, self._timeout):
                    raise RepositoryBusy("the repository is busy; try again later", headers=[("Retry-After", "5")])
                used = self._used.get(name, 0)
            self._used[name] = used + 1
            unused = self._idle.get(name)
            if not unused:
                return None
            self._idle_count -= 1
            repository = unused.pop()
            if not unused:
                del self._idle[name]
            return repository

    def _reopen(self, name: str, state: _S) -> _R:
        opening = self._begin(name)
        context = copy_context()
        threading.Thread(
            target=context.run, args=(self._run, name, state, opening), name="hgwire-open", daemon=True
        ).start()
        with self._changed:
            self._changed.wait_for(lambda: opening.done, self._patience)
            opening.wanted = False
        if opening.failure is not None:
            raise opening.failure
        if opening.repository is None:
            raise _too_slow()
        return opening.repository

    def _begin(self, name: str) -> _Opening[_R]:
        """Wait until nobody opens the repository, but not for one that already takes too long."""
        with self._changed:
            while (other := self._openings.get(name)) is not None:
                left = other.started + self._patience - time.monotonic()
                if left <= 0:
                    raise _too_slow()
                self._changed.wait(left)
            opening = self._openings[name] = _Opening[_R]()
            return opening

    def _run(self, name: str, state: _S, opening: _Opening[_R]) -> None:
        """Open the repository; the body of the thread."""
        repository, failure = None, None
        try:
            repository = self._open(name, state)
        except BaseException as error:
            failure = error
        dropped: list[_R] = []
        with self._changed:
            if self._openings.get(name) is opening:
                del self._openings[name]
            if opening.wanted:
                opening.repository, opening.failure = repository, failure
            elif repository is not None:
                # Nobody waits any more, but the next request will want it.
                dropped = self._store(name, repository)
            self._changed.notify_all()
        self._drop(*dropped)

    def release(self, name: str, repository: _R | None) -> None:
        """Return an object from :meth:`acquire`; ``None`` for an object that must not be used again."""
        if self._pid != os.getpid():
            return
        dropped: list[_R] = []
        with self._changed:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]
            if repository is not None:
                dropped = self._store(name, repository)
            self._changed.notify_all()
        self._drop(*dropped)

    def _drop(self, *dropped: _R) -> None:
        """Free objects; the caller holds no lock."""
        for repository in dropped:
            self._empty(repository)
            self._cycles.add()
        self._cycles.collect()

    def _store(self, name: str, repository: _R) -> list[_R]:
        """Keep an object, and return those for which there is no room any more; called with the lock held."""
        dropped = []
        self._idle.setdefault(name, []).append(repository)
        self._idle.move_to_end(name)
        self._idle_count += 1
        while self._idle_count > self._max_idle:
            oldest = next(iter(self._idle))
            dropped.append(self._idle[oldest].pop(0))
            self._idle_count -= 1
            if not self._idle[oldest]:
                del self._idle[oldest]
        return dropped


def _too_slow() -> RepositoryBusy:
    return RepositoryBusy("the repository takes too long to open; try again later", headers=[("Retry-After", "30")])
