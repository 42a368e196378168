"""Single flight: one maker of a stream, and everybody who wants the same follows the growing file.

A maker works at its own pace, in a thread, whatever becomes of the client that caused it.  Its own client follows like
all others, in this process or another.  If a maker dies, a follower becomes the next one; what it has sent already is
compared with what comes now, byte by byte, so nobody ever gets two halves of different streams.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import attrs

from ..errors import BackendError
from .stores.folder import Part, Store, has_maker, is_complete
from .stores.memory import ByteLRU

__all__ = ["Chunks", "Flight", "Make", "StreamChanged", "Whole"]

_log = logging.getLogger("hgwire_wsgi")

_READ_SIZE = 256 * 1024
_POLL_SECONDS = 0.01
"""How often a follower of another process looks for more; within one process it is woken."""

_BATCH_SECONDS = 0.1
"""How long a follower in the maker's process waits for as much as it reads at once.  Each time it wakes, the two pass
the interpreter's lock to and fro."""

_HEAD_START_SECONDS = 0.1
"""How long a maker waits until its own client was given the first chunk.  It is busy, and would let the thread that
sends wait for the interpreter's lock at every step."""

_MAKERS = 4
"""How many streams a process makes for the store at once; more than that are made for their clients alone, and end
with them, so that clients who ask and vanish cannot keep a server busy."""

_REMEMBERED = 1000 * 200
"""How much is remembered of streams that were too large: a thousand of them."""


class Chunks(Iterator[bytes], Protocol):
    """A stream in pieces, none of them empty; a generator is one."""

    def close(self) -> None:
        """Free whatever it uses, read to its end or not."""


Make = Callable[[], Chunks]
"""Makes the stream anew, in chunks of 64 KiB but for the last."""


class StreamChanged(BackendError):
    """A stream that was taken up again is not the one that began; the transfer must break off."""


class _NoRoom(Exception):
    """The disk is full, or broken, the stream is larger than all the store may hold, or others keep all makers busy."""


@attrs.frozen
class Whole:
    """A complete stream: an open file and its size in bytes.  Whoever gets it closes the descriptor."""

    descriptor: int
    size: int


@attrs.define(eq=False)
class _Production:
    """What followers in this process know of a maker in it."""

    inode: tuple[int, int]
    first_given: threading.Event = attrs.Factory(threading.Event)
    changed: threading.Condition = attrs.Factory(threading.Condition)
    size: int = 0
    announced: int = 0
    ended: bool = False
    failure: BaseException | None = None

    def report(self, size: int) -> None:
        self.size = size
        if size >= self.announced + _READ_SIZE:
            with self.changed:
                self.announced = size
                self.changed.notify_all()

    def end(self, failure: BaseException | None) -> None:
        with self.changed:
            self.failure = failure
            self.ended = True
            self.changed.notify_all()


class Flight:
    """Streams by digest, made once for all processes that share a store.

    Args:
        store: where they grow and stay.
        chunk: size of the chunks that makers yield, but for their last.
    """

    def __init__(self, store: Store, chunk: int) -> None:
        self.store = store
        self._chunk = chunk
        self._productions: dict[str, _Production] = {}
        self._makers = threading.Semaphore(_MAKERS)
        self._too_large: ByteLRU[bool] = ByteLRU(_REMEMBERED)
        self._complained = False

    def get(self, digest: str, make: Make, is_valid: Callable[[], bool]) -> Whole | bytes | Chunks:
        """Get a stream.

        Args:
            digest: of everything the stream depends on.
            make: makes it; called in this thread or another, once, or again if a maker dies.
            is_valid: asked when it is made, whether it still is what the digest stands for; if not it is not kept.

        Returns:
            A complete one; a short one as bytes; or an iterator that follows one as it grows.

        Raises:
            Exception: what ``make`` raises before its first chunk.
        """
        if self._too_large.get(digest):
            return _begun(make())
        try:
            joined = self.store.join(digest)
        except OSError as error:
            self.complain(error)
            return _begun(make())
        if isinstance(joined, Part):
            return self._make(digest, joined, make, is_valid)
        if is_complete(joined):
            return Whole(joined, os.fstat(joined).st_size)
        production = self._productions.get(digest)
        if production is not None and production.inode != _inode(joined):
            production = None
        return _begun(self._follow(digest, joined, production, make, is_valid))

    def complain(self, error: Exception) -> None:
        """Log, once, that the store cannot be written."""
        if not self._complained:
            self._complained = True
            _log.warning("the bundle cache cannot be written, bundles are served without it: %s", error)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Complain of a system that is out of disk or threads; it is no failure, only a reason to do without."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            self.complain(error)
            raise _NoRoom from error

    def _make(self, digest: str, part: Part, make: Make, is_valid: Callable[[], bool]) -> bytes | Chunks:
        try:
            chunks = make()
            first = next(chunks, b"")
        except BaseException:
            part.abandon()
            raise
        try:
            with self._writing():
                part.write(first)
                if len(first) < self._chunk:
                    _close(chunks)
                    _finish(part, is_valid)
                    return first
                descriptor, production = self._start(digest, part, chunks, is_valid)
        except _NoRoom:
            part.abandon()
            return _chained(first, chunks)
        return _begun(self._follow(digest, descriptor, production, make, is_valid, first))

    def _start(self, digest: str, part: Part, chunks: Chunks, is_valid: Callable[[], bool]) -> tuple[int, _Production]:
        """Have a stream made in a thread, and tell how to follow it."""
        if not self._makers.acquire(blocking=False):
            raise _NoRoom
        with contextlib.ExitStack() as undo:
            undo.callback(self._makers.release)
            descriptor = part.open()
            undo.callback(os.close, descriptor)
            production = self._productions[digest] = _Production(_inode(descriptor), size=part.size)
            undo.callback(self._productions.pop, digest, None)
            work = (digest, part, chunks, production, is_valid)
            threading.Thread(target=self._produce, args=work, name="hgwire-maker", daemon=True).start()
            undo.pop_all()
        return descriptor, production

    def _produce(
        self,
        digest: str,
        part: Part,
        chunks: Chunks,
        production: _Production,
        is_valid: Callable[[], bool],
    ) -> None:
        failure: BaseException | None = None
        production.first_given.wait(_HEAD_START_SECONDS)
        try:
            for chunk in chunks:
                if part.size + len(chunk) > self.store.capacity:
                    self._too_large.put(digest, True, 0)
                    raise _NoRoom
                with self._writing():
                    part.write(chunk)
                production.report(part.size)
            with self._writing():
                _finish(part, is_valid)
        except BaseException as error:
            if not isinstance(error, _NoRoom):
                _log.exception("making a stream failed")
            failure = error
            part.abandon()
        finally:
            _close(chunks)
            self._makers.release()
            if self._productions.get(digest) is production:
                del self._productions[digest]
            production.end(failure)

    def _follow(
        self,
        digest: str,
        descriptor: int,
        production: _Production | None,
        make: Make,
        is_valid: Callable[[], bool],
        first: bytes = b"",
    ) -> Chunks:
        position = len(first)
        try:
            if first:
                yield first
                del first
            if production is not None:
                production.first_given.set()
            while True:
                complete = is_complete(descriptor)
                if data := os.pread(descriptor, _READ_SIZE, position):
                    position += len(data)
                    yield data
                elif complete:
                    return
                elif not _wait(descriptor, production, position):
                    break
            if production is not None and production.failure is not None:
                if not isinstance(production.failure, _NoRoom):
                    raise StreamChanged("the stream could not be made") from production.failure
                again: Whole | bytes | Chunks = make()
            else:
                again = self.get(digest, make, is_valid)
            yield from _resumed(_iterated(again), descriptor, position)
        finally:
            if production is not None:
                production.first_given.set()
            os.close(descriptor)


def _finish(part: Part, is_valid: Callable[[], bool]) -> None:
    """Complete a part: it was made, and others wait for it, whatever has become of what it was made from.

    Raises:
        OSError: as :meth:`Part.finish`.
    """
    try:
        keep = is_valid()
    except Exception as error:
        _log.warning("a stream is not kept: %s", error)
        keep = False
    part.finish(keep=keep)


def _inode(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _wait(descriptor: int, production: _Production | None, position: int) -> bool:
    """Wait until there may be more to read.

    Returns:
        Whether there may; if not, the maker is gone for good.
    """
    if production is not None:
        with production.changed:
            enough = position + _READ_SIZE
            production.changed.wait_for(lambda: production.size >= enough or production.ended, _BATCH_SECONDS)
            return production.size > position or production.failure is None
    if has_maker(descriptor):
        time.sleep(_POLL_SECONDS)
        return True
    # It may have finished since we looked.
    return is_complete(descriptor) or os.fstat(descriptor).st_size > position


def _close(chunks: Chunks) -> None:
    try:
        chunks.close()
    except Exception:
        _log.exception("cleaning up after a stream failed")


def _begun(chunks: Chunks) -> bytes | Chunks:
    """Wait until a stream begins, so that a failure to make it is raised here, not while it is sent."""
    first = next(chunks, b"")
    return _chained(first, chunks) if first else b""


def _chained(first: bytes, chunks: Chunks) -> Chunks:
    with contextlib.closing(chunks):
        yield first
        del first
        yield from chunks


def _iterated(stream: Whole | bytes | Chunks) -> Iterator[bytes]:
    if isinstance(stream, bytes):
        yield stream
    elif isinstance(stream, Whole):
        with open(stream.descriptor, "rb", buffering=0) as file:
            while data := file.read(_READ_SIZE):
                yield data
    else:
        yield from stream


def _resumed(stream: Iterator[bytes], sent: int, position: int) -> Iterator[bytes]:
    """The rest of a stream whose first ``position`` bytes were sent, and are in the file ``sent``."""
    offset = 0
    for chunk in stream:
        overlap = min(len(chunk), position - offset)
        if overlap > 0:
            if os.pread(sent, overlap, offset) != chunk[:overlap]:
                raise StreamChanged("the stream has changed since it began")
            chunk = chunk[overlap:]
            offset += overlap
        if chunk:
            yield chunk
    if offset < position:
        raise StreamChanged("the stream has changed since it began")
