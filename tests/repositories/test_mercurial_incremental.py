"""Families of full clones, and when an older bundle is worth sending."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.commands.objects import NULL
from hgwire_wsgi.repositories.base import IncrementalBundles, Repository, Subresources
from hgwire_wsgi.repositories.mercurial import MercurialProvider, MercurialRepository
from hgwire_wsgi.repositories.mercurial.incremental import clone_family, is_worth_sending, shape_of
from hgwire_wsgi.repositories.mercurial.state import State

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

PLAIN: dict[str, Any] = {
    "heads": [b"\1" * 20],
    "common": [NULL],
    "bundlecaps": [b"HG20", b"bundle2=HG20%0Ax"],
    "cg": True,
    "listkeys": [b"phases", b"bookmarks"],
}


STATE = State(history=b"h", shape=b"s", bookmarks=b"b", others=b"o")


def family(command: str = "getbundle", state: State = STATE, **changes: Any) -> tuple[object, ...] | None:
    arguments = {name: value for name, value in {**PLAIN, **changes}.items() if value is not None}
    return clone_family(state, command, arguments)


def test_heads_and_order_do_not_matter() -> None:
    expected = family()
    assert expected is not None and expected[0] == b"sb"
    assert family(state=attrs.evolve(STATE, history=b"more", others=b"other", transaction=b"later")) == expected
    assert family(heads=[b"\2" * 20, b"\3" * 20]) == expected
    assert family(common=None) == expected and family(common=[]) == expected
    assert family(listkeys=[b"bookmarks", b"phases"], bundlecaps=PLAIN["bundlecaps"][::-1]) == expected


def test_all_else_does() -> None:
    families = [
        family(),
        family(state=attrs.evolve(STATE, shape=b"other")),
        family(state=attrs.evolve(STATE, bookmarks=b"other")),
        family(phases=True),
        family(listkeys=[b"phases"]),
        family(cg=None),
        family(bundlecaps=[b"HG20"]),
    ]
    assert None not in families and len(set(families)) == len(families)


@pytest.mark.parametrize(
    "changes",
    [
        {"command": "changegroup"},
        {"stream": True},
        {"includepats": [b"path:x"]},
        {"heads": None},
        {"heads": []},
        {"cg": False},
        {"common": [NULL, b"\1" * 20]},
        {"bundlecaps": None},
        {"bundlecaps": [b"HG10GZ"]},
    ],
)
def test_what_is_no_plain_clone(changes: dict[str, Any]) -> None:
    assert family(**changes) is None


def test_bookmarks_matter_to_bundles_that_hold_them() -> None:
    moved = attrs.evolve(STATE, bookmarks=b"other")
    for requested in ({"listkeys": [b"phases"]}, {"listkeys": None}, {"listkeys": None, "bookmarks": False}):
        assert family(state=moved, **requested) == family(**requested) is not None
    for requested in ({"listkeys": [b"bookmarks"]}, {"listkeys": None, "bookmarks": True}):
        assert family(state=moved, **requested) != family(**requested)


@pytest.mark.parametrize(
    ("command", "arguments", "shape"),
    [
        ("changegroup", {"roots": []}, b"s"),
        ("changegroupsubset", {"bases": [], "heads": []}, b"s"),
        ("stream_out", {}, b"s"),
        ("getbundle", {}, b"s"),
        ("getbundle", {"stream": True, "cg": False}, b"s"),
        ("getbundle", {"listkeys": [b"phases", b"obsolete", b"namespaces"]}, b"s"),
        ("getbundle", {"bookmarks": True}, b"sb"),
        ("getbundle", {"listkeys": [b"hosted"]}, None),
        ("getbundle", {"of an extension": b""}, None),
        ("of an extension", {}, None),
    ],
)
def test_what_a_bundle_depends_on(command: str, arguments: dict[str, Any], shape: bytes | None) -> None:
    assert shape_of(STATE, command, arguments) == shape


@pytest.mark.parametrize(
    ("counts", "worth"),
    [(None, False), ((0, 10), False), ((1, 4), True), ((1, 3), False), ((25, 100), True), ((26, 100), False)],
)
def test_an_older_bundle_must_have_four_fifths(counts: tuple[int, int] | None, worth: bool) -> None:
    assert is_worth_sending(counts) is worth


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    program = "from mercurial import dispatch; dispatch.run()"

    def hg(*arguments: str) -> None:
        environment = {**os.environ, "HGUSER": "test"}
        subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True, timeout=60)

    hg("init", str(path))
    (path / ".hg" / "hgrc").write_text("[ui]\nusername=test\n")
    hg("-R", str(path), "debugbuilddag", "+6")
    return path


def test_counting(repo: Path) -> None:
    with MercurialProvider(repo).lease("") as leased:
        assert isinstance(leased, IncrementalBundles) and isinstance(leased, Subresources)
        nodes = [leased.lookup(b"%d" % number) for number in range(6)]
        assert leased.count_missing([nodes[4]]) == leased.count_missing([nodes[4], nodes[0]]) == (1, 5)
        assert leased.count_missing([nodes[5]]) == (0, 6) and leased.count_missing([]) == (6, 0)
        assert leased.count_missing([b"\1" * 20]) is None
        assert leased.is_full_clone([nodes[5]]) and not leased.is_full_clone([nodes[4]])
        assert leased.is_worth_sending([nodes[4]], [nodes[5]])
        assert not leased.is_worth_sending([nodes[4]], [nodes[4]])
        assert not leased.is_worth_sending([nodes[3]], [nodes[5]])


def test_a_repository_says_which_metadata_it_has(repo: Path) -> None:
    with MercurialProvider(repo).lease("") as leased:
        assert isinstance(leased, IncrementalBundles)
        assert leased.metadata_token() is not None
        assert leased.clone_family("getbundle", PLAIN) is not None
        assert leased.clone_family("getbundle", {}) is None


def test_a_family_opens_no_repository_twice(repo: Path) -> None:
    provider = MercurialProvider(repo)
    with provider.lease("") as leased:
        assert isinstance(leased, MercurialRepository)
        leased.clone_family("getbundle", PLAIN)
    with provider.lease("") as leased:
        assert isinstance(leased, MercurialRepository)
        assert leased.clone_family("getbundle", PLAIN) is not None
        assert leased._open is None


def test_other_backends_need_none_of_it() -> None:
    class Least(Repository):
        def content_token(self) -> bytes:
            return b""

    assert not isinstance(Least(), IncrementalBundles)
