"""Checks of the files on the server that commands read.

A broken file causes arbitrary exceptions in Mercurial, just as a broken argument does.  So if a command fails, the
files that it reads are checked: if one of them is broken, the request is not the cause.  Where a failure would come too
late, in the middle of a stream or of a push, they are checked before.  That takes time where Mercurial itself would not
read them all: thousands of bookmarks or markers take milliseconds.

A good file is checked once in a state.  Mercurial's repository object caches the data, except for the manifests, which
are short.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from mercurial import error

from .errors import Report, message_of

__all__ = ["CHECKED_AFTER_FAILURE", "files_of", "read_bounded", "uses_pull_bundles"]

Check = Callable[[Any], object]

_PULL_BUNDLES = "pullbundles.manifest"
_CLONE_BUNDLES = "clonebundles.manifest"


def _parse_entry(line: bytes) -> dict[bytes, bytes]:
    """Return the attributes of a line: a URL, then ``key=value`` pairs whose parts are percent-encoded."""
    entry = {}
    for attribute in line.split()[1:]:
        key, value = attribute.split(b"=", 1)
        entry[unquote_to_bytes(key)] = unquote_to_bytes(value)
    return entry


def _check_manifest(repo: Any, name: str, *keys: bytes) -> None:
    """Check a manifest of bundles; the values of ``keys`` must be nodes of changesets."""
    changelog = repo.unfiltered().changelog
    for number, line in enumerate(repo.vfs.tryread(name.encode("ascii")).splitlines(), 1):
        try:
            entry = _parse_entry(line)
            for node in (node for key in keys if key in entry for node in entry[key].split(b";")):
                changelog.rev(binascii.unhexlify(node))
        except Exception as failure:
            raise ValueError(f"line {number}: {message_of(failure)}") from failure


def read_bounded(path: bytes, size: int) -> bytes | None:
    """Read the beginning of a small file.

    Args:
        path: the file.
        size: maximum number of bytes to read.

    Returns:
        The bytes; ``None`` if there is no file; nothing if it cannot be read.
    """
    try:
        # Without O_NONBLOCK, a named pipe would block forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return b""
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


_ALWAYS: Mapping[str, Check] = {
    "store/00changelog.i": lambda repo: len(repo.unfiltered().changelog),
    "store/phaseroots": lambda repo: repo.unfiltered()._phasecache,
    # Bookmarks may be needed to find out what is hidden.
    "bookmarks": lambda repo: repo.unfiltered()._bookmarks,
    "store/obsstore": lambda repo: repo.filtered(b"served").changelog,
}
CHECKED_AFTER_FAILURE = frozenset(
    {"branchmap", "capabilities", "heads", "hello", "known", "listkeys", "lookup", "protocaps"}
)
"""The commands whose files are checked only if they fail."""

_PULL: Mapping[str, Check] = {
    **_ALWAYS,
    _PULL_BUNDLES: lambda repo: _check_manifest(repo, _PULL_BUNDLES, b"heads", b"bases"),
}
_CLONE: Mapping[str, Check] = {**_ALWAYS, _CLONE_BUNDLES: lambda repo: _check_manifest(repo, _CLONE_BUNDLES)}


def uses_pull_bundles(ui: Any, report: Report | None = None) -> bool:
    """Whether pull bundles are on, or the setting is invalid, which ``getbundle`` reports to its client.

    Args:
        ui: the configuration of the repository.
        report: called with an invalid setting.
    """
    try:
        return bool(ui.configbool(b"server", b"pullbundle"))
    except error.ConfigError as failure:
        if report is not None:
            report(message_of(failure))
        return True


def files_of(command: str, ui: Any, tokens: tuple[str, ...]) -> Mapping[str, Check]:
    """The files that a command reads.

    Args:
        command: its name.
        ui: the configuration of the repository.
        tokens: the client's protocol tokens; only clients with ``partial-pull`` get pull bundles.

    Returns:
        Checks by file name below ``.hg``.  Each is called with Mercurial's repository object, and raises any exception
        if the file is broken.
    """
    if command == "getbundle" and "partial-pull" in tokens and uses_pull_bundles(ui):
        return _PULL
    return _CLONE if command == "clonebundles" else _ALWAYS
