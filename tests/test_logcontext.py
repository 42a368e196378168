"""Log lines name the request that they are about."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.logcontext import CURRENT, LOGGER, FloodFilter, printable, short_list


class Described:
    repository = "r"

    def describe(self) -> str:
        return "repository=r command=heads"


@pytest.fixture
def current() -> Iterator[None]:
    token = CURRENT.set(Described())
    yield
    CURRENT.reset(token)


def test_a_line_names_the_request_of_its_thread(current: None, caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.warning("%s of %d", "one", 2)
    thread = threading.Thread(target=LOGGER.warning, args=("of nobody",))
    thread.start()
    thread.join()
    thread = threading.Thread(target=copy_context().run, args=(LOGGER.warning, "%s", "for it"))
    thread.start()
    thread.join()
    assert caplog.messages == [
        "one of 2 [repository=r command=heads]",
        "of nobody",
        "for it [repository=r command=heads]",
    ]


def test_a_percent_sign_of_a_peer_is_no_format(current: None, caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.warning("%s", "100%d")
    assert caplog.messages == ["100%d [repository=r command=heads]"]


def test_other_loggers_are_left_alone(current: None, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("somebody.else").warning("as it was")
    assert caplog.messages == ["as it was"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", ""),
        ("getbundle", "getbundle"),
        ("two words", '"two words"'),
        ("a\nb\x1b[0m\x7f", r"a\nb\x1b[0m\x7f"),
        ("é\u2028", r"\xe9\u2028"),
        ('x" user="root', r'"x\" user=\"root"'),
        ("x" * 300, "x" * 200),
    ],
)
def test_what_a_peer_chose_is_printed_so_that_it_can_fake_nothing(value: str, shown: str) -> None:
    assert printable(value) == shown


@given(st.text(st.characters(max_codepoint=300)))
def test_a_printed_value_is_one_word_or_quoted(value: str) -> None:
    shown = printable(value)
    assert shown.isascii() and (shown.isprintable() or not shown)
    if " " in shown or '"' in shown:
        assert shown[0] == shown[-1] == '"'
        inner = shown[1:-1].replace("\\\\", "").replace('\\"', "")
        assert '"' not in inner and not inner.endswith("\\")


def test_long_batches_are_shortened() -> None:
    assert short_list(()) == ""
    assert short_list(["batch", "heads"]) == "batch,heads"
    assert short_list(["x"] * 9) == "x,x,x,x,x,x,x,x,..."


class Flood:
    """A logger with a filter whose clock stands still."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        self.logger = logging.Logger("flood")
        self.filter = FloodFilter(self.logger, clock=lambda: self.now, **options)
        self.logger.addFilter(self.filter)
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        self.logger.addHandler(handler)

    def complain(self, value: str) -> None:
        self.logger.warning("bad value %s", value)


def test_equal_lines_are_counted_whatever_a_peer_sends() -> None:
    flood = Flood(limit=2, period=60)
    for number in range(10):
        flood.complain(str(number))
    flood.logger.warning("something else")
    assert flood.lines == ["bad value 0", "bad value 1", "something else"]
    flood.now += 59
    flood.complain("late")
    flood.now += 3
    flood.logger.warning("yet another thing")
    assert flood.lines[3:] == ["9 more lines like this in 62 seconds: bad value 0", "yet another thing"]
    flood.complain("again")
    flood.now += 1000
    flood.complain("and again")
    assert flood.lines[5:] == ["bad value again", "bad value and again"]


def test_each_repository_and_level_has_its_own_count() -> None:
    flood = Flood(limit=1)

    def log(level: int) -> None:
        flood.logger.log(level, "%s", level)

    class Other(Described):
        repository = "other"

    for request in (None, Described(), Other(), Described()):
        token = CURRENT.set(request)
        for level in (logging.WARNING, logging.ERROR):
            log(level)
            log(level)
        CURRENT.reset(token)
    assert len(flood.lines) == 6


def test_the_memory_of_kinds_is_bounded() -> None:
    flood = Flood(limit=2, kinds=3, period=60)

    class Many(Described):
        def __init__(self, number: int) -> None:
            self.repository = str(number)

    for number in range(100):
        token = CURRENT.set(Many(number))
        flood.complain(str(number))
        CURRENT.reset(token)
    assert flood.lines == [f"bad value {number}" for number in range(5)]
    flood.now += 61
    flood.complain("end")
    assert flood.lines[5:] == ["95 more lines like this in 61 seconds: bad value 3", "bad value end"]


def test_threads_lose_no_count() -> None:
    flood = Flood(limit=5)

    def run() -> None:
        for _ in range(200):
            flood.complain("x")

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flood.lines == ["bad value x"] * 5
    flood.now += 100
    flood.logger.warning("end")
    assert flood.lines[5:] == ["1595 more lines like this in 100 seconds: bad value x", "end"]


def test_a_flood_of_requests_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    (installed,) = (each for each in LOGGER.filters if isinstance(each, FloodFilter))
    before = dict(installed._counters)
    try:
        for number in range(100):
            LOGGER.warning("from a flood: %d", number)
        assert len([line for line in caplog.messages if line.startswith("from a flood")]) == 30
    finally:
        installed._counters = before
