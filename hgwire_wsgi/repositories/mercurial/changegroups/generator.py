"""The changegroup: which revisions, in which order, and which changeset each one is linked to.

The changelog comes first.  Its texts name the manifests and the changed files, so what follows is known only when it
was read.  A revision is linked to the first changeset *sent* that has it, which may be another one than the store
names: the same file may have been added on two heads, and the client pulls one.  If all heads are pulled, the
changesets in the store are the right ones.  If not, the files' revisions are taken from the manifests.

Groups are independent of each other.  So a revlog that this generator cannot handle is left to Mercurial's, and only
that one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from binascii import unhexlify
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from typing import Any

import attrs
import zstandard
from mercurial import changegroup, error, manifest, mdiff

from .deltas import BLOCK, FORMATS, Decompress, Format, Group, Look
from .revlogs import BASE, LINK, P1, P2, Entry, Revlog, Surprise, opened, opened_file

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
    try:
        for block in blocks:
            size += len(block)
            if size < BLOCK:
                waiting.append(block)
                continue
            # A long one is not copied.
            if waiting:
                yield b"".join(waiting)
                waiting.clear()
            yield block
            block, size = b"", 0
    except Exception:
        # What Mercurial sends before its error, too.
        if waiting:
            yield b"".join(waiting)
        raise
    if waiting:
        yield b"".join(waiting)


@attrs.define(eq=False)
class _Changegroup:
    """A changegroup while it is made.

    Attributes:
        nodes_by_rev: the node of each changeset that was sent, by its revision number.
        manifests: for each manifest's node, the revision number of the first changeset that has it.
        changesets: the same, by the manifest's revision number, ascending.
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
    changesets: dict[int, int] = attrs.field(init=False, factory=dict)
    files: set[bytes] = attrs.field(init=False, factory=set)
    file_links: dict[bytes, dict[bytes, int]] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.repo = self.packer._repo.unfiltered()
        self.form = FORMATS[self.packer.version]
        if self.form.detailed:
            self.form = attrs.evolve(self.form, accepted=self.packer._accepted_compression)

    def blocks(self) -> Iterator[bytes]:
        # A damaged one is reported before anything is sent, as Mercurial does.
        _ = self.repo.changelog, self.repo.manifestlog
        yield from self._changelog()
        yield _END
        yield from self._manifests()
        yield _END + self.form.after_manifests
        yield from self._files()
        yield _END

    def _changelog(self) -> Iterator[bytes]:
        if not self.nodes:
            return
        store = self.repo.changelog
        rev_of = store.index.rev
        revs, nodes = list(map(rev_of, self.nodes)), self.nodes
        self.nodes_by_rev = dict(zip(revs, nodes, strict=True))
        if not all(map(operator.lt, revs, itertools.islice(revs, 1, None))):
            # Old commands name them in any order, and more than once.
            self.nodes_by_rev = dict(sorted(self.nodes_by_rev.items()))
            revs, nodes = list(self.nodes_by_rev), list(self.nodes_by_rev.values())
        with opened(store) as log:
            # Old releases stored changesets as deltas.
            group = self._group(log, revs, full=not store._storedeltachains)
            done = yield from self._made(group, nodes, self._read_changeset)
        if done is None:
            return
        state, deltas = self.packer._generatechangelog(store, self.nodes)
        yield from self._encoded(deltas, done)
        self.manifests = {node: rev_of(changeset) for node, changeset in state[b"manifests"].items()}
        self.files = state[b"changedfiles"]

    def _group(self, log: Revlog | None, revs: Sequence[int], *, full: bool = False) -> Group | None:
        """The group of a revlog; ``None``, and a report, if Mercurial has to make it."""
        if log is not None:
            with contextlib.suppress(Surprise):
                return Group.of(log, self.form, revs, full=full)
        self.report("revlog format")
        return None

    def _made(
        self, group: Group | None, links: Sequence[bytes], look: Look | None = None
    ) -> Generator[bytes, None, int | None]:
        """Make a group as far as possible.

        Returns:
            If Mercurial has to make the rest: how many revisions were sent.
        """
        if group is None:
            return 0
        try:
            yield from group.blocks(links, self.zstd, look)
        except Surprise:
            self.report("flags or damage")
            return group.sent
        return None

    def _encoded(self, deltas: Iterable[Any], done: int) -> Iterator[bytes]:
        """Encode a group that Mercurial makes, except for the first revisions."""
        # Only version 04 has full texts, and before Mercurial 7.2, the function has no argument for them.
        options = {"full_text_support": True} if self.form.detailed else {}
        for delta in itertools.islice(deltas, done, None):
            yield from changegroup._revisiondeltatochunks(self.repo, delta, self.packer._builddeltaheader, **options)

    def _read_changeset(self, log: Revlog, rev: int, entry: Entry, data: bytes) -> None:
        """Take the manifest and the changed files from a changeset.

        Its lines are the manifest, the user, the date, and the files; then an empty line and the message.

        Raises:
            ValueError: if they are not.
        """
        text = data if entry[BASE] == rev else log.text(rev)
        manifest, _, _, rest = text.split(b"\n", 3)
        self.manifests.setdefault(unhexlify(manifest), rev)
        if rest[:1] != b"\n":
            self.files.update(rest[: rest.index(b"\n\n")].split(b"\n"))

    def _manifests(self) -> Iterator[bytes]:
        if not self.manifests:
            return
        store = self.repo.manifestlog.getstorage(b"")
        with contextlib.suppress(error.RevlogError):
            revs = map(store._revlog.index.rev, self.manifests)
            self.changesets = dict(sorted(zip(revs, self.manifests.values(), strict=True)))
        is_complete = len(self.changesets) == len(self.manifests)
        node_of = self.nodes_by_rev
        with opened(store) as log:
            group = self._group(log if is_complete else None, list(self.changesets))
            nodes = [node_of[rev] for rev in self.changesets.values()]
            done = yield from self._made(group, nodes, None if self.by_linkrev else self._read_manifest)
        if done is None:
            return
        order = {node: position for position, node in enumerate(node_of.values())}
        manifests = {node: node_of[rev] for node, rev in self.manifests.items()}
        found: dict[bytes, dict[bytes, bytes]] = {}
        for _tree, deltas in self.packer.generatemanifests(
            self.common, order, self.by_linkrev, manifests, found, self.source, {}
        ):
            yield from self._encoded(deltas, done)
        rev_of = self.repo.changelog.index.rev
        self.file_links = {
            path: {node: rev_of(changeset) for node, changeset in links.items()} for path, links in found.items()
        }

    def _read_manifest(self, log: Revlog, rev: int, entry: Entry, data: bytes) -> None:
        """Take file revisions from a manifest: those that differ from a parent, or all."""
        changeset = self.changesets[rev]
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
            done: int | None = None
            with opened_file(svfs, radix_of(path), functools.partial(repo.file, path)) as log:
                selected = None if log is None else select(log, path)
                if selected is not None:
                    revs, links = selected
                    if not revs:
                        continue
                    yield (len(path) + 4).to_bytes(4, "big") + path
                    done = yield from self._made(self._group(log, revs), links)
            if selected is None or done is not None:
                yield from self._file_by_mercurial(path, done)
            else:
                yield _END

    def _by_linkrev(self, log: Revlog, path: bytes) -> _Selected:
        """The revisions of a file to send, and their changesets, as the store links them."""
        node_of, links = self.nodes_by_rev, log.links()
        revs = [rev for rev, link in enumerate(links) if link in node_of]
        return revs, [node_of[links[rev]] for rev in revs]

    def _by_manifests(self, log: Revlog, path: bytes) -> _Selected | None:
        """The revisions of a file to send, and their changesets, from the manifests; ``None`` if one is missing."""
        index, node_of, common = log.index, self.nodes_by_rev, self.common
        rev_of = index.get_rev
        sent = []
        for node, changeset in self.file_links.get(path, {}).items():
            rev = rev_of(node)
            if rev is None:
                return None
            if (link := index[rev][LINK]) in node_of or link not in common:
                sent.append((rev, node_of[changeset]))
        sent.sort()
        return [rev for rev, _ in sent], [link for _, link in sent]

    def _file_by_mercurial(self, path: bytes, done: int | None) -> Iterator[bytes]:
        """Let Mercurial make the group of a file.

        Args:
            path: of the file.
            done: how many revisions were sent, after the name; ``None`` if the name was not sent.
        """
        node_of = self.nodes_by_rev
        links = {node: node_of[rev] for node, rev in self.file_links.get(path, {}).items()}
        groups = self.packer.generatefiles(
            [path], self.common, self.source, None, self.by_linkrev, {path: links}, node_of.keys()
        )
        for name, deltas in groups:
            if done is None:
                yield (len(name) + 4).to_bytes(4, "big") + name
            yield from self._encoded(deltas, done or 0)
            yield _END
