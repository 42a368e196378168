"""Checks of arguments that Mercurial lacks, each against a crash or a security hole observed in 7.2."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from mercurial import changegroup, wireprototypes

from ...commands.arguments import decode_nodes
from ...commands.objects import NULL
from ...errors import CommandFailed, InvalidArgument
from ...streams import Prefixed, Readable, read_exactly

__all__ = ["check", "check_bundle"]

_SHA1 = re.compile(rb"[0-9a-f]{40}")
_BUNDLE1_ARGUMENTS = {"heads", "common", "bundlecaps"}


def _check_cached_bundle(repo: Any, arguments: Mapping[str, bytes]) -> None:
    """Check that a bundle's path stays inside the folder of bundles; Mercurial 7.2 only compares string prefixes."""
    root = os.path.realpath(repo.vfs.join(repo.ui.config(b"server", b"peer-bundle-cache-root")))
    path = os.path.realpath(os.path.join(root, arguments["path"]))
    if os.path.commonpath([root, path]) != root or path == root:
        raise InvalidArgument("get_cached_bundle_inline: path leaves the folder of bundles")


def _require_first_format(repo: Any) -> None:
    """Check that a repository can be sent in the first format of changegroups; Mercurial only asserts it."""
    if b"01" not in changegroup.supportedoutgoingversions(repo):
        raise CommandFailed("this repository can be sent only to clients with bundle2 (Mercurial 3.5 or newer)")


def _check_getbundle(repo: Any, arguments: dict[str, bytes]) -> None:
    """Drop arguments that Mercurial would warn about on stderr, and refuse bundle2 arguments without bundle2."""
    for name in [name for name in arguments if name.encode("latin-1") not in wireprototypes.GETBUNDLE_ARGUMENTS]:
        del arguments[name]
    bundle2 = any(cap.startswith(b"HG2") for cap in arguments.get("bundlecaps", b"").split(b","))
    if not bundle2 and (foreign := sorted(set(arguments) - _BUNDLE1_ARGUMENTS)):
        raise InvalidArgument(f"getbundle: {', '.join(foreign)} need bundle2, which bundlecaps does not name")
    if not bundle2:
        _require_first_format(repo)


def _check_changegroup(*names: str) -> Callable[[Any, dict[str, bytes]], None]:
    def check_changegroup(repo: Any, arguments: dict[str, bytes]) -> None:
        _require_first_format(repo)
        for name in names:
            nodes = decode_nodes(arguments[name])
            for node, here in zip(nodes, repo.known(nodes), strict=True):
                if not (here or node == NULL):
                    raise InvalidArgument(f"unknown revision '{node.hex()}'")

    return check_changegroup


def _check_pushkey(repo: Any, arguments: dict[str, bytes]) -> None:
    """Check that phases are numbers with nodes of changesets as keys; Mercurial checks neither."""
    if arguments["namespace"] != b"phases":
        return
    if not all(arguments[name].isdigit() and len(arguments[name]) < 4 for name in ("old", "new")):
        raise InvalidArgument("pushkey: a phase is a number")
    try:
        nodes = decode_nodes(arguments["key"])
    except ValueError as error:
        raise InvalidArgument(f"pushkey: argument key: {error}") from None
    if len(nodes) != 1:
        raise InvalidArgument("pushkey: argument key is not a node")
    if nodes[0] == repo.nodeconstants.wdirid:
        raise InvalidArgument(f"unknown revision '{nodes[0].hex()}'")


def _check_sha(repo: Any, arguments: dict[str, bytes]) -> None:
    """Check that hashes are hashes: largefiles makes paths from them, and in 7.2 served any file of the server."""
    if not _SHA1.fullmatch(arguments["sha"]):
        raise InvalidArgument("argument sha is not a SHA-1 in hexadecimal")


_CHECKS: Mapping[str, Callable[[Any, dict[str, bytes]], None]] = {
    "changegroup": _check_changegroup("roots"),
    "changegroupsubset": _check_changegroup("bases", "heads"),
    "get_cached_bundle_inline": _check_cached_bundle,
    "getbundle": _check_getbundle,
    "getlfile": _check_sha,
    "pushkey": _check_pushkey,
    "putlfile": _check_sha,
    "statlfile": _check_sha,
}


def check(command: str, repo: Any, arguments: dict[str, bytes]) -> None:
    """Check the arguments of a command.

    Args:
        command: its name.
        repo: Mercurial's repository object, filtered.
        arguments: bytes by name, including all declared ones; those that must not reach Mercurial are removed.

    Raises:
        InvalidArgument: if one is invalid.
        CommandFailed: if the repository cannot be sent in the format that the command implies.
    """
    if checker := _CHECKS.get(command):
        checker(repo, arguments)


_BUNDLE_HEADERS = (b"HG10UN", b"HG10GZ", b"HG10BZ", b"HG2", b"\0")
"""The first bytes of bundles; the last one is a changegroup without a header."""


def check_bundle(body: Readable) -> Readable:
    """Return a pushed bundle; refuse it before any effect if it does not begin like one.

    Raises:
        InvalidArgument: if it does not.
    """
    front = read_exactly(body, 6)
    if len(front) < 6 or not front.startswith(_BUNDLE_HEADERS):
        raise InvalidArgument("unbundle: the request body is not a bundle of a kind that this server knows")
    return Prefixed(front, body)
