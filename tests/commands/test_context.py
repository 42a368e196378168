"""What commands see of a request."""

from __future__ import annotations

import io
from typing import Any

import attrs
import pytest

from hgwire_wsgi import BytesResponse, CommandContext, ServerCapabilities
from hgwire_wsgi.commands.context import Allowance
from hgwire_wsgi.commands.objects import RepositoryObjects
from hgwire_wsgi.errors import RequestError
from hgwire_wsgi.negotiation import ClientProtocol


def context(**facts: Any) -> CommandContext:
    defaults: dict[str, Any] = {
        "repository": RepositoryObjects(),
        "arguments": {},
        "user": None,
        "protocol": ClientProtocol(),
        "server": ServerCapabilities(max_header_length=100),
        "body": io.BytesIO(),
        "client": "remote:http::",
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


def test_an_allowance_ends() -> None:
    allowance = Allowance(2)
    allowance.take("branches")
    allowance.take("between")
    with pytest.raises(RequestError, match="between: more than 2 changesets to visit; ask for less at a time"):
        allowance.take("between")
