"""Limiting the memory that the C library keeps for itself.

glibc gives threads heaps of their own, up to eight per processor core.  What Mercurial frees in one thread is then not
available to the others, and a worker grows until every heap has held the largest reply.  Python runs one thread at a
time, so two heaps are enough.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["limit_heaps"]

_HEAPS = 2

_M_ARENA_MAX = -8
"""The parameter of ``mallopt``, from glibc's ``malloc.h``."""

_SETTINGS = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
"""Environment variables with which an operator has decided."""


def limit_heaps() -> bool:
    """Limit the number of heaps of this process.  Called in a new worker, before it starts threads.

    Returns:
        Whether they are limited: not if the environment has settings for them, nor with another C library.
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS))
    except (AttributeError, OSError, TypeError):
        # musl and macOS have no such function, and Windows has no such name for the program itself.
        return False
