"""Reports to observers about each command of a request in frames."""

from __future__ import annotations

import time
from threading import get_ident

import attrs

from ...events import CommandReport, Outcome
from .renderers import Framed

__all__ = ["Stopwatch"]


@attrs.frozen
class Stopwatch:
    """Measures one command, starting now."""

    wall: float = attrs.field(init=False, factory=time.perf_counter)
    cpu: float = attrs.field(init=False, factory=time.thread_time)
    thread: int = attrs.field(init=False, factory=get_ident)

    def report(self, request_id: int, command: str, framed: Framed, sent: int, *, complete: bool) -> CommandReport:
        """Report how the command ended.

        Args:
            request_id: its request ID in the frames.
            command: its name.
            framed: its response.
            sent: bytes of its frames.
            complete: whether all of its frames were taken.
        """
        kind, message = framed.told
        outcome: Outcome = "ok" if not kind else "failed" if kind == "server" else "refused"
        return CommandReport(
            request_id=request_id,
            command=command,
            outcome=outcome if complete else "cut",
            error=message,
            bytes_out=sent,
            wall=time.perf_counter() - self.wall,
            # Thread clocks of different threads cannot be compared.
            cpu=time.thread_time() - self.cpu if get_ident() == self.thread else 0.0,
        )
