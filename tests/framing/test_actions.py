"""Actions as values."""

from __future__ import annotations

from framing_support import Source

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


def test_closing_closes_where_frames_would_have_come_from() -> None:
    begun, unbegun = Source(b"a"), Source(b"b")
    frames = (Frame(1, 2, 0, 4, 1, piece) for source in (begun, unbegun) for piece in source)
    action = SendFrames(frames, (begun, unbegun, None))
    assert next(action.frames).payload == b"a"
    action.close()
    assert list(action.frames) == []
    assert (begun.closed, unbegun.closed) == (1, 1)


def test_closing_what_cannot_be_closed() -> None:
    action = SendFrames(iter([Frame(1, 2, 0, 4, 2, b"")]))
    action.close()
    assert len(list(action.frames)) == 1
    assert "source" not in repr(action)
