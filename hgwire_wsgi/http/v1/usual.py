"""Which requests for bundles are usual, and who sends them.

Mercurial's releases request bundles in a few dozen ways.  A bundle that is requested in other words is of use to nobody
else, unless clients have an extension that adds these words.  So it is cached only if a second client requests it
(:mod:`hgwire_wsgi.cache.admission`).  This decides only what is cached.  The words themselves are part of the key,
because an extension of the server may answer them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

__all__ = ["client_of", "is_usual"]

_ARGUMENTS = frozenset(
    {"bookmarks", "bundlecaps", "cbattempted", "cg", "common", "heads", "listkeys", "obsmarkers", "phases", "stream"}
)
_NAMESPACES = frozenset({b"bookmarks", b"namespaces", b"obsolete", b"phases"})
_WORDS = frozenset({b"HG10UN", b"HG10GZ", b"HG10BZ", b"HG20"})
_BUNDLE2 = b"bundle2="
_CAPABILITIES: Mapping[bytes, frozenset[bytes]] = {
    name: frozenset(values.split(b",") if values else ())
    for name, _, values in (
        line.partition(b"=")
        for line in (
            b"HG20",
            b"bookmarks",
            b"changegroup=01,02,03,04",
            b"checkheads=related",
            b"delta-compression=none,zlib,zstd",
            b"digests=md5,sha1,sha512",
            b"error=abort,unsupportedcontent,pushraced,pushkey",
            b"hgtagsfnodes",
            b"listkeys",
            b"obsmarkers=V0,V1",
            b"phases=heads",
            b"pushkey",
            b"remote-changegroup=http,https",
            b"rev-branch-cache",
            b"stream=v2,v3",
        )
    )
}
"""The bundle2 capabilities of Mercurial 3.5 to 7.2, and their values."""


def is_usual(command: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a release of Mercurial without extensions may send a request.

    Args:
        command: the name of the command; only ``getbundle`` has words.
        arguments: its arguments, decoded.
    """
    if command != "getbundle":
        return True
    return (
        not arguments.get("rest")
        and set(arguments) - {"rest"} <= _ARGUMENTS
        and _all_once(arguments.get("listkeys", ()), _NAMESPACES)
        and _are_usual_words(arguments.get("bundlecaps", ()))
    )


def _all_once(items: Sequence[bytes], known: frozenset[bytes]) -> bool:
    return len(items) == len(set(items)) and known.issuperset(items)


def _are_usual_words(words: Sequence[bytes]) -> bool:
    encoded = [word for word in words if word.startswith(_BUNDLE2)]
    if len(encoded) > 1 or not _all_once([word for word in words if word not in encoded], _WORDS):
        return False
    lines = unquote_to_bytes(encoded[0][len(_BUNDLE2) :]).split(b"\n") if encoded else []
    pairs = [line.partition(b"=") for line in lines]
    if len({name for name, _, _ in pairs}) < len(pairs):
        return False
    return all(
        name in _CAPABILITIES and _all_once(values.split(b",") if equals else (), _CAPABILITIES[name])
        for name, equals, values in pairs
    )


def client_of(user: str | None, address: str | None) -> str:
    """Identify the client of a request: its user, else its address.

    Args:
        user: the user, if known.
        address: the address.  Of IPv6, the first 64 bits count: one host has all of the others.
    """
    if user:
        return f"user {user}"
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return f"address {address}"
    if found.version == 6:
        found = found.ipv4_mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)).network_address
    return f"address {found}"
