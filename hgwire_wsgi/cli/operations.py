"""What ``hgwire serve`` prints while it runs: who did what, one line for each operation that a person would name.

``hg`` sends several requests for one clone, pull or push.  One of them carries the data, and gets the line; the others
(capabilities, discovery, listing of bookmarks) get none unless they fail.  A line is made from one event alone, because
the requests of one operation may reach different worker processes.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping

import attrs

from ..events import Event, PushChanges, RequestClosed

__all__ = ["OperationPrinter", "describe"]

_FETCHING = {"getbundle", "changegroup", "changegroupsubset", "stream_out"}
"""Commands whose reply is the data of a clone or a pull."""

_PUSHING = {"unbundle", "pushkey"}
"""Commands that change a repository's history, bookmarks or phases."""

_NAMED_BOOKMARKS = 3
"""Bookmarks that a line names.  A mirror may push thousands."""

_LONGEST_NAME = 200
"""Characters of a name or message from a peer.  With :data:`_NAMED_BOOKMARKS` it keeps a line below
:data:`_LONGEST_LINE` in any alphabet."""

_LONGEST_LINE = 4096
"""Bytes of a line: what a pipe takes in one piece, so that lines of several processes do not mix (POSIX PIPE_BUF)."""


@attrs.frozen
class OperationPrinter:
    """An observer that prints one line for each operation.

    It never holds up a request: while the reader of the output does not read (a stopped terminal, a full pipe), lines
    are dropped.

    Attributes:
        descriptor: where lines are written.
        encoding: of the output; what it cannot express is escaped.
        root: what the repository is called that is served without a name of its own.
    """

    descriptor: int
    encoding: str
    root: str

    def __call__(self, event: Event) -> None:
        text = describe(event, self.root) if isinstance(event, RequestClosed) else ""
        if not text:
            return
        line = f"{time.strftime('%H:%M:%S')}  {text}".encode(self.encoding, "backslashreplace")
        try:
            if select.select((), (self.descriptor,), (), 0)[1]:
                os.write(self.descriptor, line[: _LONGEST_LINE - 1] + b"\n")
        except OSError:
            # The reader is gone; that does not concern the request.
            pass


def describe(event: RequestClosed, root: str) -> str:
    """Say what a request did.

    Args:
        event: how the request ended.
        root: what the repository without a name is called.

    Returns:
        The user and what he did; empty if a person would not call it an operation.
    """
    sentence = _sentence(event, _printable(_text(event.repository)) or _printable(root))
    return f"{_who(event)}  {sentence}" if sentence else ""


def _sentence(event: RequestClosed, repository: str) -> str:
    kind = next((name for name in event.commands if name in _FETCHING | _PUSHING), "")
    if event.outcome == "ok":
        if kind in _PUSHING:
            return _pushed(event.changes, repository)
        if kind in _FETCHING and event.method != "HEAD":
            verb = "cloned" if event.clone else "pulled from"
            return f"{verb} {repository}: {_amount(event.bytes_out, event.wall)}{_source(event)}"
        return ""
    if not kind:
        return _no_access(event, repository)
    if kind in _PUSHING:
        what, size = f"push to {repository}", event.bytes_in
    else:
        what, size = f"{'clone of' if event.clone else 'pull from'} {repository}", event.bytes_out
    reason = _printable(event.error)
    if event.outcome == "refused":
        return f"was refused: {what}: {reason}"
    if event.outcome == "failed":
        return f"{what} failed: {reason}"
    return f"{what} broke off after {_amount(size, event.wall)}: {reason}"


def _no_access(event: RequestClosed, repository: str) -> str:
    """What is said about a small request that did not end well: nothing if it came from a browser, or was cut."""
    if not event.commands or event.outcome == "cut":
        return ""
    # Without a repository, the path is what the user got wrong.
    where = repository if event.repository or event.status != 404 else _printable(_text(event.path))
    reason = _printable(event.error)
    if event.outcome == "refused":
        return f"was refused access to {where}: {reason}"
    return f"access to {where} failed: {reason}"


def _pushed(changes: tuple[PushChanges, ...], repository: str) -> str:
    changesets = sum(each.changesets for each in changes)
    parts = [f"pushed {_count(changesets, 'changeset')} to {repository}"] if changesets else []
    bookmarks: dict[bytes, tuple[bytes | None, bytes | None]] = {}
    for each in changes:
        bookmarks.update(each.bookmarks)
    parts += _bookmarks(bookmarks)
    # New changesets get their phase, and markers that they replace others, without a word about it.
    phases, markers = (sum(getattr(each, name) for each in changes) for name in ("phases", "obsmarkers"))
    if phases and not changesets:
        parts.append(f"changed the phase of {_count(phases, 'changeset')}")
    if markers and not changesets:
        parts.append(f"added {_count(markers, 'obsolescence marker')}")
    if not parts:
        return f"pushed to {repository}, which had it all"
    return ", ".join(parts) if changesets else f"{', '.join(parts)} in {repository}"


def _bookmarks(moved: Mapping[bytes, tuple[bytes | None, bytes | None]]) -> list[str]:
    parts = []
    for name, (old, new) in list(moved.items())[:_NAMED_BOOKMARKS]:
        verb = "created" if old is None else "deleted" if new is None else "moved"
        parts.append(f"{verb} bookmark {_printable(name.decode('utf-8', 'backslashreplace'))}")
    if more := len(moved) - len(parts):
        parts.append(f"changed {_count(more, 'more bookmark')}")
    return parts


def _who(event: RequestClosed) -> str:
    user, address = _printable(event.user or ""), _printable(event.address)
    return "@".join(filter(None, (user, address))) or "someone"


def _source(event: RequestClosed) -> str:
    return {"hit": " (cached)", "followed": " (shared with another client)"}.get(event.cache, "")


def _amount(size: int, seconds: float) -> str:
    return f"{_size(size)} in {_duration(seconds)}"


def _size(size: int) -> str:
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if size >= 1000 else _count(size, "byte")


def _duration(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _text(native: str) -> str:
    """Undo WSGI's spelling of UTF-8 bytes as Latin-1 characters (PEP 3333); what is not spelled so stays."""
    try:
        return native.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return native


def _printable(text: str) -> str:
    """A peer's text without control characters, which could move the cursor or forge a line, and not too long."""
    short = text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "..."
    return "".join(
        char if char.isprintable() else char.encode("unicode-escape", "surrogatepass").decode() for char in short
    )
