"""The arrival of a request: the policy, hooks, logs and events see one user, one address and one scheme."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
from fakes import Exchange, FakeProvider

from hgwire_wsgi import (
    AccessRequest,
    CommandContext,
    CommandRegistry,
    IdentityRequest,
    PermissionDenied,
    TrustedProxies,
    WireApp,
    basic,
    remote_user,
    trusted_header,
)
from hgwire_wsgi.errors import RepositoryBusy

ALICE = "Basic " + base64.b64encode("ém:s3cret".encode()).decode()


def verify(user: str, password: str) -> bool:
    return password == "s3cret"


def exchange(app: WireApp, query: str, **settings: Any) -> Exchange:
    """A request whose response was read."""
    made = Exchange(app, query, **settings)
    made.read()
    return made


class Seen:
    """What each part of the application saw of the last request."""

    def __init__(self, **settings: Any) -> None:
        registry = CommandRegistry.standard()
        registry.command("who", permission="pull")(self.command)
        self.policies: list[AccessRequest] = []
        self.contexts: list[CommandContext] = []
        self.events: list[Any] = []
        self.app = WireApp(
            FakeProvider(), commands=registry, policy=self.policies.append, observers=[self.events.append], **settings
        )

    def command(self, context: CommandContext) -> bytes:
        self.contexts.append(context)
        return b"done"

    def ask(self, **environ: Any) -> Exchange:
        return exchange(self.app, "cmd=who", **environ)


def test_without_arguments_the_environ_is_not_copied() -> None:
    seen = Seen()
    asked = seen.ask(REMOTE_USER="Ã©m", HTTP_AUTHORIZATION=ALICE)
    assert seen.policies[0].environ is asked.environ
    assert (seen.policies[0].user, seen.contexts[0].user) == ("ém", "ém")
    assert [event.user for event in seen.events] == ["ém", "ém"]


def test_everybody_sees_the_user_and_nobody_the_password() -> None:
    seen = Seen(identify=basic(verify))
    asked = seen.ask(HTTP_AUTHORIZATION=ALICE, REMOTE_USER="root")
    policy, context = seen.policies[0], seen.contexts[0]
    assert (asked.status[:3], policy.user, context.user) == ("200", "ém", "ém")
    assert policy.environ["REMOTE_USER"] == context.environ["REMOTE_USER"] == "Ã©m"
    assert context.client.endswith(":%C3%A9m")
    assert [event.user for event in seen.events] == ["ém", "ém"]
    for shown in (policy.environ, context.environ):
        assert "HTTP_AUTHORIZATION" not in shown
    assert ALICE[6:] not in repr((policy, context, seen.events))
    # The server may want to log it.
    assert asked.environ["REMOTE_USER"] == "root" and asked.environ["HTTP_AUTHORIZATION"] == ALICE


def test_without_credentials_a_user_of_the_server_does_not_count() -> None:
    seen = Seen(identify=basic(verify))
    seen.ask(REMOTE_USER="root")
    assert seen.policies[0].user is None and "REMOTE_USER" not in seen.policies[0].environ


def test_text_from_the_host_is_taken_as_it_is() -> None:
    seen = Seen(identify=lambda request: request.environ.get("host.user"))
    for name in ("Ã©", "é", "Ж", "a b"):
        seen.ask(**{"host.user": name})
        assert seen.policies[-1].user == name
    seen.ask(**{"host.user": ""})
    assert seen.policies[-1].user is None


@pytest.mark.parametrize("header", [ALICE[:-1], "Basic !", "Basic " + base64.b64encode(b"alice:wrong").decode()])
def test_wrong_credentials_are_an_ordinary_refusal(header: str) -> None:
    seen = Seen(identify=basic(verify))
    asked = seen.ask(HTTP_AUTHORIZATION=header, body=b"x" * 1000)
    assert asked.status.startswith("401 ")
    assert asked.headers["WWW-Authenticate"].startswith("Basic ")
    assert seen.policies == seen.contexts == []
    assert [event.user for event in seen.events] == [None, None]
    assert (seen.events[1].status, seen.events[1].outcome) == (401, "refused")
    assert asked.input.read() == b""


def test_an_identity_may_use_any_error_of_the_package() -> None:
    def busy(request: IdentityRequest) -> str:
        raise RepositoryBusy("later")

    assert Seen(identify=busy).ask().status.startswith("503 ")


def test_an_identity_that_fails_is_a_server_error(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: IdentityRequest) -> str:
        raise OSError("the directory is down")

    def wrong(request: IdentityRequest) -> Any:
        return object()

    for identify in (fail, wrong):
        seen = Seen(identify=identify)
        assert seen.ask().status.startswith("500 ")
        assert seen.policies == []
    assert len(caplog.records) == 2 and caplog.records[0].levelno == logging.ERROR


class TestProxies:
    proxies = TrustedProxies(["10.0.0.0/8", "unix"])
    forwarded = {"HTTP_X_FORWARDED_FOR": "6.6.6.6, 192.0.2.7", "HTTP_X_FORWARDED_PROTO": "https"}

    def test_everybody_sees_the_client(self) -> None:
        seen = Seen(proxies=self.proxies)
        seen.ask(REMOTE_ADDR="10.0.0.1", REMOTE_HOST="proxy", REMOTE_PORT="1", **self.forwarded)
        policy, context = seen.policies[0], seen.contexts[0]
        assert (policy.address, policy.scheme) == ("192.0.2.7", "https")
        assert policy.environ["REMOTE_ADDR"] == "192.0.2.7" and policy.environ["wsgi.url_scheme"] == "https"
        assert not {"REMOTE_HOST", "REMOTE_PORT"} & set(policy.environ)
        assert context.client == "remote:https:192.0.2.7:"
        assert [event.address for event in seen.events] == ["192.0.2.7", "192.0.2.7"]

    def test_a_unix_socket_has_no_address(self) -> None:
        seen = Seen(proxies=self.proxies)
        seen.ask(REMOTE_ADDR="", **self.forwarded)
        assert (seen.policies[0].address, seen.policies[0].scheme) == ("192.0.2.7", "https")

    def test_another_peer_cannot_lie(self) -> None:
        seen = Seen(proxies=self.proxies)
        seen.ask(REMOTE_ADDR="192.0.2.1", REMOTE_HOST="host", **self.forwarded)
        assert (seen.policies[0].address, seen.policies[0].scheme) == ("192.0.2.1", "http")
        assert seen.contexts[0].client == "remote:http:host:"

    def test_an_identity_gets_the_client_and_the_peer(self) -> None:
        asked: list[IdentityRequest] = []
        seen = Seen(proxies=self.proxies, identify=asked.append)
        seen.ask(REMOTE_ADDR="10.0.0.1", **self.forwarded)
        assert (asked[0].peer, asked[0].address, asked[0].scheme) == ("10.0.0.1", "192.0.2.7", "https")
        assert asked[0].environ["REMOTE_ADDR"] == "10.0.0.1"
        assert asked[0].header("X-Forwarded-Proto") == "https"

    def test_the_user_of_a_front_end(self) -> None:
        seen = Seen(proxies=self.proxies, identify=trusted_header("X-Forwarded-User", self.proxies))
        for peer, user in (("10.0.0.1", "ém"), ("", "ém"), ("192.0.2.1", None)):
            seen.ask(REMOTE_ADDR=peer, HTTP_X_FORWARDED_USER="Ã©m", REMOTE_USER="root", **self.forwarded)
            assert seen.policies[-1].user == user


def test_large_files_get_the_credentials_of_the_client() -> None:
    """Mercurial's lfs extension passes them on to the client, for the addresses of the files."""
    from hgwire_wsgi.http.app import _shift
    from hgwire_wsgi.http.arrival import Arrivals
    from hgwire_wsgi.limits import Limits

    request = Arrivals(basic(verify), None)({"PATH_INFO": "/r/.git/x", "HTTP_AUTHORIZATION": ALICE}, Limits())
    assert _shift(request, ".git/x")["HTTP_AUTHORIZATION"] == ALICE
    request = Arrivals(remote_user, None)({"PATH_INFO": "/r/.git/x"}, Limits())
    assert "HTTP_AUTHORIZATION" not in _shift(request, ".git/x")


def test_the_identity_comes_before_the_repository() -> None:
    def never(request: IdentityRequest) -> str:
        raise PermissionDenied("no", status=401)

    seen = Seen(identify=never)
    for path in ("/repo", "/nosuch", "/", "/api/x"):
        assert exchange(seen.app, "cmd=heads", path=path).status.startswith("401 ")
    assert seen.app.provider.leased == 0  # type: ignore[attr-defined]  # it is the fake one
