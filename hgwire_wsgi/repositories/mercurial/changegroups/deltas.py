"""The group of one revlog: its revisions, each as a delta or a full text.

The base of a delta must be a revision that the client has: one that this group sent before, or an ancestor of a parent
that it does not send.  The stored delta is copied if its base is such a revision.  Otherwise a delta against a parent
is computed, or, if there is none, against the revision sent before.  These are Mercurial's rules; any other selection
would be valid, too, but would give other bytes.

A full text is sent as a delta that inserts it into nothing.  Its hash is checked, as Mercurial does.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from struct import Struct

import attrs
from mercurial.revlogutils import constants

from .revlogs import BASE, NODE, OFFSET_FLAGS, P1, P2, Decompress, Entry, Revlog

__all__ = ["BLOCK", "FORMATS", "Format", "Group"]

BLOCK = 64 * 1024
"""Bytes of output that are put together before they are passed on."""

_INSERT = Struct(">lll")
"""The header of the only hunk of a delta: start and end of what it replaces, and the size of what it inserts."""

_UNUSUAL: int = 0xFFFF & ~getattr(constants, "REVIDX_DELTA_INFO_FLAGS", 0)
"""All flags of revisions but those that only describe the stored delta, which are new in Mercurial 7.2."""

_QUALITY, _P2_SMALL = 1 << 9, 1 << 6
"""Two of these: the entry describes the delta; a delta against the second parent is small."""


@attrs.frozen
class Format:
    """A version of the changegroup format (``hg help internals.changegroups``).

    Attributes:
        header: of a revision: the size of the whole, its node, two parents, the base of the delta, its changeset.
        flags: the last field of the header, where there is one.
        after_manifests: what follows the manifests; versions with groups for folders have an empty chunk.
    """

    header: Struct
    flags: tuple[int, ...] = ()
    after_manifests: bytes = b""


FORMATS: Mapping[bytes, Format] = {
    b"02": Format(Struct(">l20s20s20s20s20s")),
    b"03": Format(Struct(">l20s20s20s20s20sH"), flags=(0,), after_manifests=bytes(4)),
}
"""The versions that are made here.  In version 01 nearly all deltas have to be computed, so nothing is gained."""


@attrs.define(eq=False)
class Group:
    """The revisions of a revlog that are sent.

    Attributes:
        log: the revlog.
        revs: the revisions, ascending; -1, the null revision, may be the first and is not sent.
        usable: the stored bases that the client has when it gets the delta.
        full: whether only full texts are sent.
        is_plain: whether no revision that matters here has a flag that changes its text.
    """

    log: Revlog
    revs: Sequence[int]
    usable: Container[int]
    full: bool
    is_plain: bool

    @classmethod
    def of(cls, log: Revlog, revs: Sequence[int], *, full: bool = False) -> Group:
        """Look at the entries of the revisions.

        Args:
            log: the revlog.
            revs: the revisions, ascending.
            full: send full texts only.
        """
        index, everything = log.index, log.revs()
        if full or len(revs) == len(everything):
            flags = functools.reduce(operator.or_, (index[rev][OFFSET_FLAGS] for rev in revs), 0)
            return cls(log, revs, range(-1, len(everything)), full, not flags & _UNUSUAL)
        sent = set(revs)
        bases, parents = {-1}, set()
        flags = 0
        for rev in revs:
            entry = index[rev]
            flags |= entry[OFFSET_FLAGS]
            parents.add(entry[P1])
            parents.add(entry[P2])
            bases.add(log.delta_parent(rev, entry))
        known = parents - sent
        bases -= sent
        for rev in known | bases:
            flags |= index[rev][OFFSET_FLAGS]
        if foreign := bases - known - {-1}:
            known |= log.ancestors_among(foreign, known - {-1})
        return cls(log, revs, sent | known | {-1}, full, not flags & _UNUSUAL)

    def blocks(
        self,
        form: Format,
        links: Sequence[bytes],
        zstd: Decompress,
        look: Callable[[int, Entry, bytes], object] | None = None,
    ) -> Iterator[bytes]:
        """Make the group, without the empty chunk that ends it.

        Args:
            form: the version.
            links: for each revision, the node of its changeset.
            zstd: decompresses a zstandard frame.
            look: is called with each revision's number, entry and stored data.

        Yields:
            Blocks of about :data:`BLOCK` bytes, or of one long text.
        """
        log, revs, usable, full = self.log, self.revs, self.usable, self.full
        if not revs:
            return
        index, pack, tail = log.index, form.header.pack, form.flags
        overhead = form.header.size
        before = index[revs[0]][P1]
        if before_null := revs[0] == -1:
            revs, links = revs[1:], links[1:]
        null = before_node = index[-1][NODE]
        if not before_null:
            before_node = index[before][NODE]
        blocks: list[bytes] = []
        size = 0
        for (rev, entry, data), link in zip(log.data(revs, zstd), links, strict=True):
            if look is not None:
                look(rev, entry, data)
            node, p1, p2 = entry[NODE], entry[P1], entry[P2]
            p1_node = before_node if p1 == before else index[p1][NODE]
            p2_node = null if p2 == -1 else index[p2][NODE]
            stored = log.delta_parent(rev, entry)
            base = stored if stored in usable else _other_base(entry, before)
            if full or base == -1:
                text = data if entry[BASE] == rev and _is_intact(data, node, p1_node, p2_node) else log.text(rev)
                data = _INSERT.pack(0, 0, len(text)) + text if text else b""
                base_node = null
            else:
                if base != stored:
                    data = log.computed_delta(base, rev)
                base_node = p1_node if base == p1 else index[base][NODE]
            length = len(data) + overhead
            blocks += pack(length, node, p1_node, p2_node, base_node, link, *tail), data
            before, before_node = rev, node
            size += length
            if size > BLOCK:
                yield b"".join(blocks)
                blocks.clear()
                size = 0
        if blocks:
            yield b"".join(blocks)


def _is_intact(text: bytes, node: bytes, p1: bytes, p2: bytes) -> bool:
    """Whether the hash of a full text is its node; if not, Mercurial raises an error that says so."""
    digest = hashlib.sha1(p1 + p2 if p1 < p2 else p2 + p1, usedforsecurity=False)
    digest.update(text)
    return digest.digest() == node


def _other_base(entry: Entry, before: int) -> int:
    """The base of a delta that has to be computed.

    Args:
        entry: of the revision.
        before: the revision that was sent before it.
    """
    p1: int = entry[P1]
    p2: int = entry[P2]
    flags = entry[OFFSET_FLAGS]
    if p2 != -1 and (p1 == -1 or (flags & _QUALITY and flags & _P2_SMALL)):
        return p2
    return p1 if p1 != -1 else before
