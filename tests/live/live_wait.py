"""Waiting for a condition, however long it takes, unless something hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120
"""Seconds until a test gives up on a server, a client or a file.  A passing test never waits that long."""

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], what: str) -> Found:
    """Call until the result is true, and return it.

    Raises:
        AssertionError: the condition did not become true in time; the message names it.
    """
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for: {what}"
        time.sleep(0.005)
    return found
