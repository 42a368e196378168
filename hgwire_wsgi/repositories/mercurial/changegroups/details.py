"""What version 04 says about each delta, and the data that it takes as they are stored.

Version 04, of Mercurial 7.2, has the fields of version 03 and some more: how good the delta is, how the sender stores
the revision, and how the data are compressed.  A client names the compressions that it accepts.  Data that are stored
so, with the base that is sent, are copied.  A full text is marked as one, instead of being inserted into nothing.

In older releases, the number 04 means something else, so there this version is left to Mercurial.
"""

from __future__ import annotations

from collections.abc import Container
from struct import Struct

import attrs
from mercurial import changegroup

from .revlogs import BASE, NODE, OFFSET_FLAGS, P1, SIZE, Entry, Revlog, Surprise

__all__ = ["Details", "is_known"]

_DETAILS = Struct(">HbIBB20sb")
"""Flags, snapshot level, size of the full text, compression, whether it is a full text; base and level in the store."""

_COMPRESSIONS = {b"\0": 1, b"x": 2, b"(": 3}
"""The number of a compression, by the first byte of the data."""

_FULL_TEXT = 2
_NO_SNAPSHOT = -1
_HAS_METADATA = 1 << 11
_QUALITY = 1 << 9
_QUALITIES = 0x3C0
"""The flags that describe a delta, of which :data:`_QUALITY` says that the others count."""


def is_known() -> bool:
    """Whether Mercurial's version 04 is the one that is made here."""
    return bool(changegroup._CHANGEGROUPV4_DELTA_HEADER.format == ">20s20s20s20s20s" + _DETAILS.format[1:])


@attrs.define(eq=False)
class Details:
    """Describes the revisions of a revlog.

    Attributes:
        log: the revlog.
        accepted: first bytes of data that the client takes as they are stored.
    """

    log: Revlog
    accepted: Container[bytes]

    def of(self, rev: int, entry: Entry, base: int, data: bytes, chunk: bytes) -> tuple[bytes, bytes, bool]:
        """Describe a revision.

        Args:
            rev: its number.
            entry: its entry.
            base: the base of the delta that is sent; -1 for a full text.
            data: this delta or text.
            chunk: the data as they are stored.

        Returns:
            The fields that follow those of version 03 except for its flags, which come first; what is sent; and
            whether the file begins with metadata, so that a null parent counts as the second one.

        Raises:
            Surprise: if the entry is damaged.
            mercurial.error.Error: likewise.
        """
        log, flags, level, compression = self.log, 0, _NO_SNAPSHOT, 0
        stored = log.delta_parent(rev, entry)
        if entry[SIZE] < 0 or (stored == -1) != (entry[BASE] == rev):
            raise Surprise
        has_metadata = log.is_file and entry[P1] == -1 and (log.text(rev) if base != -1 else data)[:2] == b"\1\n"
        stored_level = log.snapshot_level(rev, entry)
        if base == stored:
            level = stored_level
            if entry[OFFSET_FLAGS] & _QUALITY:
                flags = entry[OFFSET_FLAGS] & _QUALITIES
            kind = chunk[:1]
            if kind == b"u" or not kind:
                chunk, kind = chunk[1:], b"\0"
            if kind in self.accepted:
                data, compression = chunk, _COMPRESSIONS[kind]
        if has_metadata:
            flags |= _HAS_METADATA
        full_text = _FULL_TEXT if base == -1 else 0
        base_node = log.index[stored][NODE]
        details = _DETAILS.pack(flags, level, entry[SIZE], compression, full_text, base_node, stored_level)
        return details, data, has_metadata
