"""Reference cycles that Mercurial's generator of changegroups leaves behind.

Each of Mercurial's objects for the revlog of a file is part of a cycle that holds some decompressed revisions.  In a
long bundle made from thousands of files, they would take hundreds of megabytes before Python collects them of itself.
A full collection takes 20 to 50 milliseconds, in which no other thread runs.  So there is one for every 16 MiB of a
stream, but only if such objects were made meanwhile: the package's own generator makes few of them, and the files of a
stream clone are sent without any.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["collected", "count_files"]

_COLLECT_EVERY = 16 << 20
"""Bytes of a stream between two collections."""


class _Files:
    """How many objects for files a repository object has made."""

    made = 0


def count_files(unfiltered: Any) -> None:
    """Let a repository object count the files that it opens; must be called before it is filtered."""
    files = _Files()

    class CountingRepository(unfiltered.__class__):  # type: ignore[misc]  # Mercurial's classes have no types
        # Filtered views find it here, since their classes are derived from this one.
        hgwire_files = files

        def file(self, *arguments: Any, **options: Any) -> Any:
            files.made += 1
            return super().file(*arguments, **options)

    unfiltered.__class__ = CountingRepository


def collected(chunks: Iterable[bytes], repo: Any) -> Iterator[bytes]:
    """Pass on a stream from Mercurial, and collect garbage where it makes some.

    Args:
        chunks: the stream.
        repo: Mercurial's repository object that makes it.  If it does not count the files that it opens, or has a
            revlog for each folder, garbage is always collected.
    """
    files: _Files | None = getattr(repo, "hgwire_files", None)
    if b"treemanifest" in repo.requirements:
        files = None
    size = known = 0
    for chunk in chunks:
        yield chunk
        size += len(chunk)
        if size < _COLLECT_EVERY:
            continue
        size = 0
        if files is None or files.made != known:
            known = 0 if files is None else files.made
            gc.collect()
