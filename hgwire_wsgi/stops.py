"""Exceptions that end a process, and whether a signal caused one.

A command, a hook or a policy that raises :class:`SystemExit` or :class:`KeyboardInterrupt` must not end the server.
The signal handler of a server raises the same exceptions in the main thread, in the middle of whatever runs there;
those must end it.
"""

from __future__ import annotations

import dis
import signal
import threading
from collections.abc import Iterator
from types import CodeType, TracebackType

__all__ = ["FAILURES", "STOPS", "is_from_signal"]

STOPS = (SystemExit, KeyboardInterrupt)

FAILURES = (Exception, *STOPS)
"""Exceptions that end one request and nothing else, unless they are from a signal."""


def is_from_signal(error: BaseException) -> bool:
    """Whether a signal handler raised an exception, and not the code that it interrupted.

    Python runs signal handlers in the main thread.  The frame of a handler written in Python is part of the traceback.
    Python's own handler for Ctrl-C leaves none: it raises :class:`KeyboardInterrupt` between two instructions, whereas
    a command has to execute a ``raise`` statement.
    """
    if not isinstance(error, STOPS) or threading.current_thread() is not threading.main_thread():
        return False
    handlers = set(_handlers())
    last = error.__traceback__
    for entry in _entries(error.__traceback__):
        if entry.tb_frame.f_code in handlers:
            return True
        last = entry
    if not isinstance(error, KeyboardInterrupt) or last is None:
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
