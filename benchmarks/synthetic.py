"""Repositories of any length, made once and reused: linear history, 200 files.

Usage: python benchmarks/synthetic.py CHANGESETS FOLDER
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from common import hg

from hgwire_wsgi.testing.changegroup import END, Chunk, encode_group, encode_path, full_delta

NULL = bytes(20)
"""The node that is no changeset's."""

FILES = 200
LINES = 12
"""Per file; each changeset replaces one."""


def history(count: int, scratch: Path) -> Path:
    """A repository with the given number of public changesets, created if it does not exist.

    Args:
        count: number of changesets.
        scratch: the folder for it.
    """
    path = scratch / f"synthetic-{count}"
    if not path.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        making = scratch / f"synthetic-{count}.{os.getpid()}"
        bundle = making.with_suffix(".hg")
        with open(bundle, "wb") as file:
            file.writelines(_bundle(count))
        hg("init", str(making))
        hg("-R", str(making), "unbundle", "-q", str(bundle))
        hg("-R", str(making), "phase", "-q", "-p", "all()")
        bundle.unlink()
        making.rename(path)
    return path


def _bundle(count: int) -> Iterator[bytes]:
    """An uncompressed bundle in the first format."""
    random_ = random.Random(count)
    words = ["".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=random_.randint(2, 10))) for _ in range(2000)]

    def line() -> bytes:
        return " ".join(random_.choices(words, k=6)).encode() + b"\n"

    paths = [b"source/module%03d.txt" % number for number in range(FILES)]
    contents = [[line() for _ in range(LINES)] for _ in paths]
    tips = [_File() for _ in paths]
    entry = b"%s\0%s\n"
    entry_size = len(entry % (paths[0], b"0" * 40))
    manifest = bytearray()
    changes, manifests = [], []
    changeset = parent_manifest = NULL
    change_text = b""
    for number in range(count):
        touched = [number % FILES] if number else range(FILES)
        pending = []
        for index in touched:
            at = random_.randrange(LINES)
            contents[index][at] = line()
            pending.append((index, tips[index].add(b"".join(contents[index]))))
        delta = b""
        for index, node in pending:
            text = entry % (paths[index], node.hex().encode())
            start = index * entry_size
            delta += full_delta(0, text) if not number else _hunk(start, start + entry_size, text)
            manifest[start : start + entry_size] = text
        manifest_node = _node(parent_manifest, bytes(manifest))
        manifest_delta = full_delta(0, bytes(manifest)) if not number else delta
        changed = b"\n".join(paths[index] for index, _ in pending)
        message = b"%s\nNumber %d of them." % (line().strip(), number)
        text = b"%s\nA. U. Thor <author@example.com>\n%d 0\n%s\n\n%s" % (
            manifest_node.hex().encode(),
            1_000_000_000 + 600 * number,
            changed,
            message,
        )
        node = _node(changeset, text)
        changes.append(Chunk(node, changeset, NULL, node, full_delta(len(change_text), text)))
        manifests.append(Chunk(manifest_node, parent_manifest, NULL, node, manifest_delta))
        for index, _ in pending:
            tips[index].link(node)
        changeset, parent_manifest, change_text = node, manifest_node, text
    yield b"HG10UN"
    yield from encode_group(changes)
    yield from encode_group(manifests)
    for path, file in zip(paths, tips, strict=True):
        yield encode_path(path)
        yield from encode_group(file.chunks())
    yield END


class _File:
    """The revisions of one file, each a delta against the one before."""

    def __init__(self) -> None:
        self._texts: list[bytes] = []
        self._nodes: list[bytes] = []
        self._links: list[bytes] = []

    def add(self, text: bytes) -> bytes:
        """Add a revision and return its node."""
        node = _node(self._nodes[-1] if self._nodes else NULL, text)
        self._texts.append(text)
        self._nodes.append(node)
        return node

    def link(self, changeset: bytes) -> None:
        """Set the changeset that the last revision belongs to."""
        self._links.append(changeset)

    def chunks(self) -> Iterable[Chunk]:
        """All revisions."""
        parent, before = NULL, b""
        for node, text, link in zip(self._nodes, self._texts, self._links, strict=True):
            yield Chunk(node, parent, NULL, link, full_delta(len(before), text))
            parent, before = node, text


def _hunk(start: int, end: int, text: bytes) -> bytes:
    return start.to_bytes(4, "big") + end.to_bytes(4, "big") + len(text).to_bytes(4, "big") + text


def _node(parent: bytes, text: bytes) -> bytes:
    return hashlib.sha1(NULL + parent + text, usedforsecurity=False).digest()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(history(int(sys.argv[1]), Path(sys.argv[2])))
