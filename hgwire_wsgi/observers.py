"""Observers that come with the package."""

from __future__ import annotations

import logging

from .events import Event, PushChanges, RequestClosed
from .logcontext import printable, short_list

__all__ = ["log_requests"]

_LOGGER = logging.getLogger("hgwire_wsgi.requests")

_LEVELS = {"ok": logging.INFO, "refused": logging.INFO, "failed": logging.ERROR, "cut": logging.WARNING}


def log_requests(event: Event) -> None:
    """Log one line per request to ``hgwire_wsgi.requests``, when its response is closed.

    The level is INFO for answers and refusals, WARNING for interrupted transfers, ERROR for server errors.
    Values that the client controls are formatted by :func:`~hgwire_wsgi.logcontext.printable`.
    """
    if not isinstance(event, RequestClosed) or not _LOGGER.isEnabledFor(_LEVELS[event.outcome]):
        return
    facts = {
        "repository": event.repository,
        "command": short_list(event.commands),
        "user": event.user or "",
        "address": event.address,
        "request": event.request_id,
        "in": str(event.bytes_in),
        "out": str(event.bytes_out),
        "wall": f"{event.wall:.3f}",
        "cpu": f"{event.cpu:.3f}",
        "cache": event.cache,
        "changes": "; ".join(map(_describe, event.changes)),
        "error": event.error,
    }
    line = " ".join(f"{name}={printable(value)}" for name, value in facts.items() if value)
    _LOGGER.log(_LEVELS[event.outcome], "%s %d %s %s", printable(event.method), event.status, event.outcome, line)


def _describe(changes: PushChanges) -> str:
    counted = {
        "changesets": changes.changesets,
        "bookmarks": len(changes.bookmarks),
        "phases": changes.phases,
        "obsmarkers": changes.obsmarkers,
    }
    return ", ".join(f"{count} {name}" for name, count in counted.items() if count)
