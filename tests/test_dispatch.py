from __future__ import annotations

import pytest
from fakes import OPEN, FakeProvider, ask, returning

from hgwire_wsgi import (
    AccessRequest,
    Argument,
    CommandRegistry,
    Limits,
    OutOfBandError,
    WireApp,
)
from hgwire_wsgi.testing import WireTestApp


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


def test_a_handler_that_returns_no_response_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(returning("text"))
    assert reply.status == 500
    assert "returned str" in caplog.text


def test_batch_checks_everything_before_it_runs_anything() -> None:
    ran = []
    commands = CommandRegistry.standard()
    commands.command("note", permission="pull")(lambda context: ran.append(1) or b"")
    commands.command("write", permission="push")(lambda context: ran.append(2) or b"")
    commands.command("typed", permission="pull", args=[Argument("nodes", "nodes")])(lambda context, nodes: b"")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands))
    refusals = {
        b"note ;nosuch ": 400,
        b"note ;getbundle ": 400,
        b"note ;batch cmds=heads": 400,
        b"note ;unbundle heads=": 405,
        b"note ;write ": 405,
        b"note ;typed nodes=zz": 400,
        b"note ;typed ": 400,
    }
    for cmds, status in refusals.items():
        assert app.wire("/repo", "batch", {"cmds": cmds}).status == status, cmds
    assert ran == []
    assert app.wire("/repo", "batch", {"cmds": b"note ;heads "}).data == b";" + b"11" * 20 + b"\n"


def test_error_in_a_batch_replaces_the_whole_reply() -> None:
    app = WireTestApp(WireApp(FakeProvider(), commands=returning(OutOfBandError(b"no"))))
    reply = app.wire("/repo", "batch", {"cmds": b"heads ;x "})
    assert (reply.media_type, reply.data) == ("application/hg-error", b"no")


def test_policy_sees_every_command_and_the_strictest_permission() -> None:
    asked: list[AccessRequest] = []
    app = WireTestApp(WireApp(FakeProvider(OPEN), policy=asked.append))
    app.wire("/repo", "batch", {"cmds": b"heads ;pushkey namespace=a,key=b,old=c,new=d"}, user="alice")
    assert [(each.permission, each.user, each.name, each.commands) for each in asked] == [
        ("push", "alice", "repo", ("batch", "heads", "pushkey"))
    ]


def test_removed_commands_stay_away() -> None:
    commands = CommandRegistry.standard()
    commands.remove("heads", "batch")
    app = WireTestApp(WireApp(FakeProvider(), commands=commands))
    assert app.wire("/repo", "heads").status == 400
    assert b"batch" not in app.wire("/repo", "capabilities").data.split()


def test_the_replies_of_a_batch_are_bounded() -> None:
    app = WireTestApp(WireApp(FakeProvider(), limits=Limits(batch_reply=100)))
    assert app.wire("/repo", "batch", {"cmds": b"heads ;heads "}).status == 200
    reply = app.wire("/repo", "batch", {"cmds": b"heads ;heads ;heads "})
    assert (reply.status, reply.data) == (400, b"0\nbatch: the replies exceed 100 bytes\n")
