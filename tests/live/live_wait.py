"""Waiting for what must happen: for as long as it takes, unless something hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120
"""Seconds until a test gives up on a server, a client or a file; no test depends on its being reached, or not."""

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], what: str) -> Found:
    """Ask until the answer is true, and return it.

    Raises:
        AssertionError: it does not become true; the message says what was waited for.
    """
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)
    return found
