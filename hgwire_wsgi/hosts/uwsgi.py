"""Reloading workers of uWSGI without interrupting a transfer.

``conf/uwsgi.ini`` imports this module in each worker, which calls :func:`protect_transfers` and
:func:`~hgwire_wsgi.hosts.allocator.limit_heaps`.

uWSGI asks a worker to end with SIGHUP.  The worker then accepts no more requests and ends after the last one.  But the
system delivers the signal to the main thread, which serves requests like the others.  If it is waiting for its client,
uWSGI takes the interrupted ``poll`` for an error, and closes the connection: one clone or push per worker breaks.

So the main thread blocks the signal, and a thread that does nothing else receives it.  Since uWSGI 2.0.28, its handler
only sets a flag and closes a pipe, and can run in any thread.  The handler of older versions cannot; they are left
alone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

from .allocator import limit_heaps

__all__ = ["protect_transfers"]

_SAFE_HANDLER = (2, 0, 28)
"""The first version known to have a handler that can run in any thread.  Read in its source; 2.0.26 has the old one."""


def protect_transfers(version: Sequence[object]) -> bool:
    """Let a thread of its own receive SIGHUP.  Called in the main thread of a worker.

    Args:
        version: ``uwsgi.version_info``.

    Returns:
        Whether this version of uWSGI permits it; otherwise nothing is changed.
    """
    if tuple(version[:3]) < _SAFE_HANDLER:
        return False
    # A thread inherits what its parent blocks, so it starts first.
    threading.Thread(target=threading.Event().wait, name="hgwire-signals", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    return True


try:
    import uwsgi
except ImportError:  # outside uWSGI
    pass
else:
    limit_heaps()
    protect_transfers(uwsgi.version_info)
