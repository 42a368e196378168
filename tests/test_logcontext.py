"""Log lines name the request that they are about."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.logcontext import CURRENT, LOGGER, printable, short_list


class Described:
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
