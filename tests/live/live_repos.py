"""The repositories that scenarios begin with.  Each is built once per test process and then copied.

Dates, users and contents are fixed, and both sides get copies of one original, so every node is the same on both.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from live_hg import Scribe

BRANCH = "Straße"
BOOKMARK = "ключ/é"


class Workshop:
    """Builds and keeps the originals."""

    def __init__(self, folder: Path, scribe: Scribe) -> None:
        self.folder = folder
        self.hg = scribe

    def original(self, name: str) -> Path:
        """Return the original of that name; build it on first use."""
        path = self.folder / name
        if not path.exists():
            path.mkdir(parents=True)
            self.hg("init", str(path))
            RECIPES[name](self, path)
        return path

    def copy(self, name: str, target: Path, hgrc: str = "") -> Path:
        """Copy an original and write the configuration file of the copy."""
        shutil.copytree(self.original(name), target)
        (target / ".hg" / "hgrc").write_text(hgrc, encoding="utf-8")
        return target

    def commit(self, repo: Path, text: str, **files: str | bytes) -> None:
        """Write files (``name=contents``) and commit them."""
        for name, contents in files.items():
            data = contents if isinstance(contents, bytes) else contents.encode()
            (repo / name).write_bytes(data)
        self.hg("commit", "-A", "-q", "-d", "0 0", "-m", text, repo=repo)

    def start_from(self, name: str, repo: Path) -> None:
        """Fill a new repository with the public history of another original."""
        self.hg("pull", "-q", "-u", str(self.original(name)), repo=repo)


def _history(shop: Workshop, repo: Path) -> None:
    """Branches, a merge, a tag, bookmarks, a rename, an executable, a binary file, non-ASCII names."""
    shop.commit(repo, "first", a="one\n", b="two\n")
    shop.commit(repo, "second", a="one\ntwo\n", blob=bytes(range(256)) * 20)
    shop.hg("tag", "-d", "0 0", "v1", repo=repo)
    shop.hg("update", "-q", "1", repo=repo)
    shop.hg("branch", "-q", "stable", repo=repo)
    shop.commit(repo, "on stable", b="two\nstable\n")
    shop.hg("update", "-q", "1", repo=repo)
    shop.hg("branch", "-q", BRANCH, repo=repo)
    shop.commit(repo, f"auf der {BRANCH}", c="drei\n")
    shop.hg("update", "-q", "2", repo=repo)
    shop.hg("merge", "-q", "stable", repo=repo)
    shop.hg("commit", "-q", "-d", "0 0", "-m", "merge stable", repo=repo)
    shop.hg("rename", "a", "renamed", repo=repo)
    (repo / "b").chmod(0o755)
    shop.hg("commit", "-q", "-d", "0 0", "-m", "rename, executable", repo=repo)
    shop.hg("bookmark", "-r", "tip", "main", repo=repo)
    shop.hg("bookmark", "-r", "4", BOOKMARK, repo=repo)
    shop.hg("bookmark", "--inactive", "-r", "1", "old", repo=repo)
    shop.hg("phase", "-p", "all()", repo=repo)


def _ahead(shop: Workshop, repo: Path) -> None:
    """``history`` and two drafts on top of it."""
    shop.start_from("history", repo)
    shop.hg("update", "-q", "default", repo=repo)
    shop.commit(repo, "third", d="three\n")
    shop.commit(repo, "fourth", d="three\nfour\n")


def _second_head(shop: Workshop, repo: Path) -> None:
    """``history`` and a draft that forks the default branch."""
    shop.start_from("history", repo)
    shop.hg("update", "-q", "2", repo=repo)
    shop.commit(repo, "a second head", e="fork\n")


def _drafts(shop: Workshop, repo: Path) -> None:
    """Public, draft and secret changesets in one line."""
    shop.commit(repo, "public", a="1\n")
    shop.commit(repo, "draft", a="2\n")
    shop.commit(repo, "secret", a="3\n")
    shop.hg("phase", "-p", "-r", "0", repo=repo)
    shop.hg("phase", "-s", "-f", "-r", "2", repo=repo)


def _public_only(shop: Workshop, repo: Path) -> None:
    """The public part of ``drafts``."""
    shop.hg("pull", "-q", "-u", "-r", "0", str(shop.original("drafts")), repo=repo)


def _obsolete(shop: Workshop, repo: Path) -> None:
    """A rewritten draft with its marker, and a pruned one."""
    (repo / ".hg" / "hgrc").write_text("[experimental]\nevolution=all\n")
    shop.commit(repo, "public", a="1\n")
    shop.hg("phase", "-p", "0", repo=repo)
    shop.commit(repo, "before", a="2\n")
    shop.hg("update", "-q", "0", repo=repo)
    shop.commit(repo, "after", a="2\nagain\n")
    shop.hg("update", "-q", "0", repo=repo)
    shop.commit(repo, "pruned", a="3\n")
    node = {rev: shop.hg("log", "-r", rev, "-T", "{node}", repo=repo) for rev in "0123"}
    shop.hg("update", "-q", "2", repo=repo)
    shop.hg("debugobsolete", "-d", "0 0", node["1"], node["2"], repo=repo)
    shop.hg("debugobsolete", "-d", "0 0", "--record-parents", node["3"], repo=repo)


def _folders(shop: Workshop, repo: Path) -> None:
    """Three folders that change in turn."""
    for name in ("one", "two", "three"):
        (repo / name).mkdir()
    for number in range(6):
        name = ("one", "two", "three")[number % 3]
        shop.commit(repo, f"{name} {number}", **{f"{name}/file{number}": f"{number}\n"})
    shop.hg("phase", "-p", "all()", repo=repo)


def _heads(shop: Workshop, repo: Path) -> None:
    """2,000 heads on one root."""
    shop.hg("debugbuilddag", "+1:root" + "<root+1" * 2000, repo=repo)
    shop.hg("phase", "-p", "all()", repo=repo)


def _large_push(shop: Workshop, repo: Path) -> None:
    """Three incompressible MiB in one draft."""
    shop.commit(repo, "large", large=random.Random(3).randbytes(3 * 1024 * 1024))


def _long_clone(shop: Workshop, repo: Path) -> None:
    """24 incompressible MiB in 24 public files."""
    noise = random.Random(24)
    shop.commit(repo, "long", **{f"noise{number}": noise.randbytes(1024 * 1024) for number in range(24)})
    shop.hg("phase", "-p", "all()", repo=repo)


RECIPES: dict[str, Callable[[Workshop, Path], None]] = {
    "empty": lambda shop, repo: None,
    "history": _history,
    "ahead": _ahead,
    "second-head": _second_head,
    "drafts": _drafts,
    "public-only": _public_only,
    "obsolete": _obsolete,
    "folders": _folders,
    "heads": _heads,
    "large-push": _large_push,
    "long-clone": _long_clone,
}
