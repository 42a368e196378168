"""Who has requested which bundle.

A bundle that one client requests in unusual words is of use to nobody else, and a client can make any number of them.
So two decisions depend on whether a second client has requested the same bundle: whether an unusual bundle is cached at
all, and whether a bundle is protected from eviction by others that only one client has requested.

Each process remembers this for itself, within a fixed amount of memory.  If it forgets, bundles are cached or
protected a little later; no reply changes.
"""

from __future__ import annotations

import hashlib

from .stores.memory import ENTRY_OVERHEAD, MemoryStore

__all__ = ["Demand"]

_USAGE = 150
"""Bytes of a key and of the digest of a client."""

_REMEMBERED = 10_000
"""Maximum number of remembered bundles."""

_SEVERAL = b"several"
"""Stands for several clients; a digest of one has another length."""


class Demand:
    """The bundles that were requested lately, and whether several clients have requested them; for all threads."""

    def __init__(self) -> None:
        self._clients: MemoryStore[bytes] = MemoryStore(_REMEMBERED * (_USAGE + ENTRY_OVERHEAD))

    def note(self, key: str, client: str) -> bool:
        """Record a request.

        Args:
            key: of the bundle.
            client: identifies the client, such as a user or an address.

        Returns:
            True if different clients have requested it, among them this one.
        """
        this = hashlib.blake2b(client.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        shared = (self._clients.get(key) or this) != this
        self._clients.put(key, _SEVERAL if shared else this, _USAGE)
        return shared

    def is_shared(self, key: str) -> bool:
        """Return True if different clients have requested a bundle."""
        return self._clients.get(key) == _SEVERAL
