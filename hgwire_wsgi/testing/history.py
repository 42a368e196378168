"""The history of a repository in memory, as full texts; ``memory.py`` serves it.

Changesets, manifests and file revisions, each with its parents and the changeset that introduced it; a node is the
SHA-1 of the sorted parents and the text.  The formats of the texts are those of Mercurial (``help internals``, and the
output of 7.2).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from ..commands.objects import NULL
from ..errors import CommandFailed
from ..streams import Readable
from .changegroup import END, Chunk, Reader, apply_delta, encode_group, encode_path, full_delta

__all__ = ["Changeset", "History", "Push", "unhex", "unknown"]

_ESCAPES = {b"\\": b"\\\\", b"\0": b"\\0", b"\n": b"\\n", b"\r": b"\\r"}
_UNESCAPES = {escaped: plain for plain, escaped in _ESCAPES.items()}
_MANIFEST_LINE = re.compile(rb"([^\0\n]+)\0([0-9a-f]{40})([ltx]?)\n")
_METADATA = b"\1\n"


@attrs.frozen
class _Revision:
    """A revision of the changelog, of the manifest, or of a file."""

    p1: bytes
    p2: bytes
    link: bytes
    text: bytes


_Log = dict[bytes, _Revision]
"""Revisions by node, parents before children."""

_NULL_REVISION = _Revision(NULL, NULL, NULL, b"")


def _node(p1: bytes, p2: bytes, text: bytes) -> bytes:
    return hashlib.sha1(min(p1, p2) + max(p1, p2) + text, usedforsecurity=False).digest()


def unhex(text: bytes) -> bytes | None:
    """Decode the hexadecimal digits of a node; ``None`` if they are malformed."""
    try:
        node = binascii.unhexlify(text)
    except binascii.Error:
        return None
    return node if len(node) == len(NULL) else None


@attrs.frozen
class Changeset:
    """The parts of a changeset that a server needs."""

    manifest: bytes
    branch: bytes
    closes: bool

    @classmethod
    def parse(cls, text: bytes) -> Changeset:
        """Parse the text of a changeset.

        Its lines are the manifest, the user, the date with extra values, and the changed files; then an empty
        line and the message.

        Raises:
            CommandFailed: if it is malformed.
        """
        lines = text.partition(b"\n\n")[0].split(b"\n")
        manifest = unhex(lines[0])
        if manifest is None or len(lines) < 3:
            raise CommandFailed("a changeset in the bundle is malformed")
        extra = {}
        for item in b" ".join(lines[2].split(b" ")[2:]).split(b"\0"):
            key, _, value = re.sub(rb"\\[\\0nr]", lambda match: _UNESCAPES[match[0]], item).partition(b":")
            extra[key] = value
        return cls(manifest, extra.get(b"branch", b"default"), b"close" in extra)

    def encode(self, user: str, date: int, files: Iterable[bytes], message: str) -> bytes:
        """Write the text of a changeset."""
        extra = {**({b"close": b"1"} if self.closes else {}), b"branch": self.branch}
        if extra == {b"branch": b"default"}:
            extra = {}
        stamp = b"%d 0" % date
        if extra:
            items = [key + b":" + extra[key] for key in sorted(extra)]
            stamp += b" " + b"\0".join(re.sub(rb"[\\\0\n\r]", lambda match: _ESCAPES[match[0]], item) for item in items)
        lines = [binascii.hexlify(self.manifest), user.encode(), stamp, *sorted(files), b"", message.encode()]
        return b"\n".join(lines)


def _parse_manifest(text: bytes) -> dict[bytes, tuple[bytes, bytes]]:
    """Node and flag by path.

    Raises:
        CommandFailed: if it is malformed.
    """
    entries = {}
    end = 0
    for match in _MANIFEST_LINE.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        entries[match[1]] = (binascii.unhexlify(match[2]), match[3])
    if end != len(text):
        raise CommandFailed("a manifest in the bundle is malformed")
    return entries


def _encode_manifest(entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        b"%s\0%s%s\n" % (path, binascii.hexlify(node), flag) for path, (node, flag) in sorted(entries.items())
    )


def _encode_file(data: bytes) -> bytes:
    return _METADATA * 2 + data if data.startswith(_METADATA) else data


def _decode_file(text: bytes) -> bytes:
    """The content of a file, without the metadata between two marks that may precede it."""
    return text.split(_METADATA, 2)[2] if text.startswith(_METADATA) and text.count(_METADATA) > 1 else text


@attrs.define
class Push:
    """A changegroup as it was received."""

    changesets: list[Chunk]
    manifests: list[Chunk]
    files: list[tuple[bytes, list[Chunk]]]

    @classmethod
    def read(cls, source: Readable, limit: int) -> Push:
        reader = Reader(source, limit)
        push = cls(list(reader.group()), list(reader.group()), [])
        while (path := reader.path()) is not None:
            push.files.append((path, list(reader.group())))
        reader.end()
        return push


@attrs.define
class History:
    """Everything in a repository.  It changes only between :meth:`copy` and publication."""

    changesets: _Log = attrs.field(factory=dict)
    manifests: _Log = attrs.field(factory=dict)
    files: dict[bytes, _Log] = attrs.field(factory=dict)
    bookmarks: dict[bytes, bytes] = attrs.field(factory=dict)
    version: int = 0

    def copy(self) -> History:
        """Make a copy that may be changed.  Texts are shared."""
        files = {path: dict(log) for path, log in self.files.items()}
        return History(
            dict(self.changesets), dict(self.manifests), files, dict(self.bookmarks), version=self.version + 1
        )

    def commit(
        self,
        files: Mapping[bytes, bytes | None],
        *,
        parents: tuple[bytes, bytes],
        branch: bytes | None,
        user: str,
        date: int,
        message: str,
        close: bool,
    ) -> bytes:
        """Add a changeset; see ``MemoryRepository.commit``."""
        self.ancestors(parents)
        first, second = (self.manifest(parent) for parent in parents)
        entries = {**second, **first}
        added: list[tuple[_Log, bytes, bytes, bytes]] = []  # log, parents, text
        for path, data in files.items():
            if data is None:
                entries.pop(path, None)
                continue
            (old, flag), (other, _) = first.get(path, (NULL, b"")), second.get(path, (NULL, b""))
            if old in (NULL, other):
                old, other = other, NULL
            log, text = self.files.setdefault(path, {}), _encode_file(data)
            if old == NULL or other != NULL or log[old].text != text:
                added.append((log, old, other, text))
                old = _node(old, other, text)
            entries[path] = (old, flag)
        p1, p2 = (self.changeset(parent).manifest for parent in parents)
        if entries == first:
            manifest = p1
        else:
            text = _encode_manifest(entries)
            added.append((self.manifests, p1, p2, text))
            manifest = _node(p1, p2, text)
        changeset = Changeset(manifest, self.changeset(parents[0]).branch if branch is None else branch, close)
        changed = [path for path in files if entries.get(path) != first.get(path)]
        text = changeset.encode(user, date, changed, message)
        node = _node(*parents, text)
        added.append((self.changesets, *parents, text))
        for log, p1, p2, text in added:
            log.setdefault(_node(p1, p2, text), _Revision(p1, p2, node, text))
        return node

    def contents(self, node: bytes) -> dict[bytes, bytes]:
        """Return the contents of all files of a changeset by path."""
        return {path: _decode_file(self.files[path][file].text) for path, (file, _) in self.manifest(node).items()}

    def heads(self) -> list[bytes]:
        """Return the changesets without children, newest first; the null node if there is no changeset."""
        inner = {parent for revision in self.changesets.values() for parent in (revision.p1, revision.p2)}
        return [node for node in reversed(self.changesets) if node not in inner] or [NULL]

    def tip(self) -> bytes:
        """Return the newest changeset."""
        return next(reversed(self.changesets), NULL)

    def changeset(self, node: bytes) -> Changeset:
        revision = self.changesets.get(node)
        return Changeset(NULL, b"default", False) if revision is None else Changeset.parse(revision.text)

    def manifest(self, changeset: bytes) -> dict[bytes, tuple[bytes, bytes]]:
        """The manifest of a changeset."""
        return _parse_manifest(self.manifests.get(self.changeset(changeset).manifest, _NULL_REVISION).text)

    def ancestors(self, nodes: Iterable[bytes]) -> set[bytes]:
        """Return some changesets and their ancestors.

        Raises:
            CommandFailed: if one of them is not here.
        """
        found = set(nodes) - {NULL}
        for node in found:
            if node not in self.changesets:
                raise unknown(binascii.hexlify(node))
        for node in reversed(self.changesets):
            if node in found:
                revision = self.changesets[node]
                found |= {revision.p1, revision.p2} - {NULL}
        return found

    def between(self, roots: Sequence[bytes], heads: Iterable[bytes]) -> list[bytes]:
        """Return what a client that has the parents of ``roots`` lacks of their descendants, oldest first."""
        self.ancestors(roots)
        inner = set(roots)
        for node, revision in self.changesets.items():
            if revision.p1 in inner or revision.p2 in inner:
                inner.add(node)
        parents = (self.changesets[root] for root in inner & set(roots) - {NULL})
        outer = {parent for revision in parents for parent in (revision.p1, revision.p2)} - inner
        return self.missing(outer, heads)

    def missing(self, common: Iterable[bytes], heads: Iterable[bytes]) -> list[bytes]:
        """Return the ancestors of ``heads`` that are not ancestors of ``common``, oldest first."""
        wanted = self.ancestors(heads) - self.ancestors(common)
        return [node for node in self.changesets if node in wanted]

    def branches(self) -> dict[bytes, list[bytes]]:
        """Return the heads of each branch, oldest first: changesets without descendants on the branch."""
        covered: dict[bytes, set[bytes]] = {}
        heads: dict[bytes, list[bytes]] = {}
        for node in reversed(self.changesets):
            branch = self.changeset(node).branch
            below = covered.pop(node, set())
            if branch not in below:
                heads.setdefault(branch, []).insert(0, node)
            revision = self.changesets[node]
            for parent in {revision.p1, revision.p2} - {NULL}:
                covered.setdefault(parent, set()).update(below, [branch])
        return dict(sorted(heads.items()))

    def tags(self) -> dict[bytes, bytes]:
        """Return changesets by tag, from the ``.hgtags`` of the heads; newer heads win."""
        tags: dict[bytes, bytes] = {}
        for head in reversed(self.heads()):
            node, _ = self.manifest(head).get(b".hgtags", (NULL, b""))
            for line in _decode_file(self.files.get(b".hgtags", {}).get(node, _NULL_REVISION).text).splitlines():
                target, _, name = line.partition(b" ")
                tags[name.strip()] = unhex(target) or NULL
        return {name: node for name, node in tags.items() if node in self.changesets}

    def encode(self, nodes: Sequence[bytes]) -> Iterator[bytes]:
        """Write a changegroup of changesets, parents first, with the manifests and files that they add."""
        manifests: dict[bytes, bytes] = {}
        files: dict[bytes, dict[bytes, bytes]] = {}
        for node in nodes:
            parents = (self.changesets[node].p1, self.changesets[node].p2)
            manifest = self.changeset(node).manifest
            if manifest not in (NULL, *(self.changeset(parent).manifest for parent in parents)):
                manifests.setdefault(manifest, node)
                old = [self.manifest(parent) for parent in parents]
                for path, (file_node, _) in self.manifest(node).items():
                    if all(entries.get(path, (NULL,))[0] != file_node for entries in old):
                        files.setdefault(path, {}).setdefault(file_node, node)
        yield from encode_group(_chunks(self.changesets, {node: node for node in nodes}))
        yield from encode_group(_chunks(self.manifests, manifests))
        for path in sorted(files):
            yield encode_path(path)
            yield from encode_group(_chunks(self.files[path], files[path]))
        yield END

    def receive(self, push: Push, limit: int) -> bytes:
        """Add what was pushed.

        Returns:
            A line for the client.

        Raises:
            CommandFailed: if a hash is wrong, something is missing, or the texts exceed ``limit`` bytes.  The history
                must not be used then.
        """
        texts = _TextBudget(limit)
        for chunk in push.changesets:
            if chunk.link != chunk.node:
                raise CommandFailed("a changeset in the bundle belongs to another one")
        changesets = self._receive_log(self.changesets, push.changesets, texts)
        manifests = self._receive_log(self.manifests, push.manifests, texts)
        changed = [
            (path, added)
            for path, chunks in push.files
            if (added := self._receive_log(self.files.setdefault(path, {}), chunks, texts))
        ]
        for node in changesets:
            manifest = self.changeset(node).manifest
            if manifest != NULL and manifest not in self.manifests:
                raise CommandFailed(f"the manifest of changeset {node.hex()} is missing")
        for node in manifests:
            for path, (file_node, _) in _parse_manifest(self.manifests[node].text).items():
                if file_node not in self.files.get(path, {}):
                    raise CommandFailed("a revision of a file is missing")
        revisions = sum(len(added) for _, added in changed)
        return b"added %d changesets with %d changes to %d files\n" % (len(changesets), revisions, len(changed))

    def _receive_log(self, log: _Log, chunks: Sequence[Chunk], texts: _TextBudget) -> list[bytes]:
        """Add a group, and return the nodes that were new."""
        added = []
        base: bytes | None = None
        for chunk in chunks:
            for parent in (chunk.p1, chunk.p2):
                if parent != NULL and parent not in log:
                    raise CommandFailed("the parent of a revision is missing")
            if log is not self.changesets and chunk.link not in self.changesets:
                raise CommandFailed("the changeset of a revision is missing")
            if base is None:
                base = log.get(chunk.p1, _NULL_REVISION).text
            base = texts.spend(apply_delta(base, chunk.delta))
            if _node(chunk.p1, chunk.p2, base) != chunk.node:
                raise CommandFailed(f"the hash of revision {chunk.node.hex()} is wrong")
            if chunk.node not in log:
                log[chunk.node] = _Revision(chunk.p1, chunk.p2, chunk.link, base)
                added.append(chunk.node)
        return added


class _TextBudget:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def spend(self, text: bytes) -> bytes:
        self._left -= len(text)
        if self._left < 0:
            raise CommandFailed(f"the texts in the bundle exceed {self._limit} bytes")
        return text


def _chunks(log: _Log, links: Mapping[bytes, bytes]) -> Iterator[Chunk]:
    """The revisions in ``links``, each as a replacement of the one before it."""
    base: bytes | None = None
    for node, link in links.items():
        revision = log[node]
        if base is None:
            base = log.get(revision.p1, _NULL_REVISION).text
        yield Chunk(node, revision.p1, revision.p2, link, full_delta(len(base), revision.text))
        base = revision.text


def unknown(key: bytes) -> CommandFailed:
    """The error for an unknown revision, in Mercurial's words."""
    return CommandFailed(f"unknown revision '{key.decode('utf-8', 'surrogateescape')}'")
