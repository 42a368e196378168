"""The two kinds of store that the caches are built on.

A :class:`ResponseStore` maps a key to a small value.  A :class:`BundleStore` holds large streams, and settles who makes
one that is missing.  A request for a bundle gets one of three things:

- a complete bundle, as an open file or as a URL;
- a :class:`GrowingEntry` to read from, because somebody else is making the bundle;
- a :class:`PendingEntry`, the right to make it.

Keys are those of :mod:`hgwire_wsgi.cache.keys`; those of bundles are 64 hexadecimal digits.  Every method of a bundle
store and of its entries may raise :class:`OSError`; bundles are then served without the store.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Hashable
from typing import Protocol, TypeVar

import attrs

__all__ = ["BundleStore", "GrowingEntry", "PendingEntry", "ResponseStore", "StoredFile", "StoredUrl"]

_V = TypeVar("_V")


class ResponseStore(Protocol[_V]):
    """Small values by key; any entry may be gone at any time.  Methods do not raise exceptions."""

    def get(self, key: Hashable) -> _V | None:
        """Return the value of a key, or None."""

    def put(self, key: Hashable, value: _V, size: int) -> None:
        """Keep a value if there is room.

        Args:
            key: of the entry; an older value is replaced.
            value: must not be changed afterwards.
            size: bytes that the value and its key occupy in memory.
        """


@attrs.frozen
class StoredFile:
    """A complete bundle in an open file.

    Attributes:
        descriptor: open for reading, at the start of the file.  The caller must close it.
        size: of the file, in bytes.
        name: path relative to the folder of the store, as a front-end server finds it; None if it has no final name.
    """

    descriptor: int
    size: int
    name: str | None

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


@attrs.frozen
class StoredUrl:
    """A complete bundle that a front-end server, not this process, can read.

    Attributes:
        url: where it is.
        size: of the bundle, in bytes.
    """

    url: str
    size: int


class GrowingEntry(abc.ABC):
    """A bundle that is being made, by this process or another one, open for reading."""

    @property
    @abc.abstractmethod
    def identity(self) -> Hashable:
        """Equal for two handles of the same attempt to make a bundle; differs from that of any other attempt."""

    @abc.abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes that are there already; none if there are no more yet."""

    @abc.abstractmethod
    def is_complete(self) -> bool:
        """Return True if no more bytes follow what can be read now."""

    @abc.abstractmethod
    def has_maker(self) -> bool:
        """Return True if somebody is still making it.  Not available for what :meth:`PendingEntry.follow` returns."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the entry."""


class PendingEntry(abc.ABC):
    """The right to make a bundle; :meth:`finish` or :meth:`abandon` ends it.

    Attributes:
        size: bytes written so far.
    """

    size: int

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """Append data."""

    @abc.abstractmethod
    def follow(self) -> GrowingEntry:
        """Open the entry for reading in the process that makes it."""

    @abc.abstractmethod
    def finish(self, *, keep: bool) -> bool:
        """Mark the bundle as complete, for all who follow it.  If this raises, :meth:`abandon` must be called.

        Args:
            keep: False if nobody else may get it.

        Returns:
            True if it is stored under its key now.
        """

    @abc.abstractmethod
    def abandon(self) -> None:
        """Give up; followers see that there is no maker.  Harmless when the entry has ended; never raises."""


class BundleStore(Protocol):
    """Large streams by key; a complete one may be removed at any time, which harms nobody who has it open."""

    @property
    def capacity(self) -> int:
        """Size of the largest bundle that the store takes, in bytes."""

    def open(self, key: str) -> StoredFile | StoredUrl | None:
        """Return a complete bundle, or None."""

    def open_or_begin(self, key: str) -> StoredFile | StoredUrl | GrowingEntry | PendingEntry:
        """Return a complete bundle, one that somebody makes, or else the right to make it.

        For each key, at most one maker that is alive holds a :class:`PendingEntry`, among all processes that share the
        store.  (Two may, if entries were deleted by hand.)
        """

    def get(self, key: str) -> bytes | None:
        """Return a small entry that :meth:`put` made, or None."""

    def put(self, key: str, data: bytes) -> None:
        """Make or replace a small entry, of a few kilobytes."""
