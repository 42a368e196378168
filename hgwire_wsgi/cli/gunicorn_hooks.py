"""What gunicorn's workers do for this application beyond serving it: complete logs, bounded heaps, and a quiet end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from ..access.admission import THREADS_VARIABLE
from ..hosts.allocator import limit_heaps

__all__ = ["complete_logs", "stop_quietly"]

_PACKAGE_LOG = logging.getLogger("hgwire_wsgi")


def complete_logs(server: Any, worker: Any) -> None:
    """Send the package's warnings to gunicorn's error log, count files in the access log, tell how many threads there
    are, and limit the heaps of the C library.

    It is gunicorn's ``post_fork`` hook: called in the worker, before it loads the application.

    Args:
        server: gunicorn's master; not used.
        worker: gunicorn's worker.
    """
    # The application limits what may occupy a thread, and cannot see how many there are.
    os.environ[THREADS_VARIABLE] = str(worker.cfg.threads)
    limit_heaps()
    if not _PACKAGE_LOG.hasHandlers():
        _PACKAGE_LOG.addHandler(_ErrorLogHandler(worker.log.error_log))
    _count_files(worker.log)


class _ErrorLogHandler(logging.Handler):
    """Passes records on to the handlers of gunicorn's error log.

    It stands aside once the application has configured logging for itself, which happens after this was installed.
    """

    def __init__(self, error_log: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._error_log = error_log

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record on; called by :mod:`logging`."""
        if not logging.getLogger().handlers:
            self._error_log.handle(record)


def _count_files(log: Any) -> None:
    """Let the access log count replies that the kernel sends from a file.

    ``Response.sendfile`` of gunicorn (22 to 27 at least) does not add to ``Response.sent``, which the log takes for the
    number of bytes.  A complete reply has its ``Content-Length``.  How much of one that broke off was sent is not
    known: it is logged as ``-``.

    The instance is changed, not ``logger_class``: gunicorn chooses that itself for statsd, and it is the operator's.
    """
    write = log.access

    def access(response: Any, request: Any, environ: Any, request_time: Any) -> None:
        if _is_sent_file(response, request):
            response.sent = response.response_length if sys.exc_info()[0] is None else None
        write(response, request, environ, request_time)

    log.access = access


def _is_sent_file(response: Any, request: Any) -> bool:
    """Whether the kernel sent a body from a file: it has a length, the response began, and nothing was written.

    Responses of asynchronous workers are of other classes, and count for themselves.
    """
    return bool(
        getattr(response, "headers_sent", False)
        and response.sent == 0
        and getattr(response, "response_length", None)
        and request.method != "HEAD"
        and response.status_code not in (204, 304)
    )


def stop_quietly(worker: Any) -> None:
    """Let a worker end without a traceback or a complaint, whatever its requests do.

    A stopping worker lets its transfers go on, in threads that cannot be interrupted, while the main thread waits for
    them.  gunicorn handles the first signal, in the main thread.  A thread of our own handles further ones and gets
    their numbers through a pipe: the system may deliver a signal to any thread, and if that is not the main thread, the
    main thread does not notice while it waits.

    Three things end the process at once: a second Ctrl-C, a quick shutdown after a graceful one, and SIGALRM.  The
    latter comes from the master (see ``gunicorn_app``), or from a timer shortly before gunicorn would kill the worker
    and log "Perhaps out of memory?".  One Ctrl-C brings two signals: SIGINT from the terminal, and SIGQUIT from
    gunicorn's master.

    It is gunicorn's ``post_worker_init`` hook: called when the worker has installed its own handlers.

    Args:
        worker: gunicorn's worker.
    """
    begin = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    first: int | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = number
            signal.set_wakeup_fd(writer)
            signal.setitimer(signal.ITIMER_REAL, max(worker.cfg.graceful_timeout - 1, 0.1))
            handler: Any = begin[signal.Signals(number)]
            handler(number, frame)

    def watch() -> None:
        for (number,) in iter(lambda: os.read(reader, 1), b""):
            quicker = (first, number) == (signal.SIGTERM, signal.SIGQUIT)
            if quicker or number in (signal.SIGINT, signal.SIGALRM):
                # The usual way would wait for the other threads.
                os._exit(0)

    for each in begin:
        signal.signal(each, stop)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    threading.Thread(target=watch, name="hgwire-signals", daemon=True).start()
