"""What commands see of a request."""

from __future__ import annotations

import io
from typing import Any

import attrs
import pytest

from hgwire_wsgi import BytesResponse, CommandContext, ServerCapabilities
from hgwire_wsgi.commands.objects import RepositoryObjects
from hgwire_wsgi.negotiation import ClientProtocol


def context(**facts: Any) -> CommandContext:
    defaults: dict[str, Any] = {
        "repository": RepositoryObjects(),
        "arguments": {},
        "user": None,
        "protocol": ClientProtocol(),
        "server": ServerCapabilities(max_header_length=100),
        "body": io.BytesIO(),
        "environ": {},
        "authorize": lambda permission: None,
        "runner": lambda context, name: BytesResponse(name.encode()),
    }
    return CommandContext(**{**defaults, **facts})


def test_batch_is_announced_where_it_is_offered() -> None:
    tokens = ServerCapabilities(max_header_length=100).capabilities()
    assert b"httpheader=100" in tokens
    assert context().capabilities == [b"batch", *tokens]
    assert context(offers_batch=False).capabilities == tokens


@pytest.mark.parametrize(
    ("user", "environ", "client"),
    [
        (None, {}, "remote:http::"),
        ("alice", {"wsgi.url_scheme": "https", "REMOTE_ADDR": "192.0.2.1"}, "remote:https:192.0.2.1:alice"),
        ("a:b\n", {"REMOTE_HOST": "host", "REMOTE_ADDR": "::1"}, "remote:http:host:a%3Ab%0A"),
        (None, {"REMOTE_HOST": "", "REMOTE_ADDR": "::1"}, "remote:http:%3A%3A1:"),
    ],
)
def test_who_asks_and_from_where(user: str | None, environ: dict[str, str], client: str) -> None:
    assert context(user=user, environ=environ).client == client


def test_another_command_runs_for_the_same_request() -> None:
    called = []

    def runner(given: CommandContext, name: str) -> BytesResponse:
        called.append((given, name))
        return BytesResponse(b"reply")

    made = context(runner=runner)
    assert made.call("capabilities") == BytesResponse(b"reply")
    assert called == [(made, "capabilities")]


def test_handlers_cannot_change_it() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        context().user = "root"  # type: ignore[misc]  # the point of the test
