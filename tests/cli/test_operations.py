from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from hgwire_wsgi.cli.operations import OperationPrinter, describe
from hgwire_wsgi.events import PushChanges, RequestClosed, RequestStarted

NODE = b"\x11" * 20


def closed(*commands: str, **fields: Any) -> RequestClosed:
    given: dict[str, Any] = {
        "request_id": "1",
        "method": "GET",
        "path": "/flask",
        "user": "alice",
        "address": "10.0.0.7",
        "repository": "flask",
        "status": 200,
        "outcome": "ok",
        "error": "",
        "bytes_in": 0,
        "bytes_out": 14_230_000,
        "wall": 0.81,
        "cpu": 0.1,
        "cache": "",
        **fields,
    }
    return RequestClosed(commands=commands, **given)


def said(*commands: str, **fields: Any) -> str:
    return describe(closed(*commands, **fields), "home").removeprefix("alice@10.0.0.7  ")


@pytest.mark.parametrize(
    "commands",
    [
        ("capabilities",),
        ("batch", "heads", "known"),
        ("listkeys",),
        ("lookup",),
        ("clonebundles",),
        ("extension",),
        (),
    ],
)
def test_the_small_requests_of_hg_are_not_operations(commands: tuple[str, ...]) -> None:
    assert said(*commands) == ""
    assert said(*commands, outcome="cut", error="the client disconnected") == ""


@pytest.mark.parametrize(
    ("command", "fields", "text"),
    [
        ("getbundle", {}, "pulled from flask: 14.2 MB in 0.8 s"),
        ("getbundle", {"clone": True, "cache": "hit"}, "cloned flask: 14.2 MB in 0.8 s (cached)"),
        ("getbundle", {"clone": True, "cache": "miss"}, "cloned flask: 14.2 MB in 0.8 s"),
        ("getbundle", {"cache": "followed"}, "pulled from flask: 14.2 MB in 0.8 s (shared with another client)"),
        ("stream_out", {"clone": True}, "cloned flask: 14.2 MB in 0.8 s"),
        ("changegroup", {}, "pulled from flask: 14.2 MB in 0.8 s"),
        ("getbundle", {"repository": ""}, "pulled from home: 14.2 MB in 0.8 s"),
        ("getbundle", {"method": "HEAD"}, ""),
    ],
)
def test_clones_and_pulls(command: str, fields: dict[str, Any], text: str) -> None:
    assert said(command, **fields) == text


def test_a_pull_with_frames() -> None:
    assert said("multirequest", "listkeys", "getbundle") == "pulled from flask: 14.2 MB in 0.8 s"


@pytest.mark.parametrize(
    ("size", "wall", "text"),
    [
        (0, 0, "0 bytes in 0 ms"),
        (1, 0.0042, "1 byte in 4 ms"),
        (999, 0.0994, "999 bytes in 99 ms"),
        (1000, 0.0996, "1.0 kB in 0.1 s"),
        (999_949, 9.94, "999.9 kB in 9.9 s"),
        (999_950, 9.96, "1.0 MB in 10 s"),
        (5 * 10**9, 59.6, "5.0 GB in 1 min 0 s"),
        (7 * 10**15, 7300, "7000.0 TB in 121 min 40 s"),
    ],
)
def test_amounts(size: int, wall: float, text: str) -> None:
    assert said("getbundle", bytes_out=size, wall=wall) == f"pulled from flask: {text}"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ((), "pushed to flask, which had it all"),
        ((PushChanges(),), "pushed to flask, which had it all"),
        ((PushChanges(changesets=1),), "pushed 1 changeset to flask"),
        (
            (PushChanges(changesets=2, phases=3, obsmarkers=4), PushChanges(changesets=1)),
            "pushed 3 changesets to flask",
        ),
        (
            (PushChanges(changesets=3, bookmarks={b"@": (NODE, NODE)}),),
            "pushed 3 changesets to flask, moved bookmark @",
        ),
        ((PushChanges(bookmarks={b"new": (None, NODE)}),), "created bookmark new in flask"),
        (
            (PushChanges(bookmarks={b"old": (NODE, None)}), PushChanges(bookmarks={b"@": (NODE, NODE)})),
            "deleted bookmark old, moved bookmark @ in flask",
        ),
        ((PushChanges(phases=2),), "changed the phase of 2 changesets in flask"),
        (
            (PushChanges(phases=1, obsmarkers=1),),
            "changed the phase of 1 changeset, added 1 obsolescence marker in flask",
        ),
        (
            (PushChanges(bookmarks={b"%d" % number: (None, NODE) for number in range(1000)}),),
            "created bookmark 0, created bookmark 1, created bookmark 2, changed 997 more bookmarks in flask",
        ),
    ],
)
@pytest.mark.parametrize("command", ["unbundle", "pushkey"])
def test_pushes(command: str, changes: tuple[PushChanges, ...], text: str) -> None:
    assert said(command, method="POST", changes=changes) == text


@pytest.mark.parametrize(
    ("commands", "fields", "text"),
    [
        (
            ("unbundle",),
            {"outcome": "refused", "error": "push not authorized"},
            "was refused: push to flask: push not authorized",
        ),
        (
            ("getbundle",),
            {"outcome": "refused", "error": "unknown node"},
            "was refused: pull from flask: unknown node",
        ),
        (
            ("batch", "heads"),
            {"outcome": "refused", "error": "pull not authorized"},
            "was refused access to flask: pull not authorized",
        ),
        (
            ("capabilities",),
            {"outcome": "refused", "repository": "", "path": "/nowhere", "status": 404, "error": "no such repository"},
            "was refused access to /nowhere: no such repository",
        ),
        (
            ("capabilities",),
            {"outcome": "refused", "repository": "", "status": 401, "error": "pull not authorized"},
            "was refused access to home: pull not authorized",
        ),
        (
            ("heads",),
            {"outcome": "failed", "error": "internal server error"},
            "access to flask failed: internal server error",
        ),
        (
            ("getbundle",),
            {"outcome": "failed", "clone": True, "error": "internal server error"},
            "clone of flask failed: internal server error",
        ),
        (
            ("getbundle",),
            {"outcome": "cut", "clone": True, "error": "the client disconnected"},
            "clone of flask broke off after 14.2 MB in 0.8 s: the client disconnected",
        ),
        (
            ("unbundle",),
            {"outcome": "cut", "bytes_in": 2000, "error": "the body is cut short"},
            "push to flask broke off after 2.0 kB in 0.8 s: the body is cut short",
        ),
        ((), {"outcome": "refused", "path": "/favicon.ico", "status": 404, "error": "not found"}, ""),
    ],
)
def test_what_did_not_end_well(commands: tuple[str, ...], fields: dict[str, Any], text: str) -> None:
    assert said(*commands, **fields) == text


@pytest.mark.parametrize(
    ("user", "address", "who"),
    [
        ("alice", "10.0.0.7", "alice@10.0.0.7"),
        (None, "10.0.0.7", "10.0.0.7"),
        ("alice", "", "alice"),
        (None, "", "someone"),
        ("Zo\xeb", "::1", "Zo\xeb@::1"),
        ("\u017eofie", "::1", "\u017eofie@::1"),
    ],
)
def test_who_it_was(user: str | None, address: str, who: str) -> None:
    assert describe(closed("getbundle", user=user, address=address), "").startswith(f"{who}  pulled")


def test_names_from_peers_cannot_move_the_cursor_or_forge_lines() -> None:
    evil = "a\x1b[2J\r\n\x00\u202e\x9b\ud800"
    shown = "a\\x1b[2J\\r\\n\\x00\\u202e\\x9b\\ud800"
    assert describe(closed("getbundle", user=evil, address="x\n", repository=evil), "") == (
        f"{shown}@x\\n  pulled from {shown}: 14.2 MB in 0.8 s"
    )
    assert said("unbundle", changes=(PushChanges(bookmarks={b"x\n\xff": (None, NODE)}),)) == (
        "created bookmark x\\n\\xff in flask"
    )
    assert said("unbundle", outcome="refused", error="no\x07") == "was refused: push to flask: no\\x07"
    assert said("heads", outcome="refused", status=404, repository="", path="/\x1b", error="no") == (
        "was refused access to /\\x1b: no"
    )


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_an_operation_is_one_line_and_one_write(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda descriptor, data: written.append(data))
    printer = OperationPrinter(pipe[1], "utf-8", "home")
    printer(RequestStarted(request_id="1", method="GET", path="/", user=None, address=""))
    printer(closed("capabilities"))
    assert not written
    printer(closed("getbundle", repository="d\xc3\xa9p\xc3\xb4t"))
    (line,) = written
    pattern = r"\d\d:\d\d:\d\d  alice@10\.0\.0\.7  pulled from d\xe9p\xf4t: 14\.2 MB in 0\.8 s\n"
    assert re.fullmatch(pattern, line.decode())


def test_what_the_terminal_cannot_show_is_escaped(pipe: tuple[int, int]) -> None:
    OperationPrinter(pipe[1], "ascii", "home")(closed("getbundle", repository="d\xc3\xa9p\xc3\xb4t"))
    assert b"from d\\xe9p\\xf4t: " in os.read(pipe[0], 1000)


def test_the_longest_line_is_written_in_one_piece(pipe: tuple[int, int]) -> None:
    wide = "\U0001f600" * 10_000
    bookmarks = {(wide + str(number)).encode(): (None, NODE) for number in range(10)}
    changes = (PushChanges(changesets=1, bookmarks=bookmarks),)
    for encoding in ("utf-8", "ascii"):
        OperationPrinter(pipe[1], encoding, "")(closed("unbundle", user=wide, repository=wide, changes=changes))
        line = os.read(pipe[0], 100_000)
        assert len(line) <= 4096 and line.endswith(b"\n") and line.count(b"\n") == 1


def test_a_reader_that_does_not_read_holds_up_nobody(pipe: tuple[int, int]) -> None:
    printer = OperationPrinter(pipe[1], "utf-8", "home")
    for _ in range(5000):
        printer(closed("getbundle"))
    assert 100 < os.read(pipe[0], 1 << 20).count(b"\n") < 5000


def test_a_reader_that_went_away_is_no_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    OperationPrinter(pipe[1], "utf-8", "home")(closed("getbundle"))
    os.close(pipe[1])
    OperationPrinter(pipe[1], "utf-8", "home")(closed("getbundle"))
