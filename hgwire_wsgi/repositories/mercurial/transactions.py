"""Transactions: reports of their changes, and what happens after one was abandoned.

A process that is killed in a transaction leaves its journal behind.  Mercurial then refuses every transaction until
somebody rolls this one back with ``hg recover``.  Readers see the state before it, since the changelog's index is
written last; a stream clone would copy the files as they are, which are broken.  So commands that write, and stream
clones, are refused, or roll the transaction back first, where the operator allows that.

Each repository object that this package opens gets a new class whose transactions report when they are closed, if the
running request has an observer.  Extensions modify repository objects in the same way.  Without an observer, nothing is
computed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import attrs

from ...errors import AbandonedTransaction
from ...events import PushChanges

__all__ = ["RECOVER", "has_journal", "make_observable", "observed", "roll_back_abandoned"]

RECOVER = (b"hgwire", b"recover")
"""The setting that allows a request to roll back an abandoned transaction, in the server's configuration or in a
repository's ``hgrc``."""

_JOURNAL = b"journal"

_CATEGORY = b"hgwire-report-changes"
Report = Callable[[PushChanges], None]


def make_observable(unfiltered: Any) -> None:
    """Make a repository object report its transactions; must be called before it is filtered."""

    class ObservableRepository(unfiltered.__class__):  # type: ignore[misc]  # Mercurial's classes have no types
        _hgwire_report: Report | None = None
        _hgwire_transaction: Callable[[], Any] | None = None

        def transaction(self, *arguments: Any, **options: Any) -> Any:
            report = self.unfiltered()._hgwire_report
            is_outermost = self.currenttransaction() is None
            before = _heads(self) if report is not None and is_outermost else frozenset()
            transaction = super().transaction(*arguments, **options)
            if is_outermost:
                self.unfiltered()._hgwire_transaction = weakref.ref(transaction)
            if report is not None and is_outermost:
                transaction.addpostclose(_CATEGORY, lambda closed: report(_changes(self, closed.changes, before)))
            return transaction

    unfiltered.__class__ = ObservableRepository


def has_journal(local: Any) -> bool:
    """Whether a transaction is running, or was abandoned."""
    return bool(local.svfs.exists(_JOURNAL))


def roll_back_abandoned(local: Any) -> bool:
    """Roll back an abandoned transaction, if there is one and :data:`RECOVER` is set.

    A running transaction holds the lock.  So if the lock is free and there is a journal, its owner is dead.

    Args:
        local: Mercurial's repository object.

    Returns:
        Whether there was one.

    Raises:
        AbandonedTransaction: if there is one, and it must not be rolled back.
        Exception: Mercurial's, if the repository cannot be locked or rolled back.
    """
    with local.lock():
        if not has_journal(local):
            return False
        if not local.ui.configbool(*RECOVER, False):
            raise AbandonedTransaction(
                "abandoned transaction found: an administrator must run 'hg recover' in this repository on the server"
            )
        local.recover()
        return True


def observed(local: Any, report: Report | None) -> contextlib.AbstractContextManager[None]:
    """Report each transaction of a repository object with one call of ``report`` while a command runs."""
    return _Observed(local.unfiltered(), report)


@attrs.define(eq=False)
class _Observed(contextlib.AbstractContextManager[None]):
    # Each request enters one: a generator would take twice as long.
    unfiltered: Any
    report: Report | None

    def __enter__(self) -> None:
        self.unfiltered._hgwire_report = self.report

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        unfiltered = self.unfiltered
        if failure is not None:
            _forget_failed(unfiltered)
        unfiltered._hgwire_report = unfiltered._hgwire_transaction = None


def _forget_failed(unfiltered: Any) -> None:
    """Keep Mercurial from aborting a transaction twice.

    If a transaction cannot be aborted, for instance because the disk is full, its destructor tries again, and prints a
    traceback.  The journal stays; see :func:`roll_back_abandoned`.
    """
    transaction = unfiltered._hgwire_transaction and unfiltered._hgwire_transaction()
    if transaction is not None and not transaction.running():
        transaction._journal = None


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
