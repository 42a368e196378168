"""A least-recently-used store in memory, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["ByteLRU"]

_V = TypeVar("_V")

_OVERHEAD = 200
"""What an entry costs besides its bytes: two objects, a dictionary slot, a link."""


class ByteLRU(Generic[_V]):
    """Values by key, for all threads of a process.

    Args:
        capacity: bytes that the values may hold in all, their overhead included; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, tuple[_V, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> _V | None:
        """The value of a key, which becomes the most recently used; ``None`` if there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: _V, size: int) -> None:
        """Keep a value of ``size`` bytes, at the cost of the least recently used ones."""
        size += _OVERHEAD
        with self._lock:
            if (replaced := self._entries.pop(key, None)) is not None:
                self._size -= replaced[1]
            if size > self._capacity:
                return
            self._entries[key] = value, size
            self._size += size
            while self._size > self._capacity:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._size -= dropped
