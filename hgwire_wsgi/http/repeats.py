"""Short replies to requests that came before, word for word: in memory, and found before anything is parsed.

The policy is still asked for every request, and the repository's state still looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..cache.stores.memory import ByteLRU
from ..negotiation import numbered

__all__ = ["Remembered", "Repeats"]


@attrs.frozen
class Remembered:
    """A reply that needs the permission ``pull``.

    Attributes:
        names: the command and its sub-commands, for the policy.
        headers: of the response.
        body: of the response.
    """

    names: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Repeats:
    """Replies by request and state.

    Args:
        capacity: bytes, for each process.
    """

    def __init__(self, capacity: int) -> None:
        self._replies: ByteLRU[Remembered] = ByteLRU(capacity)

    @staticmethod
    def question(environ: Mapping[str, Any]) -> tuple[tuple[str, ...], ...] | None:
        """Everything of a request that a reply can depend on, besides the repository; ``None`` if that is too much.

        A request with a body is, and so is one that is no ``GET``.
        """
        get = environ.get
        if get("REQUEST_METHOD") != "GET" or get("CONTENT_LENGTH", "0") not in ("0", ""):
            return None
        if "HTTP_TRANSFER_ENCODING" in environ or "HTTP_X_HGARGS_POST" in environ:
            return None
        arguments, protocol = numbered(environ, "HTTP_X_HGARG_"), numbered(environ, "HTTP_X_HGPROTO_")
        return (get("QUERY_STRING") or "",), tuple(arguments), tuple(protocol)

    def get(self, name: str, state: bytes, question: tuple[tuple[str, ...], ...]) -> Remembered | None:
        """The reply to a question about a repository in a state, if it is remembered."""
        return self._replies.get((name, state, question))

    def put(self, name: str, state: bytes, question: tuple[tuple[str, ...], ...], reply: Remembered) -> None:
        """Remember a reply."""
        self._replies.put(
            (name, state, question), reply, len(reply.body) + sum(len(word) for words in question for word in words)
        )
