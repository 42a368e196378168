"""The observer that logs one line per request."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from hgwire_wsgi import PushChanges, RequestClosed, RequestStarted, log_requests

LOGGER = "hgwire_wsgi.requests"


def closed(**facts: Any) -> RequestClosed:
    defaults: dict[str, Any] = {
        "request_id": "r1",
        "method": "GET",
        "path": "/repo",
        "user": None,
        "address": "192.0.2.1",
        "repository": "repo",
        "commands": ("heads",),
        "status": 200,
        "outcome": "ok",
        "error": "",
        "bytes_in": 0,
        "bytes_out": 41,
        "wall": 0.0125,
        "cpu": 0.01,
        "cache": "",
    }
    return RequestClosed(**{**defaults, **facts})


def line(caplog: pytest.LogCaptureFixture, event: RequestClosed) -> tuple[str, str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, LOGGER):
        log_requests(event)
    (record,) = caplog.records
    assert record.name == LOGGER
    return record.levelname, record.getMessage()


def test_one_line_with_the_facts_that_there_are(caplog: pytest.LogCaptureFixture) -> None:
    assert line(caplog, closed()) == (
        "INFO",
        "GET 200 ok repository=repo command=heads address=192.0.2.1 request=r1 in=0 out=41 wall=0.013 cpu=0.010",
    )
    event = closed(user="alice", cache="hit", commands=("batch", *["known"] * 8), repository="a b")
    assert line(caplog, event)[1] == (
        r'GET 200 ok repository="a b" command=batch,known,known,known,known,known,known,known,...'
        " user=alice address=192.0.2.1 request=r1 in=0 out=41 wall=0.013 cpu=0.010 cache=hit"
    )


def test_what_a_push_changed(caplog: pytest.LogCaptureFixture) -> None:
    changes = (
        PushChanges(changesets=3, bookmarks={b"b": (None, b"x" * 20)}, phases=2),
        PushChanges(obsmarkers=1),
    )
    text = line(caplog, closed(changes=changes, method="POST"))[1]
    assert text.endswith('changes="3 changesets, 1 bookmarks, 2 phases; 1 obsmarkers"')


@pytest.mark.parametrize(
    ("outcome", "level"), [("ok", "INFO"), ("refused", "INFO"), ("cut", "WARNING"), ("failed", "ERROR")]
)
def test_the_level_says_how_bad_it_is(outcome: str, level: str, caplog: pytest.LogCaptureFixture) -> None:
    found, text = line(caplog, closed(outcome=outcome, error="what happened"))
    assert found == level
    assert f" {outcome} " in text and text.endswith('error="what happened"')


def test_a_peer_cannot_write_lines_or_facts_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    event = closed(method="GET\n", commands=('x" user="root',), error="\x1b[2J\r\n", user="a\nb")
    text = line(caplog, event)[1]
    assert text.startswith(r"GET\n 200 ok ")
    assert r'command="x\" user=\"root" user=a\nb ' in text
    assert text.endswith(r"error=\x1b[2J\r\n")
    assert text.isprintable()


def test_nothing_is_logged_at_the_start_or_below_the_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, LOGGER):
        log_requests(closed())
        log_requests(RequestStarted(request_id="r1", method="GET", path="/", user=None, address=""))
    assert not caplog.records
