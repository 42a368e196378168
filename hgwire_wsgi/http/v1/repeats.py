"""Replies to requests that are repeated word for word.

Most requests to a busy server are the same few, many times: builders ask for the heads of a repository that has not
changed.  In the response cache, such a reply is found by routing the request, leasing the repository and asking the
policy.  Each of these steps is short, but a server serves a request with cold processor caches, where every function
called counts.  So the reply is also found by the variables of the request alone.

What is always true: such a reply is the one that the usual way would give.  It came that way before, and everything it
depended on is the same:

- the variables in :data:`_VARIABLES`, which are all that routing, the response cache and a repeatable policy read;
- the repository, and what the process has loaded: the provider's function says so, for every request.

So this is only used with a policy that is repeatable (:func:`~hgwire_wsgi.access.request.is_repeatable`), without a
function that names views, and with providers that have such a function for the repository.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ...access.request import is_repeatable
from ...cache.responses import CachedResponse
from ...dispatch import Dispatcher
from ...repositories.base import RepositoryProvider
from ..message import Request, Response
from .renderers import OK

__all__ = ["Repeats"]

_ABSENT = ("HTTP_X_HGARG_2", "HTTP_X_HGPROTO_2")
"""Variables that a request must not have to be remembered; the second header of each kind ends what is compared."""

_VARIABLES = (
    *("PATH_INFO", "QUERY_STRING", "REMOTE_USER", "HTTP_X_HGARG_1", "HTTP_X_HGPROTO_1", *_ABSENT),
    *("REQUEST_METHOD", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_X_HGARGS_POST"),
)
"""What a reply and the decision to send it depend on."""

_ENTRIES = 256
_ENTRY_SIZE = 4096
"""Maximum number of replies, and bytes of one with the text of its request: a mebibyte together."""


@attrs.frozen
class _Repeat:
    """A reply that was sent.

    Attributes:
        is_current: whether the repository is unchanged.
        name: of the repository.
        known: the reply.
    """

    is_current: Callable[[], bool]
    name: str
    known: CachedResponse


class Repeats:
    """The replies of an application that were sent lately; shared by all threads.

    One dictionary holds them.  Each access to it is one operation, and if it is full, it is emptied: those that are
    still asked for come back with their next request.

    Args:
        dispatcher: whose policy decides.
        provider: of the repositories.
    """

    def __init__(self, dispatcher: Dispatcher, provider: RepositoryProvider) -> None:
        self._provider = provider
        self._enabled = dispatcher.view is None and is_repeatable(dispatcher.policy)
        self._repeats: dict[tuple[Any, ...], _Repeat] = {}

    def find(self, request: Request) -> Response | None:
        """Return the reply to a request; ``None`` to serve it the usual way."""
        try:
            repeat = self._repeats.get(tuple(map(request.environ.get, _VARIABLES)))
        except TypeError:
            # Middleware has set a variable to something that is not hashable.
            return None
        if repeat is None or not repeat.is_current() or request.fault is not None or request.refusal is not None:
            return None
        known = repeat.known
        request.repository, request.commands, request.cache = repeat.name, known.commands, "hit"
        if request.observed is not None:
            request.observed.clone = known.clone
        return Response(OK, [*known.headers], known.body)

    def remember(self, request: Request, name: str, stamp: object, known: CachedResponse) -> None:
        """Remember a reply from the response cache that the policy has let through.

        Args:
            request: the request.
            name: of the repository.
            stamp: the change stamp of the repository that the policy was asked about.
            known: the reply.
        """
        if not self._enabled:
            return
        environ = request.environ
        variables = tuple(map(environ.get, _VARIABLES))
        if any(name in environ for name in _ABSENT) or not all(isinstance(each, str | None) for each in variables):
            return
        if len(known.body) + sum(map(len, filter(None, variables))) > _ENTRY_SIZE:
            return
        is_current = self._provider.watch(name, stamp)
        if is_current is None:
            return
        if len(self._repeats) >= _ENTRIES:
            self._repeats.clear()
        self._repeats[variables] = _Repeat(is_current, name, known)
