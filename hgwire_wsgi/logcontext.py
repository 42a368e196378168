"""Log context: adds the current request to each log line.

All modules of the package log to ``hgwire_wsgi``.  A filter on that logger appends repository, command, user, address
and request ID of the request that the current thread serves, so no caller has to pass them along.  A thread that
continues to work for a request copies its context (:func:`contextvars.copy_context`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Protocol

__all__ = ["CURRENT", "LOGGER", "Described", "printable", "short_list"]


class Described(Protocol):
    """A request that can describe itself for log lines."""

    def describe(self) -> str: ...


_SHOWN = 200
_LISTED = 8

CURRENT: ContextVar[Described | None] = ContextVar("hgwire_wsgi.request", default=None)
"""The request that this thread serves."""


def printable(value: str) -> str:
    """Format a value for a log line, which is one line of ASCII with space-separated fields.

    Control characters are escaped; a value with a space or a quotation mark is quoted; a long one is cut.
    """
    shown = ascii(value[:_SHOWN])[1:-1].replace('"', '\\"')
    return f'"{shown}"' if " " in shown or '"' in shown else shown


def short_list(commands: Sequence[str]) -> str:
    """The first few commands of a request."""
    return ",".join(commands[:_LISTED]) + (",..." if len(commands) > _LISTED else "")


class _RequestFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        request = CURRENT.get()
        if request is not None:
            record.msg, record.args = f"{record.getMessage()} [{request.describe()}]", None
        return True


LOGGER = logging.getLogger("hgwire_wsgi")
LOGGER.addFilter(_RequestFilter())
