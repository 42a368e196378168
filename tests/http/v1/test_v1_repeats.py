"""Requests that are repeated word for word: the same reply in fewer steps, and none when anything could differ."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from fakes import Exchange, FakeProvider, Watch

from hgwire_wsgi import (
    AccessRequest,
    CommandRegistry,
    PermissionDenied,
    WireApp,
    all_of,
    default_policy,
    hgweb_policy,
    maintenance,
    read_only,
    repeatable,
)
from hgwire_wsgi.access.request import is_repeatable
from hgwire_wsgi.http.v1 import repeats


class Watched(FakeProvider):
    """A provider that can say that nothing has changed; it counts how often it is asked."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        super().__init__(settings)
        self.asked = 0
        self.same_for_all = True

    def watch(self, name: str, stamp: object) -> Callable[[], bool] | None:
        def is_current() -> bool:
            self.asked += 1
            return self.same_for_all and stamp == self.repository.change_stamp()

        return is_current


def counting(**declaration: Any) -> CommandRegistry:
    """The standard commands, and ``x``, which answers how often it ran."""
    ran: list[int] = []
    commands = CommandRegistry.standard()

    @commands.command("x", permission="pull", cacheable=True, **declaration)
    def x(context: Any, **arguments: Any) -> bytes:
        ran.append(1)
        return b"%d" % len(ran) + bytes(5000 * ("size" in context.arguments))

    return commands


def read(app: WireApp, query: str = "cmd=x", **environ: Any) -> bytes:
    exchange = Exchange(app, query, **environ)
    assert exchange.status.startswith("200 ")
    return exchange.read()


def test_the_third_equal_request_needs_no_lease() -> None:
    provider = Watched()
    app = WireApp(provider, commands=counting())
    exchanges = [Exchange(app, "cmd=x") for _ in range(4)]
    assert [exchange.read() for exchange in exchanges] == [b"1"] * 4
    assert all(exchange.headers == exchanges[0].headers for exchange in exchanges)
    assert provider.asked == 2 and provider.held == 0
    leased = provider.leased
    assert Exchange(app, "cmd=x").read() == b"1" and provider.leased == leased


def test_a_changed_repository_is_noticed() -> None:
    provider = Watched()
    app = WireApp(provider, commands=counting())
    assert [read(app) for _ in range(3)] == [b"1"] * 3
    provider.repository.token = b"another"
    assert [read(app) for _ in range(3)] == [b"2"] * 3
    provider.repository.token = b"state"
    assert read(app) == b"1"
    provider.same_for_all = False
    leased = provider.leased
    assert read(app) == b"1" and provider.leased == leased + 1


OTHERS: list[dict[str, Any]] = [
    {"query": "cmd=x&a=b"},
    {"path": "/repo/"},
    {"REMOTE_USER": "alice"},
    {"HTTP_X_HGARG_1": "a=b"},
    {"HTTP_X_HGARG_1": "a=b", "HTTP_X_HGARG_2": "c"},
    {"HTTP_X_HGPROTO_1": "0.1 0.2"},
    {"HTTP_X_HGPROTO_1": "0.1 0.2", "HTTP_X_HGPROTO_2": "comp=zstd"},
    {"REQUEST_METHOD": "HEAD"},
    {"CONTENT_LENGTH": "0"},
    {"HTTP_X_HGARGS_POST": "0"},
    {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
    {"QUERY_STRING": "cmd=x", "HTTP_X_HGARG_1": b"a=b"},
    {"QUERY_STRING": "cmd=x", "HTTP_X_HGARG_1": ["a=b"]},
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_any_other_word_makes_another_request(other: dict[str, Any]) -> None:
    provider = Watched()
    app = WireApp(provider, commands=counting())
    assert [read(app) for _ in range(3)] == [b"1"] * 3
    asked = provider.asked
    Exchange(app, **{"query": "cmd=x", **other}).read()
    assert provider.asked == asked


@pytest.mark.parametrize("more", ["HTTP_X_HGARG_2", "HTTP_X_HGPROTO_2"])
def test_requests_with_many_headers_go_the_usual_way(more: str) -> None:
    provider = Watched()
    app = WireApp(provider, commands=counting())
    one = {"HTTP_X_HGARG_1": "a=b", "HTTP_X_HGPROTO_1": "0.1 0.2", more: "more"}
    assert len({read(app, **one) for _ in range(4)}) == 1 and provider.asked == 0


def test_replies_to_malformed_and_refused_requests_are_not_repeated() -> None:
    def identify(request: Any) -> str | None:
        if request.header("X-Bad"):
            raise PermissionDenied("no such user")
        return None

    provider = Watched()
    app = WireApp(provider, commands=counting(), identify=identify)
    assert [read(app) for _ in range(3)] == [b"1"] * 3
    assert Exchange(app, "cmd=x", SERVER_NAME="\u0101").status[:3] == "400"
    assert Exchange(app, "cmd=x", HTTP_X_BAD="1").status == "403 no such user"
    assert read(app) == b"1"


def test_large_replies_and_requests_go_the_usual_way() -> None:
    provider = Watched()
    app = WireApp(provider, commands=counting(args="*"))
    for query in ("cmd=x&size=1", "cmd=x&a=" + "b" * 5000):
        assert len({read(app, query) for _ in range(4)}) == 1 and provider.asked == 0


def test_a_provider_without_a_watch_is_asked_each_time() -> None:
    provider = FakeProvider()
    app = WireApp(provider, commands=counting())
    assert [read(app) for _ in range(3)] == [b"1"] * 3 and provider.leased >= 3


def test_the_number_of_replies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_ENTRIES", 2)
    provider = Watched()
    app = WireApp(provider, commands=counting(args="*"))
    for name in "abc":
        assert len({read(app, f"cmd=x&{name}=1") for _ in range(3)}) == 1
    asked = provider.asked
    read(app, "cmd=x&a=1")
    assert provider.asked == asked
    read(app, "cmd=x&c=1")
    # The first one is back, but was found the usual way.
    read(app, "cmd=x&a=1")
    assert provider.asked == asked + 2


def test_observers_see_no_difference() -> None:
    watch = Watch()
    app = WireApp(Watched(), commands=counting(), observers=[watch])
    for _ in range(4):
        read(app)
    closed = [event for event in watch.events if hasattr(event, "bytes_out")]
    seen = [(event.repository, event.commands, event.cache, event.bytes_out, event.clone) for event in closed]
    assert seen == [("repo", ("x",), "miss", 1, False)] + [("repo", ("x",), "hit", 1, False)] * 3


# Policies.


def test_a_refusal_is_not_forgotten_for_another_user() -> None:
    provider = Watched({"allow_read": "alice"})
    app = WireApp(provider, commands=counting())
    assert [read(app, REMOTE_USER="alice") for _ in range(3)] == [b"1"] * 3
    for user in ({}, {"REMOTE_USER": "bob"}, {"REMOTE_USER": ""}):
        assert Exchange(app, "cmd=x", **user).status[:3] in ("401", "403")


def _asked_each_time(policy: Any, **options: Any) -> bool:
    provider = Watched()
    app = WireApp(provider, commands=counting(), policy=policy, **options)
    for _ in range(4):
        read(app)
    return provider.asked == 0


def test_other_policies_are_asked_for_each_request() -> None:
    asked: list[AccessRequest] = []

    def policy(request: AccessRequest) -> None:
        asked.append(request)
        default_policy(request)

    assert _asked_each_time(policy) and len(asked) >= 4
    assert _asked_each_time(all_of(default_policy, policy))
    assert not _asked_each_time(repeatable(lambda request: None))


def test_views_are_named_for_each_request() -> None:
    assert _asked_each_time(default_policy, view=lambda request: "all")


def test_policies_that_are_repeatable() -> None:
    for policy in (default_policy, hgweb_policy, read_only(), all_of(read_only(), default_policy)):
        assert is_repeatable(policy)
    assert not is_repeatable(maintenance()) and not is_repeatable(all_of(default_policy, maintenance()))


def test_a_wrapper_does_not_inherit_the_declaration() -> None:
    @functools.wraps(default_policy)
    def wrapper(request: AccessRequest) -> None:
        default_policy(request)

    assert not is_repeatable(wrapper) and _asked_each_time(wrapper)
    assert not _asked_each_time(default_policy)
