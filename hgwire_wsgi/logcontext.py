"""The log: each line names its request, and equal lines are counted.

All modules of the package log to ``hgwire_wsgi``.  A filter on that logger appends repository, command, user, address
and request ID of the request that the current thread serves, so no caller has to pass them along.  A thread that
continues to work for a request copies its context (:func:`contextvars.copy_context`).

A second filter, :class:`FloodFilter`, lets few equal lines through: a peer may be able to cause a line with each of its
requests, but must not be able to fill a disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from typing import Protocol

import attrs

__all__ = ["CURRENT", "LOGGER", "Described", "FloodFilter", "printable", "short_list"]


class Described(Protocol):
    """A request that can describe itself for log lines."""

    repository: str

    def describe(self) -> str: ...


_SHOWN = 200
_LISTED = 8

CURRENT: ContextVar[Described | None] = ContextVar("hgwire_wsgi.request", default=None)
"""The request that this thread serves."""


def printable(value: str) -> str:
    """Format a value for a log line, which is one line of ASCII with space-separated fields.

    Control characters are escaped; a value with a space or a quotation mark is quoted; a long one is cut.
    """
    shown = ascii(value[:_SHOWN])[1:-1].replace('"', '\\"')
    return f'"{shown}"' if " " in shown or '"' in shown else shown


def short_list(commands: Sequence[str]) -> str:
    """The first few commands of a request."""
    return ",".join(commands[:_LISTED]) + (",..." if len(commands) > _LISTED else "")


class _RequestFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        request = CURRENT.get()
        if request is not None:
            record.msg, record.args = f"{record.getMessage()} [{request.describe()}]", None
        return True


@attrs.define
class _Counter:
    """Lines of one kind.

    Attributes:
        since: when the counting began, in seconds.
        name, level, path, line: of the logger, and of the statement.
        text: the first line, shortened.
        count: how many there were, the first one included.
    """

    since: float
    name: str
    level: int
    path: str
    line: int
    text: str
    count: int = 0

    @classmethod
    def of(cls, record: logging.LogRecord, now: float) -> _Counter:
        """Start to count.  The record itself is not kept, since its traceback refers to whole requests."""
        return cls(now, record.name, record.levelno, record.pathname, record.lineno, record.getMessage()[:_SHOWN])


class FloodFilter(logging.Filter):
    """Lets a number of equal lines through in a period; the others are counted, and their number is logged.

    Lines are equal if the same statement logs them with the same level for the same repository.  No text that a peer
    sends is part of that, so a peer cannot make its lines differ.  The number is logged with the first line of any kind
    after the period.

    Args:
        logger: the logger that gets the numbers.
        limit: number of equal lines in a period.
        period: seconds.
        kinds: maximum number of kinds that are counted; the lines of further kinds are counted together.
        clock: returns seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        limit: int = 30,
        period: float = 60.0,
        kinds: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._logger = logger
        self._limit = limit
        self._period = period
        self._kinds = kinds
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[Hashable, _Counter] = {}
        self._next_end = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        request = CURRENT.get()
        kind: Hashable = (record.pathname, record.lineno, record.levelno, "" if request is None else request.repository)
        now = self._clock()
        with self._lock:
            ended = self._end(now) if now >= self._next_end else []
            if kind not in self._counters and len(self._counters) >= self._kinds:
                kind = None
            counter = self._counters.get(kind)
            if counter is None:
                counter = self._counters[kind] = _Counter.of(record, now)
            counter.count += 1
            passes = counter.count <= self._limit
        for counter in ended:
            self._report(counter, now)
        return passes

    def _end(self, now: float) -> list[_Counter]:
        """Forget the counters whose period is over; returns those that held lines back."""
        over = {kind: each for kind, each in self._counters.items() if now >= each.since + self._period}
        for kind in over:
            del self._counters[kind]
        self._next_end = min((each.since for each in self._counters.values()), default=now) + self._period
        return [each for each in over.values() if each.count > self._limit]

    def _report(self, counter: _Counter, now: float) -> None:
        more = counter.count - self._limit
        text = f"{more} more lines like this in {now - counter.since:.0f} seconds: {counter.text}"
        place = counter.path, counter.line
        self._logger.callHandlers(self._logger.makeRecord(counter.name, counter.level, *place, text, (), None))


LOGGER = logging.getLogger("hgwire_wsgi")
LOGGER.addFilter(FloodFilter(LOGGER))
LOGGER.addFilter(_RequestFilter())
