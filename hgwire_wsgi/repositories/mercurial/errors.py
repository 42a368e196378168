"""Mercurial's exceptions and texts as ours."""

from __future__ import annotations

import contextlib
import gc
import logging
import struct
import zlib
from collections.abc import Iterable, Iterator

from mercurial import error

from ...errors import CommandFailed, HgWireError, InvalidArgument, RepositoryBusy

__all__ = ["text", "translated", "translated_chunks", "translated_request"]

_log = logging.getLogger("hgwire_wsgi")

_COLLECT_EVERY = 16 << 20
"""Bytes of a stream between two collections, each of which takes some 50 milliseconds."""

_BAD_VALUE = (AttributeError, error.ProgrammingError, LookupError, TypeError, ValueError, struct.error)


def text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _message(failure: Exception) -> str:
    message = getattr(failure, "message", None)
    text = message if isinstance(message, bytes) else str(failure).encode("utf-8", "surrogateescape")
    return text.decode("utf-8", "replace").strip() or type(failure).__name__


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn Mercurial's exceptions into ours; what is left is a bug, here or there."""
    try:
        yield
    except error.LockError as failure:
        raise RepositoryBusy("the repository is locked; try again later", headers=[("Retry-After", "5")]) from failure
    except HgWireError:
        raise
    except error.LookupError as failure:
        name = failure.name if isinstance(failure.name, bytes) else str(failure.name).encode("utf-8")
        shown = name.hex() if len(name) in (20, 32) else name.decode("utf-8", "replace")
        raise CommandFailed(f"unknown revision '{shown}'") from failure
    except (error.Abort, error.RepoError, error.BundleValueError) as failure:
        raise CommandFailed(_message(failure)) from failure
    except (zlib.error, EOFError) as failure:
        raise CommandFailed("the bundle is corrupt") from failure


@contextlib.contextmanager
def translated_request(command: str) -> Iterator[None]:
    """Translate what a command raises before it replies.

    Mercurial checks few arguments, and shows it by whatever its code runs into.  That is the request's fault far more
    often than ours, so it is answered as such; the log has the details, in case it is ours.
    """
    try:
        with translated():
            yield
    except HgWireError:
        raise
    except _BAD_VALUE as failure:
        _log.warning("%s: Mercurial could not make sense of the request: %r", command, failure)
        _log.debug("%s failed", command, exc_info=failure)
        raise InvalidArgument(f"{command}: malformed arguments") from failure


def translated_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A stream of Mercurial's, in memory that does not grow with its length.

    Every revlog that goes into a bundle leaves a reference cycle behind, with some decompressed revisions in it, so the
    garbage of a long stream is collected on the way.
    """
    size = 0
    with translated():
        for chunk in chunks:
            yield chunk
            size += len(chunk)
            if size >= _COLLECT_EVERY:
                size = 0
                gc.collect()
