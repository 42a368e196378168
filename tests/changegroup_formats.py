"""The formats that Mercurial 7.0 to 7.2 can write, and copies of histories in each of them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from changegroup_histories import NULL, build, make_ui, open_repository
from mercurial import changegroup, configitems, discovery, hg, revlog

__all__ = ["FORMATS", "Format", "Workshop"]

UNSTABLE = "enable-unstable-format-and-corrupt-my-data"


@attrs.frozen(kw_only=True)
class Format:
    """How a repository is written.

    Attributes:
        config: settings for those who create the repository and write to it.
        has: requirements that the repository then has.
        lacks: requirements that it then lacks.
        drop: requirements to remove right after it was created: no setting omits them any more.
        native: compute all deltas anew, instead of storing those of the bundle.
        rebuilt: commit the history in it: its changesets or manifests differ from those of the other formats.
        inline: the size in bytes at which a revlog is split into index and data; ``None`` for Mercurial's limit.
        aside: whether Mercurial's own generator makes some revlogs.
        reason: why it makes everything when a client asks, if it does.
        shared: make a share of a repository of the usual format: ``store``, or ``bookmarks`` to share these too.
    """

    config: Mapping[str, str] = attrs.field(factory=dict)
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()
    native: bool = False
    rebuilt: bool = False
    inline: int | None = None
    aside: bool = False
    reason: str = ""
    shared: str = ""

    @property
    def ours(self) -> bool:
        """Whether our generator can make its changegroups, even if it is not asked to."""
        return self.reason != "tree manifests"

    @property
    def known(self) -> bool:
        """Whether this version of Mercurial has all its settings."""
        items = configitems.coreitems
        names = (key.partition(".") for key in self.config)
        return all(name.encode() in items.get(section.encode(), {}) for section, _, name in names)


_FLAT = {"format.usegeneraldelta": "no", "format.sparse-revlog": "no"}

FORMATS: dict[str, Format] = {
    "usual": Format(has=frozenset({"generaldelta", "sparserevlog", "share-safe", "store", "fncache", "dotencode"})),
    "native deltas": Format(native=True),
    "committed": Format(rebuilt=True),
    "zstd": Format(config={"format.revlog-compression": "zstd"}, has=frozenset({"revlog-compression-zstd"})),
    "zlib": Format(config={"format.revlog-compression": "zlib"}, lacks=frozenset({"revlog-compression-zstd"})),
    "zlib, native deltas": Format(
        config={"format.revlog-compression": "zlib"}, lacks=frozenset({"revlog-compression-zstd"}), native=True
    ),
    "not compressed": Format(
        config={"format.revlog-compression": "none"}, has=frozenset({"exp-compression-none"}), native=True
    ),
    "all split": Format(inline=0),
    "all split, native deltas": Format(inline=0, native=True),
    "all inline": Format(inline=1 << 30),
    "not sparse": Format(config={"format.sparse-revlog": "no"}, lacks=frozenset({"sparserevlog"}), native=True),
    "not general": Format(config=_FLAT, lacks=frozenset({"generaldelta", "sparserevlog"})),
    "not general, native deltas": Format(config=_FLAT, lacks=frozenset({"generaldelta"}), native=True, inline=0),
    "short chains": Format(config={"format.maxchainlen": "4"}, native=True),
    "delta information, 7.1": Format(
        config={"format.exp-use-delta-info-flags": "yes"},
        has=frozenset({"exp-delta-info-revlog"}),
        native=True,
        aside=True,
        reason="unknown requirement",
    ),
    "delta information": Format(
        config={"format.use-delta-info-flags": "yes"},
        has=frozenset({"delta-info-revlog"}),
        native=True,
    ),
    "delta information, not compressed": Format(
        config={"format.use-delta-info-flags": "yes", "format.revlog-compression": "none"},
        has=frozenset({"delta-info-revlog", "exp-compression-none"}),
    ),
    "flag for metadata, 7.1": Format(
        config={"format.exp-use-hasmeta-flag": "yes"}, native=True, aside=True, reason="unknown requirement"
    ),
    "not safe to share": Format(config={"format.use-share-safe": "no"}, lacks=frozenset({"share-safe"})),
    "persistent nodemap": Format(
        config={"format.use-persistent-nodemap": "yes"}, has=frozenset({"persistent-nodemap"}), inline=0
    ),
    "dirstate": Format(config={"format.use-dirstate-v2": "yes"}, has=frozenset({"dirstate-v2"})),
    "other files": Format(
        config={
            "format.bookmarks-in-store": "yes",
            "format.use-dirstate-tracked-hint": "yes",
            "format.use-internal-phase": "yes",
            "format.exp-archived-phase": "yes",
        },
        has=frozenset({"bookmarksinstore", "internal-phase-2", "exp-archived-phase"}),
    ),
    "file index": Format(config={"format.use-fileindex-v1": "yes"}, has=frozenset({"fileindex-v1"})),
    "file index, plain encoding": Format(
        config={
            "format.use-fileindex-v1": "yes",
            "format.exp-use-very-fragile-and-unsafe-plain-store-encoding": "yes",
        },
        has=frozenset({"fileindex-v1", "exp-very-fragile-and-unsafe-plain-store-encoding"}),
    ),
    "plain encoding": Format(
        config={
            "format.exp-use-very-fragile-and-unsafe-plain-store-encoding": "yes",
            "format.dotencode": "no",
        },
        has=frozenset({"exp-very-fragile-and-unsafe-plain-store-encoding"}),
        lacks=frozenset({"dotencode"}),
    ),
    "Mercurial 1.1": Format(
        config={**_FLAT, "format.dotencode": "no", "format.use-share-safe": "no", "format.revlog-compression": "zlib"},
        has=frozenset({"fncache", "store"}),
        lacks=frozenset({"dotencode", "generaldelta"}),
        native=True,
    ),
    "Mercurial 0.9.2": Format(
        config={**_FLAT, "format.usefncache": "no", "format.use-share-safe": "no", "format.revlog-compression": "zlib"},
        has=frozenset({"store"}),
        lacks=frozenset({"fncache", "generaldelta"}),
        native=True,
    ),
    "without a store": Format(
        config={**_FLAT, "format.usestore": "no", "format.use-share-safe": "no", "format.revlog-compression": "zlib"},
        lacks=frozenset({"store", "generaldelta"}),
        native=True,
    ),
    "revlogs of version 0": Format(
        config={**_FLAT, "format.usestore": "no", "format.use-share-safe": "no", "format.revlog-compression": "zlib"},
        lacks=frozenset({"store", "generaldelta", "revlogv1"}),
        drop=frozenset({"revlogv1"}),
        aside=True,
    ),
    "shared": Format(shared="store"),
    "shared with bookmarks": Format(shared="bookmarks"),
    "changelog of version 2": Format(
        config={"format.exp-use-changelog-v2": UNSTABLE},
        has=frozenset({"exp-changelog-v2"}),
        aside=True,
        reason="side data",
    ),
    "copies in changesets": Format(
        config={
            "format.exp-use-changelog-v2": UNSTABLE,
            "format.exp-use-copies-side-data-changeset": "yes",
        },
        has=frozenset({"exp-copies-sidedata-changeset"}),
        rebuilt=True,
        aside=True,
        reason="side data",
    ),
    "revlogs of version 2": Format(
        config={"experimental.revlogv2": UNSTABLE},
        has=frozenset({"exp-revlogv2.2"}),
        aside=True,
        reason="side data",
    ),
    "a manifest per folder": Format(
        config={"experimental.treemanifest": "yes"},
        has=frozenset({"treemanifest"}),
        rebuilt=True,
        reason="tree manifests",
    ),
}
"""The formats that Mercurial can write, by name."""


@attrs.define
class Workshop:
    """Makes the repositories of a process and keeps them.

    Attributes:
        folder: where they are.
    """

    folder: Path
    _opened: dict[tuple[str, str], Any] = attrs.field(factory=dict)

    def path(self, history: str, name: str = "committed") -> Path:
        """The repository of a history in a format."""
        path = self.folder / name / history
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            making = path.with_name(f"{path.name}.making")
            form = FORMATS[name]
            if form.rebuilt:
                build(history, making, form.config)
            elif form.shared:
                self._share(self.path(history), making, form)
            else:
                self._convert(self.path(history), making, form)
            making.rename(path)
        return path

    def open(self, history: str, name: str = "committed") -> Any:
        """The repository object of a history in a format, always the same one."""
        key = history, name
        if key not in self._opened:
            self._opened[key] = open_repository(self.path(history, name))
        return self._opened[key]

    def add(self, history: str, source: Path) -> None:
        """Take a repository that was made elsewhere as a history."""
        target = self.folder / "committed" / history
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=True)

    def _share(self, source: Path, target: Path, form: Format) -> None:
        hg.share(
            make_ui(),
            os.fsencode(source),
            os.fsencode(target),
            update=False,
            bookmarks=form.shared == "bookmarks",
        )

    def _convert(self, source: Path, target: Path, form: Format) -> None:
        """Copy a repository, including what is hidden, phases and obsolescence markers."""
        original = open_repository(source).unfiltered()
        config = {**form.config, **({"storage.revlog.reuse-external-delta": "no"} if form.native else {})}
        repo = open_repository(target, config, create=True)
        if form.drop:
            for place in ("requires", "store/requires"):
                _drop(target / ".hg" / place, form.drop)
            repo = open_repository(target, config)
        if len(original):
            outgoing = discovery.outgoing(original, commonheads=[NULL], ancestorsof=original.changelog.heads())
            data = b"".join(changegroup.makestream(original, outgoing, b"03", b"bundle"))
            limit = revlog._maxinline if form.inline is None else form.inline
            with (
                mock.patch.object(revlog, "_maxinline", limit),
                repo.wlock(),
                repo.lock(),
                repo.transaction(b"copy") as tr,
            ):
                changegroup.getunbundler(b"03", io.BytesIO(data), None).apply(repo, tr, b"bundle", b"tests")
        for name in (b"phaseroots", b"obsstore"):
            state = original.svfs.tryread(name)
            if state:
                repo.svfs.write(name, state)


def _drop(path: Path, names: frozenset[str]) -> None:
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if line not in names]
        path.write_text("".join(f"{line}\n" for line in kept))
