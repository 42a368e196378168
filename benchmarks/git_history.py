"""The same history in Git, converted once and reused: contents, modes, merges, authors, dates and messages.

Usage: python benchmarks/git_history.py REPOSITORY FOLDER

It requires the extra ``mercurial`` and ``git``.  The repository is only read.  Copies and branch names are dropped:
Git stores neither.  Afterwards ``git repack -a -d`` makes one pack with a bitmap index, as a server keeps it.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from common import hg

MODES = {b"": b"100644", b"x": b"100755", b"l": b"120000"}
"""Git's modes by the flag in the manifest."""

NAMES = "hgwire-names"
"""The file that maps changesets to commits: two hexadecimal names in a line."""


@attrs.frozen
class GitHistory:
    """A converted history."""

    path: Path

    def pack(self, heads: Sequence[str], common: Sequence[str]) -> tuple[list[str], bytes]:
        """The command that writes the pack of a clone or a fetch to its standard output, and its input.

        ``git upload-pack`` runs it for each clone, and adds the negotiation before and copying through pipes after it.

        Args:
            heads: the changesets that a client asks for, as hexadecimal nodes.
            common: those that it has; none for a clone.
        """
        command = ["git", "--git-dir", str(self.path), "pack-objects", "-q", "--stdout", "--delta-base-offset"]
        if not common:
            return [*command, "--all"], b""
        names = dict(line.split() for line in (self.path / NAMES).read_text().splitlines())
        wanted = [names[head] for head in heads] + ["^" + names[node] for node in common]
        return [*command, "--revs", "--thin"], "".join(f"{name}\n" for name in wanted).encode()


def converted(repository: Path, scratch: Path) -> GitHistory:
    """The history of a repository in Git, converted if that has not been done yet.

    Args:
        repository: with flat manifests.
        scratch: the folder for it.
    """
    tip = hg("-R", str(repository), "log", "-r", "tip", "-T", "{node|short}")
    path = scratch / f"{repository.name}-{tip}.git"
    if not path.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        making = scratch / f"{path.name}.{os.getpid()}"
        _git("init", "-q", "--bare", "-b", "head0", str(making))
        _import(repository, making)
        _git("--git-dir", str(making), "repack", "-a", "-d", "-q", "--write-bitmap-index")
        making.rename(path)
    return GitHistory(path)


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def _import(repository: Path, folder: Path) -> None:
    marks = folder / "marks"
    command = ["git", "--git-dir", str(folder), "fast-import", "--quiet", f"--export-marks={marks}"]
    source = _Source(repository)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.writelines(source.stream())
    if process.returncode:
        raise SystemExit(f"git fast-import failed: {process.returncode}")
    commits = dict(line[1:].split() for line in marks.read_text().splitlines())
    (folder / NAMES).write_text("".join(f"{node} {commits[str(mark)]}\n" for mark, node in source.nodes()))


class _Source:
    """Reads a repository; the mark of a commit is its revision number plus 1, those of file contents follow."""

    def __init__(self, repository: Path) -> None:
        from mercurial import ui as uimod

        try:
            import mercurial.initialization  # noqa: F401  # must come before any other module that registers something
            from mercurial.repo.factory import repository as open_repository
        except ImportError:  # before 7.2
            from mercurial.hg import repository as open_repository

        self._repo: Any = open_repository(uimod.ui.load(), str(repository).encode()).filtered(b"served")
        self._changelog = self._repo.changelog
        self._manifests = self._repo.manifestlog.getstorage(b"")
        # Manifests of parents are near each other; a merge needs two.
        self._lines = functools.lru_cache(8)(self._read_lines)

    def nodes(self) -> Iterator[tuple[int, str]]:
        """Mark and hexadecimal node of each changeset."""
        for rev in self._changelog:
            yield rev + 1, self._changelog.node(rev).hex()

    def stream(self) -> Iterator[bytes]:
        """The input of ``git fast-import``."""
        changesets = {rev: self._changelog.changelogrevision(rev) for rev in self._changelog}
        marks: dict[tuple[bytes, bytes], int] = {}
        mark = len(self._repo.unfiltered().changelog)
        for path in sorted({path for changeset in changesets.values() for path in changeset.files}):
            file = self._repo.file(path)
            for rev in file:
                mark += 1
                node = file.node(rev)
                marks[path, node.hex().encode()] = mark
                yield b"blob\nmark :%d\n" % mark
                yield from _data(file.read(node))
        for rev, changeset in changesets.items():
            parents = [parent for parent in self._changelog.parentrevs(rev) if parent >= 0]
            yield from self._commit(rev, changeset, parents)
            before = self._lines(changesets[parents[0]].manifest) if parents else frozenset()
            yield from _changes(before, self._lines(changeset.manifest), marks)
        for number, rev in enumerate(self._changelog.headrevs()):
            yield b"reset refs/heads/head%d\nfrom :%d\n" % (number, rev + 1)
        # The heads have refs of their own now.
        yield b"reset refs/heads/import\nfrom %s\n\n" % (b"0" * 40)

    def _commit(self, rev: int, changeset: Any, parents: list[int]) -> Iterator[bytes]:
        if not parents:
            # A commit without "from" would continue the branch.
            yield b"reset refs/heads/import\n"
        yield b"commit refs/heads/import\nmark :%d\ncommitter %s\n" % (rev + 1, _person(changeset))
        yield from _data(changeset.description)
        for keyword, parent in zip((b"from", b"merge"), parents, strict=False):
            yield b"%s :%d\n" % (keyword, parent + 1)

    def _read_lines(self, manifest: bytes) -> frozenset[bytes]:
        return frozenset(self._manifests.revision(manifest).split(b"\n")[:-1])


def _changes(
    before: frozenset[bytes], after: frozenset[bytes], marks: dict[tuple[bytes, bytes], int]
) -> Iterator[bytes]:
    changed = _entries(after - before)
    # A file may become a folder, so deletions come first.
    for path in _entries(before - after):
        if path not in changed:
            yield b"D %s\n" % _quoted(path)
    for path, entry in changed.items():
        yield b"M %s :%d %s\n" % (MODES[entry[40:]], marks[path, entry[:40]], _quoted(path))


def _entries(lines: Iterable[bytes]) -> dict[bytes, bytes]:
    """Node and flag by path."""
    split = (line.partition(b"\0") for line in lines)
    return {path: entry for path, _, entry in split}


def _person(changeset: Any) -> bytes:
    user: bytes = changeset.user
    name, bracket, rest = user.partition(b"<")
    address = rest.partition(b">")[0] if bracket else b""
    seconds, west = changeset.date
    sign, east = (b"-", int(west)) if west > 0 else (b"+", -int(west))
    who = b"%s <%s>" % (_clean(name), _clean(address))
    return b"%s %d %s%02d%02d" % (who, max(0, int(seconds)), sign, east // 3600, east % 3600 // 60)


def _clean(part: bytes) -> bytes:
    return part.translate(None, b"<>\n\0").strip()


def _data(content: bytes) -> Iterator[bytes]:
    yield b"data %d\n" % len(content)
    yield content
    yield b"\n"


def _quoted(path: bytes) -> bytes:
    return b'"%s"' % path.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(converted(Path(sys.argv[1]).resolve(), Path(sys.argv[2])).path)
