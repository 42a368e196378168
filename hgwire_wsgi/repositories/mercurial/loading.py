"""Loading of extensions, one thread at a time.

Mercurial loads the extensions that a repository enables when it opens the repository, and that is not thread-safe:
extensions replace functions of the whole process.  It is the only part of opening that must be serialised.  So the lock
is around ``extensions.loadall`` alone, and only a repository that enables an extension which is not loaded yet takes
it.  While one extension loads slowly, all other repositories open as usual.

What is always true: an extension is in ``_loaded`` only after all of its setup functions have run, so no thread opens a
repository with half an extension.
"""

from __future__ import annotations

import threading
from typing import Any

from mercurial import extensions

__all__ = ["LOADING", "load_extensions"]

LOADING = threading.RLock()
"""Held while extensions are loaded."""

_loaded: set[bytes] = set()
"""Names as the configuration has them, of extensions that were loaded or failed to load."""

_load = extensions.loadall


def load_extensions(ui: Any, whitelist: Any = None) -> None:
    """Load the extensions that a configuration enables; does what ``mercurial.extensions.loadall`` does.

    Args:
        ui: the configuration.
        whitelist: names; if given, only these are loaded.

    Raises:
        mercurial.error.Abort: if an extension that is marked as required fails to load.
    """
    enabled = {name for name, path in ui.configitems(b"extensions") if b":" not in name and path[:1] != b"!"}
    if whitelist is not None:
        enabled.intersection_update(whitelist)
    if enabled <= _loaded:
        return
    with LOADING:
        _load(ui, whitelist)
        _loaded.update(enabled)


# Mercurial's own opening calls it by this name, in every thread.
extensions.loadall = load_extensions
