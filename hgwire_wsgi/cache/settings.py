"""What the caches may use."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

__all__ = ["CacheSettings", "default_folder"]


def default_folder() -> Path | None:
    """The folder for bundles: ``hgwire-wsgi`` in the user's cache folder, as the XDG specification has it.

    A user without a home has none.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hgwire-wsgi"
    except RuntimeError:
        return None


@attrs.frozen(kw_only=True)
class CacheSettings:
    """Bounds and places of the caches of one application.  Sizes are bytes; 0 switches a cache off.

    Attributes:
        memory: for short replies, in each process.
        disk: for bundles, shared by all processes that use the same folder.
        folder: for bundles; in the user's cache folder unless given.  Without one none are kept.
        accel_header: let the proxy in front send bundles: ``X-Accel-Redirect`` (nginx) or ``X-Sendfile`` (Apache).
        accel_prefix: what stands for the folder in that header; for nginx the location that has it as its ``alias``.
    """

    memory: int = attrs.field(default=16 << 20, validator=attrs.validators.ge(0))
    disk: int = attrs.field(default=1 << 30, validator=attrs.validators.ge(0))
    folder: str | os.PathLike[str] | None = attrs.field(factory=default_folder)
    accel_header: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(("X-Accel-Redirect", "X-Sendfile")))
    )
    accel_prefix: str = ""
