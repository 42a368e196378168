"""Thin adapters to web frameworks.  Each can be imported without the others."""

from __future__ import annotations

__all__ = ["mount_point"]


def mount_point(prefix: str) -> str:
    """Convert a prefix from a configuration to the form that ``PATH_INFO`` has.

    Args:
        prefix: ``/`` and one or more segments; a trailing slash is ignored.

    Returns:
        The prefix without the trailing slash, with its UTF-8 bytes as Latin-1 characters (PEP 3333).

    Raises:
        ValueError: if the prefix is empty or ``/``, or does not begin with a slash.
    """
    if not prefix.startswith("/") or not prefix.strip("/"):
        raise ValueError(
            f"{prefix!r} is not a prefix such as '/hg'; to serve repositories without a prefix, use WireMiddleware"
        )
    return prefix.rstrip("/").encode("utf-8").decode("latin-1")
