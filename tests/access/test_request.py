"""The question to a policy, and what counts as an answer."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from hgwire_wsgi.access.request import AccessRequest, CommandCall, ask, is_repeatable, repeatable
from hgwire_wsgi.errors import RequestError
from hgwire_wsgi.testing.memory import MemoryRepository


def question(**given: Any) -> AccessRequest:
    facts: dict[str, Any] = {
        "permission": "pull",
        "user": None,
        "name": "",
        "repository": MemoryRepository(),
        "commands": (),
        "method": "GET",
        "scheme": "http",
        "address": "",
        "environ": {},
    }
    return AccessRequest(**{**facts, **given})


def test_only_none_allows() -> None:
    assert ask(lambda request: None, question()) is None
    for answer in (False, True, 0, "", NotImplemented):
        with pytest.raises(TypeError, match=f"not {type(answer).__name__}"):
            ask(lambda request, answer=answer: answer, question())


def test_exceptions_of_a_policy_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        ask(lambda request: 1 / 0, question())


def test_arguments_are_read_when_they_are_used() -> None:
    read: list[int] = []
    calls = (CommandCall("batch", {"cmds": b"x"}), CommandCall("lookup", {"key": b"tip"}))

    def read_calls() -> tuple[CommandCall, ...]:
        read.append(1)
        return calls

    asked = question(commands=("batch", "lookup"), read_calls=read_calls)
    assert "calls" not in repr(asked) and asked == question(commands=asked.commands, repository=asked.repository)
    assert read == []
    assert (asked.calls, asked.arguments) == (calls, {"cmds": b"x"})
    assert len(read) == 2


def test_without_commands_there_are_no_arguments() -> None:
    assert (question().calls, dict(question().arguments)) == ((), {})


def test_malformed_arguments_are_errors_of_the_request() -> None:
    def read_calls() -> tuple[CommandCall, ...]:
        raise RequestError("malformed")

    asked = question(read_calls=read_calls)
    for name in ("calls", "arguments"):
        with pytest.raises(RequestError):
            getattr(asked, name)


def test_a_policy_is_repeatable_only_if_it_says_so_itself() -> None:
    def policy(request: AccessRequest) -> None:
        """Allow everything."""

    assert not is_repeatable(policy)
    assert repeatable(policy) is policy and is_repeatable(policy)
    assert not is_repeatable(functools.wraps(policy)(lambda request: None))
