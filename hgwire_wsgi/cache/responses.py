"""The response cache: small replies, found before a request is parsed.

The caller still asks the policy for each request, and makes the key from the current state of the repository.
"""

from __future__ import annotations

import sys

import attrs

from .keys import ResponseKey
from .stores.base import ResponseStore

__all__ = ["CachedResponse", "ResponseCache"]


@attrs.frozen
class CachedResponse:
    """A small reply.

    Attributes:
        commands: the command and its sub-commands, for the policy.
        headers: names and values, as sent.
        body: the body, as sent.
        clone: whether it is the whole history, for observers.
    """

    commands: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes
    clone: bool = False


class ResponseCache:
    """Small replies by key.

    Args:
        store: where they are stored.
    """

    def __init__(self, store: ResponseStore[CachedResponse]) -> None:
        self._store = store

    def get(self, key: ResponseKey) -> CachedResponse | None:
        """Return a reply, or None."""
        return self._store.get(key)

    def put(self, key: ResponseKey, response: CachedResponse) -> None:
        """Store a reply if there is room."""
        self._store.put(key, response, _size(key, response))


def _size(key: ResponseKey, response: CachedResponse) -> int:
    """Return the bytes that an entry occupies with everything it refers to, as if it shared nothing with others."""
    repository, token, request = key
    parts: list[object] = [key, repository, token, request, response, response.commands, response.headers]
    parts += (response.body, *response.commands)
    for group in (*request, *response.headers):
        parts += (group, *group)
    return sum(map(sys.getsizeof, parts))
