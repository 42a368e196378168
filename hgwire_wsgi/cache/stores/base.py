"""The two kinds of store that the caches are built on.

A :class:`ResponseStore` maps a key to a small value.  A :class:`BundleStore` holds large streams, and decides who makes
a missing one.  A request for a bundle gets one of three things:

- a complete bundle, as an open file or as a URL;
- a :class:`GrowingEntry` to read from, if another request is making the bundle;
- a :class:`PendingEntry`, the right to make it.

Keys are those of :mod:`hgwire_wsgi.cache.keys`; those of bundles are 64 hexadecimal digits.  Every method of a bundle
store and of its entries may raise :class:`OSError`; bundles are then served without the store.  A store checks what it
has stored before it returns it.  It removes an entry that is damaged, and raises :class:`DamagedEntry`.
"""

from __future__ import annotations

import abc
import errno
import os
from collections.abc import Hashable
from typing import Protocol, TypeVar

import attrs

__all__ = ["BundleStore", "DamagedEntry", "GrowingEntry", "PendingEntry", "ResponseStore", "StoredFile", "StoredUrl"]

_V = TypeVar("_V")


class DamagedEntry(OSError):
    """An entry was not what had been stored, and has been removed.  The entry can be made again.

    Args:
        problem: what was wrong.
        place: where the entry was.
    """

    def __init__(self, problem: str, place: str) -> None:
        super().__init__(errno.EIO, problem, place)


class ResponseStore(Protocol[_V]):
    """Small values by key; any entry may disappear at any time.  Methods do not raise exceptions."""

    def get(self, key: Hashable) -> _V | None:
        """Return the value of a key, or None."""

    def put(self, key: Hashable, value: _V, size: int) -> None:
        """Store a value if there is room.

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
        url: its location.
        size: of the bundle, in bytes.
    """

    url: str
    size: int


class GrowingEntry(abc.ABC):
    """A bundle that is being made, by this process or another one, open for reading."""

    @property
    @abc.abstractmethod
    def identity(self) -> Hashable:
        """Identifies an attempt to make a bundle: equal for two handles of one attempt, different otherwise."""

    @abc.abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Read up to ``size`` available bytes; none if there are no more yet."""

    @abc.abstractmethod
    def is_complete(self) -> bool:
        """Return True if no bytes will follow those that are available now."""

    @abc.abstractmethod
    def has_maker(self) -> bool:
        """Return True if its maker is alive.  Not available for the result of :meth:`PendingEntry.follow`."""

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
        """Mark the bundle as complete, for all followers.  If this raises, call :meth:`abandon`.

        Args:
            keep: False if no other request may get it.

        Returns:
            True if it is stored under its key now.
        """

    @abc.abstractmethod
    def abandon(self) -> None:
        """Give up; followers see that there is no maker.  Has no effect after the end of the entry; never raises."""


class BundleStore(Protocol):
    """Large streams by key; a complete one may be removed at any time, without effect on those who have it open."""

    @property
    def capacity(self) -> int:
        """Maximum size of a bundle, in bytes."""

    def open(self, key: str, *, shared: bool = False) -> StoredFile | StoredUrl | None:
        """Return a complete bundle, or None.

        Args:
            key: of the bundle.
            shared: True if several clients have requested it.  Such bundles should be evicted after others.

        Raises:
            DamagedEntry: if the bundle was damaged; it has been removed.
        """

    def open_or_begin(self, key: str) -> StoredFile | StoredUrl | GrowingEntry | PendingEntry:
        """Return a complete bundle, a growing one, or the right to make it.

        For each key, at most one live maker holds a :class:`PendingEntry`, among all processes that share the store.
        (There may be two if entries were deleted by hand.)

        Raises:
            DamagedEntry: if an entry was damaged; it has been removed.
        """

    def get(self, key: str) -> bytes | None:
        """Return a small entry stored by :meth:`put`, or None.

        Raises:
            DamagedEntry: if the entry was damaged; it has been removed.
        """

    def put(self, key: str, data: bytes) -> None:
        """Store or replace a small entry of a few kilobytes."""
