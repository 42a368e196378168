"""The address and the scheme of a client behind trusted proxies.

Each proxy appends the address of its own peer to a header, so the header is a path, and only its end can be trusted:
the walk starts at the connection and goes from right to left as long as it meets trusted addresses.  The first address
that is not trusted is the client.  What stands to the left of it was written by the client, and is never read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal

import attrs

__all__ = ["TrustedProxies"]

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNIX = ("", "localhost")
"""``REMOTE_ADDR`` for a Unix socket: gunicorn has an empty one, waitress a name."""

_HOPS = 32
"""Maximum number of proxies between the client and the server."""

_LONGEST_ELEMENT = 1024
"""Maximum length of what one proxy appends to ``Forwarded``."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_PAIR = re.compile(rf"({_TOKEN})=({_TOKEN}|{_QUOTED})")
_ELEMENT = re.compile(rf"[ \t]*{_PAIR.pattern}[ \t]*(?:;[ \t]*(?:{_PAIR.pattern}[ \t]*)?)*")
"""``forwarded-element`` (RFC 7239, section 4)."""

_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5}|:[._0-9A-Za-z-]+)?")
"""``node`` with an address (RFC 7239, section 6)."""


def _networks(addresses: Iterable[str]) -> tuple[_Network | None, ...]:
    if isinstance(addresses, str):
        raise TypeError("addresses must be a sequence of strings, not a string")
    return tuple(None if each == "unix" else ipaddress.ip_network(each) for each in addresses)


def _normal(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; an IPv4 address in IPv6 notation is an IPv4 address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


@attrs.frozen
class TrustedProxies:
    """The proxies whose headers are believed.

    Args:
        addresses: addresses and networks of the proxies, and ``unix`` for all Unix sockets.
        header: the headers that the proxies set: ``X-Forwarded`` for ``X-Forwarded-For`` and ``X-Forwarded-Proto``, or
            ``Forwarded`` (RFC 7239).  The other one is ignored, because proxies pass it on from the client.

    Raises:
        ValueError: for something that is not an address or a network, or an unknown header.
    """

    addresses: tuple[_Network | None, ...] = attrs.field(converter=_networks)
    header: Literal["X-Forwarded", "Forwarded"] = attrs.field(
        default="X-Forwarded", validator=attrs.validators.in_(("X-Forwarded", "Forwarded"))
    )

    def trusts(self, address: str) -> bool:
        """Whether an address, as in ``REMOTE_ADDR``, is that of a trusted proxy."""
        if address in _UNIX:
            return None in self.addresses
        found = _normal(address)
        return found is not None and any(each is not None and found in each for each in self.addresses)

    def client(self, peer: str, scheme: str, header: Callable[[str], str | None]) -> tuple[str, str]:
        """Find the address and the scheme of the client.

        Args:
            peer: the address at the other end of the connection; empty for a Unix socket.
            scheme: of the connection.
            header: returns a request header by its HTTP name.

        Returns:
            Address and scheme; those of the connection if the peer is not trusted.  If a trusted proxy sent a malformed
            address, the address is that of the connection.
        """
        if not self.trusts(peer):
            return peer, scheme
        if self.header == "Forwarded":
            return self._walk(peer, scheme, _forwarded(header("Forwarded") or ""))
        # Proxies replace it.  If they append instead, the last one is that of the nearest proxy.
        given = (header("X-Forwarded-Proto") or "").rpartition(",")[2]
        return self._walk(peer, _scheme(given, scheme), _x_forwarded(header("X-Forwarded-For") or ""))

    def _walk(self, peer: str, scheme: str, hops: Iterator[tuple[str, str]]) -> tuple[str, str]:
        address, found = peer, scheme
        for node, given in islice(hops, _HOPS):
            parsed = _NODE.fullmatch(node)
            known = _normal(node if parsed is None else parsed[1] or parsed[2])
            if known is None:
                return peer, scheme
            address, found = str(known), _scheme(given, scheme)
            if not self.trusts(address):
                break
        return address, found


def _scheme(given: str, default: str) -> str:
    given = given.strip().lower()
    return given if given in ("http", "https") else default


def _x_forwarded(value: str) -> Iterator[tuple[str, str]]:
    """Addresses from right to left, without schemes."""
    while value:
        value, _, node = value.rpartition(",")
        yield node.strip(), ""


def _forwarded(value: str) -> Iterator[tuple[str, str]]:
    """The parameters ``for`` and ``proto`` of each element, from right to left; ``for`` is empty for a malformed one.

    An element may contain commas in quotes.  The shortest well-formed one is taken, from the right, so that an open
    quote of the client cannot reach into what a proxy has appended.
    """
    while value:
        value, element = _split_last(value)
        pairs = {name.lower(): _unquoted(text) for name, text in reversed(_PAIR.findall(element))}
        yield pairs.get("for", ""), pairs.get("proto", "")


def _split_last(value: str) -> tuple[str, str]:
    """Split off the last element of ``Forwarded``; it is empty, as is the rest, if it is malformed."""
    comma = len(value)
    while comma > 0:
        comma = value.rfind(",", max(0, len(value) - _LONGEST_ELEMENT), comma)
        element = value[comma + 1 :]
        if _ELEMENT.fullmatch(element):
            return value[: max(comma, 0)], element
    return "", ""


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
