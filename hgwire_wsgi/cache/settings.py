"""Settings of the caches, and functions that open the caches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from .bundles import BundleCache
from .responses import CachedResponse, ResponseCache
from .stores.base import BundleStore, ResponseStore
from .stores.folder import FolderStore
from .stores.memory import MemoryStore

__all__ = [
    "CacheSettings",
    "PerProcess",
    "default_folder",
    "open_bundle_cache",
    "open_bundle_store",
    "open_response_cache",
]

_log = logging.getLogger("hgwire_wsgi")

_V = TypeVar("_V")


def default_folder() -> Path | None:
    """Return the default folder for bundles: ``hgwire-wsgi`` in the user's cache folder.

    The cache folder is that of the XDG Base Directory Specification; None for a user without a home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hgwire-wsgi"
    except RuntimeError:
        return None


@attrs.frozen(kw_only=True)
class CacheSettings:
    """Sizes and locations of the caches of one application.

    Attributes:
        memory: maximum size of the small replies in each process, in bytes; 0 disables this cache.
        disk: maximum size of the bundles in the folder, in bytes; 0 disables this cache.
        folder: location of the bundles, shared by all processes of the host (default: in the user's cache folder);
            None disables this cache.
        accel_header: header that makes the front-end server send a bundle: ``X-Accel-Redirect`` (nginx) or
            ``X-Sendfile`` (Apache).
        accel_prefix: prefix of the file's name in that header, such as the nginx location that has the folder as its
            ``alias``.
        response_store: opens your own store for small replies; ``memory`` then has no effect.
        bundle_store: opens your own store for bundles; ``disk`` and ``folder`` then have no effect.

    Stores are opened in each process when it first needs them.
    """

    memory: int = attrs.field(default=16 << 20, validator=attrs.validators.ge(0))
    disk: int = attrs.field(default=1 << 30, validator=attrs.validators.ge(0))
    folder: str | os.PathLike[str] | None = attrs.field(factory=default_folder)
    accel_header: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(("X-Accel-Redirect", "X-Sendfile")))
    )
    accel_prefix: str = ""
    response_store: Callable[[], ResponseStore[CachedResponse]] | None = None
    bundle_store: Callable[[], BundleStore] | None = None


def open_bundle_store(settings: CacheSettings) -> BundleStore | None:
    """Open the store for bundles; None if it is disabled, or, with a log line, if it cannot be used."""
    try:
        if settings.bundle_store is not None:
            return settings.bundle_store()
        if not settings.disk:
            return None
        if settings.folder is not None:
            return FolderStore(settings.folder, settings.disk)
        _log.warning("there is no bundle cache: no folder is configured, and this user has no home")
    except OSError as error:
        _log.warning("there is no bundle cache: %s", error)
    return None


def open_bundle_cache(settings: CacheSettings, *, chunk: int) -> BundleCache | None:
    """Open the cache for bundles; None as for :func:`open_bundle_store`.

    Args:
        settings: of the application.
        chunk: size in bytes of the chunks in which bundles are written.
    """
    store = open_bundle_store(settings)
    return None if store is None else BundleCache(store, chunk=chunk)


def open_response_cache(settings: CacheSettings) -> ResponseCache:
    """Open the cache for small replies; if its store cannot be opened, log that and store nothing."""
    try:
        if settings.response_store is not None:
            return ResponseCache(settings.response_store())
    except OSError as error:
        _log.warning("there is no cache for small replies: %s", error)
        return ResponseCache(None)
    return ResponseCache(MemoryStore(settings.memory) if settings.memory else None)


class PerProcess(Generic[_V]):
    """A value that each process opens for itself on first use, including after a fork.

    Threads, locks and file locks do not survive a fork, so caches must not be shared across one.

    Args:
        open_value: opens it.  Called once in each process, except when several threads race for the first use.
    """

    def __init__(self, open_value: Callable[[], _V]) -> None:
        self._open_value = open_value
        self._opened: tuple[int, _V] | None = None

    def get(self) -> _V:
        """Return the value of this process."""
        pid, opened = os.getpid(), self._opened
        if opened is None or opened[0] != pid:
            # Two threads may both get here: a lock would not survive a fork either.
            self._opened = opened = pid, self._open_value()
        return opened[1]
