"""A repository that implements nothing offers nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from hgwire_wsgi.commands.objects import NULL, PushKeyResult, RepositoryObjects
from hgwire_wsgi.errors import CommandFailed, UnknownCommand

CALLS: dict[str, Callable[[RepositoryObjects], Any]] = {
    "heads": lambda objects: objects.heads(),
    "parents": lambda objects: objects.parents(NULL),
    "known": lambda objects: objects.known([]),
    "lookup": lambda objects: objects.lookup(b"tip"),
    "branchmap": lambda objects: objects.branchmap(),
    "listkeys": lambda objects: objects.listkeys(b"phases"),
    "pushkey": lambda objects: objects.pushkey(b"bookmarks", b"", b"", b""),
    "changegroup": lambda objects: objects.changegroup([], None),
    "getbundle": lambda objects: objects.getbundle(heads=[]),
    "unbundle": lambda objects: objects.unbundle([], io.BytesIO(), ""),
    "stream_out": lambda objects: objects.stream_out(),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_implemented_is_unknown(name: str) -> None:
    with pytest.raises(UnknownCommand, match=f"this repository does not offer {name}"):
        CALLS[name](RepositoryObjects())


def test_what_every_repository_has() -> None:
    objects = RepositoryObjects()
    assert (list(objects.capabilities()), objects.clone_bundles(legacy=True)) == ([], b"")
    with pytest.raises(CommandFailed, match="no such bundle"):
        objects.cached_bundle(b"path")


def test_a_pushed_key_says_nothing_unless_hooks_do() -> None:
    assert PushKeyResult(True) == PushKeyResult(success=True, output=b"")
