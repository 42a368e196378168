"""Our changegroups are Mercurial's, byte for byte: all histories, and a few requests in each format."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from changegroup_equality import Comparison, Request, pairs, versions, whole
from changegroup_formats import FORMATS, Workshop
from changegroup_histories import HISTORIES, NULL, Builder, open_repository
from mercurial import changegroup

from hgwire_wsgi.repositories.mercurial.changegroups.generator import generate

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

KNOWN = [name for name, form in FORMATS.items() if form.known and form.ours]
FEW = ("random", "hidden", "names")
"""Histories for formats that differ in more than how a revlog chooses its deltas."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.parametrize("history", HISTORIES)
def test_a_history(workshop: Workshop, history: str) -> None:
    repo = workshop.open(history)
    comparison = Comparison()
    for request in whole(repo):
        comparison.check(repo, request)
    for request in pairs(repo, 4, random.Random(history)):
        comparison.check(repo, request)
    assert comparison.is_ours(), comparison


@pytest.mark.parametrize("version", [b"01", b"02", b"03"])
def test_changesets_in_another_order(workshop: Workshop, version: bytes) -> None:
    repo = workshop.open("random").unfiltered()
    arguments: Any = set(), [repo.changelog.node(rev) for rev in repo.changelog][::-1], True, b"serve"
    theirs = b"".join(changegroup.getbundler(version, repo).generate(*arguments))
    assert b"".join(generate(changegroup.getbundler(version, repo), *arguments, pytest.fail)) == theirs


@pytest.mark.parametrize("name", KNOWN)
def test_a_format(workshop: Workshop, name: str) -> None:
    form = FORMATS[name]
    comparison = Comparison()
    for history in FEW:
        repo = workshop.open(history, name)
        requirements = {item.decode() for item in repo.requirements}
        assert form.has <= requirements and not form.lacks & requirements
        for request in (*whole(repo), *pairs(repo, 2, random.Random(name))):
            comparison.check(repo, request)
    assert form.aside or comparison.is_ours(), comparison


def revlogs(repo: Any) -> Iterator[Any]:
    """Every revlog of a repository."""
    for entry in repo.unfiltered().store.data_entries():
        if entry.is_revlog:
            yield entry.get_revlog_instance(repo.unfiltered()).get_revlog()


def test_the_histories_have_what_they_are_for(workshop: Workshop) -> None:
    repos = {name: workshop.open(name).unfiltered() for name in HISTORIES}
    found = {name: list(revlogs(repo)) for name, repo in repos.items()}
    manifests = repos["snapshots"].manifestlog.getstorage(b"").get_revlog()
    assert max(manifests.snapshotdepth(rev) for rev in manifests if manifests.issnapshot(rev)) > 0
    assert max(len(log._deltachain(len(log) - 1)[0]) for log in found["chains"]) > 100
    assert {log._inline for log in found["binary"]} == {True, False}
    assert NULL in {repos["emptied"][rev].manifestnode() for rev in repos["emptied"]}
    for name in ("foreign", "reused"):
        changed = sum(len(repos[name][rev].files()) for rev in repos[name])
        stored = sum(len(log) for log in found[name][:-2])
        assert stored < changed, name
    visible, served = (set(repos["hidden"].filtered(name)) for name in (b"visible", b"served"))
    assert set(repos["hidden"]) > visible > served


def test_a_new_object_gives_the_same(workshop: Workshop) -> None:
    """What a repository object has cached makes no difference."""
    for history in ("random", "snapshots"):
        repo = workshop.open(history, "native deltas")
        for request in pairs(repo, 5, random.Random(history)):
            Comparison().check(repo, request, open_repository(workshop.path(history, "native deltas")))


def test_the_null_manifest_and_all_manifests_but_one(tmp_path: Path) -> None:
    """As many as the revlog has, and a stored delta is against the one that is not sent."""
    config = FORMATS["not general"].config
    repo = open_repository(tmp_path / "repository", config, create=True).unfiltered()
    with repo.wlock(), repo.lock(), repo.transaction(b"history"):
        make = Builder(repo, random.Random(1))
        make.commit(message=b"empty")
        root = make.commit({b"file%02d" % number: b"%d\n" % number for number in range(40)})
        make.commit({b"file01": b"other\n"}, parent=root)
        head = make.commit({b"file02": b"another\n"}, parent=root)
    assert repo.manifestlog.getstorage(b"").get_revlog().deltaparent(2) == 1
    repo = open_repository(tmp_path / "repository", config)
    for version, _ in versions(repo):
        Comparison().check(repo, Request((NULL,), (head,), "served", version))


def test_nothing_to_send(workshop: Workshop) -> None:
    repo = workshop.open("merges")
    heads = tuple(repo.heads())
    for version, _ in versions(repo):
        Comparison().check(repo, Request(heads, heads, "served", version))
        Comparison().check(repo, Request(heads, (NULL,), "served", version))
        Comparison().check(repo, Request((NULL,), (NULL,), None, version))


@pytest.mark.parametrize("broken", ["a file's revlog is missing", "a file's data are cut short"])
def test_damage_is_reported_as_mercurial_reports_it(tmp_path: Path, broken: str) -> None:
    workshop = Workshop(tmp_path)
    path = workshop.path("straight", "all split")
    target = next((path / ".hg/store/data/folder").glob("file1.*"))
    if "missing" in broken:
        target.with_suffix(".i").unlink()
    else:
        os.truncate(target.with_suffix(".d"), 100)
    repo = workshop.open("straight", "all split")
    assert Comparison().check(repo, next(whole(repo))) == b""
