"""The response cache: small replies, found before a request is parsed.

The caller still asks the policy for each request, and makes the key from the present state of the repository.
"""

from __future__ import annotations

import sys

import attrs

from .stores.base import ResponseStore

__all__ = ["CachedResponse", "ResponseCache"]


@attrs.frozen
class CachedResponse:
    """A small reply.

    Attributes:
        commands: the command and its sub-commands, for the policy.
        headers: names and values, as they are sent.
        body: as it is sent.
    """

    commands: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes


class ResponseCache:
    """Small replies by key.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: ResponseStore[CachedResponse]) -> None:
        self._store = store

    def get(self, key: str) -> CachedResponse | None:
        """Return a reply, or None."""
        return self._store.get(key)

    def put(self, key: str, response: CachedResponse) -> None:
        """Keep a reply if there is room."""
        self._store.put(key, response, sys.getsizeof(key) + _size(response))


def _size(response: CachedResponse) -> int:
    """Return the bytes that a reply occupies with everything it refers to, as if it shared nothing with others."""
    parts = [response, response.commands, *response.commands, response.headers, response.body]
    for header in response.headers:
        parts += (header, *header)
    return sum(map(sys.getsizeof, parts))
