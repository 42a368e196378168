"""Policies made of others."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider

from hgwire_wsgi import (
    ApiSettings,
    PermissionDenied,
    Unavailable,
    WireApp,
    all_of,
    default_policy,
    hgweb_policy,
    maintenance,
    read_only,
    repository_read_only,
)

PUSHKEY = "cmd=pushkey&namespace=bookmarks&key=b&old=&new="


def answer(policy: Any, query: str = "cmd=heads", provider: FakeProvider | None = None, **environ: Any) -> Exchange:
    return Exchange(WireApp(provider or FakeProvider(OPEN), policy=policy), query, **environ)


def push(policy: Any, provider: FakeProvider | None = None) -> str:
    return answer(policy, PUSHKEY, provider, REQUEST_METHOD="POST").status


def test_all_of_asks_in_order_and_stops_at_the_first_refusal() -> None:
    asked: list[str] = []

    def note(name: str) -> Any:
        return lambda request: asked.append(name)

    assert answer(all_of(note("a"), note("b"))).status[:3] == "200"
    assert answer(all_of(note("c"), read_only("stop"), note("d")), PUSHKEY, REQUEST_METHOD="POST").status == "403 stop"
    assert asked == ["a", "b", "c"]


def test_all_of_nothing_would_allow_everything() -> None:
    with pytest.raises(ValueError, match="at least one"):
        all_of()


@pytest.mark.parametrize("returned", [True, False, 1])
def test_a_part_that_returns_something_refuses(returned: Any) -> None:
    assert answer(all_of(hgweb_policy, lambda request: returned)).status == "403 refused by the access policy"
    assert answer(all_of(lambda request: returned, hgweb_policy)).status == "403 refused by the access policy"


def test_read_only_refuses_pushes_and_uploads_with_its_reason() -> None:
    policy = read_only("moved to\n\n  https://new.example  ")
    assert push(policy) == "403 moved to https://new.example"
    assert answer(policy).status[:3] == "200"
    assert push(read_only()) == "403 this repository is read-only"
    with pytest.raises(ValueError, match="empty"):
        read_only(" \n")


@pytest.mark.parametrize("query", ["cmd=heads", PUSHKEY, "", "cmd=nosuch"])
def test_maintenance_refuses_everything_for_a_while(query: str) -> None:
    exchange = answer(maintenance("back at noon", 90), query, REQUEST_METHOD="POST" if query == PUSHKEY else "GET")
    if query == "cmd=nosuch":
        assert exchange.status[:3] == "400"
        return
    assert exchange.status == ("503 back at noon" if query else "503 Service Unavailable")
    assert exchange.headers["Retry-After"] == "90"
    assert exchange.headers["Cache-Control"] == "no-store"
    assert b"back at noon" in exchange.read()


def test_maintenance_over_the_frame_based_api() -> None:
    app = WireApp(FakeProvider(), policy=maintenance(), api=ApiSettings(server=True, http_v2=True))
    exchange = Exchange(app, path="/repo/api/exp-http-v2-0001/ro/heads", body=b"x")
    assert (exchange.status[:3], exchange.headers["Retry-After"]) == ("503", "600")


@pytest.mark.parametrize("arguments", [("", 1), ("x", -1)])
def test_maintenance_with_wrong_arguments(arguments: tuple[str, int]) -> None:
    with pytest.raises(ValueError):
        maintenance(*arguments)


def test_unavailable_without_a_time() -> None:
    assert Unavailable("no").headers == ()
    assert Unavailable("no", retry_after=1, headers=[("X-Why", "y")]).headers == (("Retry-After", "1"), ("X-Why", "y"))


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (None, "200 Script output follows"),
        ("", "403 this repository is read-only"),
        ("\n archived;\n see the wiki\n", "403 archived; see the wiki"),
        ("ü" * 500, "403 " + "?" * 160),
    ],
)
def test_a_repository_that_says_that_it_is_read_only(reason: str | None, status: str) -> None:
    provider = FakeProvider(OPEN)
    provider.repository.read_only_reason = lambda: reason  # type: ignore[method-assign]  # a fake
    provider.repository.pushkey = lambda *arguments: type("Result", (), {"success": True, "output": b""})  # type: ignore[method-assign]  # a fake
    for policy in (repository_read_only, default_policy):
        assert push(policy, provider) == status
        assert answer(policy, provider=provider).status[:3] == "200"


def test_the_default_is_hgwebs_rules_first() -> None:
    provider = FakeProvider({"push_ssl": "no"})
    provider.repository.read_only_reason = lambda: "archived"  # type: ignore[method-assign]
    assert push(default_policy, provider) == "403 push not authorized"


def test_policies_of_the_host_combine_with_the_default() -> None:
    def office_only(request: Any) -> None:
        if request.address != "192.0.2.1":
            raise PermissionDenied("only from the office")

    policy = all_of(default_policy, office_only)
    assert answer(policy).status == "403 only from the office"
    assert answer(policy, REMOTE_ADDR="192.0.2.1").status[:3] == "200"
