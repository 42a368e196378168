"""Conversion of Mercurial's exceptions and texts, and whether client or server caused a failure.

Mercurial checks few arguments; wrong ones cause arbitrary exceptions in its code.  So such an exception is the client's
error if the request had arguments, and a server error if it had none.  The files on the server that a command reads are
checked before it runs (see ``files.py``), so that their errors are never blamed on a client.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

from mercurial import error

from ...errors import CommandFailed, HgWireError, InvalidArgument, RepositoryBusy, RepositoryUnusable

__all__ = ["Report", "message_of", "text", "translated", "translated_chunks", "translated_request"]

_log = logging.getLogger("hgwire_wsgi")

Report = Callable[[str], None]
"""Called with a problem on the server; logs it with the name of the repository."""

_BAD_VALUE = (AttributeError, error.ProgrammingError, LookupError, TypeError, ValueError, struct.error)


def text(value: bytes) -> str:
    """Decode bytes from Mercurial, such as names and settings."""
    return value.decode("utf-8", "surrogateescape")


def message_of(failure: Exception) -> str:
    """The message of an exception, or its type if it has none."""
    # Some of Mercurial's exceptions have the message as an attribute, some as an argument.
    candidates = (getattr(failure, "message", None), *failure.args[:1])
    plain = str(failure).encode("utf-8", "surrogateescape")
    raw = next((item for item in candidates if isinstance(item, bytes)), plain)
    location = getattr(failure, "location", None)
    if isinstance(location, bytes):
        raw = location + b": " + raw
    return raw.decode("utf-8", "replace").strip() or type(failure).__name__


def _translation(failure: Exception, report: Report) -> HgWireError | None:
    """What Mercurial's exception means to a client; ``None`` for any other, which is raised as it is."""
    if isinstance(failure, error.LockError):
        return RepositoryBusy("the repository is locked; try again later", headers=[("Retry-After", "5")])
    if isinstance(failure, error.WdirUnsupported):
        # The node that stands for the working directory, which no other repository has.
        return CommandFailed(f"unknown revision '{'f' * 40}'")
    if isinstance(failure, error.LookupError):
        name = failure.name if isinstance(failure.name, bytes) else str(failure.name).encode("utf-8")
        shown = name.hex() if len(name) in (20, 32) else name.decode("utf-8", "replace")
        return CommandFailed(f"unknown revision '{shown}'")
    if isinstance(failure, error.ConfigError):
        report(message_of(failure))
        return RepositoryUnusable()
    if isinstance(failure, (error.Abort, error.RepoError, error.BundleValueError)):
        return CommandFailed(message_of(failure))
    return CommandFailed("the bundle is corrupt") if isinstance(failure, (zlib.error, EOFError)) else None


@contextlib.contextmanager
def translated(report: Report) -> Iterator[None]:
    """Translate Mercurial's exceptions; any other exception is a bug, here or in Mercurial.

    Args:
        report: called with errors in the configuration.
    """
    try:
        yield
    except HgWireError:
        raise
    except Exception as failure:
        translation = _translation(failure, report)
        if translation is None:
            raise
        raise translation from failure


@contextlib.contextmanager
def translated_request(command: str, report: Report, *, has_arguments: bool = True) -> Iterator[None]:
    """Translate the exceptions of a command before it replies.

    Args:
        command: its name.
        report: as for :func:`translated`.
        has_arguments: whether the request has arguments that may be the cause.
    """
    try:
        yield
    except HgWireError:
        raise
    except Exception as failure:
        translation = _translation(failure, report)
        if translation is None and has_arguments and isinstance(failure, _BAD_VALUE):
            _log.warning("%s: Mercurial could not process the request: %r", command, failure)
            _log.debug("%s failed", command, exc_info=failure)
            translation = InvalidArgument(f"{command}: malformed arguments")
        if translation is None:
            raise
        raise translation from failure


def translated_chunks(chunks: Iterable[bytes], report: Report) -> Iterator[bytes]:
    """Pass on a stream from Mercurial, and translate its exceptions."""
    with translated(report):
        yield from chunks
