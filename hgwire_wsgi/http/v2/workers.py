"""Worker threads that run commands in parallel.

Idea: each running task has a thread and a lane, and puts its chunks into one channel.  The thread that serves the
request takes them out and passes them to the WSGI server.  The channel is bounded by bytes, so tasks wait for a slow
client.  What is always true:

- A lane has one task at a time, and is free again only after the task has closed its chunks.
- A task never waits once the channel is closed, so closing the iterator of :meth:`Workers.interleave` ends all tasks.
- A request never waits for the threads of another: without a free thread it runs its tasks itself.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ...streams import close_source

__all__ = ["Channel", "Closed", "Task", "Workers"]

Task = Callable[[int], Iterator[bytes]]
"""Called with the number of a lane; returns chunks.  An exception ends all tasks of its request."""


class Closed(Exception):
    """The reader of a channel is gone."""


class Channel:
    """A queue from many threads to one, bounded by the number of waiting bytes.

    Args:
        bound: a chunk of any size is accepted while fewer bytes than this are waiting.
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
        """Add a chunk; waits while the channel is full.

        Raises:
            Closed: the channel is closed, or was closed during the wait.
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
        """Report the end of a lane, with the exception that ended it, if there was one.  Never waits."""
        with self._lock:
            self._waiting.append((lane, failure))
            self._filled.notify()

    def get(self) -> bytes | tuple[int, BaseException | None]:
        """Take the next chunk, or the arguments of a :meth:`finish`; waits for one of them."""
        with self._lock:
            while not self._waiting:
                self._filled.wait()
            item = self._waiting.popleft()
            if isinstance(item, bytes):
                self._size -= len(item)
                self._room.notify()
            return item

    def close(self) -> None:
        """Drop all waiting chunks; every later :meth:`put` raises."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._room.notify_all()


class Workers:
    """The threads of an application that run commands, in addition to those of the WSGI server.

    A thread lives as long as its task, so an idle application has no threads and can fork.

    Args:
        count: maximum number of threads, for all requests together.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def interleave(self, tasks: Sequence[Task], lanes: Sequence[int], backlog: int) -> Iterator[bytes]:
        """Run tasks in parallel, limited by the lanes and the free threads.

        If all threads are busy with other requests, the calling thread runs a task itself.

        Closing the iterator stops the tasks at their next chunk, and waits until all of them have ended.

        Args:
            tasks: the tasks, in the order in which they start.
            lanes: numbers; each running task has its own.
            backlog: maximum number of bytes that wait for the caller, in addition to one chunk of each task.

        Yields:
            The chunks of all tasks as they come, those of one task in their order.

        Raises:
            BaseException: the first one that a task raised; the others are stopped.
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
        """Run a task in a thread; ``None`` if all are busy, or the system cannot start one."""
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
            # Before the lane is free, so that a request that waits for the lane finds a free thread.
            self._free.release()
            channel.finish(lane, failure)
