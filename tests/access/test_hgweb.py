"""hgweb's access rules."""

from __future__ import annotations

from typing import Any

import pytest

from hgwire_wsgi.access.hgweb import hgweb_policy, is_hidden
from hgwire_wsgi.access.request import AccessRequest
from hgwire_wsgi.errors import PermissionDenied
from hgwire_wsgi.testing.memory import MemoryRepository

OPEN = {"push_ssl": "no", "allow-push": "*"}


def outcome(permission: str, settings: dict[str, str], user: str | None, **environ: str) -> str:
    """``ok``, or the status and words of the refusal."""
    defaults = {"pull": "GET", "push": "POST", "upload": "PUT"}
    request = AccessRequest(
        permission="push" if permission == "upload" else permission,
        upload=permission == "upload",
        user=user,
        name="",
        repository=MemoryRepository(settings={f"web.{name}": value for name, value in settings.items()}),
        commands=(),
        method=environ.get("REQUEST_METHOD", defaults[permission]),
        scheme=environ.get("wsgi.url_scheme", "http"),
        address="",
        environ={},
    )
    try:
        hgweb_policy(request)
    except PermissionDenied as error:
        return f"{error.http_status} {error.message}"
    return "ok"


@pytest.mark.parametrize(
    ("settings", "user", "result"),
    [
        ({}, None, "ok"),
        ({"allow-pull": "yes"}, None, "ok"),
        ({"allow-pull": "no"}, None, "403 pull not authorized"),
        ({"allow-pull": "ture"}, None, "403 pull not authorized"),
        ({"allow-pull": "no"}, "ann", "403 pull not authorized"),
        ({"allow_read": "*"}, None, "ok"),
        ({"allow_read": "ann"}, None, "401 read not authorized"),
        ({"allow_read": "ann, bob"}, "bob", "ok"),
        ({"allow_read": "ann bob"}, "eve", "403 read not authorized"),
        ({"deny_read": "*"}, "ann", "403 read not authorized"),
        ({"deny_read": "eve"}, "eve", "403 read not authorized"),
        ({"deny_read": "eve"}, None, "401 read not authorized"),
        ({"deny_read": "*"}, None, "403 read not authorized"),
        ({"deny_read": "*, eve"}, None, "401 read not authorized"),
        ({"allow_read": "ann", "allow-pull": "off"}, None, "403 pull not authorized"),
        ({"allow_read": "ann", "allow-push": ""}, None, "401 read not authorized"),
        ({"deny_read": "eve"}, "ann", "ok"),
        ({"deny_read": "ann", "allow_read": "ann"}, "ann", "403 read not authorized"),
        ({"allow_read": "ann", "allow-pull": "off"}, "ann", "403 pull not authorized"),
    ],
)
def test_pull(settings: dict[str, str], user: str | None, result: str) -> None:
    assert outcome("pull", settings, user) == result


@pytest.mark.parametrize(
    ("settings", "user", "result"),
    [
        ({}, "ann", "403 ssl required"),
        ({"push_ssl": "no"}, "ann", "403 push not authorized"),
        (OPEN, None, "ok"),
        ({**OPEN, "push_ssl": "yes"}, "ann", "403 ssl required"),
        ({"push_ssl": "no", "allow-push": "ann"}, "ann", "ok"),
        ({"push_ssl": "no", "allow-push": "ann"}, "eve", "403 push not authorized"),
        ({"push_ssl": "no", "allow-push": "ann"}, None, "401 push not authorized"),
        ({**OPEN, "deny_push": "*"}, "ann", "403 push not authorized"),
        ({**OPEN, "deny_push": "eve"}, "eve", "403 push not authorized"),
        ({**OPEN, "deny_push": "eve"}, None, "401 push not authorized"),
        ({"push_ssl": "no"}, None, "403 push not authorized"),
        ({**OPEN, "deny_push": "*"}, None, "403 push not authorized"),
        ({**OPEN, "deny_read": "*"}, None, "403 read not authorized"),
        ({"allow_read": "ann"}, None, "403 push not authorized"),
        ({"allow_read": "ann", "allow-push": "ann"}, None, "401 read not authorized"),
        ({"allow_read": "ann", "allow-push": "ann", "allow-pull": "no"}, None, "401 read not authorized"),
        ({**OPEN, "deny_push": "eve"}, "ann", "ok"),
        ({**OPEN, "allow_read": "ann"}, "eve", "403 read not authorized"),
        ({**OPEN, "allow-pull": "no"}, "ann", "ok"),
        ({**OPEN, "allow-pull": "perhaps"}, "ann", "403 push not authorized"),
        ({**OPEN, "allow-pull": ""}, None, "403 push not authorized"),
    ],
)
@pytest.mark.parametrize("permission", ["push", "upload"])
def test_push_and_upload(permission: str, settings: dict[str, str], user: str | None, result: str) -> None:
    assert outcome(permission, settings, user) == result


def test_ssl() -> None:
    assert outcome("push", {"allow-push": "*"}, None, **{"wsgi.url_scheme": "https"}) == "ok"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_push_is_a_post(method: str) -> None:
    assert outcome("push", OPEN, None, REQUEST_METHOD=method) == "405 push requires POST request"


def test_upload_is_a_put() -> None:
    assert outcome("upload", OPEN, None, REQUEST_METHOD="POST") == "405 upload requires PUT request"


def test_405_names_the_method() -> None:
    request: dict[str, Any] = {"permission": "push", "user": None, "name": "", "commands": (), "environ": {}}
    request |= {"method": "GET", "scheme": "http", "address": ""}
    with pytest.raises(PermissionDenied) as caught:
        hgweb_policy(AccessRequest(repository=MemoryRepository(), **request))
    assert caught.value.headers == (("Allow", "POST"),)


def test_a_misspelt_flag_counts_as_the_strict_side() -> None:
    assert outcome("push", {**OPEN, "push_ssl": "ture"}, None) == "403 ssl required"


@pytest.mark.parametrize(("value", "hidden"), [(None, False), ("no", False), ("yes", True), ("perhaps", True)])
def test_hidden_repositories(value: str | None, hidden: bool) -> None:
    settings = {} if value is None else {"web.hidden": value}
    assert is_hidden(MemoryRepository(settings=settings)) == hidden
