"""What a client gets of a failure.

A command, a hook or an extension may raise anything, :class:`SystemExit` and :class:`KeyboardInterrupt` included.  All
of them are failures of one request, except those that a signal handler raised to end the server; see
:mod:`hgwire_wsgi.stops`.
"""

from __future__ import annotations

import errno

from ..errors import CommandCrashed, HgWireError, LocalProtocolError, OutOfMemory, StorageFull
from ..logcontext import LOGGER
from ..stops import STOPS, is_from_signal

__all__ = ["public"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    if isinstance(error, STOPS):
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
