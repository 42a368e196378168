"""Histories that make the cases of a changegroup, each small and with one thing in it.

Mercurial itself commits them, in this process and from memory (about one millisecond for a changeset); contents come
from generators with a fixed seed, so every history is the same in each run.  ``HISTORIES`` has a function for each;
:func:`build` makes the repository.  ``changegroup_formats.py`` copies one to other formats.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from mercurial import context, hg, obsolete, phases
from mercurial import ui as uimod

__all__ = ["HISTORIES", "NULL", "Builder", "build", "make_ui", "open_repository"]

NULL = bytes(20)
"""The node of no revision."""

_CONFIG = {
    "ui.quiet": "yes",
    "ui.username": "A. U. Thor <author@example.com>",
    "experimental.evolution": "all",
    # Formats that Mercurial otherwise writes only with its extensions in Rust.
    "storage.dirstate-v2.slow-path": "allow",
    "storage.fileindex.slow-path": "allow",
    "storage.revlog.persistent-nodemap.slow-path": "allow",
}


def make_ui(config: Mapping[str, str] | None = None) -> Any:
    """A ``ui`` with no settings of the user or the machine, besides these.

    Args:
        config: ``section.name`` and value.
    """
    made = uimod.ui.load()
    for key, value in {**_CONFIG, **(config or {})}.items():
        section, _, name = key.partition(".")
        made.setconfig(section.encode(), name.encode(), value.encode(), b"tests")
    return made


def open_repository(path: Path, config: Mapping[str, str] | None = None, *, create: bool = False) -> Any:
    """A new repository object, which has nothing cached.

    Args:
        path: the repository.
        config: see :func:`make_ui`.
        create: make the repository first.
    """
    return hg.repository(make_ui(config), os.fsencode(path), create=create)


@attrs.frozen
class Copied:
    """A file with a record of where it was copied from.

    Attributes:
        source: path of the source, in the first parent or in the second one.
        data: its contents.
    """

    source: bytes
    data: bytes


@attrs.frozen
class Flagged:
    """A file that is executable (``x``) or a symbolic link (``l``).

    Attributes:
        data: its contents, or the target of the link.
        flag: one letter.
    """

    data: bytes
    flag: str


Change = bytes | Copied | Flagged | None
"""What a changeset does to a file; ``None`` removes it."""


@attrs.define
class Builder:
    """Commits to a repository.

    Attributes:
        repo: the repository, unfiltered.
        random: of this history.
        nodes: all changesets in the order of their commits.
    """

    repo: Any
    random: random.Random
    nodes: list[bytes] = attrs.field(factory=list)
    _files: dict[bytes, dict[bytes, Change]] = attrs.field(factory=lambda: {NULL: {}})

    def commit(
        self,
        changes: Mapping[bytes, Change] | None = None,
        *,
        parent: bytes | None = None,
        merged: bytes = NULL,
        take: Sequence[bytes] = (),
        branch: bytes = b"default",
        message: bytes | None = None,
        **extra: bytes,
    ) -> bytes:
        """Commit and return the new changeset.

        Args:
            changes: what becomes of files, compared with the first parent.
            parent: the first parent; by default the changeset that was committed last.
            merged: the second parent.  Files that the first one lacks are taken from it.
            take: further files to take from the second parent.
            branch: its branch.
            message: the description; by default the number of the changeset.
            extra: further entries, such as ``close``.
        """
        if parent is None:
            parent = self.nodes[-1] if self.nodes else NULL
        first, second = self._files[parent], self._files[merged]
        wanted = {path: second[path] for path in second if path not in first or path in take}
        wanted.update(changes or {})
        number = len(self.nodes)

        def file(repo: Any, memory: Any, path: bytes) -> Any:
            change = wanted[path]
            if change is None:
                return None
            flag = change.flag if isinstance(change, Flagged) else ""
            return context.memfilectx(
                repo,
                memory,
                path,
                change if isinstance(change, bytes) else change.data,
                islink=flag == "l",
                isexec=flag == "x",
                copysource=change.source if isinstance(change, Copied) else None,
            )

        made = context.memctx(
            self.repo,
            (parent, merged),
            b"number %d" % number if message is None else message,
            list(wanted),
            file,
            date=b"%d 0" % (1_000_000_000 + 60 * number),
            extra={b"branch": branch, **{name.encode(): value for name, value in extra.items()}},
        )
        node: bytes = self.repo.commitctx(made)
        self.nodes.append(node)
        # Where a copy came from belongs to the changeset that made it.
        plain = {path: change.data if isinstance(change, Copied) else change for path, change in wanted.items()}
        self._files[node] = {path: change for path, change in {**first, **plain}.items() if change is not None}
        return node

    def files(self, node: bytes) -> dict[bytes, Change]:
        """The files of a changeset."""
        return self._files[node]

    def lines(self, count: int) -> bytes:
        """Text of so many lines, which does not repeat itself."""
        return b"".join(b"%016x %d\n" % (self.random.getrandbits(64), number) for number in range(count))

    def edit(self, text: bytes, changes: int = 1) -> bytes:
        """Replace so many lines of a text."""
        lines = text.splitlines(keepends=True) or [b""]
        for _ in range(changes):
            lines[self.random.randrange(len(lines))] = self.lines(1)
        return b"".join(lines)

    def phase(self, phase: int, *nodes: bytes) -> None:
        """Move changesets to another phase."""
        with self.repo.lock(), self.repo.transaction(b"phase") as tr:
            phases.advanceboundary(self.repo, tr, phase, list(nodes))
            phases.retractboundary(self.repo, tr, phase, list(nodes))

    def obsolete(self, old: bytes, *new: bytes) -> None:
        """Record that some changesets replace another one, or that it was pruned."""
        with self.repo.lock(), self.repo.transaction(b"obsolete"):
            obsolete.createmarkers(self.repo, [((self.repo[old],), tuple(self.repo[each] for each in new))])


def _straight(make: Builder) -> None:
    """One line of changesets, a few files, an edit in each."""
    texts = {b"folder/file%d" % number: make.lines(30) for number in range(6)}
    make.commit(texts)
    for number in range(60):
        path = b"folder/file%d" % (number % 6)
        texts[path] = make.edit(texts[path])
        make.commit({path: texts[path]})


def _merges(make: Builder) -> None:
    """Two lines that merge each other again and again, and merges of merges."""
    left = right = make.commit({b"a": make.lines(40), b"b": make.lines(40), b"c": make.lines(5)})
    for number in range(12):
        left = make.commit({b"a": _edited(make, left, b"a"), b"l%d" % number: make.lines(3)}, parent=left)
        right = make.commit({b"b": _edited(make, right, b"b"), b"r%d" % number: make.lines(3)}, parent=right)
        both = make.commit({b"c": _edited(make, left, b"c")}, parent=left, merged=right, take=[b"b"])
        other = make.commit({b"c": _edited(make, right, b"c")}, parent=right, merged=left, take=[b"a"])
        left, right = (both, other) if number % 3 else (other, both)
    make.commit(parent=left, merged=right)


def _edited(make: Builder, node: bytes, path: bytes) -> bytes:
    text = make.files(node)[path]
    assert isinstance(text, bytes)
    return make.edit(text)


def _renames(make: Builder) -> None:
    """Renames, copies, a rename that is renamed back, copies across a merge, a removed file that returns."""
    text = make.lines(30)
    make.commit({b"old": text, b"other": make.lines(10)})
    for number in range(8):
        name, before = b"name%d" % number, b"name%d" % (number - 1) if number else b"old"
        text = make.edit(text, number % 2)
        make.commit({name: Copied(before, text), before: None})
    fork = make.commit({b"copy1": Copied(b"name7", text), b"copy2": Copied(b"name7", make.edit(text))})
    side = make.commit({b"side": Copied(b"other", make.lines(4))}, parent=fork)
    main = make.commit({b"other": None, b"copy1": make.edit(text)}, parent=fork)
    make.commit({b"fromside": Copied(b"side", make.lines(6))}, parent=main, merged=side)
    make.commit({b"old": Copied(b"name7", text), b"name7": None})
    make.commit({b"other": make.lines(10)})
    make.commit({b"other": None})
    make.commit({b"other": make.lines(10)})


def _branches(make: Builder) -> None:
    """Forty named branches, most of them open heads, some closed, some merged."""
    root = make.commit({b"main": make.lines(20), b"shared": make.lines(20)})
    tips = []
    for number in range(40):
        start = root if not tips or make.random.random() < 0.5 else make.random.choice(tips)
        name = b"branch %d" % number
        changes = {b"shared": _edited(make, start, b"shared"), b"files/%d" % number: make.lines(2)}
        tips.append(make.commit(changes, parent=start, branch=name))
        if number % 4 == 0:
            tips.append(make.commit(parent=tips[-1], branch=name, close=b"1"))
    for _ in range(6):
        one, two = make.random.sample(tips, 2)
        tips.append(make.commit({b"main": make.edit(make.lines(20))}, parent=one, merged=two))


def _emptied(make: Builder) -> None:
    """Empty manifests: before the first file, after the last one, and on another head; changesets without files."""
    empty = make.commit(message=b"nothing yet")
    make.commit(message=b"still nothing")
    make.commit({b"a": b"a\n", b"b": b"b\n"})
    full = make.commit(message=b"no change")
    make.commit({b"a": None, b"b": None})
    make.commit(message=b"nothing left")
    make.commit({b"a": b"a\n"})
    make.commit({b"a": None})
    make.commit({b"a": b"a\n", b"c": b"c\n"}, parent=empty)
    make.commit({b"a": None, b"b": None}, parent=full)
    make.commit(parent=full, message=b"another with the same manifest", branch=b"same")
    make.commit({b"z": b"z\n"}, parent=NULL)
    make.commit(parent=NULL, message=b"a second root")


def _binary(make: Builder) -> None:
    """Binary files of up to two megabytes, with small changes and with none in common."""
    blob = make.random.randbytes(2_000_000)
    other = make.random.randbytes(300_000)
    make.commit({b"large": blob, b"middle": other, b"small": bytes(range(256))})
    for number in range(4):
        at = make.random.randrange(len(blob))
        blob = blob[:at] + make.random.randbytes(100) + blob[at + number * 30 :]
        make.commit({b"large": blob})
    make.commit({b"middle": make.random.randbytes(300_000)})
    make.commit({b"middle": bytes(400_000)})
    make.commit({b"middle": other})
    make.commit({b"large": blob[: len(blob) // 2]}, parent=make.nodes[2])


def _chains(make: Builder) -> None:
    """Long chains of deltas: many small edits of one text, with another one that is rewritten each time."""
    text = make.lines(400)
    make.commit({b"edited": text, b"rewritten": make.lines(3)})
    for number in range(250):
        text = make.edit(text)
        make.commit({b"edited": text} if number % 10 else {b"edited": text, b"rewritten": make.lines(3)})
    fork = make.nodes[100]
    for _ in range(20):
        fork = make.commit({b"edited": _edited(make, fork, b"edited")}, parent=fork)


def _snapshots(make: Builder) -> None:
    """A manifest of several hundred files of which each changeset removes or brings back many, on several heads."""
    files = {b"package%d/module%03d.txt" % (number % 7, number): make.lines(1) for number in range(500)}
    tips = [make.commit(files)]
    for number in range(70):
        if number % 9 == 8:
            tips.append(make.random.choice(make.nodes))
        at = make.random.randrange(len(tips))
        there = make.files(tips[at])
        chosen = make.random.sample(sorted(files), 150 if number % 5 else 4)
        tips[at] = make.commit({path: None if path in there else files[path] for path in chosen}, parent=tips[at])


def _hidden(make: Builder) -> None:
    """Public, draft and secret changesets, obsolete ones, and orphans on them."""
    text = make.lines(30)
    base = make.commit({b"a": text, b"b": make.lines(3)})
    for _ in range(4):
        text = make.edit(text)
        base = make.commit({b"a": text})
    make.phase(phases.public, base)
    heads = []
    for number in range(6):
        made = make.commit({b"a": make.edit(text), b"f%d" % number: make.lines(4)}, parent=base)
        heads.append(make.commit({b"f%d" % number: make.lines(5)}, parent=made))
    make.phase(phases.secret, heads[1])
    rewritten = make.commit({b"a": text, b"f2": make.lines(9)}, parent=base)
    make.obsolete(heads[2], rewritten)
    make.obsolete(heads[3])
    replaced = make.commit({b"b": make.lines(3)}, parent=base)
    make.commit({b"c": make.lines(3)}, parent=replaced)  # an orphan: its parent becomes obsolete, but stays visible
    make.obsolete(replaced, make.commit({b"b": make.lines(4)}, parent=base))
    make.commit({b"b": make.lines(5)}, parent=heads[0], merged=heads[4])
    make.phase(phases.secret, make.commit({b"s": make.lines(3)}, parent=heads[5]))
    make.commit({b"s": make.lines(3)}, parent=heads[5])


def _reused(make: Builder) -> None:
    """Nodes that several changesets share: the same edit on two heads, changes taken back, one manifest twice."""
    text, edit = make.lines(20), make.lines(20)
    root = make.commit({b"f": text, b"g": text})
    one = make.commit({b"f": edit}, parent=root, message=b"the edit")
    make.commit({b"f": edit}, parent=root, message=b"the edit, on another head")
    make.commit({b"f": edit, b"h": b"h\n"}, parent=root, message=b"and with more")
    back = make.commit({b"f": text}, parent=one, message=b"taken back")
    again = make.commit({b"f": text}, parent=one, message=b"taken back on another head", branch=b"again")
    make.commit({b"f": edit}, parent=back)
    make.commit({b"f": edit}, parent=again)
    for number in range(6):
        start = make.random.choice(make.nodes)
        made = make.commit({b"g": b"%d\n" % (number % 2)}, parent=start, branch=b"b%d" % number)
        make.commit({b"g": make.files(start)[b"g"]}, parent=made, branch=b"b%d" % number)
    make.commit(parent=back, merged=again)
    make.commit({b"f": None, b"new": edit}, parent=root)
    make.commit({b"f": None, b"new": edit}, parent=one)


def _foreign(make: Builder) -> None:
    """Revisions that several heads added independently, so most heads lack the changeset they are linked to."""
    text = make.lines(25)
    root = make.commit({b"base": text})
    for head in range(8):
        node = make.commit({b"own%d" % head: b"%d\n" % head}, parent=root, branch=b"h%d" % head)
        for step in range(4):
            # The same contents on each head, so the revisions are the same ones, in another order.
            shift = (step + head) % 4
            node = make.commit({b"common%d" % shift: b"line\n" * (shift + 1)}, parent=node, branch=b"h%d" % head)
        node = make.commit({b"base": text + b"the end\n"}, parent=node, branch=b"h%d" % head)
        if head % 2:
            make.commit({b"base": text + b"the end\n" * head}, parent=node, branch=b"h%d" % head)


def _names(make: Builder) -> None:
    """Empty files, contents that look like metadata, flags, and names that the store has to encode."""
    odd = [
        *(b"UPPER/Case.TXT", b"aux", b"con.txt", b"trailing.", b" space ", b".hidden/.file", b"data/x.i/y.d/z.hg/w"),
        *("Straße/ключ".encode(), b"latin\xe9", b"tilde~7e", b"colon:?*<>|", b"under__score"),
        *(b"long/" + b"x" * 200, b"deep/" + b"/".join([b"folder%d" % number for number in range(30)]) + b"/File"),
    ]
    make.commit({path: make.lines(2) for path in odd})
    make.commit({b"empty": b"", b"marked": b"\1\n", b"meta": b"\1\ncopy: x\n\1\nrest\n"})
    make.commit({b"marked": b"\1\n\1\n", b"meta": Copied(b"marked", b"\1\nnot metadata\n")})
    make.commit({b"empty": b"now it is not\n", b"emptied": Copied(b"empty", b"")})
    make.commit({b"empty": b"", b"script": Flagged(b"#!/bin/sh\n", "x"), b"link": Flagged(b"script", "l")})
    make.commit({b"script": b"#!/bin/sh\n", b"link": b"script"})
    make.commit({b"one": b"\n", b"binary": b"\0\1\n\0"})
    make.commit({path: make.lines(3) for path in odd[::2]}, message="Größe — 大小".encode(), note=b"a\\b\0c\nd:e")
    make.commit(dict.fromkeys(odd[::3]))
    make.commit({b"empty": None, b"EMPTY": b""})


def _amended(make: Builder) -> None:
    """Changesets that were amended, some several times, with children that were rebased after them."""
    text = make.lines(30)
    tip = make.commit({b"a": text})
    for number in range(8):
        text = make.edit(text)
        first = made = make.commit({b"a": text, b"n%d" % number: make.lines(2)}, parent=tip)
        child = make.commit({b"child": make.lines(5)}, parent=first)
        for version in range(number % 3 + 1):
            text = make.edit(text)
            changed = make.commit(
                {b"a": text, b"n%d" % number: make.lines(2)},
                parent=tip,
                message=b"amended %d" % version,
                amend_source=made.hex().encode(),
            )
            make.obsolete(made, changed)
            made = changed
        rebased = make.commit({b"child": make.files(child)[b"child"]}, parent=made, rebase_source=child.hex().encode())
        make.obsolete(child, rebased)
        tip = rebased if number % 2 else made


def _random(make: Builder) -> None:
    """A graph with no plan: commits, merges, copies, removals and repeated contents at random places."""
    make.commit({b"f%d" % number: make.lines(5) for number in range(8)})
    texts = [make.lines(5) for _ in range(4)]
    for number in range(150):
        start = make.random.choice(make.nodes[-12:])
        there = sorted(make.files(start))
        kind = make.random.random()
        if kind < 0.15:
            other = make.random.choice(make.nodes[-12:])
            make.commit(parent=start, merged=other if other != start else NULL, take=make.random.sample(there, 1))
            continue
        changes: dict[bytes, Change] = {}
        for _ in range(make.random.randint(0, 3)):
            path = make.random.choice(there) if there else b"f0"
            if kind < 0.3:
                changes[path] = make.random.choice(texts)
            elif kind < 0.4 and there:
                changes[path] = None
            elif kind < 0.5 and there:
                changes[b"copy%d" % number] = Copied(path, make.lines(4))
            elif kind < 0.6:
                changes[b"f%d" % make.random.randrange(20)] = make.random.choice(texts)
            else:
                changes[path] = make.edit(make.lines(6))
        make.commit(changes, parent=start)


HISTORIES: dict[str, Callable[[Builder], None]] = {
    function.__name__.strip("_"): function
    for function in (
        *(_straight, _merges, _renames, _branches, _emptied, _binary, _chains, _snapshots),
        *(_hidden, _reused, _foreign, _names, _amended, _random),
    )
}
"""What makes each history, by name."""


def build(name: str, path: Path, config: Mapping[str, str] | None = None) -> None:
    """Make the repository of a history.

    Args:
        name: a key of ``HISTORIES``.
        path: where; it must not exist.
        config: see :func:`make_ui`.
    """
    repo = open_repository(path, config, create=True).unfiltered()
    with repo.wlock(), repo.lock(), repo.transaction(b"history"):
        HISTORIES[name](Builder(repo, random.Random(name)))
