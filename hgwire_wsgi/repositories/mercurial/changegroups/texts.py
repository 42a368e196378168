"""Full texts of revisions, and deltas between any two that follow each other.

In version 01 of the format, the base of each delta is the revision sent before.  The stored delta has another base at
each change of branch, so there a delta between two full texts is computed.  Mercurial's revlogs remember one text, and
make each other one from what is stored.  :class:`Texts` remembers what the group has read lately: a text is made of
these few deltas, when it is needed, and not at all in a linear history.
"""

from __future__ import annotations

import contextlib
import hashlib

import attrs
from mercurial import mdiff

from .revlogs import NODE, P1, P2, Revlog

__all__ = ["Texts", "is_intact"]

_KEPT = 4 * 1024 * 1024
"""Maximum number of bytes of texts and deltas that are remembered, except for two revisions."""

_OVERHEAD = 256
"""About the number of bytes that remembering a revision takes besides its data."""

_IS_CHECKED = not hasattr(mdiff, "storage_diff")
"""Whether Mercurial checks the hashes of the texts that it compares, which it does before version 7.2."""


def is_intact(text: bytes, node: bytes, p1: bytes, p2: bytes) -> bool:
    """Whether the hash of a full text is its node; if not, Mercurial raises an error that says so."""
    digest = hashlib.sha1(p1 + p2 if p1 < p2 else p2 + p1, usedforsecurity=False)
    digest.update(text)
    return digest.digest() == node


@attrs.define(eq=False)
class Texts:
    """What a group has read lately.

    Attributes:
        log: the revlog.
        kept: by revision, oldest first: the revision that a delta applies to, and the delta; or the revision itself,
            and its full text.
        size: of it, in bytes.
        latest: the revision that was compared last, and its full text.
    """

    log: Revlog
    kept: dict[int, tuple[int, bytes]] = attrs.field(factory=dict)
    size: int = 0
    latest: tuple[int, bytes] = (-1, b"")

    def delta(self, before: int, rev: int, base: int, data: bytes) -> bytes:
        """Return a delta against the revision before.

        Args:
            before: the revision that was sent before; -1 for an empty text.
            rev: the revision, which follows all earlier ones that were passed.
            base: the revision that the stored delta applies to; the revision itself if a full text is stored.
            data: the stored delta or full text.

        Raises:
            mercurial.error.Error: for damaged data, as Mercurial does.
        """
        kept = self.kept
        kept[rev] = base, data
        self.size += len(data) + _OVERHEAD
        while self.size > _KEPT and len(kept) > 2:
            self.size -= len(kept.pop(next(iter(kept)))[1]) + _OVERHEAD
        if base == before != -1:
            return data
        latest, old = self.latest
        if latest != before:
            old = self._text(before)
        new = self._text(rev)
        self.latest = rev, new
        return self.log.diff(old, new)

    def _text(self, rev: int) -> bytes:
        text = self._patched(rev)
        if text is None or (_IS_CHECKED and not self._is_intact(rev, text)):
            text = self.log.compared_text(rev)
        old = self.kept.get(rev)
        self.size += len(text) - len(old[1]) if old else len(text) + _OVERHEAD
        self.kept[rev] = rev, text
        return text

    def _patched(self, rev: int) -> bytes | None:
        """Make a text of what is remembered; ``None`` if something is missing or damaged."""
        kept = self.kept
        deltas: list[bytes] = []
        while rev in kept:
            base, data = kept[rev]
            if base == rev:
                with contextlib.suppress(mdiff.mpatch.mpatchError):
                    return bytes(mdiff.patches(data, deltas[::-1]))
                break
            deltas.append(data)
            rev = base
        return None

    def _is_intact(self, rev: int, text: bytes) -> bool:
        index = self.log.index
        entry = index[rev]
        return is_intact(text, entry[NODE], index[entry[P1]][NODE], index[entry[P2]][NODE])
