from __future__ import annotations

import pytest

from hgwire_wsgi.http.headers import Headers

ENVIRON = {"HTTP_X_HGARG_1": "nodes=", "CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "", "HTTP_CONTENT_MD5": "x"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-HgArg-1", "nodes="),
        ("x-hgarg-1", "nodes="),
        ("X-HgArg-2", None),
        ("Content-Type", "text/plain"),
        ("content-length", ""),
        ("Content-MD5", "x"),
    ],
)
def test_a_header_is_found_by_its_name(name: str, value: str | None) -> None:
    headers = Headers(ENVIRON)
    assert headers.get(name) == value
    assert (name in headers) == (value is not None)


def test_a_default() -> None:
    assert Headers({}).get("Sec-Fetch-Site", "none") == "none"


def test_it_is_a_view() -> None:
    environ: dict[str, str] = {}
    headers = Headers(environ)
    environ["HTTP_ORIGIN"] = "null"
    assert headers.get("Origin") == "null"


@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_numbered_headers_end_at_a_gap(count: int) -> None:
    environ = {f"HTTP_X_HGARG_{number}": str(number) for number in [*range(1, count + 1), count + 2]}
    assert Headers(environ).numbered("X-HgArg-") == tuple(str(number) for number in range(1, count + 1))
