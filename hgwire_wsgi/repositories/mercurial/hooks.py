"""Limits of a push: the wait for the repository's lock, and the time and output of hooks.

A push occupies a thread of the server until it ends.  Mercurial waits ten minutes for a lock, and for ever for a hook,
and keeps all that a hook prints in memory.  Each repository object that this package opens therefore gets a ``ui`` of a
new class, which starts shell hooks itself (``ui._runsystem`` is Mercurial's own place for that) and keeps a bounded
amount of output.  Python hooks run in the server's own thread, which nothing can stop; only their output is limited.
"""

from __future__ import annotations

import io
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import attrs
from mercurial.utils import procutil

__all__ = ["KeptOutput", "PushLimits", "kept_output", "limit_pushes", "run_hook"]

_READ_SIZE = 64 * 1024
_POLL_SECONDS = 0.01
_GRACE_SECONDS = 1.0
"""Seconds between asking a hook to end and killing it."""

_LOCK_SECONDS = 10

_POSITIVE: Any = attrs.validators.optional(attrs.validators.gt(0))


@attrs.frozen(kw_only=True)
class PushLimits:
    """Limits of each push.

    Attributes:
        lock_timeout: seconds that a push waits for a lock of the repository; default: ``ui.timeout`` if it is set,
            otherwise 10.
        hook_timeout: seconds that one shell hook may run; ``None`` for no limit.
        hook_output: bytes of the output of hooks that are kept for the client.
    """

    lock_timeout: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(0)))
    hook_timeout: float | None = attrs.field(default=300.0, validator=_POSITIVE)
    hook_output: int = attrs.field(default=1024 * 1024, validator=attrs.validators.ge(0))

    @property
    def note(self) -> bytes:
        """Takes the place of what is not kept."""
        return b"\n(output truncated after %d bytes)\n" % self.hook_output


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


@attrs.define(eq=False)
class _Budget:
    """How much output is still kept."""

    limits: PushLimits
    left: int = attrs.field(init=False)
    noted: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.left = self.limits.hook_output

    def take(self, data: bytes) -> bytes:
        """Return the part of some output that is kept, with a note where it first ends."""
        kept = data[: self.left]
        self.left -= len(kept)
        if len(kept) == len(data) or self.noted:
            return kept
        self.noted = True
        return kept + self.limits.note


class KeptOutput(io.BytesIO):
    """Keeps the beginning of what is written to it."""

    def __init__(self, limits: PushLimits) -> None:
        super().__init__()
        self._budget = _Budget(limits)

    def write(self, data: Any, /) -> int:
        super().write(self._budget.take(bytes(data)))
        return len(data)


class _KeptPieces(list[bytes]):
    """Keeps the beginning of the pieces that Mercurial's ``ui`` collects while a bundle is applied."""

    def __init__(self, limits: PushLimits) -> None:
        super().__init__()
        self._budget = _Budget(limits)

    def extend(self, pieces: Iterable[bytes], /) -> None:
        super().extend(kept for piece in pieces if (kept := self._budget.take(piece)))


def kept_output(ui: Any) -> KeptOutput:
    """Return a file that keeps the output of a push, as the ``ui`` of its repository limits it."""
    return KeptOutput(ui.hgwire_limits)


def limit_pushes(unfiltered: Any, limits: PushLimits) -> None:
    """Limit the pushes to a repository object; must be called before it is filtered."""

    class LimitedUi(unfiltered.ui.__class__):  # type: ignore[misc]  # Mercurial's classes have no types
        hgwire_limits = limits

        def pushbuffer(self, error: bool = False, subproc: bool = False, labeled: bool = False) -> None:
            super().pushbuffer(error=error, subproc=subproc, labeled=labeled)
            if subproc:
                self._buffers[-1] = _KeptPieces(limits)

        def _runsystem(self, cmd: bytes, environ: Any, cwd: bytes | None, out: Any) -> int:
            return run_hook(cmd, procutil.shellenviron(environ), cwd, out or self._fout, limits)

    unfiltered.ui.__class__ = LimitedUi
    timeout = limits.lock_timeout
    if timeout is None and not unfiltered.ui.hasconfig(b"ui", b"timeout"):
        timeout = _LOCK_SECONDS
    if timeout is not None:
        unfiltered.ui.setconfig(b"ui", b"timeout", b"%d" % timeout, b"hgwire")


def run_hook(command: bytes, environ: Any, folder: bytes | None, out: _Writable, limits: PushLimits) -> int:
    """Run a shell command as a hook.

    Args:
        command: for the shell.
        environ: environment variables.
        folder: the working directory.
        out: receives the beginning of its output.
        limits: how long it may run, and how much of its output is kept.

    Returns:
        Its exit code; that of a process that was killed if it ran for too long.
    """
    budget = _Budget(limits)
    deadline = None if limits.hook_timeout is None else time.monotonic() + limits.hook_timeout
    # A group of its own, so that all of its processes can be killed.
    with subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environ,
        cwd=folder,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for data in _output(process.stdout.fileno(), deadline):
            if kept := budget.take(data):
                out.write(kept)
        try:
            # It may have closed its output and go on; or it has ended, and another process holds its output open.
            return process.wait(_left(deadline))
        except subprocess.TimeoutExpired:
            _kill(process)
            out.write(b"the hook ran for more than %d seconds and was stopped\n" % (limits.hook_timeout or 0))
            return process.returncode


def _left(deadline: float | None) -> float | None:
    """Seconds until a deadline; ``None`` for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _output(descriptor: int, deadline: float | None) -> Iterator[bytes]:
    """Yield what a process prints, until it closes its output, or until a deadline."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while _left(deadline) != 0 and selector.select(_left(deadline)) and (data := os.read(descriptor, _READ_SIZE)):
            yield data


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a hook."""
    os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    # The number of the group stays taken until the first process is waited for.
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, process.pid, ended) is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
