"""A least-recently-used store in memory, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["ENTRY_OVERHEAD", "MemoryStore"]

_V = TypeVar("_V")

ENTRY_OVERHEAD = 200
"""Bytes that an entry costs in addition to its key and value: a tuple, an integer, a slot and a link of the dictionary.

It is 140 to 250 bytes, depending on how full the dictionary is; the tests measure it."""


class MemoryStore(Generic[_V]):
    """Values by key, for all threads of a process; a :class:`~hgwire_wsgi.cache.stores.base.ResponseStore`.

    Args:
        capacity: bytes that all entries may occupy, including :data:`ENTRY_OVERHEAD` for each; 0 stores nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, tuple[_V, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> _V | None:
        """Return the value of a key, which becomes the most recently used one; None if there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: _V, size: int) -> None:
        """Store a value, and evict the least recently used ones to make room.

        Args:
            key: of the entry; an older value is replaced.
            value: not stored if it is larger than the capacity.
            size: bytes that the value and its key occupy.
        """
        size += ENTRY_OVERHEAD
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
