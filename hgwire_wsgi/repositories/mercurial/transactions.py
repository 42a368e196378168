"""Reports of the changes made by transactions.

Each repository object that this package opens gets a new class whose transactions report when they are closed, if the
running request has an observer.  Extensions modify repository objects in the same way.  Without an observer, nothing is
computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ...events import PushChanges

__all__ = ["make_observable", "observed"]

_CATEGORY = b"hgwire-report-changes"
Report = Callable[[PushChanges], None]


def make_observable(unfiltered: Any) -> None:
    """Make a repository object report its transactions; must be called before it is filtered."""

    class ObservableRepository(unfiltered.__class__):  # type: ignore[misc]  # Mercurial's classes have no types
        _hgwire_report: Report | None = None

        def transaction(self, *arguments: Any, **options: Any) -> Any:
            report = self.unfiltered()._hgwire_report
            is_outermost = self.currenttransaction() is None
            before = _heads(self) if report is not None and is_outermost else frozenset()
            transaction = super().transaction(*arguments, **options)
            if report is not None and is_outermost:
                transaction.addpostclose(_CATEGORY, lambda closed: report(_changes(self, closed.changes, before)))
            return transaction

    unfiltered.__class__ = ObservableRepository


@contextlib.contextmanager
def observed(local: Any, report: Report | None) -> Iterator[None]:
    """Report each transaction of a repository object with one call of ``report`` while a command runs."""
    unfiltered = local.unfiltered()
    unfiltered._hgwire_report = report
    try:
        yield
    finally:
        unfiltered._hgwire_report = None


def _heads(repo: Any) -> frozenset[bytes]:
    return frozenset(repo.unfiltered().filtered(b"served").heads()) - {repo.nullid}


def _changes(repo: Any, changes: dict[bytes, Any], before: frozenset[bytes]) -> PushChanges:
    after = _heads(repo)
    old_length: int = changes[b"origrepolen"]
    return PushChanges(
        changesets=len(repo.unfiltered()) - old_length,
        heads_added=tuple(sorted(after - before)),
        heads_removed=tuple(sorted(before - after)),
        bookmarks=dict(changes[b"bookmarks"]),
        # Mercurial also records the phases of new changesets; leave them out.
        phases=sum(len(range(revs.start, min(revs.stop, old_length))) for revs, _ in changes[b"phases"]),
        obsmarkers=len(changes[b"obsmarkers"]),
    )
