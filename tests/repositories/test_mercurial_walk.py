"""Walking folders for repositories, beside Mercurial's own walk."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import scmutil

from hgwire_wsgi.repositories.mercurial import walk as walk_module
from hgwire_wsgi.repositories.mercurial.walk import walk


def found(top: Path, *, recurse: bool) -> list[str]:
    return [os.path.relpath(os.fsdecode(path), top) for path in walk(os.fsencode(top), recurse=recurse)]


def theirs(top: Path, *, recurse: bool) -> list[str]:
    paths = scmutil.walkrepos(os.fsencode(top), followsym=True, recurse=recurse)
    return [os.path.relpath(os.fsdecode(path), top) for path in paths]


def make(top: Path, *names: str) -> None:
    for name in names:
        (top / name / ".hg").mkdir(parents=True)


def test_a_repository_and_what_is_in_it(tmp_path: Path) -> None:
    make(tmp_path, "b", "a/x", "a/x/sub/deep", "b/.hg/patches", ".hidden", "c c/é")
    (tmp_path / "file").touch()
    expected = [".hidden", "a/x", "b", "b/.hg/patches", "c c/é"]
    assert found(tmp_path, recurse=False) == theirs(tmp_path, recurse=False) == expected
    expected.insert(2, "a/x/sub/deep")
    assert found(tmp_path, recurse=True) == theirs(tmp_path, recurse=True) == expected


def test_the_folder_itself_may_be_a_repository(tmp_path: Path) -> None:
    make(tmp_path, ".", "sub")
    assert found(tmp_path, recurse=False) == ["."]
    assert found(tmp_path, recurse=True) == theirs(tmp_path, recurse=True) == [".", "sub"]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("recurse", [False, True])
def test_random_trees_with_links(seed: int, recurse: bool, tmp_path: Path) -> None:
    chance = random.Random(seed)
    folders = [tmp_path / "top"]
    folders[0].mkdir()
    for number in range(25):
        path = chance.choice(folders) / f"{chance.choice('abc')}{number}"
        kind = chance.random()
        if kind < 0.25:
            path.symlink_to(chance.choice([*folders, tmp_path / "missing", path]))
            continue
        path.mkdir()
        folders.append(path)
        if kind < 0.55:
            (path / ".hg").mkdir()
        if kind < 0.35:
            (path / ".hg" / "patches" / ".hg").mkdir(parents=True)
    assert found(folders[0], recurse=recurse) == theirs(folders[0], recurse=recurse)


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk(os.fsencode(tmp_path / "missing"), recurse=True))


def unreadable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make folders unreadable for anyone, root included."""
    scan = os.scandir

    def scandir(path: bytes) -> object:
        if os.path.basename(path) in map(os.fsencode, names):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_folders_that_cannot_be_read_disturb_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a", "shut/in", "target/in", "z")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    unreadable(monkeypatch, "shut", "link", "target")
    assert found(tmp_path, recurse=True) == ["a", "z"]
    with pytest.raises(PermissionError):
        list(walk(os.fsencode(tmp_path / "shut"), recurse=True))


def test_folders_that_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a", "gone", "z")
    inode = walk_module._inode

    def vanishing(path: bytes) -> tuple[int, int]:
        if path.endswith(b"gone"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return inode(path)

    monkeypatch.setattr(walk_module, "_inode", vanishing)
    assert found(tmp_path, recurse=False) == ["a", "z"]


def test_entries_that_cannot_be_examined(tmp_path: Path) -> None:
    """A link to itself is not a folder; hgweb sees nothing there, too."""
    make(tmp_path, "a")
    (tmp_path / "loop").symlink_to("loop")
    assert found(tmp_path, recurse=False) == theirs(tmp_path, recurse=False) == ["a"]


def test_a_chain_of_links_ends(tmp_path: Path) -> None:
    """A folder with a link to the next folder, a thousand times, all outside the folder that is served."""
    served = tmp_path / "served"
    served.mkdir()
    folders = [tmp_path / f"f{number}" for number in range(1000)]
    make(tmp_path, *(f"{folder.name}/repository" for folder in folders))
    for folder, target in zip([served, *folders], folders, strict=False):
        (folder / "next").symlink_to(target)
    assert 8 <= len(found(served, recurse=False)) <= 100


def test_five_thousand_repositories(tmp_path: Path) -> None:
    make(tmp_path, *(f"r{number}" for number in range(5000)))
    begun = time.monotonic()
    assert len(found(tmp_path, recurse=True)) == 5000
    assert time.monotonic() - begun < 5
