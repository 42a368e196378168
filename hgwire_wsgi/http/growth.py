"""A clone after a push: the bundle of an older state first, the rest with the client's next request.

Clients that know ``partial-pull`` ask again for what a bundle left out, as they do with the pull bundles that an
administrator makes.  Here the bundles are those that were made for others, and nobody lists them: beside each bundle of
a whole repository a note is kept, under all that it depends on but the history, of which heads it has.

An older bundle will do only if nothing but the history has changed since: then the bookmarks, phases and obsolescence
markers in it are those of now.  (A client does not ask for bookmarks again.)
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import attrs

from ..cache.stores.folder import Store
from ..repositories.base import IncrementalBundles
from .service import Call

__all__ = ["Growth"]


@attrs.define
class Growth:
    """A call for a bundle of a whole repository, and the bundle of an older state of it.

    Attributes:
        call: the call.
        wanted: the heads that the client asks for.
        note: digest of the note about the newest bundle.
        is_whole: whether those were all heads, as was seen when the bundle was made.
    """

    call: Call
    wanted: tuple[bytes, ...]
    note: str
    is_whole: bool = False

    @classmethod
    def of(cls, call: Call, name: str, key: tuple[Any, ...]) -> Growth | None:
        """See whether a call is one for a whole repository.

        Args:
            call: the call.
            name: of the repository.
            key: of the bundle, besides the state; the arguments last.
        """
        repository = call.context.repository
        if not isinstance(repository, IncrementalBundles) or not call.command.arguments:
            return None
        bound = call.command.bind(call.context.arguments)
        family = repository.clone_family(call.command.name, bound)
        if family is None:
            return None
        everything = ("growth", name, family, key[:-1])
        note = hashlib.sha256(repr(everything).encode("utf-8", "surrogateescape")).hexdigest()
        return cls(call, tuple(bound["heads"]), note)

    def remember(self, store: Store, digest: str) -> None:
        """Note that the bundle of this call is there, if it is one of a whole repository.

        Raises:
            OSError: such as on a full disk.
        """
        if self.is_whole:
            store.put(self.note, b"\n".join([digest.encode("ascii"), *(head.hex().encode() for head in self.wanted)]))

    def older(self, store: Store, digest: str) -> int | None:
        """Open the bundle of an older state, if there is one that will do, none of the present state, and the client
        asks for the rest.

        Args:
            store: of bundles.
            digest: of the bundle of the present state.
        """
        if "partial-pull" not in self.call.context.protocol.tokens or os.path.exists(store.path(digest)):
            return None
        noted = store.get(self.note)
        if noted is None:
            return None
        try:
            known, *names = noted.decode("ascii").split("\n")
            heads = [bytes.fromhex(name) for name in names]
        except ValueError:
            return None
        repository = self.call.context.repository
        if not isinstance(repository, IncrementalBundles) or not repository.is_worth_sending(heads, self.wanted):
            return None
        return store.open(known)
