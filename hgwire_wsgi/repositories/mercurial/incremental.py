"""What bundles depend on, and full clones in two parts.

A bundle depends on less than other replies do (:func:`shape_of`), so it outlives changes of the rest.

A full clone may be sent in two parts: the bundle of an older state first, the rest with the client's next request.

Clients that support ``partial-pull`` request the rest if a bundle is incomplete, as with the pull bundles that an
administrator makes.  Here, the bundles are those that were made for other clients.

An older bundle is usable only if nothing but the history has changed since, because a client does not request
bookmarks, phases and obsolescence markers again.  So a family of clones is everything that such a bundle depends on
except the history: its shape, and all arguments but ``heads``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...commands.objects import NULL
from .state import State

__all__ = ["clone_family", "count_missing", "is_worth_sending", "shape_of"]

_PLAIN_ARGUMENTS = frozenset(
    {"heads", "common", "bundlecaps", "cg", "bookmarks", "listkeys", "obsmarkers", "phases", "cbattempted"}
)
"""Arguments of ``getbundle`` with which a reply can be sent in parts; with ``stream`` or patterns it cannot."""

_BARE = frozenset({"changegroup", "changegroupsubset", "stream_out"})
"""Commands whose replies never hold bookmarks."""

_FIXED_KEYS = frozenset({b"namespaces", b"obsolete", b"phases"})
"""Namespaces whose keys depend only on the history, on markers and phases, and on the configuration."""

_SMALLEST_SHARE = 4
"""Minimum number of changesets in an older bundle for each one that it lacks.

Below 80% of the changesets, the second request costs more than the older bundle saves.
"""


def shape_of(state: State, command: str, arguments: Mapping[str, Any]) -> bytes | None:
    """Return a hash of what a bundle depends on, except the history and which changesets are hidden.

    Args:
        state: of the repository.
        command: the name of the command.
        arguments: its decoded arguments.

    Returns:
        None for bundles of extensions, which may depend on anything.
    """
    if command in _BARE:
        return state.shape
    keys = set(arguments.get("listkeys", ()))
    if command != "getbundle" or set(arguments) - _PLAIN_ARGUMENTS - {"stream"} or keys - _FIXED_KEYS - {b"bookmarks"}:
        return None
    return state.shape + state.bookmarks if arguments.get("bookmarks") or b"bookmarks" in keys else state.shape


def clone_family(state: State, command: str, arguments: Mapping[str, Any]) -> tuple[object, ...] | None:
    """Return what a full clone depends on, except the history and the requested heads; see ``IncrementalBundles``.

    Args:
        state: of the repository.
        command: the name of the command.
        arguments: its decoded arguments.
    """
    if command != "getbundle" or not set(arguments) <= _PLAIN_ARGUMENTS:
        return None
    if not arguments.get("heads") or not arguments.get("cg", True) or set(arguments.get("common", ())) - {NULL}:
        return None
    shape = shape_of(state, command, arguments)
    if shape is None or b"HG2" not in b",".join(arguments.get("bundlecaps", ())):
        return None
    others = {name: value for name, value in arguments.items() if name not in ("heads", "common")}
    return shape, *((name, _plain(others[name])) for name in sorted(others))


def _plain(value: Any) -> object:
    """The value of an argument; clients send sets in any order."""
    return tuple(sorted(value)) if isinstance(value, list) else value


def count_missing(local: Any, have: Sequence[bytes]) -> tuple[int, int] | None:
    """Count the changesets of a repository that are not, and that are, ancestors of some heads.

    Args:
        local: Mercurial's repository object, filtered.
        have: nodes.

    Returns:
        The two numbers; ``None`` if the repository lacks one of the heads.
    """
    changelog = local.changelog
    if not all(changelog.hasnode(head) for head in have):
        return None
    revisions = [changelog.rev(head) for head in have]
    absent = len(changelog.findmissingrevs(common=revisions, heads=changelog.headrevs()))
    return absent, len(local) - absent


def is_worth_sending(counts: tuple[int, int] | None) -> bool:
    """Whether using an incomplete bundle is worth the second request."""
    return counts is not None and 0 < counts[0] * _SMALLEST_SHARE <= counts[1]
