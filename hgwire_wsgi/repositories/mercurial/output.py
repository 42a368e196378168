"""The output of hooks never reaches the standard output of the server.

A push collects what its hooks write to ``ui``, for the client's user.  Everything else goes to standard error, as with
hgweb:

- what Mercurial and hooks write to ``ui`` outside of a push, and the output of commands that are hooks, because ``ui``
  writes there;
- what a hook in Python prints, and what its child processes print.  Both write to file descriptor 1, which therefore
  refers to standard error while such a hook runs.

Descriptors belong to the process, and several hooks may run at a time.  So the first one redirects, and the last one
restores.  In between, what other threads print goes to standard error, too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from mercurial.utils import procutil

__all__ = ["redirect_output", "stdout_to_stderr"]

_STDOUT, _STDERR = 1, 2


class _Redirection:
    """File descriptor 1, and how many hooks need it to be redirected."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved: int | None = None

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                _flush()
                # The server may have closed one of them.
                with contextlib.suppress(OSError):
                    self._saved = os.dup(_STDOUT)
                    os.dup2(_STDERR, _STDOUT)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            saved = self._saved
            if self._users == 0 and saved is not None:
                _flush()
                self._saved = None
                os.dup2(saved, _STDOUT)
                os.close(saved)


_redirection = _Redirection()


def _flush() -> None:
    for stream in (sys.stdout, procutil.stdout):
        # The server may have replaced or closed them.
        with contextlib.suppress(Exception):
            stream.flush()


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Let standard output be standard error for this process."""
    _redirection.begin()
    try:
        yield
    finally:
        _redirection.end()


def _runs_python(ui: Any, kind: bytes) -> bool:
    """Whether a hook of a kind is a function in this process."""
    return any(
        name.partition(b".")[0] == kind and (callable(command) or command.startswith(b"python:"))
        for name, command in ui.configitems(b"hooks")
    )


def redirect_output(unfiltered: Any) -> None:
    """Redirect the output of a repository object and its hooks; must be called before it is filtered."""

    class QuietRepository(unfiltered.__class__):  # type: ignore[misc]  # Mercurial's classes have no types
        def hook(self, name: bytes, throw: bool = False, **arguments: Any) -> Any:
            if not _runs_python(self.ui, name):
                return super().hook(name, throw, **arguments)
            with stdout_to_stderr():
                return super().hook(name, throw, **arguments)

    unfiltered.__class__ = QuietRepository
    unfiltered.ui.fout = procutil.stderr
