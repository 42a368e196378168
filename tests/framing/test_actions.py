"""Actions as values."""

from __future__ import annotations

from hgwire_wsgi.errors import BadStream
from hgwire_wsgi.framing import NOOP, WANT_FRAME, Error, Frame, RunCommand, SendFrames, Signal


def test_signals_are_what_they_say() -> None:
    assert [repr(signal) for signal in Signal] == ["WANT_FRAME", "NOOP"]
    assert Signal.WANT_FRAME is WANT_FRAME is not NOOP


def test_an_error_speaks_for_its_exception() -> None:
    assert Error(BadStream("no such stream")).message == "no such stream"


def test_actions_compare_by_value() -> None:
    assert RunCommand(1, b"c", {}) == RunCommand(1, b"c", {}, has_data=False, data=None)
    assert RunCommand(1, b"c", {}) != RunCommand(3, b"c", {})


def test_closing_what_cannot_be_closed() -> None:
    action = SendFrames(iter([Frame(1, 2, 0, 4, 2, b"")]))
    action.close()
    assert len(list(action.frames)) == 1
    assert "source" not in repr(action)
