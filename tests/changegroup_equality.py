"""Compares our changegroups with those of Mercurial, byte for byte."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

import attrs
from changegroup_histories import NULL
from mercurial import changegroup, discovery

from hgwire_wsgi.repositories.mercurial.changegroups.deltas import FORMATS as MADE
from hgwire_wsgi.repositories.mercurial.changegroups.generator import generate

__all__ = ["COMPRESSED", "Comparison", "Request", "pairs", "versions", "whole"]

COMPRESSED = (b"HG20", b"bundle2=HG20%0Adelta-compression%3Dzlib%2Czstd")
"""Capabilities of a client that takes deltas as they are stored; only version 04 heeds them."""


@attrs.frozen
class Request:
    """What a client asks for.

    Attributes:
        common: heads of what it has.
        heads: heads of what it wants.
        view: name of the filter, such as ``served``; ``None`` for everything, including what is hidden.
        version: of the changegroup.
        capabilities: of the client.
    """

    common: tuple[bytes, ...]
    heads: tuple[bytes, ...]
    view: str | None = "served"
    version: bytes = b"02"
    capabilities: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        def short(nodes: Iterable[bytes]) -> str:
            return "+".join(node.hex()[:12] for node in nodes)

        compressed = ", compressed" if self.capabilities else ""
        return f"{short(self.common)}::{short(self.heads)} ({self.view}, {self.version.decode()}{compressed})"


@attrs.define
class Comparison:
    """Comparisons, and what they have in common.

    Attributes:
        requests: how many there were.
        size: bytes that were equal.
        groups: how many groups the changegroups had.
        aside: the reasons for which Mercurial's generator made one, or found it empty, with their number.
    """

    requests: int = 0
    size: int = 0
    groups: int = 0
    aside: Counter[str] = attrs.field(factory=Counter)

    def check(self, repo: Any, request: Request, other: Any = None) -> bytes:
        """Generate both changegroups and return them.

        Args:
            repo: the repository object.
            request: what to generate.
            other: another object of the same repository, for our generator; by default the same one.

        Raises:
            AssertionError: if they differ.
        """
        theirs = _outcome(changegroup.makestream(*_arguments(repo, request)))
        reasons: list[str] = []
        # What Mercurial passes to its own generator.
        with mock.patch.object(changegroup.cgpacker, "generate", lambda *arguments: arguments):
            packer, common, nodes, by_linkrev, source = changegroup.makestream(*_arguments(other or repo, request))
        ours = _outcome(generate(packer, common, nodes, by_linkrev, source, reasons.append))
        if ours != theirs:
            raise AssertionError(f"{request}: {_difference(ours, theirs)}")
        self.requests += 1
        self.aside.update(reasons)
        if isinstance(theirs, bytes):
            self.size += len(theirs)
            self.groups += _count_groups(theirs, request.version)
            return theirs
        return b""

    def __str__(self) -> str:
        aside = ", ".join(f"{count} by Mercurial ({reason})" for reason, count in sorted(self.aside.items()))
        return f"{self.requests} requests, {self.size / 1e6:.1f} MB, {self.groups} groups; {aside or 'all are ours'}"

    def is_ours(self) -> bool:
        """Whether something was compared that our generator made, all of it."""
        return self.groups > 0 and not self.aside


def _arguments(repo: Any, request: Request) -> tuple[Any, ...]:
    view = repo.filtered(request.view.encode()) if request.view else repo.unfiltered()
    outgoing = discovery.outgoing(view, commonheads=list(request.common), ancestorsof=list(request.heads))
    return view, outgoing, request.version, b"serve", False, set(request.capabilities) or None


def _outcome(chunks: Iterator[bytes]) -> bytes | str:
    """All chunks, or what prevented them."""
    try:
        return b"".join(chunks)
    except Exception as failure:
        # Mercurial has an assertion that fails: version 04 of a repository with a manifest per folder.
        return f"{type(failure).__name__}: {failure}"


def _difference(ours: bytes | str, theirs: bytes | str) -> str:
    if isinstance(ours, str) or isinstance(theirs, str):
        texts = [each if isinstance(each, str) else f"{len(each)} bytes" for each in (ours, theirs)]
        return f"ours gives {texts[0]}, Mercurial's {texts[1]}"
    at = next((place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        at = min(len(ours), len(theirs))
    start = max(0, at - 32)
    return (
        f"{len(ours)} and {len(theirs)} bytes differ from byte {at}; "
        f"ours {ours[start : at + 64].hex(' ', 4)}, Mercurial's {theirs[start : at + 64].hex(' ', 4)}"
    )


def _count_groups(data: bytes, version: bytes) -> int:
    """The number of groups in a changegroup; an empty chunk ends each, one all files, and from 03 on one all folders.

    Args:
        data: the changegroup.
        version: its version.
    """
    empty = at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        empty += not size
        at += size or 4
    return empty - (1 if version < b"03" else 2)


def versions(repo: Any) -> list[tuple[bytes, tuple[bytes, ...]]]:
    """The versions that our generator makes of a repository, with the capabilities of a client."""
    found = sorted(changegroup.supportedoutgoingversions(repo) & MADE.keys())
    return [(version, ()) for version in found] + ([(b"04", COMPRESSED)] if b"04" in found else [])


def whole(repo: Any) -> Iterator[Request]:
    """Full clones in all versions, of what clients see and of everything."""
    for view in ("served", None):
        heads = tuple((repo.filtered(view.encode()) if view else repo.unfiltered()).heads())
        for version, capabilities in versions(repo):
            yield Request((NULL,), heads, view, version, capabilities)


def pairs(repo: Any, count: int, chance: random.Random) -> Iterator[Request]:
    """Random pulls.

    Args:
        repo: the repository object.
        count: how many.
        chance: chooses.
    """
    offered = versions(repo)
    views: list[tuple[str | None, Sequence[bytes], Sequence[bytes]]] = []
    for view in ("served", None):
        seen = repo.filtered(view.encode()) if view else repo.unfiltered()
        views.append((view, [seen[rev].node() for rev in seen], seen.heads()))
    for _ in range(count):
        view, nodes, all_heads = chance.choice(views)
        common = chance.sample(nodes, min(len(nodes), chance.randint(0, 3))) or [NULL]
        kind = chance.random()
        if kind < 0.3 or not all_heads:
            heads = list(all_heads)
        elif kind < 0.6:
            heads = chance.sample(list(all_heads), chance.randint(1, len(all_heads)))
        else:
            heads = chance.sample(nodes, min(len(nodes), chance.randint(1, 3)))
        version, capabilities = chance.choice(offered)
        yield Request(tuple(common), tuple(heads), view, version, capabilities)
