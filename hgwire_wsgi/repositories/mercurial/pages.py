"""Mercurial's own pages for browsers, for the repositories of a provider.

:func:`hgweb_pages` returns hgweb's application, to be put behind :class:`~hgwire_wsgi.WireMiddleware`.  It has the
configuration of the provider, and shows the same repositories: both use one listing, so neither knows a repository that
the other does not know.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from mercurial.hgweb import hgweb, hgwebdir_mod

from ..finder import Found
from .hgwebconfig import ConfigFinder
from .provider import MercurialProvider

__all__ = ["hgweb_pages"]

_SHOWN = 10_000
"""Maximum number of repositories in hgweb's lists, for providers without an ``hgweb.config``."""

_REFRESH = 20.0
"""Seconds until such a provider is asked for new repositories."""


@attrs.frozen(eq=False)
class _Shown:
    """What hgweb shows: its configuration, and the repositories by name."""

    ui: Any
    repositories: list[tuple[bytes, bytes]]

    @classmethod
    def of(cls, ui: Any, repositories: Iterable[tuple[str, Found]]) -> _Shown:
        """Convert names and places to bytes.

        Bundle files are left out, because hgwebdir would open one for each page and leave temporary files behind; and
        so are missing repositories, for which hgwebdir fails.
        """
        found = ((name.encode("latin-1"), found.root) for name, found in repositories)
        return cls(ui, [(name, root) for name, root in found if os.path.isdir(root + b"/.hg")])


class _Pages(hgwebdir_mod.hgwebdir):  # type: ignore[misc]  # Mercurial's classes have no types
    """hgwebdir that finds nothing itself."""

    def __init__(self, current: Callable[[], _Shown]) -> None:
        self._current = current
        self._shown = current()
        self._changing = threading.Lock()
        super().__init__([], baseui=self._shown.ui)

    def refresh(self) -> None:
        """Take over what the provider has found; called by hgwebdir for each request."""
        with self._changing:
            shown = self._current()
            if self.ui is None or shown is not self._shown:
                self._shown, self.baseui, self.lastrefresh = shown, shown.ui, 0
                super().refresh()

    @property
    def repos(self) -> list[tuple[bytes, bytes]]:
        """The repositories, names and paths."""
        return self._shown.repositories

    @repos.setter
    def repos(self, found: object) -> None:
        """Ignore what hgwebdir finds: nothing, as it was given no paths."""


def hgweb_pages(provider: MercurialProvider) -> Any:
    """Make the application that shows Mercurial's pages for the repositories of a provider.

    Bundle files have no pages.  Settings that a :class:`~hgwire_wsgi.repositories.finder.Found` gives a repository do
    not apply to its pages.

    Args:
        provider: finds the repositories; not one with a function, whose repositories cannot be listed.

    Returns:
        A WSGI application: hgweb for a single repository served at ``/``, otherwise hgwebdir.
    """
    finder, ui = provider.finder, provider.ui
    if isinstance(finder, ConfigFinder):
        return _Pages(_config_listing(finder))
    if finder.names(2) == [""] and (found := finder.find("")) is not None and os.path.isdir(found.root):
        return hgweb(found.root, baseui=ui)
    return _Pages(_recent(provider))


def _config_listing(finder: ConfigFinder) -> Callable[[], _Shown]:
    """Convert each listing of a configuration once."""
    known: list[tuple[object, _Shown]] = []

    def current() -> _Shown:
        listing = finder.current()
        if not known or known[0][0] is not listing.repositories:
            known[:] = [(listing.repositories, _Shown.of(listing.settings.ui, listing.repositories.items()))]
        return known[0][1]

    return current


def _recent(provider: MercurialProvider) -> Callable[[], _Shown]:
    """Ask the finder of a provider from time to time."""
    known: list[tuple[float, _Shown]] = []

    def current() -> _Shown:
        if not known or known[0][0] < time.monotonic() - _REFRESH:
            finder = provider.finder
            found = ((name, place) for name in finder.names(_SHOWN) if (place := finder.find(name)) is not None)
            known[:] = [(time.monotonic(), _Shown.of(provider.ui, found))]
        return known[0][1]

    return current
