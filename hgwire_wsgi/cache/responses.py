"""The response cache: small replies, found before a request is parsed.

The caller still asks the policy for each request, and makes the key from the current state of the repository.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import attrs

from .keys import ResponseKey
from .stores.base import ResponseStore
from .stores.memory import MemoryStore

__all__ = ["CachedResponse", "ResponseCache"]

_P = TypeVar("_P", bound=tuple[Any, ...])

_COMMON = 64 * 1024
"""Maximum size in bytes of the parts that several replies share."""

_COMMON_PART = 2048
"""Maximum size in bytes of each of them."""


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

    Most replies have the same headers and commands as others, and belong to the same state of a repository.  These
    parts are kept once, and the first entry that has them pays for them.

    Args:
        store: where they are stored; ``None`` stores nothing.

    Attributes:
        enabled: whether there is a store.
    """

    def __init__(self, store: ResponseStore[CachedResponse] | None) -> None:
        self.enabled = store is not None
        self._store = MemoryStore(0) if store is None else store
        self._common: MemoryStore[Any] = MemoryStore(_COMMON)

    def get(self, key: ResponseKey) -> CachedResponse | None:
        """Return a reply, or None."""
        return self._store.get(key)

    def put(self, key: ResponseKey, response: CachedResponse) -> None:
        """Store a reply if there is room."""
        repository, token, (application, *request) = key
        (repository, token), shared = self._share((repository, token))
        commands, more = self._share(response.commands)
        headers, most = self._share(response.headers)
        response = CachedResponse(commands, headers, response.body, response.clone)
        # The repository's name and its token are shared, and so is the first text of the request, the application's.
        size = sum(map(sys.getsizeof, (key, key[2], key[2][0], response, response.body)))
        size += shared + more + most + sum(map(_size, (*application[1:], *request)))
        self._store.put((repository, token, key[2]), response, size)

    def _share(self, part: _P) -> tuple[_P, int]:
        """Return a part that is kept already, or this one; and the bytes that it occupies if it is new."""
        known: _P | None = self._common.get(part)
        if known is not None:
            return known, 0
        size = _size(part)
        if size <= _COMMON_PART:
            self._common.put(part, part, size)
        return part, size


def _size(value: object) -> int:
    """Return the bytes that a value of tuples, text and bytes occupies with everything it refers to.

    An object that is in a tuple several times, such as the name of a command that a batch repeats, counts once.
    """
    size = sys.getsizeof(value) if value != () else 0
    return size + sum(map(_size, {id(item): item for item in value}.values())) if isinstance(value, tuple) else size
