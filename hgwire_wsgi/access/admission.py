"""Admission control: which requests may occupy a thread of the server, and how many at once.

The idea.  A WSGI server has a fixed number of threads in each process.  A request that waits for its client, or for a
lock, occupies one of them.  Requests that may wait for long therefore need a *slot*; all others never wait, and need
none.  There are fewer slots than threads, so some threads always serve the others: the handshake and small commands.

A slot belongs to a *lane*, which says what its request does with the thread:

- ``receive``: reads a request body: a push, an upload, posted arguments, frames;
- ``send``: sends a long reply, such as a bundle;
- ``make``: computes a bundle.  This lane limits work and memory, not threads: a bundle is made by a request that
  already has a slot, or by a thread of this package.

Each lane has a limit, and so has each client, so that neither one kind of request nor one client takes all slots.  A
request without a slot waits briefly, in the order of arrival, but clients with fewer slots go first.  It occupies a
thread while it waits, so waiting requests count as if they had a slot.  All others are refused at once.

Except in a *burst*: clients that arrive together, such as the jobs of a build farm, mostly ask for what takes
milliseconds.  So for half a second in any five, requests may wait in the other threads, too.

What is always true: slots and waiting requests together are at most three quarters of the threads (the lane ``make``
and requests that wait in a burst apart).  A free slot goes to the first request that may have it, or stays free.  One
lock guards all counters; nothing else happens while it is held.  The module knows nothing of WSGI.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ..errors import ServerBusy

__all__ = ["THREADS_VARIABLE", "Admission", "AdmissionControl", "Lane", "Slot"]

_log = logging.getLogger("hgwire_wsgi")

Lane = Literal["receive", "send", "make"]

THREADS_VARIABLE = "HGWIRE_THREADS"
"""The environment variable that tells an application how many threads its process has."""

_DEFAULT_THREADS = 8
"""Threads of each process, if neither the host nor the server says how many there are."""

_QUIET_SECONDS = 60.0
"""Minimum time between two log lines about refused requests."""


_BURST_INTERVAL = 10
"""A burst begins at the earliest when ten times its length have passed since the last one began."""


_COUNT: Any = attrs.validators.optional(attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class Admission:
    """Limits on the requests that one process serves at once.

    Attributes:
        threads: number of threads of each process; default: the environment variable ``HGWIRE_THREADS``, which our
            settings for gunicorn set; under uWSGI, its option; otherwise 8.  With one thread, every request occupies
            the whole process, so nothing is limited; 1 therefore turns admission control off.
        receive: maximum number of requests whose body is being read; default: half of the slots.
        send: maximum number of long replies that are being sent; default: all slots but one in four.
        make: maximum number of bundles that are being made.
        client: maximum number of slots, of all lanes together, for one address, and for one user; default: all but one
            in four.  One client never has all slots of a lane, unless it has only one.
        wait: seconds that a request waits for a slot, at most.
        make_wait: seconds that a request with a slot waits to make a bundle, at most.
        burst: seconds that requests may wait in the threads for small commands, at most, until they serve nothing but
            small commands again for nine times as long; 0 for never.
        retry_after: seconds after which a refused client should try again.
    """

    threads: int | None = attrs.field(default=None, validator=_COUNT)
    receive: int | None = attrs.field(default=None, validator=_COUNT)
    send: int | None = attrs.field(default=None, validator=_COUNT)
    make: int = attrs.field(default=4, validator=attrs.validators.ge(1))
    client: int | None = attrs.field(default=None, validator=_COUNT)
    wait: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    make_wait: float = attrs.field(default=60.0, validator=attrs.validators.ge(0))
    burst: float = attrs.field(default=0.5, validator=attrs.validators.ge(0))
    retry_after: int = attrs.field(default=10, validator=attrs.validators.ge(1))

    def for_process(self, threads: int | None = None) -> AdmissionControl | None:
        """Return the slots of a process; ``None`` if it has one thread.

        Args:
            threads: number of threads according to the server, if it says so.
        """
        named = os.environ.get(THREADS_VARIABLE, "")
        given = int(named) if named.isdecimal() and named.isascii() else None
        count = self.threads or given or threads or _DEFAULT_THREADS
        return AdmissionControl(self, count) if count > 1 else None


def _most(count: int) -> int:
    """All but one in four, at least one."""
    return max(1, count - max(1, count // 4))


@attrs.define(eq=False)
class Slot:
    """The right of one request to occupy a thread, or to make a bundle.

    Attributes:
        lane: what it is used for.
        clients: whose request it is: any names, such as an address and a user.
    """

    _control: AdmissionControl
    lane: Lane
    clients: tuple[str, ...]
    _released: bool = False

    def move(self, lane: Lane) -> None:
        """Continue in another lane, for instance to send the reply after the body was read.

        Raises:
            ServerBusy: if the lane is full and stays so; the slot is released.
        """
        if lane != self.lane:
            self._control._move(self, lane)

    def release(self) -> None:
        """Give the slot back; calling this again has no effect."""
        self._control._release(self)


@attrs.define(eq=False)
class _Question:
    """A request for a slot.

    Attributes:
        slot: the one it wants.
        seconds: how long it may wait.
        in_burst: whether it waits in a thread for small commands.
        admitted: set when it has it.
    """

    slot: Slot
    seconds: float = 0.0
    in_burst: bool = False
    admitted: threading.Event = attrs.Factory(threading.Event)


class AdmissionControl:
    """The slots of one process; used by all its threads.

    Args:
        settings: the limits.
        threads: number of threads of the process.
    """

    def __init__(self, settings: Admission, threads: int) -> None:
        self.slots = max(1, threads - -(-threads // 4))
        """Maximum number of slots and waiting requests of the lanes that occupy threads."""
        self.limits: Mapping[Lane, int] = {
            "receive": min(self.slots, settings.receive or max(1, self.slots // 2)),
            "send": min(self.slots, settings.send or _most(self.slots)),
            "make": settings.make,
        }
        self._client = settings.client or _most(self.slots)
        self._settings = settings
        self._lock = threading.Lock()
        self._used: Counter[Lane] = Counter()
        self._clients: Counter[tuple[Lane, str]] = Counter()
        self._queue: list[_Question] = []
        self._refused = 0
        self._complained = -_QUIET_SECONDS
        self._burst_began = -math.inf

    def enter(self, lane: Lane, clients: tuple[str, ...] = ()) -> Slot:
        """Take a slot, or wait for one.

        Args:
            lane: what it is for.
            clients: names of those whose limits count.

        Raises:
            ServerBusy: if none is free in time, or too many requests wait already.
        """
        slot = Slot(self, lane, clients)
        with self._lock:
            question = self._ask(slot)
        self._await(question)
        return slot

    def enter_now(self, lane: Lane, clients: tuple[str, ...] = ()) -> Slot | None:
        """Take a slot that occupies a thread, if one is free."""
        slot = Slot(self, lane, clients)
        with self._lock:
            if self._occupied() >= self.slots or not self._is_free(slot):
                return None
            self._take(slot)
        return slot

    def _move(self, slot: Slot, lane: Lane) -> None:
        with self._lock:
            self._give_back(slot)
            slot.lane = lane
            question = self._ask(slot)
            self._admit()
        self._await(question)

    def _release(self, slot: Slot) -> None:
        with self._lock:
            if not slot._released:
                slot._released = True
                self._give_back(slot)
                self._admit()

    def _await(self, question: _Question | None) -> None:
        """Wait until a request has its slot; ``None`` has it already.

        Raises:
            ServerBusy: if it is refused, or has waited for too long.
        """
        if question is None:
            return
        slot = question.slot
        if question in self._queue:
            question.admitted.wait(question.seconds)
        with self._lock:
            if question.admitted.is_set():
                return
            slot._released = True
            if question in self._queue:
                self._queue.remove(question)
            complaint = self._count_refusal(slot)
        if complaint:
            _log.warning("%s", complaint)
        seconds = self._settings.retry_after
        raise ServerBusy(f"the server is busy; try again in {seconds} seconds", headers=[("Retry-After", str(seconds))])

    # All methods below are called with the lock held.

    def _ask(self, slot: Slot) -> _Question | None:
        """Give a request its slot, and return ``None``; or give it a place in the queue, or neither."""
        occupies = slot.lane != "make"
        has_room = not occupies or self._occupied() < self.slots
        if has_room and self._is_free(slot):
            self._take(slot)
            return None
        question = _Question(slot)
        if not occupies:
            question.seconds = self._settings.make_wait
        elif has_room and not self._is_waiting_enough(slot):
            question.seconds = self._settings.wait
        else:
            question.seconds = min(self._settings.wait, self._left_of_burst())
            question.in_burst = True
        if question.seconds:
            self._queue.append(question)
        return question

    def _left_of_burst(self) -> float:
        """Seconds until the end of the burst, which may begin now."""
        length, now = self._settings.burst, time.monotonic()
        if now - self._burst_began >= length * _BURST_INTERVAL:
            self._burst_began = now
        return max(0.0, self._burst_began + length - now)

    def _is_free(self, slot: Slot) -> bool:
        """Whether neither the lane nor the client is at its limit."""
        lane, limit = slot.lane, self.limits[slot.lane]
        if self._used[lane] >= limit:
            return False
        # One client never takes a whole lane.
        share = max(1, limit - 1)
        for name in slot.clients if self._clients else ():
            if self._clients[lane, name] >= share or self._total(name) >= self._client:
                return False
        return True

    def _is_waiting_enough(self, slot: Slot) -> bool:
        """Whether a client has as many slots and waiting requests as it may have slots."""
        waiting = Counter(name for each in self._waiting() for name in each.slot.clients)
        return any(self._total(name) + waiting[name] >= self._client for name in slot.clients)

    def _total(self, name: str) -> int:
        """Slots of a client in the lanes that occupy threads."""
        return self._clients["receive", name] + self._clients["send", name]

    def _occupied(self) -> int:
        """Threads with a slot, or waiting for one outside of a burst."""
        # Mostly nobody waits, and this is asked for every slot.
        return self._used["receive"] + self._used["send"] + (len(self._waiting()) if self._queue else 0)

    def _waiting(self) -> list[_Question]:
        """Waiting requests that count as if they had a slot."""
        return [each for each in self._queue if each.slot.lane != "make" and not each.in_burst]

    def _may_be_admitted(self, question: _Question) -> bool:
        has_room = not question.in_burst or self._occupied() < self.slots
        return has_room and self._is_free(question.slot)

    def _admit(self) -> None:
        """Give free slots to waiting requests: first to clients with the fewest, then in the order of arrival."""
        if not self._queue:
            return

        def load(each: _Question) -> int:
            return max((self._clients[each.slot.lane, name] for name in each.slot.clients), default=0)

        while free := [each for each in self._queue if self._may_be_admitted(each)]:
            chosen = min(free, key=load)
            self._queue.remove(chosen)
            self._take(chosen.slot)
            chosen.admitted.set()

    def _take(self, slot: Slot) -> None:
        self._used[slot.lane] += 1
        for name in slot.clients:
            self._clients[slot.lane, name] += 1

    def _give_back(self, slot: Slot) -> None:
        self._used[slot.lane] -= 1
        for name in slot.clients:
            self._clients[slot.lane, name] -= 1
            if not self._clients[slot.lane, name]:
                del self._clients[slot.lane, name]

    def _count_refusal(self, slot: Slot) -> str:
        """Return a text for the log, at most once a minute; otherwise an empty one."""
        self._refused += 1
        now = time.monotonic()
        if now - self._complained < _QUIET_SECONDS:
            return ""
        used = ", ".join(f"{lane} {self._used[lane]}/{limit}" for lane, limit in self.limits.items())
        text = f"the server is busy: {self._refused} requests refused, the last one in lane {slot.lane} ({used})"
        self._complained, self._refused = now, 0
        return text
