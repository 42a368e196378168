"""Single flight: a bundle that many clients request at the same time is made once.

The idea.  The first request for a key gets the right to make the bundle (a ``PendingEntry`` of the store).  All other
requests, in this process or another one, follow the entry as it grows and send the data that is there.

Who owns what.

- A :class:`BundleProducer` owns the pending entry and the iterator that makes the bundle.  It ends both.
- A follower (the generator of :meth:`SingleFlight._follow`) owns its handle of the growing entry.  It only reads.
- :class:`ProducerStatus` is shared by a producer and its followers in the same process.  It wakes them when there is
  enough to read.  Followers in other processes poll the store instead.

Which thread does what.

- The thread of the request that may make a bundle calls ``produce`` and takes the first chunk, so that an early failure
  reaches its own client.  A bundle of less than one chunk ends there.
- Then a daemon thread makes the rest at its own pace, even if that client disconnects.  The client itself becomes a
  follower, like all others.

What is always true.

- Every client gets the bytes of one bundle, or a visible failure.  If a producer dies, a follower takes over.  It
  compares the new bundle byte by byte with the data that it has already sent (:func:`_resumed`), and fails if they
  differ.
- A complete entry stays complete, and an abandoned entry never grows again.
- A process has at most ``_MAXIMUM_PRODUCERS`` producers.  Beyond that, or if the disk is full, or if a bundle is larger
  than the store, each client gets its own bundle, made while it is sent and abandoned if the client disconnects.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator
from typing import Any, Literal, Protocol

import attrs

from ..errors import StreamChanged
from ..streams import close_source, coalesce
from .stores.base import BundleStore, DamagedEntry, GrowingEntry, PendingEntry, StoredFile, StoredUrl
from .stores.memory import ENTRY_OVERHEAD, MemoryStore

__all__ = [
    "Bundle",
    "BundleJob",
    "BundleProducer",
    "Chunks",
    "Outcome",
    "ProducerStatus",
    "SingleFlight",
    "Uncacheable",
]

_log = logging.getLogger("hgwire_wsgi")

_READ_SIZE = 256 * 1024
_POLL_SECONDS = 0.01
"""How often a follower in another process polls for more data."""

_BATCH_SECONDS = 0.1
"""How long a follower in the producer's process waits for a full read.  Each time it wakes, the interpreter's
lock passes between the two threads."""

_HEAD_START_SECONDS = 0.1
"""How long a producer waits until its own client has received the first chunk.  A busy producer would make the sending
thread wait for the interpreter's lock at every step."""

_MAXIMUM_PRODUCERS = 4
"""Clients that send a request and disconnect must not keep a server busy with useless bundles."""

_REMEMBERED = 1000
"""Maximum number of remembered keys of bundles too large for the store; these are not tried again."""

Outcome = Literal["hit", "miss", "followed", "uncached"]


class Chunks(Iterator[bytes], Protocol):
    """A stream in chunks, such as a generator."""

    def close(self) -> None:
        """Release the stream's resources, whether or not it was read to its end."""


class Uncacheable(Exception):
    """Raised by ``produce`` before its first chunk: its result is for its own client only.

    Args:
        result: for the caller of ``join_or_make``, such as a rendered error; closed if the caller has already sent
            a part of the bundle.
    """

    def __init__(self, result: Any) -> None:
        super().__init__("not a bundle that can be cached")
        self.result = result


class _NoRoom(Exception):
    """The store cannot take the rest of the bundle.  Its clients get it without the store."""


class _TooLarge(_NoRoom):
    """The bundle is larger than the store."""


class _MakerGone(Exception):
    """The maker of an entry is gone, and the follower has sent nothing yet."""


@attrs.frozen(eq=False)
class BundleJob:
    """A bundle, and how to make it.

    Attributes:
        key: of the bundle.
        produce: starts to make it, from the beginning at each call.  Called in the thread of a request; the result is
            read in another one, and always closed.
        is_current: returns whether the bundle still matches the key.  Called once, when the bundle is complete.
        companion: returns key and data of a small entry to store after the bundle, if any.
        label: name of the bundle in log lines.
    """

    key: str
    produce: Callable[[], Chunks]
    is_current: Callable[[], bool]
    companion: Callable[[], tuple[str, bytes] | None]
    label: str


@attrs.frozen
class Bundle:
    """A bundle to be sent.

    Attributes:
        body: the whole bundle as bytes, a file or a URL, or an iterator that must be closed.
        outcome: ``hit``: it was cached; ``miss``: this request makes it; ``followed``: another request makes it;
            ``uncached``: it is made for this request only.
    """

    body: bytes | StoredFile | StoredUrl | Chunks
    outcome: Outcome


@attrs.define(eq=False)
class ProducerStatus:
    """The status of a producer, for followers in its process.

    Attributes:
        identity: of the growing entry.
        size: bytes in the store so far.
        first_chunk_delivered: set when its own client has received the first chunk, or has disconnected.
        failure: why the producer ended without a complete entry.
    """

    identity: Hashable
    size: int
    first_chunk_delivered: threading.Event = attrs.field(init=False, factory=threading.Event)
    failure: BaseException | None = attrs.field(init=False, default=None)
    _changed: threading.Condition = attrs.field(init=False, factory=threading.Condition)
    _announced: int = attrs.field(init=False, default=0)
    _ended: bool = attrs.field(init=False, default=False)

    def report(self, size: int) -> None:
        """Record the size; wake the followers if there is enough data for a full read."""
        self.size = size
        if size >= self._announced + _READ_SIZE:
            with self._changed:
                self._announced = size
                self._changed.notify_all()

    def end(self, failure: BaseException | None) -> None:
        """Record that the producer has ended."""
        with self._changed:
            self.failure = failure
            self._ended = True
            self._changed.notify_all()

    def wait(self, position: int) -> bool:
        """Wait for data after ``position``, or for the end.

        Returns:
            False if no more will come, and the entry is not complete.
        """
        with self._changed:
            enough = position + _READ_SIZE
            self._changed.wait_for(lambda: self.size >= enough or self._ended, _BATCH_SECONDS)
            return self.size > position or self.failure is None


@attrs.frozen(eq=False)
class BundleProducer:
    """Makes the rest of one bundle, in its own thread.

    Attributes:
        job: the bundle to make.
        pending: the entry, with the first chunk in it.
        chunks: the rest.
        status: for followers in this process.
    """

    job: BundleJob
    pending: PendingEntry
    chunks: Chunks
    status: ProducerStatus

    def write_chunks(self, capacity: int) -> None:
        """Write all chunks.

        Args:
            capacity: maximum size of the bundle, in bytes.

        Raises:
            _NoRoom: if the bundle is larger, or the store cannot be written.
            Exception: any exception of the iterator.
        """
        self.status.first_chunk_delivered.wait(_HEAD_START_SECONDS)
        for chunk in self.chunks:
            if self.pending.size + len(chunk) > capacity:
                raise _TooLarge
            with _storing():
                self.pending.write(chunk)
            self.status.report(self.pending.size)


class SingleFlight:
    """Bundles by key, made once for all processes that share a store.

    Open one in each process: forked processes must not share it.

    Args:
        store: where bundles are made and stored.
        chunk: bundles of fewer bytes are made in the thread of the request; also the minimum size in bytes of the
            chunks that are written.

    Attributes:
        damaged: number of damaged entries that were found.
    """

    def __init__(self, store: BundleStore, chunk: int) -> None:
        self._store = store
        self._chunk = chunk
        self._changed = threading.Condition()
        self._running: set[BundleProducer] = set()
        self._too_large: MemoryStore[bool] = MemoryStore(_REMEMBERED * ENTRY_OVERHEAD)
        self._complained = False
        self.damaged = 0

    def join_or_make(self, job: BundleJob) -> Bundle:
        """Get a bundle from the store, follow its maker, or become its maker.

        Raises:
            Uncacheable: from ``produce``, before its first chunk; the caller has to send its result.
            Exception: any other exception of ``produce`` before its first chunk.
        """
        if self._too_large.get(job.key):
            return Bundle(self._make_alone(job), "uncached")
        while True:
            try:
                entry = self._store.open_or_begin(job.key)
                if isinstance(entry, GrowingEntry):
                    return Bundle(_begun(self._follow(job, entry)), "followed")
            except _MakerGone:
                continue
            except DamagedEntry as error:
                self.report_damage(job.label, error)
                continue
            except OSError as error:
                self.complain(error)
                return Bundle(self._make_alone(job), "uncached")
            return self._make(job, entry) if isinstance(entry, PendingEntry) else Bundle(entry, "hit")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this process is making no bundles.

        Args:
            timeout: maximum time in seconds.

        Returns:
            False on timeout.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)

    def report_damage(self, label: str, error: DamagedEntry) -> None:
        """Log and count an entry that was damaged; the store has removed it."""
        with self._changed:
            self.damaged += 1
        _log.error("%s was damaged in the cache, and has been removed: %s: %s", label, error.filename, error.strerror)

    def complain(self, error: BaseException) -> None:
        """Log, once, that the store does not work."""
        if not self._complained:
            self._complained = True
            _log.warning("the bundle cache in %s cannot be used; bundles are served without it: %s", self._store, error)

    def _make_alone(self, job: BundleJob) -> bytes | Chunks:
        return _begun(_coalesced(job.produce(), self._chunk))

    def _make(self, job: BundleJob, pending: PendingEntry) -> Bundle:
        """Make the first chunk here; if there is more, let a producer make the rest, and follow it."""
        with contextlib.ExitStack() as ending:
            ending.callback(pending.abandon)
            chunks = _coalesced(job.produce(), self._chunk)
            first = next(chunks, b"")
            is_short = len(first) < self._chunk
            try:
                with _storing():
                    pending.write(first)
                if is_short:
                    chunks.close()
                    self._complete(job, pending)
                    return Bundle(first, "miss")
                entry, status = self._start(job, pending, chunks)
            except _NoRoom as error:
                self._explain(job, error)
                return Bundle(first if is_short else _Begun(first, chunks), "uncached")
            ending.pop_all()
        return Bundle(_begun(self._follow(job, entry, status, first)), "miss")

    def _start(self, job: BundleJob, pending: PendingEntry, chunks: Chunks) -> tuple[GrowingEntry, ProducerStatus]:
        """Start a producer.

        Returns:
            The arguments to follow it.

        Raises:
            _NoRoom: if there are too many producers, or no thread can be started.
        """
        with _storing():
            entry = pending.follow()
        try:
            producer = BundleProducer(job, pending, chunks, ProducerStatus(entry.identity, pending.size))
            with self._changed:
                if len(self._running) >= _MAXIMUM_PRODUCERS:
                    raise _NoRoom
                self._running.add(producer)
            try:
                # Its log lines name the request that the bundle is made for.
                run = contextvars.copy_context().run
                threading.Thread(target=run, args=(self._run, producer), name="hgwire-maker", daemon=True).start()
            except RuntimeError as error:
                self._dismiss(producer)
                raise _NoRoom from error
        except BaseException:
            entry.close()
            raise
        return entry, producer.status

    def _run(self, producer: BundleProducer) -> None:
        """The thread of a producer."""
        job = producer.job
        failure: BaseException | None = None
        try:
            producer.write_chunks(self._store.capacity)
            self._complete(job, producer.pending)
        except _NoRoom as error:
            failure = error
            self._explain(job, error)
        except BaseException as error:
            failure = error
            _log.exception("%s could not be made", job.label)
        finally:
            try:
                producer.pending.abandon()
                producer.chunks.close()
            finally:
                self._dismiss(producer)
                producer.status.end(failure)

    def _complete(self, job: BundleJob, pending: PendingEntry) -> None:
        """Complete an entry for its followers, even if it must not be cached.

        Raises:
            _NoRoom: if it cannot be completed.
        """
        try:
            keep = job.is_current()
        except Exception as error:
            _log.warning("%s is not cached: %s", job.label, error)
            keep = False
        with _storing():
            kept = pending.finish(keep=keep)
        if kept and (companion := job.companion()) is not None:
            try:
                self._store.put(*companion)
            except OSError as error:
                self.complain(error)

    def _explain(self, job: BundleJob, error: _NoRoom) -> None:
        """Remember and log why a bundle does not go into the store."""
        if isinstance(error, _TooLarge):
            self._too_large.put(job.key, True, 0)
            _log.info("%s is not cached: it is larger than the bundle cache in %s", job.label, self._store)
        elif error.__cause__ is not None:
            self.complain(error.__cause__)

    def _dismiss(self, producer: BundleProducer) -> None:
        with self._changed:
            self._running.discard(producer)
            self._changed.notify_all()

    def _status_of(self, entry: GrowingEntry) -> ProducerStatus | None:
        """Return the status of an entry's producer, if that is in this process."""
        identity = entry.identity
        with self._changed:
            return next((each.status for each in self._running if each.status.identity == identity), None)

    def _follow(
        self, job: BundleJob, entry: GrowingEntry, own: ProducerStatus | None = None, first: bytes = b""
    ) -> Generator[bytes, None, None]:
        """Follow an entry to the end of the bundle, and close it.

        Args:
            job: to make the bundle again if the maker dies.
            entry: the entry to follow.
            own: status of the producer, if this is its own client.
            first: the first chunk, for the producer's own client.

        Raises:
            _MakerGone: if the maker is gone and nothing has been sent yet.
            StreamChanged: if the bundle cannot be continued.
        """
        position = len(first)
        try:
            if own is not None:
                yield first
                del first
                own.first_chunk_delivered.set()
            status = own or self._status_of(entry)
            while True:
                complete = entry.is_complete()
                if data := entry.read(position, _READ_SIZE):
                    position += len(data)
                    yield data
                    continue
                if complete:
                    return
                # Its producer may have started after this follower.
                status = status or self._status_of(entry)
                if not (_poll(entry, position) if status is None else status.wait(position)):
                    break
            if not position:
                raise _MakerGone
            yield from _resumed(self._take_over(job, status), entry, position)
        finally:
            if own is not None:
                own.first_chunk_delivered.set()
            entry.close()

    def _take_over(self, job: BundleJob, status: ProducerStatus | None) -> Generator[bytes, None, None]:
        """Start a bundle again from its beginning, after its maker is gone.

        Raises:
            StreamChanged: if that is impossible.
        """
        failure = None if status is None else status.failure
        if failure is not None and not isinstance(failure, _NoRoom):
            raise StreamChanged("the bundle could not be made") from failure
        try:
            body = self.join_or_make(job).body if failure is None else self._make_alone(job)
            if isinstance(body, StoredUrl):
                body = self._make_alone(job)
        except Uncacheable as error:
            close_source(error.result)
            raise StreamChanged("the bundle can no longer be made") from None
        yield from _iterated(body)


class _Begun(Iterator[bytes]):
    """A stream whose first chunk has already been taken."""

    def __init__(self, first: bytes, rest: Chunks) -> None:
        self._first = first
        self._rest = rest

    def __next__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return next(self._rest)

    def close(self) -> None:
        self._first = b""
        self._rest.close()


def _begun(chunks: Chunks) -> bytes | Chunks:
    """Wait until a stream begins, so that a failure to make it is raised here, not while it is sent."""
    first = next(chunks, b"")
    return _Begun(first, chunks) if first else b""


def _coalesced(source: Chunks, size: int) -> Generator[bytes, None, None]:
    """Join the chunks of a stream into chunks of at least ``size`` bytes; only the last one may be smaller.

    Closing it closes the source, and never fails.
    """
    try:
        yield from coalesce(source, size)
    finally:
        try:
            source.close()
        except Exception:
            _log.exception("cleaning up after a bundle failed")


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    """Turn a failure of the store into :class:`_NoRoom`, so that the bundle is served without the store."""
    try:
        yield
    except OSError as error:
        raise _NoRoom from error


def _poll(entry: GrowingEntry, position: int) -> bool:
    """Wait briefly for data after ``position`` from another process.

    Returns:
        False if no more will come, and the entry is not complete.
    """
    if entry.has_maker():
        time.sleep(_POLL_SECONDS)
        return True
    # The maker may have finished since the last check.
    return entry.is_complete() or bool(entry.read(position, 1))


def _iterated(body: bytes | StoredFile | Chunks) -> Generator[bytes, None, None]:
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, StoredFile):
        with open(body.descriptor, "rb", buffering=0) as file:
            while data := file.read(_READ_SIZE):
                yield data
    else:
        with contextlib.closing(body):
            yield from body


def _resumed(again: Generator[bytes, None, None], sent: GrowingEntry, position: int) -> Iterator[bytes]:
    """Yield the data after ``position`` of a bundle that was started again.

    Args:
        again: the bundle from its beginning.
        sent: contains the bytes before ``position``, which were sent.
        position: in bytes.

    Raises:
        StreamChanged: if the bundle does not begin with the bytes that were sent.
    """
    offset = 0
    with contextlib.closing(again):
        for chunk in again:
            overlap = min(len(chunk), position - offset)
            if overlap > 0:
                if sent.read(offset, overlap) != chunk[:overlap]:
                    raise StreamChanged("the bundle has changed since the transfer began")
                chunk = chunk[overlap:]
                offset += overlap
            if chunk:
                yield chunk
    if offset < position:
        raise StreamChanged("the bundle has changed since the transfer began")
