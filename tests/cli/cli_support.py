"""Running ``hgwire`` and ``hg`` as processes, without the configuration of the machine or its user."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import IO

import attrs

from hgwire_wsgi.cli.demo import clean_environment

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60
"""Seconds until a test gives up on a process; reached only when something hangs."""


def environment(**more: str) -> dict[str, str]:
    return {**clean_environment(), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


@attrs.define
class Running:
    """A running ``hgwire serve``."""

    process: subprocess.Popen[str]
    errors: IO[str]
    url: str
    printed: str

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop it with a signal.

        Returns:
            The exit code and the standard error.
        """
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.printed += self.process.stdout.read()
        self.errors.seek(0)
        return self.process.returncode, self.errors.read()
