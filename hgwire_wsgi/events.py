"""Values that observers receive."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["PushChanges"]


@attrs.frozen
class PushChanges:
    """What one transaction of a push changed in its repository.

    Attributes:
        changesets: how many changesets were added.
        heads_added: nodes that are heads now and were not before.
        heads_removed: nodes that were heads before and are not now.
        bookmarks: the old and the new node of each bookmark that was set, moved or deleted; ``None`` for no node.
        phases: how many changesets that were there before changed their phase.
        obsmarkers: how many obsolescence markers were added.
    """

    changesets: int
    heads_added: tuple[bytes, ...] = ()
    heads_removed: tuple[bytes, ...] = ()
    bookmarks: Mapping[bytes, tuple[bytes | None, bytes | None]] = attrs.Factory(dict)
    phases: int = 0
    obsmarkers: int = 0
