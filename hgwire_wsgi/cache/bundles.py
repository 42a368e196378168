"""The bundle cache: large replies, made once for all clients and processes.

A caller goes through these steps, and stops at the first that gives it something to send::

    stored = cache.open(key, client=client)                 # a complete bundle
    entry = cache.read_index(index_key)                     # a clone after a push: the bundle of an older state,
    stored = cache.open(entry.bundle_key, client=client)    # if it is good enough for the caller
    bundle = cache.join_or_make(key, produce, is_current)   # follow its maker, or become its maker

The store checks what it has stored.  Damaged entries are gone; this module logs and counts them, and their bundles are
made again.

:mod:`~hgwire_wsgi.cache.single_flight` gives each bundle one maker.  A
:class:`~hgwire_wsgi.cache.stores.base.BundleStore` stores the bundles.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from .admission import Demand
from .single_flight import Bundle, BundleJob, Chunks, Outcome, SingleFlight, Uncacheable
from .stores.base import BundleStore, DamagedEntry, StoredFile, StoredUrl

__all__ = [
    "Bundle",
    "BundleCache",
    "Chunks",
    "IndexEntry",
    "Outcome",
    "StoredFile",
    "StoredUrl",
    "Uncacheable",
]

_INDEX = re.compile(rb"[0-9a-f]{64}(\n([0-9a-f]{2})+)*")


@attrs.frozen(kw_only=True)
class IndexEntry:
    """An index entry: names the newest full-clone bundle, independent of the present history.

    Attributes:
        index_key: of the entry; depends on everything but the history.
        bundle_key: of the bundle.
        heads: those of the history in the bundle.
    """

    index_key: str
    bundle_key: str
    heads: tuple[bytes, ...]


class BundleCache:
    """Bundles by key.

    Open one in each process: forked processes must not share it.

    Args:
        store: where bundles are stored.
        chunk: size in bytes of the chunks in which bundles are written; smaller bundles are returned as bytes.
    """

    def __init__(self, store: BundleStore, *, chunk: int) -> None:
        self._store = store
        self._flight = SingleFlight(store, chunk)
        self._demand = Demand()

    @property
    def damaged(self) -> int:
        """The number of damaged entries that this process has found."""
        return self._flight.damaged

    def join_or_make(
        self,
        key: str,
        produce: Callable[[], Chunks],
        is_current: Callable[[], bool],
        *,
        index: Callable[[], IndexEntry | None] = lambda: None,
        label: str | None = None,
        usual: bool = True,
    ) -> Bundle:
        """Get a bundle from the store, follow its maker, or become its maker.

        Args:
            key: of everything that the bundle depends on.
            produce: starts to make the bundle; returns its chunks, of any size.  It is called in this thread; its
                result is read and closed in another one.  If a maker dies, ``produce`` is called again, while the
                returned iterator is read.
            is_current: returns whether the bundle still matches the key.  Called once, in the maker's thread,
                when the bundle is complete.  If it does not match, the bundle is sent but not cached.
            index: returns the index entry to be written once the bundle is cached, if any.
            label: name of the bundle in log lines, such as ``getbundle of project``.
            usual: False for a bundle that only its own client is expected to request.  It is made for all that
                request it meanwhile, but cached only if :meth:`open` was called for a second client.

        Raises:
            Uncacheable: from ``produce``, before its first chunk; the caller has to send its result.
            Exception: any other exception of ``produce`` before its first chunk.
        """

        def companion() -> tuple[str, bytes] | None:
            entry = index()
            return None if entry is None else (entry.index_key, _encode_index(entry))

        def may_keep() -> bool:
            return (usual or self._demand.is_shared(key)) and is_current()

        return self._flight.join_or_make(BundleJob(key, produce, may_keep, companion, label or f"bundle {key}"))

    def open(self, key: str, *, client: str = "", label: str | None = None) -> StoredFile | StoredUrl | None:
        """Open a complete bundle; None if there is none, or the store does not work.

        Args:
            key: of the bundle.
            client: identifies the client, such as a user or an address.
            label: name of the bundle in log lines.
        """
        shared = self._demand.note(key, client)
        try:
            return self._store.open(key, shared=shared)
        except DamagedEntry as error:
            self._flight.report_damage(label or f"bundle {key}", error)
            return None
        except OSError as error:
            self._flight.complain(error)
            return None

    def read_index(self, index_key: str) -> IndexEntry | None:
        """Read an index entry; None if there is none.  The bundle may be gone."""
        try:
            data = self._store.get(index_key)
        except DamagedEntry as error:
            self._flight.report_damage(f"index entry {index_key}", error)
            return None
        except OSError as error:
            self._flight.complain(error)
            return None
        # Anything else was not written by this class.
        if data is None or not _INDEX.fullmatch(data):
            return None
        bundle_key, *heads = data.decode("ascii").split("\n")
        return IndexEntry(index_key=index_key, bundle_key=bundle_key, heads=tuple(map(bytes.fromhex, heads)))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this process is making no bundles.

        Args:
            timeout: maximum time in seconds; no limit if None.

        Returns:
            False on timeout.
        """
        return self._flight.wait(timeout)


def _encode_index(entry: IndexEntry) -> bytes:
    return "\n".join([entry.bundle_key, *(head.hex() for head in entry.heads)]).encode("ascii")
