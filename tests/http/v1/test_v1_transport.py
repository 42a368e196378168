from __future__ import annotations

from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider

from hgwire_wsgi import (
    AccessRequest,
    CommandContext,
    CommandRegistry,
    PermissionDenied,
    ServerCapabilities,
    WireApp,
)
from hgwire_wsgi.testing import WireTestApp


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


def test_vary_names_the_headers_the_reply_depends_on(provider: FakeProvider) -> None:
    headers = {"HTTP_X_HGARG_1": "nodes=", "HTTP_X_HGPROTO_1": "0.1", "HTTP_X_HGPROTO_2": " 0.2"}
    exchange = Exchange(WireApp(provider), "cmd=known", **headers)
    assert exchange.headers["Vary"] == "X-HgArg-1, X-HgArg-2, X-HgProto-1, X-HgProto-2, X-HgProto-3"


def test_short_replies_are_remembered_and_the_policy_is_asked_each_time() -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull", cacheable=True)(lambda context: ran.append(1) or b"%d" % len(ran))
    provider = FakeProvider()
    app = WireTestApp(WireApp(provider, commands=commands))
    assert [app.wire("/repo", "x").data for _ in range(3)] == [b"1"] * 3
    assert app.wire("/repo", "x", protocol="0.2").data == b"2"
    assert app.wire("/repo", "x", {"other": "argument"}).data == b"3"
    assert app.wire("/repo", "x", method="HEAD").data == b""
    provider.repository.web["allow_read"] = "alice"
    assert app.wire("/repo", "x").status == 401
    assert app.wire("/repo", "x", user="alice").data == b"1"
    provider.repository.token = b"another state"
    assert app.wire("/repo", "x", user="alice").data == b"5"


def test_a_reply_is_not_remembered_for_a_state_it_does_not_belong_to() -> None:
    provider = FakeProvider()
    commands = CommandRegistry.standard()

    @commands.command("x", permission="pull", cacheable=True)
    def changes(context: CommandContext) -> bytes:
        provider.repository.token += b"!"
        return provider.repository.token

    app = WireTestApp(WireApp(provider, commands=commands))
    assert [app.wire("/repo", "x").data for _ in range(2)] == [b"state!", b"state!!"]


@pytest.mark.parametrize("declaration", [{}, {"permission": "push"}])
def test_what_is_not_declared_so_is_not_remembered(declaration: dict[str, Any]) -> None:
    ran: list[int] = []
    commands = CommandRegistry.standard()
    commands.command("x", **{"permission": "pull", **declaration})(lambda context: ran.append(1) or b"%d" % len(ran))
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands))
    method = "POST" if declaration else "GET"
    assert [app.wire("/repo", "x", method=method).data for _ in range(2)] == [b"1", b"2"]
    assert [app.wire("/repo", "batch", {"cmds": b"heads ;x "}, method=method).data[-1:] for _ in range(2)] == [
        b"3",
        b"4",
    ]


def test_requests_with_posted_arguments_are_not_taken_for_ones_that_came_before() -> None:
    app = WireTestApp(WireApp(FakeProvider(), capabilities=ServerCapabilities(post_args=True)))
    assert app.wire("/repo", "known", {"nodes": b""}).status == 200
    assert app.wire("/repo", "known", {"nodes": b""}, headers={"X-HgArgs-Post": "zz"}).status == 400


def test_a_permission_that_a_command_asked_for_while_it_ran_is_asked_for_each_time() -> None:
    commands = CommandRegistry.standard()

    @commands.command("x", permission="pull", cacheable=True)
    def secret(context: CommandContext) -> bytes:
        context.authorize("push")
        return b"secret"

    def policy(request: AccessRequest) -> None:
        if request.permission == "push" and request.user != "alice":
            raise PermissionDenied("no")

    app = WireTestApp(WireApp(FakeProvider(), commands=commands, policy=policy))
    assert [app.wire("/repo", "x", user=user).status for user in ("bob", "alice", "bob")] == [403, 200, 403]
