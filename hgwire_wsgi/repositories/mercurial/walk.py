"""Walking a folder for repositories, as hgweb does for ``*`` and ``**`` in the section ``paths``.

The order and the result are those of Mercurial's own walk, with two differences.  A folder that cannot be read is left
out, while Mercurial's walk ends with an error.  The folders seen so far are a set, while Mercurial compares each
folder with all others, which takes a time that grows with the square of their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["walk"]

_Inode = tuple[int, int]


def walk(top: bytes, *, recurse: bool) -> Iterator[bytes]:
    """Find the repositories in a folder.

    Symbolic links to folders are followed, except inside a repository.  Each folder outside repositories is searched
    once, even if links lead to it.  A repository of patches in ``.hg/patches`` is found with the repository that
    has it.

    Args:
        top: the folder.
        recurse: also search the working directories of repositories, for subrepositories and others; not those that a
            symbolic link leads to.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    yield from _walk(top, recurse, {_inode(top)})


def _walk(top: bytes, recurse: bool, seen: set[_Inode]) -> Iterator[bytes]:
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            children = _folders(folder)
        except OSError:
            if folder == top:
                raise
            continue
        if b".hg" in children:
            yield folder
            patches = os.path.join(folder, b".hg", b"patches")
            if os.path.isdir(os.path.join(patches, b".hg")):
                yield patches
            inside = [name for name, is_link in children.items() if not is_link and name != b".hg"]
            waiting += [os.path.join(folder, name) for name in reversed(inside)] if recurse else []
            continue
        below = []
        for name, is_link in children.items():
            child = os.path.join(folder, name)
            try:
                inode = _inode(child)
                if inode in seen:
                    continue
                seen.add(inode)
                if is_link:
                    yield from _walk(child, False, seen)
                else:
                    below.append(child)
            except OSError:
                # Among others, the system allows only about 40 links in a path.
                continue
        waiting += reversed(below)


def _folders(path: bytes) -> dict[bytes, bool]:
    """The folders in a folder, sorted; whether each is a symbolic link."""
    found = {}
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                if entry.is_dir():
                    found[entry.name] = entry.is_symlink()
            except OSError:
                continue
    return dict(sorted(found.items()))


def _inode(path: bytes) -> _Inode:
    found = os.stat(path)
    return found.st_dev, found.st_ino
