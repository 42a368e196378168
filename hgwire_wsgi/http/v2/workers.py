"""Commands side by side: threads that make chunks, and one thread that passes them on."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ...streams import close_source

__all__ = ["Channel", "Closed", "Task", "Workers"]

Task = Callable[[int], Iterator[bytes]]
"""Called with the number of a lane; gives chunks.  What it raises ends everything it runs beside."""


class Closed(Exception):
    """Nobody takes what goes into a channel any more."""


class Channel:
    """A queue from many threads to one, bounded by the bytes that wait in it.

    A chunk is taken in whenever the bound has not been reached, so one of any size passes.  No call blocks for ever
    once the channel is closed.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._waiting: deque[bytes | tuple[int, BaseException | None]] = deque()
        self._size = 0
        self._closed = False
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._filled = threading.Condition(self._lock)

    def put(self, chunk: bytes) -> None:
        """Add a chunk; waits while there is no room.

        Raises:
            Closed: the channel is, or was closed while this waited.
        """
        with self._lock:
            while self._size >= self._bound and not self._closed:
                self._room.wait()
            if self._closed:
                raise Closed
            self._waiting.append(chunk)
            self._size += len(chunk)
            self._filled.notify()

    def finish(self, lane: int, failure: BaseException | None) -> None:
        """Say that nothing more comes from a lane, and why if it was cut short.  Never waits."""
        with self._lock:
            self._waiting.append((lane, failure))
            self._filled.notify()

    def get(self) -> bytes | tuple[int, BaseException | None]:
        """Take the next chunk, or what :meth:`finish` was called with; waits for it."""
        with self._lock:
            while not self._waiting:
                self._filled.wait()
            item = self._waiting.popleft()
            if isinstance(item, bytes):
                self._size -= len(item)
                self._room.notify()
            return item

    def close(self) -> None:
        """Drop what waits, and let every :meth:`put` raise."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._room.notify_all()


class Workers:
    """The threads of an application that run commands beside those of the WSGI server.

    A thread lives as long as its task, so an idle application has none, and a fork finds none.

    Args:
        count: how many there may be at once, whatever the number of requests.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def interleave(self, tasks: Sequence[Task], lanes: Sequence[int], backlog: int) -> Iterator[bytes]:
        """Run tasks side by side, as many as there are lanes and free threads for.

        If every thread is busy with other requests, the calling thread runs a task itself: a request waits for its
        own client, never for the clients of others.

        Closing the iterator stops the tasks at their next chunk, and returns when all of them have ended.

        Args:
            tasks: what to run; begun in this order.
            lanes: numbers of which each running task has one of its own.
            backlog: bytes of chunks that wait at most.

        Yields:
            The chunks of all tasks as they come, those of one task in their order.
        """
        channel = Channel(backlog)
        waiting = deque(tasks)
        free = deque(lanes)
        running: dict[int, threading.Thread] = {}
        try:
            while waiting or running:
                while waiting and free and (thread := self._start(channel, waiting[0], free[0])):
                    running[free.popleft()] = thread
                    waiting.popleft()
                if not running:
                    yield from waiting.popleft()(free[0])
                    free.rotate(-1)
                    continue
                item = channel.get()
                if isinstance(item, bytes):
                    yield item
                    continue
                lane, failure = item
                running.pop(lane).join()
                free.append(lane)
                if failure is not None:
                    raise failure
        finally:
            channel.close()
            for thread in running.values():
                thread.join()

    def _start(self, channel: Channel, task: Task, lane: int) -> threading.Thread | None:
        """Run a task in a thread, if one is free and the system gives one."""
        if not self._free.acquire(blocking=False):
            return None
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._work, channel, task, lane), name="hgwire-worker", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._free.release()
            return None
        return thread

    def _work(self, channel: Channel, task: Task, lane: int) -> None:
        failure: BaseException | None = None
        chunks: Iterator[bytes] | None = None
        try:
            chunks = task(lane)
            for chunk in chunks:
                channel.put(chunk)
        except Closed:
            pass
        except BaseException as error:
            failure = error
        finally:
            try:
                close_source(chunks)
            except BaseException as error:
                failure = failure or error
            # Before the lane is free, so that whoever waits for it finds a free thread.
            self._free.release()
            channel.finish(lane, failure)
