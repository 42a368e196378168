"""Requests that are repeated word for word, to repositories on disk: every change is noticed."""

from __future__ import annotations

import os
import shutil
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import extensions, scmutil, wireprotoserver
from mercurial.hgweb import common
from test_mercurial_middleware import ask

from hgwire_wsgi import WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial import state as state_module

_TICK_SECONDS = 0.02
"""Longer than a tick of the clock of the file system."""


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests wait for a tick of the clock themselves, not for two seconds."""
    monkeypatch.setattr(state_module, "_SETTLED_NS", 0)


@pytest.fixture
def root(tmp_path: Path, demonstration: Path) -> Path:
    shutil.copytree(demonstration, tmp_path / "repo")
    return tmp_path / "repo"


class Site:
    """An application that counts its leases."""

    def __init__(self, source: Any, monkeypatch: pytest.MonkeyPatch, path: str = "/") -> None:
        provider = MercurialProvider(source)
        self.app = WireApp(provider)
        self.path = path
        self.leased = 0
        lease = provider.lease

        def count(name: str) -> Any:
            self.leased += 1
            return lease(name)

        monkeypatch.setattr(provider, "lease", count)

    def get(self) -> tuple[int, bytes]:
        status, body = ask(self.app, f"{self.path}?cmd=listkeys&namespace=bookmarks")
        return status, body

    def is_repeated(self) -> bool:
        """Whether a request that was sent several times needs no lease."""
        for _ in range(4):
            time.sleep(_TICK_SECONDS)
            self.get()
        before = self.leased
        self.get()
        return self.leased == before


CHANGES: dict[str, tuple[Callable[[Path], object], int, bytes | None]] = {
    "a setting": (lambda hg: (hg / "hgrc").write_bytes(b"[web]\ndeny_read=*\n"), 403, None),
    "a bookmark": (lambda hg: (hg / "bookmarks").write_bytes(b"%s here\n" % _tip(hg)), 200, b"here"),
    "removed": (lambda hg: shutil.rmtree(hg), 404, None),
    "moved": (lambda hg: hg.parent.rename(hg.parent.with_name("other")), 404, None),
}


def _tip(hg: Path) -> bytes:
    return (hg / "cache" / "branch2-served").read_bytes()[:40]


@pytest.mark.parametrize("change", CHANGES)
def test_changes(root: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    (root / ".hg" / "hgrc").write_bytes(b"")
    site = Site(root, monkeypatch)
    assert site.is_repeated()
    status, before = site.get()
    assert status == 200
    make, expected, text = CHANGES[change]
    make(root / ".hg")
    status, after = site.get()
    assert status == expected
    assert text is None or (text in after and text not in before)


def test_a_change_of_each_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is undone, and one that only changes a stamp."""
    site = Site(root, monkeypatch)
    for name in (".", "store", "store/00changelog.i", "store/phaseroots"):
        place = root / ".hg" / name
        assert site.is_repeated()
        leased = site.leased
        os.chmod(place, place.stat().st_mode)
        site.get()
        assert site.leased == leased + 1, name


FINDERS: dict[str, tuple[Callable[[Path], Any], str, bool]] = {
    "one": (lambda root: root, "/", True),
    "mapping": (lambda root: {"some/where": root}, "/some/where", True),
    "folder": (lambda root: root.parent, "/repo", True),
    "deep": (lambda root: root.parent.parent, "/{}/repo", False),
    "callable": (lambda root: lambda name: root if name == "x" else None, "/x", False),
}


@pytest.mark.parametrize("kind", FINDERS)
def test_finders(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    source, path, repeated = FINDERS[kind]
    site = Site(source(root), monkeypatch, path.format(root.parent.name))
    assert site.get()[0] == 200
    assert site.is_repeated() == repeated


def test_what_an_extension_adds_is_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(root, monkeypatch)
    assert site.is_repeated()
    with monkeypatch.context() as patch:
        patch.setattr(common, "permhooks", [*common.permhooks, lambda *_: None])
        assert not site.is_repeated()
    assert site.is_repeated()
    with monkeypatch.context() as patch:
        own = wireprotoserver.iscmd
        patch.setattr(wireprotoserver, "iscmd", lambda name: own(name) and name != b"listkeys")
        assert site.get()[0] != 200
    assert site.is_repeated()
    with monkeypatch.context() as patch:
        # It may look the users up in a directory, which changes at any time.
        patch.setattr(scmutil, "ismember", lambda ui, user, members: True)
        assert not site.is_repeated()
    assert site.is_repeated()
    monkeypatch.setitem(extensions._extensions, b"strange", types.ModuleType("strange"))
    monkeypatch.setattr(extensions, "_order", [*extensions._order, b"strange"])
    assert not site.is_repeated()


def test_there_is_nothing_to_watch_without_a_lease(root: Path) -> None:
    provider = MercurialProvider(root)
    assert provider.watch("", None) is None
    with provider.lease("") as repository:
        assert provider.watch("", b"another kind of stamp") is None
        watch = provider.watch("", repository.change_stamp())
    assert watch is not None
