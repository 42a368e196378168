"""What observers are told about each command."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fakes import FakeProvider
from v2_support import OPEN, Source, chunks, command, commands, make_app, registry, send

from hgwire_wsgi import (
    ApiSettings,
    CommandContext,
    CommandReport,
    LegacyStreamResponse,
    OutOfBandError,
    PushChanges,
    PushError,
    RequestClosed,
    StreamResponse,
)
from hgwire_wsgi.errors import CommandFailed, PermissionDenied, StreamChanged
from hgwire_wsgi.framing import HEADER_SIZE
from hgwire_wsgi.http.v2.renderers import Framed, FramedStream
from hgwire_wsgi.http.v2.reports import Stopwatch


def closed(made: Any, target: str, body: bytes, *, take: int | None = None, workers: int = 0, **options: Any) -> Any:
    """The event at the end of a request of which ``take`` chunks are taken (default: all)."""
    events: list[Any] = []
    api = ApiSettings(server=True, http_v2=True, workers=workers)
    exchange = send(make_app(made, api=api, observers=[events.append], **options), target, body)
    if take is None:
        exchange.read()
    else:
        for _ in range(take):
            next(exchange.response)
        exchange.close()
    (event,) = (event for event in events if isinstance(event, RequestClosed))
    return event


def raising(error: Exception) -> Any:
    def fail() -> Any:
        raise error

    return fail


@pytest.mark.parametrize("workers", [0, 3])
def test_one_report_for_each_command(workers: int) -> None:
    made = registry(
        ok=lambda: StreamResponse(chunks(100)),
        refused=raising(CommandFailed("not today")),
        failed=raising(RuntimeError("secret")),
        pushed=PushError(b"raced"),
        oob=OutOfBandError(b"too old"),
        late=lambda: LegacyStreamResponse(Source(b"x" * 40_000, CommandFailed("gone"))),
        crashed=lambda: StreamResponse(Source(b"x" * 40_000, StreamChanged("the repository has changed"))),
    )
    names = ("ok", "refused", "failed", "pushed", "oob", "late", "crashed", "known")
    event = closed(made, "ro/multirequest", commands(*names), workers=workers)
    assert event.commands == names
    assert event.outcome == "ok"
    assert {each.command: (each.outcome, each.error) for each in event.reports} == {
        "ok": ("ok", ""),
        "refused": ("refused", "not today"),
        "failed": ("failed", "internal server error"),
        "pushed": ("refused", "raced"),
        "oob": ("refused", "too old"),
        "late": ("refused", "gone"),
        "crashed": ("failed", "the repository has changed"),
        "known": ("refused", "known: missing argument nodes"),
    }
    assert sorted(each.request_id for each in event.reports) == list(range(1, 17, 2))
    assert sum(each.bytes_out for each in event.reports) == event.bytes_out
    assert next(each for each in event.reports if each.command == "pushed").bytes_out == HEADER_SIZE + len("raced")


def test_names_of_sub_commands_and_of_malformed_ones() -> None:
    batch = ("batch", {b"cmds": b"heads ;echo text=a"})
    event = closed(registry(), "ro/multirequest", commands(batch, ("batch", {}), "heads"))
    assert event.commands == ("batch", "heads", "echo", "batch", "heads")
    assert [(each.command, each.outcome) for each in event.reports] == [
        ("batch", "ok"),
        ("batch", "refused"),
        ("heads", "ok"),
    ]


def test_a_command_alone() -> None:
    event = closed(registry(), "ro/batch", commands(("batch", {b"cmds": b"heads "})))
    assert event.commands == ("batch", "heads")
    assert [(each.request_id, each.command, each.outcome) for each in event.reports] == [(1, "batch", "ok")]
    event = closed(registry(), "rw/put", command(1, "put", data=b"data"))
    assert [(each.command, each.outcome) for each in event.reports] == [("put", "ok")]


@pytest.mark.parametrize(
    ("target", "body", "names"),
    [
        ("ro/heads", commands("known"), ("heads",)),
        ("ro/multirequest", b"", ("multirequest",)),
        ("ro/multirequest", commands("heads", "nope"), ("heads",)),
        ("ro/multirequest", commands("heads", "put"), ("heads",)),
    ],
)
def test_a_refused_request_has_no_reports(target: str, body: bytes, names: tuple[str, ...]) -> None:
    event = closed(registry(), target, body)
    assert (event.outcome, event.commands, event.reports) == ("refused", names, ())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_client_that_leaves(workers: int) -> None:
    made = registry(x=lambda: StreamResponse(chunks(2000)))
    event = closed(made, "ro/multirequest", commands("heads", "x", "x", "x"), take=2, workers=workers)
    assert event.outcome == "cut"
    outcomes = {each.outcome for each in event.reports if each.command == "x"}
    assert outcomes == {"cut"}
    # Those that never ran have no report.
    assert len(event.reports) < 4
    assert all(each.bytes_out for each in event.reports if each.command == "heads")


def test_time_is_that_of_the_command_itself() -> None:
    waited = threading.Event()
    made = registry(x=lambda: str(waited.wait(0.05)).encode())
    event = closed(made, "ro/multirequest", commands("x", "heads"))
    assert event.reports[0].wall >= 0.05 > event.reports[0].cpu >= 0
    assert event.wall >= event.reports[0].wall + event.reports[1].wall


def test_processor_time_is_not_measured_across_threads() -> None:
    made: list[Stopwatch] = []
    thread = threading.Thread(target=lambda: made.append(Stopwatch()))
    thread.start()
    thread.join()
    # The number of a thread that has ended may be used again, but not while this one lives.
    report = made[0].report(1, "x", Framed(b""), 0, complete=True)
    assert isinstance(report, CommandReport)
    assert report.cpu == 0.0


def test_an_error_that_is_no_text() -> None:
    report = Stopwatch().report(1, "x", Framed(error=b"\xff"), 9, complete=True)
    assert (report.outcome, report.error) == ("refused", "\ufffd")
    source = FramedStream(Source(PermissionDenied("no")))
    with pytest.raises(PermissionDenied):
        next(source)
    assert Stopwatch().report(1, "x", Framed(source), 9, complete=False).outcome == "cut"


def test_changes_of_pushes_are_reported_beside() -> None:
    made = registry()

    @made.command("change", permission="push")
    def change(context: CommandContext) -> bytes:
        assert context.report_changes is not None
        context.report_changes(PushChanges(changesets=2))
        return b"1\n"

    event = closed(made, "rw/multirequest", commands("change", "heads"), provider=FakeProvider(OPEN))
    assert event.changes == (PushChanges(changesets=2),)
    assert [each.outcome for each in event.reports] == ["ok", "ok"]
