"""Whose request a log line is about.

All modules of the package log to ``hgwire_wsgi``.  A filter on that logger appends repository, command, user, address
and request ID of the request that the current thread serves, so no caller has to pass them along.  A thread that goes
on working for a request copies its context (:func:`contextvars.copy_context`).
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Protocol

__all__ = ["CURRENT", "LOGGER", "Described"]


class Described(Protocol):
    """A request that can say what it is about."""

    def describe(self) -> str: ...


CURRENT: ContextVar[Described | None] = ContextVar("hgwire_wsgi.request", default=None)
"""The request that this thread serves."""


class _RequestFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        request = CURRENT.get()
        if request is not None:
            record.msg, record.args = f"{record.getMessage()} [{request.describe()}]", None
        return True


LOGGER = logging.getLogger("hgwire_wsgi")
LOGGER.addFilter(_RequestFilter())
