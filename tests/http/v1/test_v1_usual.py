from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from hgwire_wsgi.http.v1.usual import client_of, is_usual

HG_7_2 = (
    "HG20\nbookmarks\nchangegroup=01,02,03\ncheckheads=related\ndelta-compression=none,zlib,zstd\n"
    "digests=md5,sha1,sha512\nerror=abort,unsupportedcontent,pushraced,pushkey\nhgtagsfnodes\nlistkeys\n"
    "obsmarkers=V0,V1\nphases=heads\npushkey\nremote-changegroup=http,https\nstream=v2"
)
HG_4_6 = (
    "HG20\nbookmarks\nchangegroup=01,02\ndigests=md5,sha1,sha512\nerror=abort,unsupportedcontent,pushraced,pushkey\n"
    "hgtagsfnodes\nlistkeys\nphases=heads\npushkey\nremote-changegroup=http,https\nrev-branch-cache\nstream=v2"
)


def words(capabilities: str, *more: bytes) -> list[bytes]:
    return [b"HG20", b"bundle2=" + quote(capabilities).encode(), *more]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"common": [], "heads": [], "rest": {}},
        {"bundlecaps": [b"HG10UN"]},
        {"bundlecaps": [b"HG20"], "cg": True, "stream": False},
        {"bundlecaps": words(HG_7_2), "listkeys": [b"phases", b"bookmarks"], "bookmarks": True, "phases": True},
        {"bundlecaps": words(HG_4_6)[::-1], "listkeys": [b"bookmarks"], "cbattempted": False, "obsmarkers": True},
    ],
)
def test_what_clients_send_is_usual(arguments: dict[str, Any]) -> None:
    assert is_usual("getbundle", arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"bundlecaps": words(HG_7_2, b"x1")},
        {"bundlecaps": words(HG_7_2, b"HG20")},
        {"bundlecaps": words(HG_7_2, *words(HG_4_6)[1:])},
        {"bundlecaps": words(HG_7_2 + "\nx1")},
        {"bundlecaps": words(HG_7_2 + "\nbookmarks")},
        {"bundlecaps": words(HG_7_2 + "\nrev-branch-cache=x1")},
        {"bundlecaps": words(HG_7_2.replace("01,02", "01,x1"))},
        {"bundlecaps": words(HG_7_2.replace("01,02", "02,01,02"))},
        {"bundlecaps": words(HG_7_2.replace("listkeys", "listkeys="))},
        {"bundlecaps": [b"bundle2="]},
        {"listkeys": [b"x1"]},
        {"listkeys": [b"phases", b"phases"]},
        {"includepats": [b"path:x1"]},
        {"x1": b""},
        {"rest": {"x1": b""}},
    ],
)
def test_everything_else_is_not(arguments: dict[str, Any]) -> None:
    assert not is_usual("getbundle", arguments)


def test_other_commands_have_no_words() -> None:
    assert is_usual("changegroup", {"roots": [b""]})


@pytest.mark.parametrize(
    ("user", "address", "client"),
    [
        ("ada", "192.0.2.1", "user ada"),
        (None, "192.0.2.1", "address 192.0.2.1"),
        (None, "2001:db8:0:1:aaaa::1", "address 2001:db8:0:1::"),
        (None, "2001:db8:0:1:bbbb::2", "address 2001:db8:0:1::"),
        (None, "::ffff:192.0.2.1", "address 192.0.2.1"),
        ("", "", "address "),
        (None, "host.example", "address host.example"),
    ],
)
def test_who_a_client_is(user: str | None, address: str, client: str) -> None:
    assert client_of(user, address) == client
