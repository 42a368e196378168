"""What a command can raise, and what a client gets of it.

A command, a hook or an extension may raise anything.  :class:`SystemExit` and :class:`KeyboardInterrupt` end a server
that does not catch them, so here they are failures of one request.  The exception is a server that ends itself: its
signal handler raises them in the main thread, in the middle of whatever runs there.  Those pass through.
"""

from __future__ import annotations

import dis
import errno
import signal
import threading
from collections.abc import Iterator
from types import CodeType, TracebackType

from ..errors import CommandCrashed, HgWireError, LocalProtocolError, OutOfMemory, StorageFull
from ..logcontext import LOGGER

__all__ = ["FAILURES", "is_from_signal", "public"]

_STOPS = (SystemExit, KeyboardInterrupt)

FAILURES = (Exception, *_STOPS)
"""Exceptions that end one request and nothing else.  :func:`public` raises those again that end the server."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_from_signal(stop: BaseException) -> bool:
    """Whether a signal handler raised an exception, and not the code that it interrupted.

    Python runs signal handlers in the main thread.  The frame of a handler written in Python is part of the traceback.
    Python's own handler for Ctrl-C leaves none: it raises :class:`KeyboardInterrupt` between two instructions, whereas
    a command has to execute a ``raise`` statement.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = set(_handlers())
    last = stop.__traceback__
    for entry in _entries(stop.__traceback__):
        if entry.tb_frame.f_code in handlers:
            return True
        last = entry
    if not isinstance(stop, KeyboardInterrupt) or last is None:
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] != "RAISE_VARARGS"


def _entries(entry: TracebackType | None) -> Iterator[TracebackType]:
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _handlers() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        code = getattr(getattr(handler, "__func__", handler), "__code__", None)
        if isinstance(code, CodeType):
            yield code


def public(error: BaseException) -> HgWireError:
    """Return the error to report to the client.

    That is the error itself if it is from :mod:`hgwire_wsgi.errors` and not a bug.  A lack of memory or storage, and an
    attempt to end the server, have errors of their own.  Anything else becomes a generic error, and the log has a
    traceback.

    Raises:
        BaseException: the given error, if it must end the server.
    """
    if isinstance(error, HgWireError) and not isinstance(error, LocalProtocolError):
        return error
    if isinstance(error, _STOPS):
        if is_from_signal(error):
            raise error
        LOGGER.error("a command tried to end the server", exc_info=error)
        return CommandCrashed(f"a command or hook on the server called exit: {error!r:.100}")
    if isinstance(error, MemoryError):
        LOGGER.error("out of memory")
        return OutOfMemory("the server is out of memory; try again later", headers=[("Retry-After", "60")])
    if isinstance(error, RecursionError):
        LOGGER.error("a command failed: %r", error)
        return CommandCrashed("the request nests too deeply for the server")
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        LOGGER.error("the server cannot write: %s", error)
        return StorageFull("the server has no space left to write to")
    LOGGER.error("a command failed", exc_info=error)
    return HgWireError("internal server error")
