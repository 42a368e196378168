"""The APIs: settings, URLs, and what a row of the table decides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from v2_support import V2

import hgwire_wsgi
from hgwire_wsgi import ApiSettings, Limits
from hgwire_wsgi.http.message import NO_STORE, NOSNIFF, Request, Response
from hgwire_wsgi.http.v2.api import APIS, PlainRefusal, Target, is_api_path, plain, route, url_access


def test_options() -> None:
    assert not any(
        (
            ApiSettings().server,
            ApiSettings().http_v2,
            ApiSettings().debugreflect,
            ApiSettings().encodings,
            ApiSettings().workers,
        )
    )
    assert V2.available == ["exp-http-v2-0001"]
    with pytest.raises(ValueError, match="workers"):
        ApiSettings(workers=-1)


def target(rest: str, method: str = "POST", *, settings: ApiSettings = V2) -> Any:
    """What a URL below a repository selects, or the body of its answer."""
    routed = route(Request({"REQUEST_METHOD": method}, Limits()), rest, settings)
    return routed.body if isinstance(routed, Response) else routed


def test_urls_of_commands() -> None:
    api = APIS["exp-http-v2-0001"]
    assert target("api/exp-http-v2-0001/ro/heads") == Target(api, "pull", "heads")
    assert target("api/exp-http-v2-0001/rw/multirequest") == Target(api, "push", "multirequest")


def test_urls_that_inform() -> None:
    known = b"APIs can be accessed at /api/<name>, where <name> can be one of the following:\n\n"
    assert target("api", "GET") == target("api/", "GET") == known + b"exp-http-v2-0001"
    assert target("api", "GET", settings=ApiSettings(server=True)) == known + b"(no available APIs)\n"
    assert target("api/exp-http-v2-0001", "GET") == b"HTTP version 2 API handler"


@pytest.mark.parametrize(
    ("rest", "method", "status", "text"),
    [
        ("api/x", "GET", 404, "Unknown API: x\nKnown APIs: exp-http-v2-0001"),
        ("api/exp-http-v2-0001/ro", "POST", 404, "do not know how to process api/exp-http-v2-0001/ro\n"),
        ("api/exp-http-v2-0001/ro/a/b", "POST", 404, "do not know how to process api/exp-http-v2-0001/ro/a/b\n"),
        ("api/exp-http-v2-0001/xx/a", "POST", 404, "unknown permission: xx"),
        ("api/exp-http-v2-0001/ro/a", "GET", 405, "commands require POST requests"),
    ],
)
def test_urls_that_are_refused(rest: str, method: str, status: int, text: str) -> None:
    with pytest.raises(PlainRefusal) as raised:
        target(rest, method)
    assert (raised.value.http_status, raised.value.message) == (status, text)
    assert raised.value.headers == ((("Allow", "POST"),) if status == 405 else ())


def test_an_api_that_is_off() -> None:
    with pytest.raises(PlainRefusal, match="API exp-http-v2-0001 not enabled"):
        target("api/exp-http-v2-0001", settings=ApiSettings(server=True))


def test_paths_of_the_api_server() -> None:
    assert [is_api_path(rest) for rest in ("api", "api/", "api/x", "apis", "x/api", "")] == [True] * 3 + [False] * 3


def test_plain_text_has_the_recorded_media_type() -> None:
    response = plain("\xe9\u20ac")
    assert (response.code, response.body, response.error) == (200, b"\xe9?", "")
    assert response.headers == [("Content-Type", "text/plain"), NO_STORE, NOSNIFF]


def test_only_the_tables_of_apis_name_a_framing_revision() -> None:
    package = Path(hgwire_wsgi.__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in package.rglob("*.py")}
    naming = {name for name, text in sources.items() if re.search(r"EXP_\d{4}|exp-framing-\d", text)}
    assert {name for name in naming if not name.startswith("framing/")} == {"http/v2/api.py", "client/v2.py"}


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("api", ("pull", "")),
        ("api/exp-http-v2-0001", ("pull", "")),
        ("api/exp-http-v2-0001/ro/heads", ("pull", "heads")),
        ("api/exp-http-v2-0001/rw/multirequest", ("push", "multirequest")),
        ("api/exp-http-v2-0001/other/heads", ("push", "heads")),
        ("api//exp-http-v2-0001/ro/heads", ("push", "ro")),
    ],
)
def test_what_a_url_permits(rest: str, expected: tuple[str, str]) -> None:
    assert url_access(rest) == expected
