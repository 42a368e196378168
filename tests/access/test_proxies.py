"""Addresses and schemes of clients behind proxies: only what trusted proxies say counts."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi import TrustedProxies

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32", "unix")
X_FORWARDED = TrustedProxies(TRUSTED)
FORWARDED = TrustedProxies(TRUSTED, "Forwarded")


def client(proxies: TrustedProxies, peer: str = "127.0.0.1", scheme: str = "http", **headers: str) -> tuple[str, str]:
    return proxies.client(peer, scheme, lambda name: headers.get(name.replace("-", "_")))


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("10.255.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("2001:db8::1", True),
        ("::1", False),
        ("", True),
        ("localhost", True),
        ("nonsense", False),
    ],
)
def test_which_addresses_are_trusted(peer: str, trusted: bool) -> None:
    assert X_FORWARDED.trusts(peer) is trusted


def test_a_unix_socket_is_trusted_only_by_name() -> None:
    assert not TrustedProxies(["0.0.0.0/0", "::/0"]).trusts("")
    assert TrustedProxies(["unix"]).trusts("")


@pytest.mark.parametrize(
    "arguments", [(["10.0.0.1/8"],), (["proxy.example"],), (["127.0.0.1"], "X-Real-IP"), (["127.0.0.1"], "forwarded")]
)
def test_wrong_configuration_is_an_error(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"host bits|does not appear to be|must be in"):
        TrustedProxies(*arguments)


def test_one_string_is_not_a_sequence_of_addresses() -> None:
    with pytest.raises(TypeError):
        TrustedProxies("127.0.0.1")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 192.0.2.2", "192.0.2.2"),
        ("192.0.2.1, 192.0.2.2, 10.0.0.1", "192.0.2.2"),
        ("6.6.6.6, junk, 192.0.2.2 , 10.0.0.1", "192.0.2.2"),
        ("10.0.0.2, 10.0.0.1", "10.0.0.2"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:dead::1]:4711", "2001:dead::1"),
        ("2001:DEAD:0::1", "2001:dead::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
        ("192.0.2.1,", "127.0.0.1"),
        ("192.0.2.1, junk, 10.0.0.1", "127.0.0.1"),
        ("192.0.2.999", "127.0.0.1"),
        ("192.0.2.1\n", "192.0.2.1"),
        ("192.0.2.1 6.6.6.6", "127.0.0.1"),
    ],
)
def test_the_path_is_read_from_the_right(path: str, address: str) -> None:
    assert client(X_FORWARDED, X_Forwarded_For=path) == (address, "http")


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        ("https", "https"),
        ("HTTPS ", "https"),
        ("https, http", "http"),
        ("http, https", "https"),
        ("ftp", "http"),
        ("", "http"),
    ],
)
def test_the_scheme_is_that_of_the_nearest_proxy(given: str, scheme: str) -> None:
    assert client(X_FORWARDED, X_Forwarded_Proto=given) == ("127.0.0.1", scheme)
    assert client(X_FORWARDED, X_Forwarded_Proto=given, X_Forwarded_For="192.0.2.1") == ("192.0.2.1", scheme)


@pytest.mark.parametrize("proxies", [X_FORWARDED, FORWARDED])
def test_an_untrusted_peer_cannot_lie(proxies: TrustedProxies) -> None:
    lies = {"X_Forwarded_For": "10.0.0.1", "X_Forwarded_Proto": "https", "Forwarded": "for=10.0.0.1;proto=https"}
    assert client(proxies, "192.0.2.1", **lies) == ("192.0.2.1", "http")


def test_the_other_header_is_ignored() -> None:
    lies = {"X_Forwarded_For": "192.0.2.1", "X_Forwarded_Proto": "https"}
    assert client(FORWARDED, **lies) == ("127.0.0.1", "http")
    assert client(X_FORWARDED, Forwarded="for=192.0.2.1;proto=https") == ("127.0.0.1", "http")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=192.0.2.1", ("192.0.2.1", "http")),
        ("For=192.0.2.1;PROTO=https;by=_x", ("192.0.2.1", "https")),
        ('proto="https";for="192.0.2.1:80"', ("192.0.2.1", "https")),
        ('for="[2001:dead::1]:4711" ; proto=https', ("2001:dead::1", "https")),
        ('for="[2001:dead::1]:_port"', ("2001:dead::1", "http")),
        (r'for="192.0.2\.1"', ("192.0.2.1", "http")),
        ("for=6.6.6.6, for=192.0.2.1;proto=https, for=10.0.0.1;proto=http", ("192.0.2.1", "https")),
        ("for=6.6.6.6;proto=https, for=192.0.2.1", ("192.0.2.1", "http")),
        # What the client sends cannot reach into what the proxy appends.
        ('for=", for=192.0.2.1', ("192.0.2.1", "http")),
        ('by="x, for="[2001:dead::1]:80";proto=https', ("2001:dead::1", "https")),
        ('for=6.6.6.6;by=", for="192.0.2.1:80"', ("192.0.2.1", "http")),
        ('for=6.6.6.6;by="\\, for=192.0.2.1', ("192.0.2.1", "http")),
        # A comma in quotes does not end an element.
        ('for=192.0.2.1;by="a, b"', ("192.0.2.1", "http")),
        ('for=192.0.2.1;by="a, for=6.6.6.6"', ("192.0.2.1", "http")),
        ("for=10.0.0.1", ("10.0.0.1", "http")),
        (", for=192.0.2.1", ("192.0.2.1", "http")),
        (",for=10.0.0.1", ("10.0.0.1", "http")),
        ("for=unknown;proto=https", ("127.0.0.1", "http")),
        ("for=_hidden", ("127.0.0.1", "http")),
        ("proto=https", ("127.0.0.1", "http")),
        ("for=192.0.2.1;", ("192.0.2.1", "http")),
        ("for", ("127.0.0.1", "http")),
        ("for=192.0.2.1, junk, for=10.0.0.1", ("127.0.0.1", "http")),
        ("", ("127.0.0.1", "http")),
    ],
)
def test_forwarded(value: str, expected: tuple[str, str]) -> None:
    assert client(FORWARDED, Forwarded=value) == expected


@given(st.text('for=;," \\[]:.0123459proto_x\t', max_size=200))
def test_no_prefix_of_the_client_changes_what_the_proxy_appends(prefix: str) -> None:
    for appended in ("for=192.0.2.1;proto=https", 'for="[2001:dead::1]:80";proto=https'):
        expected = client(FORWARDED, Forwarded=appended)
        assert client(FORWARDED, Forwarded=f"{prefix}, {appended}") == expected
    assert client(X_FORWARDED, X_Forwarded_For=f"{prefix}, 192.0.2.1") == ("192.0.2.1", "http")


@given(st.text(max_size=300))
def test_no_value_raises(value: str) -> None:
    for proxies in (X_FORWARDED, FORWARDED):
        client(proxies, Forwarded=value, X_Forwarded_For=value, X_Forwarded_Proto=value)


@pytest.mark.parametrize(
    "value",
    [
        "a=b" + ";  " * 2600 + '"',
        "," * 8190,
        "x,," * 2730,
        'a="' + "\\\\" * 4000,
        "a=b;" * 2000 + ",",
        "10.0.0.1," * 900,
    ],
)
def test_work_is_bounded(value: str) -> None:
    start = time.perf_counter()
    for proxies in (X_FORWARDED, FORWARDED):
        client(proxies, Forwarded=value, X_Forwarded_For=value)
    assert time.perf_counter() - start < 1


def test_the_number_of_hops_is_bounded() -> None:
    assert client(X_FORWARDED, X_Forwarded_For=", ".join(f"10.0.0.{n}" for n in range(100))) == ("10.0.0.68", "http")
