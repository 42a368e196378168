"""Asking for a login before a push."""

from __future__ import annotations

import pytest

from hgwire_wsgi import AccessRequest, PermissionDenied, hgweb_policy, login_first
from hgwire_wsgi.testing.memory import MemoryRepository

LOGIN = {"allow-push": "alice", "push_ssl": "no"}


def outcome(settings: dict[str, str], *commands: str, user: str | None = None, permission: str = "pull") -> str:
    """``ok``, or the status and words of the refusal; with the default commands, and with ``branchmap``."""
    request = AccessRequest(
        permission=permission,
        user=user,
        name="",
        repository=MemoryRepository(settings={f"web.{name}": value for name, value in settings.items()}),
        commands=commands,
        method="GET" if permission == "pull" else "POST",
        scheme="http",
        address="",
        environ={},
    )
    policy = login_first(hgweb_policy, {"branchmap"}) if "branchmap" in commands else login_first(hgweb_policy)
    try:
        policy(request)
    except PermissionDenied as error:
        return f"{error.http_status} {error.message}"
    return "ok"


@pytest.mark.parametrize("commands", [("capabilities",), ("branchmap",), ("batch", "heads", "branchmap")])
def test_who_could_push_after_a_login_is_asked_for_it(commands: tuple[str, ...]) -> None:
    assert outcome(LOGIN, *commands) == "401 push not authorized"
    assert outcome(LOGIN, *commands, user="alice") == "ok"
    assert outcome(LOGIN, *commands, user="bob") == "ok"


@pytest.mark.parametrize("commands", [(), ("heads",), ("batch", "heads", "known"), ("getbundle",)])
def test_other_commands_are_answered(commands: tuple[str, ...]) -> None:
    assert outcome(LOGIN, *commands) == "ok"


def test_only_none_allows() -> None:
    """A policy that returns something is a bug, which must not let everybody in."""
    request = AccessRequest(
        permission="pull",
        user="alice",
        name="",
        repository=MemoryRepository(),
        commands=("heads",),
        method="GET",
        scheme="http",
        address="",
        environ={},
    )
    with pytest.raises(TypeError):
        login_first(lambda request: False)(request)  # type: ignore[arg-type,return-value]  # that is the bug


def test_a_policy_that_cannot_answer_for_a_push_is_asked_again_then() -> None:
    def protects_bookmarks(request: AccessRequest) -> None:
        if request.permission == "push" and request.arguments["namespace"] == b"bookmarks":
            raise PermissionDenied("no", status=401)

    settings = AccessRequest(
        permission="pull",
        user=None,
        name="",
        repository=MemoryRepository(),
        commands=("capabilities",),
        method="GET",
        scheme="http",
        address="",
        environ={},
    )
    login_first(protects_bookmarks)(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"allow-push": "*", "push_ssl": "no"},
        {"allow-push": "", "push_ssl": "no"},
        {"allow-push": "alice", "push_ssl": "yes"},
    ],
    ids=["anyone", "nobody", "needs TLS"],
)
def test_nobody_is_asked_where_a_login_does_not_help(settings: dict[str, str]) -> None:
    assert outcome(settings, "capabilities") == "ok"


def test_the_rules_of_the_policy_stay() -> None:
    assert outcome({**LOGIN, "allow-pull": "no"}, "capabilities", user="alice").endswith("pull not authorized")
    assert outcome(LOGIN, "unbundle", permission="push") == "401 push not authorized"
    assert outcome(LOGIN, "unbundle", permission="push", user="alice") == "ok"
