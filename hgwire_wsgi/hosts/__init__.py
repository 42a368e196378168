"""Adapters to other people's frameworks: thin, and each importable without the others."""

from __future__ import annotations

__all__ = ["mount_point"]


def mount_point(prefix: str) -> str:
    """Turn the prefix a user wrote into the one that ``PATH_INFO`` begins with.

    Args:
        prefix: ``/`` and one or more segments; a slash at the end is ignored.

    Returns:
        The prefix without that slash, its UTF-8 bytes as Latin-1 characters, which is how WSGI carries paths (PEP
        3333).

    Raises:
        ValueError: for the empty prefix, ``/``, and one that does not begin with a slash.
    """
    if not prefix.startswith("/") or not prefix.strip("/"):
        raise ValueError(
            f"{prefix!r} is not a prefix like '/hg'; to serve beside other pages without one, use WireMiddleware"
        )
    return prefix.rstrip("/").encode("utf-8").decode("latin-1")
