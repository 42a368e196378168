"""For tests: WebTest's application with the wire protocol, and a backend in memory."""

from __future__ import annotations

from .app import WireReply, WireTestApp
from .memory import MemoryProvider, MemoryRepository

__all__ = ["MemoryProvider", "MemoryRepository", "WireReply", "WireTestApp"]
