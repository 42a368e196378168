"""A bounded pool of open repositories, which are reopened when a repository changes.

Each object belongs to one request from :meth:`Pool.acquire` to :meth:`Pool.release`; the pool owns the unused ones.
Objects are opened by the threads of the requests, one at a time, because opening may load code.  One condition guards
the counters and the unused objects, and nothing is opened while it is held.

What is always true: at most ``leases`` objects of a repository are in use, and at most ``idle`` objects are unused.
A request never gets an object in another state than it asked for.  A forked process starts with an empty pool and
ignores objects returned by requests of its parent.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from ..errors import RepositoryBusy

__all__ = ["Pool"]


_R = TypeVar("_R")
_S = TypeVar("_S")


class Pool(Generic[_R, _S]):
    """Open repositories by name, for all threads of a process.

    Args:
        opener: opens a repository by name, in a state.
        is_current: returns whether an open repository is in a given state; must be cheap.
        leases: maximum number of objects of one repository that are in use.  Further requests wait.
        idle: maximum total number of unused objects; the least recently used ones are dropped.
        timeout: seconds that a request waits for a lease.
    """

    def __init__(
        self,
        opener: Callable[[str, _S], _R],
        is_current: Callable[[_R, _S], bool],
        *,
        leases: int = 64,
        idle: int = 64,
        timeout: float = 60.0,
    ) -> None:
        self._open = opener
        self._is_current = is_current
        self._leases = leases
        self._max_idle = idle
        self._timeout = timeout
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._opening = threading.Lock()
        self._changed = threading.Condition()
        self._used: Counter[str] = Counter()
        self._idle: OrderedDict[str, list[_R]] = OrderedDict()
        self._idle_count = 0

    def acquire(self, name: str, state: _S) -> _R:
        """Take an object that has the repository in a given state; :meth:`release` must follow.

        Raises:
            RepositoryBusy: if none became free in time.
            Exception: any exception of the opener.
        """
        if self._pid != os.getpid():
            self._start()
        repository = self._take(name)
        try:
            if repository is None or not self._is_current(repository, state):
                with self._opening:
                    repository = self._open(name, state)
        except BaseException:
            self.release(name, None)
            raise
        return repository

    def _take(self, name: str) -> _R | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._used[name] < self._leases, self._timeout):
                raise RepositoryBusy("the repository is busy; try again later", headers=[("Retry-After", "5")])
            self._used[name] += 1
            unused = self._idle.get(name)
            if not unused:
                return None
            self._idle_count -= 1
            repository = unused.pop()
            if not unused:
                del self._idle[name]
            return repository

    def release(self, name: str, repository: _R | None) -> None:
        """Return an object from :meth:`acquire`; ``None`` for an object that must not be used again."""
        if self._pid != os.getpid():
            return
        with self._changed:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]
            if repository is not None:
                self._idle.setdefault(name, []).append(repository)
                self._idle.move_to_end(name)
                self._idle_count += 1
                while self._idle_count > self._max_idle:
                    oldest = next(iter(self._idle))
                    self._idle[oldest].pop(0)
                    self._idle_count -= 1
                    if not self._idle[oldest]:
                        del self._idle[oldest]
            self._changed.notify_all()
