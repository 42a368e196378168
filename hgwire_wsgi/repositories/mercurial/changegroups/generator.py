"""The changegroup: which revisions, in which order, and which changeset each one is linked to.

The changelog comes first.  Its texts name the manifests and the changed files, so what follows is known only when it
was read.  A revision is linked to the first changeset *sent* that has it, which may be another one than the store
names: the same file may have been added on two heads, and the client pulls one.  If all heads are pulled, the
changesets in the store are the right ones.  If not, the files' revisions are taken from the manifests.

Groups are independent of each other.  So a revlog that this generator cannot handle is left to Mercurial's, and only
that one.
"""

from __future__ import annotations

import functools
from binascii import unhexlify
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import attrs
import zstandard
from mercurial import changegroup, manifest, mdiff

from .deltas import BLOCK, FORMATS, Format, Group
from .revlogs import BASE, LINK, NODE, P1, P2, Decompress, Entry, Revlog, opened, opened_file

__all__ = ["generate"]

_END = bytes(4)
"""The empty chunk: ends a group, or the files."""

Report = Callable[[str], object]

_Selected = tuple[list[int], list[bytes]]
"""Revisions and, for each, the node of its changeset."""


def generate(
    packer: Any, common: Container[int], nodes: Sequence[bytes], by_linkrev: bool, source: bytes, report: Report
) -> Iterator[bytes]:
    """Make a changegroup.

    Args:
        packer: Mercurial's generator for this request, which makes the groups that this one does not.
        common: revision numbers of the changesets that the client has.
        nodes: the changesets to send.
        by_linkrev: whether the changesets that the store links revisions to are the right ones.
        source: why it is made, for Mercurial (``serve``).
        report: is called with the reason for each revlog that is left to Mercurial.

    Yields:
        Blocks of bytes, which together are the same as Mercurial's.

    Raises:
        mercurial.error.Error: for damaged or missing data, as Mercurial does.
    """
    return _joined(_Changegroup(packer, common, nodes, by_linkrev, source, report).blocks())


def _joined(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Put small blocks together."""
    waiting: list[bytes] = []
    size = 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= BLOCK:
            yield b"".join(waiting) if len(waiting) > 1 else block
            waiting.clear()
            size = 0
    if waiting:
        yield b"".join(waiting)


@attrs.define(eq=False)
class _Changegroup:
    """A changegroup while it is made.

    Attributes:
        nodes_by_rev: the node of each changeset that was sent, by its revision number.
        manifests: for each manifest's node, the revision number of the first changeset that has it.
        files: the paths that the changesets name.
        file_links: if the store's links are not right: for each path and node, the first changeset that has it.
    """

    packer: Any
    common: Container[int]
    nodes: Sequence[bytes]
    by_linkrev: bool
    source: bytes
    report: Report
    repo: Any = attrs.field(init=False)
    form: Format = attrs.field(init=False)
    zstd: Decompress = attrs.field(init=False, factory=lambda: zstandard.ZstdDecompressor().decompress)
    nodes_by_rev: dict[int, bytes] = attrs.field(init=False, factory=dict)
    manifests: dict[bytes, int] = attrs.field(init=False, factory=dict)
    files: set[bytes] = attrs.field(init=False, factory=set)
    file_links: dict[bytes, dict[bytes, int]] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.repo = self.packer._repo.unfiltered()
        self.form = FORMATS[self.packer.version]

    def blocks(self) -> Iterator[bytes]:
        yield from self._changelog()
        yield _END
        yield from self._manifests()
        yield _END + self.form.after_manifests
        yield from self._files()
        yield _END

    def _changelog(self) -> Iterator[bytes]:
        store = self.repo.changelog
        rev_of = store.index.rev
        self.nodes_by_rev = dict(sorted((rev_of(node), node) for node in self.nodes))
        revs, nodes = list(self.nodes_by_rev), list(self.nodes_by_rev.values())
        with opened(store) as log:
            # Old releases stored changesets as deltas.
            if group := self._group(log, revs, full=not store._storedeltachains):

                def look(rev: int, entry: Entry, data: bytes) -> None:
                    self._read_changeset(rev, data if entry[BASE] == rev else group.log.text(rev))

                yield from group.blocks(self.form, nodes, self.zstd, look)
                return
        state, deltas = self.packer._generatechangelog(store, nodes)
        yield from self._encoded(deltas)
        self.manifests = {node: rev_of(changeset) for node, changeset in state[b"manifests"].items()}
        self.files = state[b"changedfiles"]

    def _group(self, log: Revlog | None, revs: Sequence[int], *, full: bool = False) -> Group | None:
        """The group of a revlog; ``None``, and a report, if Mercurial has to make it."""
        if log is not None and (group := Group.of(log, revs, full=full)).is_plain:
            return group
        self.report("revlog format" if log is None else "flagged revisions")
        return None

    def _encoded(self, deltas: Iterator[Any]) -> Iterator[bytes]:
        """Encode a group that Mercurial makes."""
        for delta in deltas:
            yield from changegroup._revisiondeltatochunks(self.repo, delta, self.packer._builddeltaheader)

    def _read_changeset(self, rev: int, text: bytes) -> None:
        """Take the manifest and the changed files from a changeset.

        Its lines are the manifest, the user, the date, and the files; then an empty line and the message.
        """
        self.manifests.setdefault(unhexlify(text[:40]), rev)
        head = text[: text.index(b"\n\n")]
        self.files.update(head.split(b"\n")[3:])

    def _manifests(self) -> Iterator[bytes]:
        store = self.repo.manifestlog.getstorage(b"")
        rev_of = store.rev
        links = dict(sorted((rev_of(node), rev) for node, rev in self.manifests.items()))
        revs, node_of = list(links), self.nodes_by_rev
        with opened(store) as log:
            if group := self._group(log, revs):

                def look(rev: int, entry: Entry, data: bytes) -> None:
                    self._read_manifest(group.log, rev, entry, data, links[rev])

                nodes = [node_of[link] for link in links.values()]
                yield from group.blocks(self.form, nodes, self.zstd, None if self.by_linkrev else look)
                return
        order = {node: position for position, node in enumerate(node_of.values())}
        manifests = {node: node_of[rev] for node, rev in self.manifests.items()}
        found: dict[bytes, dict[bytes, bytes]] = {}
        for _tree, deltas in self.packer.generatemanifests(
            self.common, order, self.by_linkrev, manifests, found, self.source, {}
        ):
            yield from self._encoded(deltas)
        rev_of = self.repo.changelog.index.rev
        self.file_links = {
            path: {node: rev_of(changeset) for node, changeset in links.items()} for path, links in found.items()
        }

    def _read_manifest(self, log: Revlog, rev: int, entry: Entry, data: bytes, changeset: int) -> None:
        """Take file revisions from a manifest: those that differ from a parent, or all."""
        base = log.delta_parent(rev, entry)
        if base != -1 and base in (entry[P1], entry[P2]):
            text = mdiff.patchtext(data)
        else:
            text = data if entry[BASE] == rev else log.text(rev)
        for path, node, _flag in manifest.manifestdict(20, text).iterentries():
            if path in self.files:
                known = self.file_links.setdefault(path, {})
                first = known.get(node)
                if first is None or changeset < first:
                    known[node] = changeset

    def _files(self) -> Iterator[bytes]:
        repo = self.repo
        svfs, radix_of = repo.svfs, getattr(repo.store, "filelog_radix_for_reading", b"data/%s".__mod__)
        select = self._by_linkrev if self.by_linkrev else self._by_manifests
        for path in sorted(self.files):
            with opened_file(svfs, radix_of(path), functools.partial(repo.file, path)) as log:
                selected = None if log is None else select(log, path)
                revs, links = selected or ([], [])
                if selected is not None and not revs:
                    continue
                if group := self._group(log, revs):
                    yield (len(path) + 4).to_bytes(4, "big") + path
                    yield from group.blocks(self.form, links, self.zstd)
                    yield _END
                else:
                    yield from self._file_by_mercurial(path)

    def _by_linkrev(self, log: Revlog, path: bytes) -> _Selected:
        """The revisions of a file to send, and their changesets, as the store links them."""
        node_of, index = self.nodes_by_rev, log.index
        links = {rev: node_of[link] for rev in log.revs() if (link := index[rev][LINK]) in node_of}
        return list(links), list(links.values())

    def _by_manifests(self, log: Revlog, path: bytes) -> _Selected | None:
        """The revisions of a file to send, and their changesets, from the manifests; ``None`` if one is missing."""
        index, node_of, common = log.index, self.nodes_by_rev, self.common
        wanted = self.file_links.get(path, {})
        links = {}
        for rev in log.revs():
            entry = index[rev]
            changeset = wanted.get(entry[NODE])
            if changeset is not None:
                links[rev] = changeset
        if len(links) != len(wanted):
            return None
        sent = {
            rev: node_of[changeset]
            for rev, changeset in links.items()
            if (link := index[rev][LINK]) in node_of or link not in common
        }
        return list(sent), list(sent.values())

    def _file_by_mercurial(self, path: bytes) -> Iterator[bytes]:
        node_of = self.nodes_by_rev
        links = {node: node_of[rev] for node, rev in self.file_links.get(path, {}).items()}
        groups = self.packer.generatefiles(
            [path], self.common, self.source, None, self.by_linkrev, {path: links}, node_of.keys()
        )
        for name, deltas in groups:
            yield (len(name) + 4).to_bytes(4, "big") + name
            yield from self._encoded(deltas)
            yield _END
