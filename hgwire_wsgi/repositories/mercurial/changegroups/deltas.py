"""The group of one revlog: its revisions, each as a delta or a full text.

The base of a delta must be a revision that the client has: one that this group sent before, or an ancestor of a parent
that it does not send.  The stored delta is copied if its base is such a revision.  Otherwise a delta against a parent
is computed, or, if there is none, against the revision sent before.  These are Mercurial's rules; any other selection
would be valid, too, but would give other bytes.

A full text is sent as a delta that inserts it into nothing.  Its hash is checked, as Mercurial does.

In version 01, the base is always the revision sent before (``texts.py``).  In version 04, a description follows the
header, and full texts are sent as they are (``details.py``).

Every revision's entry is checked when it is sent, not before.  A flag that changes the text, or a number that leads
out of the revlog, ends the group with :class:`~.revlogs.Surprise`; Mercurial's generator makes the rest, or raises its
error.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from struct import Struct

import attrs
import zstandard
from mercurial import error
from mercurial.revlogutils import constants

from .details import Details, is_known
from .revlogs import NODE, OFFSET_FLAGS, P1, P2, Entry, Revlog, Surprise
from .texts import Texts, is_intact

__all__ = ["BLOCK", "FORMATS", "Decompress", "Format", "Group", "Look"]

BLOCK = 64 * 1024
"""Bytes of output that are put together before they are passed on."""

_INSERT = Struct(">lll")
"""The header of the only hunk of a delta: start and end of what it replaces, and the size of what it inserts."""

_UNUSUAL = 0xFFFF & ~(0x7C0 if hasattr(constants, "REVIDX_DELTA_INFO_FLAGS") else 0)
"""All flags of revisions but those that only describe the stored delta, which are new in Mercurial 7.2."""

Decompress = Callable[[bytes], bytes]
"""Decompresses a zstandard frame."""

Look = Callable[[Revlog, int, Entry, bytes], object]
"""Is called with a revlog, a revision's number, its entry, and the full text or delta that is stored."""

_UNREADABLE = (zlib.error, zstandard.ZstdError, MemoryError)
"""A frame without its size, or damaged data, which Mercurial reports."""

_MISLED = (IndexError, OverflowError, ValueError)
"""Where a damaged index or text leads."""

_QUALITY, _P2_SMALL = 1 << 9, 1 << 6
"""Two of these: the entry describes the delta; a delta against the second parent is small."""


@attrs.frozen
class Format:
    """A version of the changegroup format (``hg help internals.changegroups``).

    Attributes:
        header: of a revision: the size of the whole, its node, two parents, the base of the delta (not in version 01),
            its changeset, and in version 03 its flags, always none.
        after_manifests: what follows the manifests; versions with groups for folders have an empty chunk.
        chained: whether the base of each delta is the revision sent before.
        detailed: whether :class:`~.details.Details` follow the header.
        accepted: for these, first bytes of data that the client takes as they are stored.
    """

    header: Struct
    after_manifests: bytes = b""
    chained: bool = False
    detailed: bool = False
    accepted: Container[bytes] = frozenset()


FORMATS: Mapping[bytes, Format] = {
    b"01": Format(Struct(">l20s20s20s0s20s"), chained=True),
    b"02": Format(Struct(">l20s20s20s20s20s")),
    b"03": Format(Struct(">l20s20s20s20s20s2x"), after_manifests=bytes(4)),
    **({b"04": Format(Struct(">l20s20s20s20s20s"), bytes(4), detailed=True)} if is_known() else {}),
}
"""The versions that are made here."""


@attrs.define(eq=False)
class Group:
    """The revisions of a revlog that are sent.

    Attributes:
        log: the revlog.
        form: the version.
        revs: the revisions, ascending; -1, the null revision, may be the first and is not sent.
        usable: the stored bases that the client has when it gets the delta; all of them may be revisions sent later.
        full: whether only full texts are sent, unless bases are chained.
        sent: how many revisions were sent.
    """

    log: Revlog
    form: Format
    revs: Sequence[int]
    usable: Container[int]
    full: bool
    sent: int = 0

    @classmethod
    def of(cls, log: Revlog, form: Format, revs: Sequence[int], *, full: bool = False) -> Group:
        """Find the usable bases.

        Args:
            log: the revlog.
            form: the version.
            revs: the revisions, ascending.
            full: send full texts only, unless bases are chained.

        Raises:
            Surprise: if the index is damaged.
        """
        index = log.index
        # The null revision is not one of the index.
        if full or form.chained or len(revs) - (-1 in revs[:1]) == len(index):
            return cls(log, form, revs, range(-1, len(index)), full)
        usable = {-1, *revs}
        # The sets of what is not sent stay small.
        bases, known = set(), set()
        entry_of = index.__getitem__
        for rev in revs:
            entry = entry_of(rev)
            p1, p2, base = entry[P1], entry[P2], log.delta_parent(rev, entry)
            if p1 not in usable:
                known.add(p1)
            if p2 not in usable:
                known.add(p2)
            if base not in usable:
                bases.add(base)
        if foreign := bases - known:
            try:
                known |= log.ancestors_among(foreign, known)
            except _MISLED as failure:
                raise Surprise from failure
        usable |= known
        return cls(log, form, revs, usable, full)

    def blocks(self, links: Sequence[bytes], zstd: Decompress, look: Look | None = None) -> Iterator[bytes]:
        """Make the group, without the empty chunk that ends it.

        Args:
            links: for each revision, the node of its changeset.
            zstd: decompresses a zstandard frame.
            look: is called with each revision.

        Yields:
            Blocks of about :data:`BLOCK` bytes, or one long text or delta.

        Raises:
            Surprise: after the last revision that can be sent.
            mercurial.error.Error: likewise, for damaged data.
        """
        parts: list[bytes] = []
        try:
            for _ in self._made(parts, links, zstd, look):
                long = parts.pop() if len(parts[-1]) > BLOCK else b""
                yield b"".join(parts)
                parts.clear()
                if long:
                    # Without a copy.
                    yield long
                    long = b""
        except Exception as failure:
            # What Mercurial sends before its error, too.
            if parts:
                yield b"".join(parts)
            # Mercurial copies some data without a look.
            if isinstance(failure, _MISLED) or (self.form.detailed and isinstance(failure, error.RevlogError)):
                raise Surprise from failure
            raise
        if parts:
            yield b"".join(parts)

    def _made(self, parts: list[bytes], links: Sequence[bytes], zstd: Decompress, look: Look | None) -> Iterator[None]:
        """Append the parts of the revisions to a list, and pause when there is a block of them."""
        # The loop that all depends on: for each revision, no call that can be avoided, and no name that is not local.
        log, revs, usable, full = self.log, self.revs, self.usable, self.full
        index, general, swaps = log.index, log.general_delta, log.swaps_parents
        pack, overhead = self.form.header.pack, self.form.header.size
        texts = Texts(log) if self.form.chained else None
        details = Details(log, self.form.accepted) if self.form.detailed else None
        # Mercurial does not check texts that it only compares.
        checks = texts is None or look is not None
        null = before_node = index[-1][NODE]
        before = -1
        if revs and revs[0] == -1:
            revs, links = revs[1:], links[1:]
        elif revs:
            p1, p2 = index[revs[0]][P1 : P2 + 1]
            before = p2 if swaps and p1 == -1 else p1
            before_node = self._node(before)
        link_of = iter(links)
        size = 0
        for batch, entries, first, segment, step in log.batches(revs):
            shift = step - first
            for rev, entry, link in zip(batch, entries, link_of, strict=False):
                offset, length, _, stored, _, p1, p2, node = entry[:8]
                start = (offset >> 16) + shift + step * rev
                data = segment[start : start + length]
                if offset & _UNUSUAL or start < 0 or len(data) != length or rev < stored or rev <= p1 or rev <= p2:
                    raise Surprise
                if length > BLOCK and length == len(segment):
                    # It is all that was read: free it before there are copies.
                    segment = b""
                chunk = data if details is not None else b""
                kind = data[:1]
                if kind == b"(" or kind == b"x":
                    try:
                        data = zstd(data) if kind == b"(" else zlib.decompress(data)
                    except _UNREADABLE:
                        data = _without_size(data) or log.stored(rev)
                elif kind == b"u":
                    data = data[1:]
                elif kind != b"\0" and kind:
                    data = log.stored(rev)
                if p1 == -1 and swaps:
                    p1, p2 = p2, p1
                p1_node = before_node if p1 == before else self._node(p1)
                p2_node = null if p2 == -1 else self._node(p2)
                hunk, is_text = b"", stored == rev
                if is_text:
                    if checks and not is_intact(data, node, p1_node, p2_node):
                        data = log.text(rev)
                elif not general:
                    stored = rev - 1
                if look is not None:
                    look(log, rev, entry, data)
                if texts is not None:
                    base_node, data = before_node, texts.delta(before, rev, stored, data)
                else:
                    if is_text:
                        base = stored = -1
                    else:
                        base = stored if stored in usable else _other_base(offset, p1, p2, before)
                    if base == -1 or full:
                        if not is_text:
                            data = log.text(rev)
                        if data:
                            hunk = _INSERT.pack(0, 0, len(data))
                        base_node = null
                    else:
                        base_node = p1_node if base == p1 else before_node if base == before else self._node(base)
                        if base != stored:
                            data = log.computed_delta(base, rev)
                    if details is not None:
                        hunk, data, swapped = details.of(rev, entry, base, data, chunk)
                        if swapped:
                            p1_node, p2_node = p2_node, p1_node
                length = len(data) + len(hunk) + overhead
                parts += pack(length, node, p1_node, p2_node, base_node, link), hunk, data
                self.sent += 1
                before, before_node = rev, node
                size += length
                if size > BLOCK:
                    yield
                    size = 0

    def _node(self, rev: int) -> bytes:
        """The node of a parent or a base; without flags: a delta against a censored text cannot be applied."""
        entry = self.log.index[rev]
        if entry[OFFSET_FLAGS] & _UNUSUAL and rev != -1:
            raise Surprise
        node: bytes = entry[NODE]
        return node


def _without_size(data: bytes) -> bytes:
    """Decompress a zstandard frame without its size, as those of long texts are; empty if it is something else."""
    stream = zstandard.ZstdDecompressor().decompressobj()
    try:
        text = stream.decompress(data)
    except zstandard.ZstdError:
        return b""
    return text if stream.eof else b""


def _other_base(flags: int, p1: int, p2: int, before: int) -> int:
    """The base of a delta that has to be computed.

    Args:
        flags: of the revision; higher bits are ignored.
        p1: its first parent.
        p2: its second parent.
        before: the revision that was sent before it.
    """
    if p2 != -1 and (p1 == -1 or (flags & _QUALITY and flags & _P2_SMALL)):
        return p2
    return p1 if p1 != -1 else before
