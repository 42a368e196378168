"""Where the generator is put into Mercurial, and when it steps aside.

All that makes a changegroup calls ``mercurial.changegroup.cgpacker.generate``.  This module replaces that method,
once for the process.  The replacement acts only for repositories that were given to :func:`enable`; for all others, and
where :mod:`.conditions` has a reason against it, it calls Mercurial's.  Extensions may replace the method before or
after: then all changegroups are Mercurial's and the extension's.

Before that, ``getbundle`` asks ``mercurial.exchange._computeoutgoing`` which changesets to send.  Mercurial visits each
of them, in Python, which takes more than half of the time to the first byte of a long history.  So this module replaces
that function, too: if all heads are wanted and many changesets are missing, the result finds those that are *not* sent,
which Mercurial can do in C.

The decision is made when the method is called, while the command runs.  The changegroup is made later, possibly in a
thread of the bundle cache after the request has ended.  So what is reported then goes to the function that was set at
the time of the call (:func:`reporting`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import attrs
from mercurial import changegroup, discovery, exchange

from ....events import Changegroup
from . import generator
from .conditions import has_usual_history, home_of, reason_against
from .revlogs import NODE

__all__ = ["GENERATOR", "GENERATORS", "enable", "reporting", "setting_of"]

GENERATOR = (b"hgwire", b"generator")
"""The setting that selects the generator, in the server's configuration or in a repository's ``hgrc``."""

GENERATORS = ("hgwire", "mercurial")
"""Its values; the first is the default."""

_MANY = 1000
"""For fewer changesets than that, Mercurial's way is faster in a long history."""

Report = Callable[[Changegroup], object]


@attrs.define(eq=False)
class _Switch:
    """What a repository object knows about its changegroups.

    Attributes:
        reason: why all are Mercurial's; empty if they are not.
        report: is called with each changegroup once it is complete; ``None`` if nobody asks.
    """

    reason: str
    report: Report | None = None


def setting_of(ui: Any) -> str:
    """Read :data:`GENERATOR`.

    Args:
        ui: Mercurial's configuration object.

    Raises:
        ValueError: if it is neither of :data:`GENERATORS`.
    """
    value = ui.config(*GENERATOR, None)
    name = GENERATORS[0] if value is None else value.decode("utf-8", "replace")
    if name not in GENERATORS:
        raise ValueError(f"hgwire.generator is hgwire or mercurial, not {name}")
    return name


def enable(unfiltered: Any, report: Callable[[str], object]) -> None:
    """Let a repository object use the generator, unless its configuration selects Mercurial's.

    Args:
        unfiltered: Mercurial's repository object.
        report: is called with a problem of the configuration; Mercurial's generator is used then.
    """
    try:
        reason = "" if setting_of(unfiltered.ui) == "hgwire" else "switched off"
    except ValueError as failure:
        report(f"{failure}; Mercurial's generator is used")
        reason = "invalid setting"
    unfiltered._hgwire_changegroups = _Switch(reason)


_UNREPORTED = contextlib.nullcontext()


def reporting(local: Any, report: Report | None) -> contextlib.AbstractContextManager[None]:
    """Report the changegroups of a repository object that a command starts to make.

    Args:
        local: Mercurial's repository object, which :func:`enable` has seen.
        report: is called with each changegroup when its last byte was taken, in the thread that takes it; ``None`` if
            nobody asks.
    """
    return _UNREPORTED if report is None else _reporting(local, report)


@contextlib.contextmanager
def _reporting(local: Any, report: Report) -> Iterator[None]:
    switch = local.unfiltered()._hgwire_changegroups
    switch.report = report
    try:
        yield
    finally:
        switch.report = None


_by_mercurial: Callable[..., Iterator[bytes]] = changegroup.cgpacker.generate


def _generate(
    packer: Any,
    commonrevs: Container[int],
    clnodes: Sequence[bytes],
    fastpathlinkrev: bool,
    source: bytes,
    changelog: bool = True,
) -> Iterator[bytes]:
    """Do what Mercurial's ``cgpacker.generate`` does; the names of the arguments are Mercurial's."""
    switch: _Switch | None = getattr(packer._repo.unfiltered(), "_hgwire_changegroups", None)
    arguments = packer, commonrevs, clnodes, fastpathlinkrev, source
    if switch is None:
        return _by_mercurial(*arguments, changelog)
    reason = switch.reason or _replaced() or reason_against(packer, changelog)
    aside = Counter[str]()
    chunks = _by_mercurial(*arguments, changelog) if reason else _own(*arguments, aside)
    if switch.report is None:
        return chunks
    made = Changegroup(
        generator="mercurial" if reason else "hgwire",
        reason=reason,
        version=packer.version.decode("ascii"),
        # Old commands also ask for the null revision.
        changesets=len(clnodes) - list(clnodes).count(packer._repo.nullid),
    )
    return _reported(chunks, made, aside, switch.report)


def _replaced() -> str:
    """Why no changegroup of this process is this package's: an extension has replaced the method, too."""
    is_own = changegroup.cgpacker.generate is _generate and home_of(_by_mercurial) is vars(changegroup)
    return "" if is_own else "replaced generator"


def _own(
    packer: Any,
    common: Container[int],
    nodes: Sequence[bytes],
    by_linkrev: bool,
    source: bytes,
    aside: Counter[str],
) -> Iterator[bytes]:
    yield from generator.generate(packer, common, nodes, by_linkrev, source, lambda reason: aside.update([reason]))
    if nodes:
        packer._repo.hook(b"outgoing", node=nodes[0].hex().encode("ascii"), source=source)


def _reported(chunks: Iterator[bytes], made: Changegroup, aside: Mapping[str, int], report: Report) -> Iterator[bytes]:
    yield from chunks
    report(attrs.evolve(made, aside=dict(aside)))


class _Outgoing(discovery.outgoing):  # type: ignore[misc]  # Mercurial's classes have no types
    """The changesets to send; the two sets are computed when one of them is needed."""

    def _computecommonmissing(self) -> None:
        log = self._revlog
        common = list(map(log.rev, self.commonheads))
        # From here on all changesets are missing, so Mercurial would visit each of them.
        if len(log) - 1 - max(common, default=-1) < _MANY or set(self.ancestorsof) != set(log.heads()):
            super()._computecommonmissing()
            return
        # The ancestors of what is common, with the null revision.
        known: Any = set(log.reachableroots(-1, common, [-1], True))
        if len(known) == max(common) + 2:
            # These are all up to the last of them; a range takes no memory.
            known = range(-1, max(common) + 1)
        entry_of = log.index.__getitem__
        self._common, self._missing = known, [entry_of(rev)[NODE] for rev in log if rev not in known]


_outgoing_by_mercurial: Callable[..., Any] = exchange._computeoutgoing


def _compute_outgoing(repo: Any, heads: Sequence[bytes], common: Sequence[bytes]) -> Any:
    """Do what Mercurial's ``_computeoutgoing`` does; the names of the arguments are Mercurial's."""
    outgoing = _outgoing_by_mercurial(repo, heads, common)
    local = repo.unfiltered()
    switch: _Switch | None = getattr(local, "_hgwire_changegroups", None)
    if switch is not None and not switch.reason and type(outgoing) is discovery.outgoing and has_usual_history(local):
        outgoing.__class__ = _Outgoing
    return outgoing


changegroup.cgpacker.generate = _generate
exchange._computeoutgoing = _compute_outgoing
