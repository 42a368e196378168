"""A second reading of version 1 requests and of bundles, which shares no code with the package.

The deviations are decided by it, and the recorded bundles are compared by it.
"""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs

__all__ = ["Call", "Recorded", "Texts", "bundle_parts", "changegroup_contents", "parse_form"]

REQUIRED: Mapping[bytes, tuple[bytes, ...]] = {
    b"batch": (b"cmds",),
    b"between": (b"pairs",),
    b"branches": (b"nodes",),
    b"changegroup": (b"roots",),
    b"changegroupsubset": (b"bases", b"heads"),
    b"debugwireargs": (b"one", b"two"),
    b"get_cached_bundle_inline": (b"path",),
    b"known": (b"nodes",),
    b"listkeys": (b"namespace",),
    b"lookup": (b"key",),
    b"protocaps": (b"caps",),
    b"pushkey": (b"namespace", b"key", b"old", b"new"),
    b"unbundle": (b"heads",),
}
"""The arguments that a command cannot do without."""

NODES: Mapping[bytes, tuple[bytes, ...]] = {
    b"between": (b"pairs",),
    b"branches": (b"nodes",),
    b"changegroup": (b"roots",),
    b"changegroupsubset": (b"bases", b"heads"),
    b"getbundle": (b"heads", b"common"),
    b"known": (b"nodes",),
}
"""The arguments that hold nodes."""

COMMANDS = frozenset(
    {*REQUIRED, *NODES, b"branchmap", b"capabilities", b"clonebundles", b"clonebundles_manifest", b"heads", b"hello"}
    | {b"stream_out"}
)
"""The standard commands, and one for tests that Mercurial has."""

STREAMS = frozenset({b"changegroup", b"changegroupsubset", b"get_cached_bundle_inline", b"getbundle", b"stream_out"})
"""Those whose reply is a stream."""

NULL = b"\0" * 20
_NODE = re.compile(rb"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
_UNESCAPES = {b":c": b":", b":o": b",", b":s": b";", b":e": b"="}


def parse_form(text: bytes) -> list[tuple[bytes, bytes]]:
    """The names and values of ``application/x-www-form-urlencoded`` bytes."""
    pairs = []
    for item in filter(None, text.split(b"&")):
        name, _, value = item.replace(b"+", b" ").partition(b"=")
        pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return pairs


@attrs.frozen(slots=False)
class Call:
    """A command and its arguments."""

    command: bytes
    arguments: dict[bytes, bytes]

    @property
    def missing(self) -> list[bytes]:
        """The arguments that are required and not there."""
        return [name for name in REQUIRED.get(self.command, ()) if name not in self.arguments]

    def nodes(self, *names: bytes) -> list[bytes]:
        """The words of the arguments that hold nodes; an end of a pair is a word."""
        values = [self.arguments.get(name, b"") for name in names or NODES.get(self.command, ())]
        words = [word for value in values if value for word in value.split(b" ")]
        if self.command != b"between":
            return words
        # A word that is not a pair is marked, so that it is not a node either.
        return [end for word in words for end in (word.split(b"-") if word.count(b"-") == 1 else [word + b"?"])]

    @property
    def malformed(self) -> list[bytes]:
        """The words that are not nodes."""
        if self.command == b"unbundle":
            words = self.arguments.get(b"heads", b"").split(b" ")
            return [word for word in words if not re.fullmatch(rb"([0-9a-fA-F]{2})*", word)]
        return [word.rstrip(b"?") for word in self.nodes() if not _NODE.fullmatch(word)]

    @functools.cached_property
    def batch(self) -> list[Call] | None:
        """The sub-commands, or ``None`` if they are malformed."""
        calls = []
        for part in self.arguments.get(b"cmds", b"").split(b";"):
            name, space, rest = part.partition(b" ")
            pairs = [pair.split(b"=") for pair in filter(None, rest.split(b","))]
            if not name or not space or any(len(pair) != 2 for pair in pairs):
                return None
            arguments: dict[bytes, bytes] = {}
            for key, value in pairs:
                arguments.setdefault(_unescape(key), _unescape(value))
            calls.append(Call(name, arguments))
        return calls


def _unescape(text: bytes) -> bytes:
    return re.sub(rb":[cose]", lambda match: _UNESCAPES[match[0]], text)


# Slots and cached properties go together only in newer versions of attrs.
@attrs.define(eq=False, slots=False)
class Recorded:
    """A recorded request, with what was answered, and the server it was sent to.

    Attributes:
        method: of HTTP.
        target: path and query, as characters that stand for bytes.
        headers: in their order.
        body: all of it.
        answer: the ``response`` of the vector.
        post_args: whether the server offers posted arguments.
        known: the nodes of its repository.
    """

    method: str
    target: str
    headers: list[tuple[str, str]] = attrs.field(factory=list)
    body: bytes = b""
    answer: Mapping[str, Any] = attrs.field(factory=dict)
    post_args: bool = False
    known: frozenset[bytes] = frozenset()

    def header(self, name: str) -> str | None:
        """The value of a header, sent in any case; repeated ones are joined as servers do."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ",".join(values) if values else None

    def numbered(self, prefix: str) -> str:
        """The values of ``<prefix>1``, ``<prefix>2``, … up to the first gap."""
        values = []
        while (value := self.header(f"{prefix}{len(values) + 1}")) is not None:
            values.append(value)
        return "".join(values)

    @property
    def status(self) -> int:
        return int(self.answer["status"])

    @property
    def query(self) -> list[tuple[bytes, bytes]]:
        text = self.target.partition("?")[2]
        return parse_form(text.encode("latin-1" if all(ord(char) < 256 for char in text) else "utf-8"))

    @property
    def commands(self) -> list[bytes]:
        """What the query string gives for ``cmd``."""
        return [value for name, value in self.query if name == b"cmd"]

    @property
    def posted(self) -> int:
        """How many bytes of the body are arguments, as far as the header can be understood."""
        value = self.header("X-HgArgs-Post") or ""
        return int(value) if self.post_args and re.fullmatch("[0-9]{1,9}", value) else 0

    @property
    def given(self) -> list[tuple[bytes, bytes]]:
        """The arguments in the body or the headers."""
        if self.posted:
            return parse_form(self.body[: self.posted])
        return parse_form(self.numbered("X-HgArg-").encode("latin-1"))

    @functools.cached_property
    def call(self) -> Call:
        """The command, with its arguments."""
        arguments: dict[bytes, bytes] = {}
        for name, value in [*self.given, *self.query]:
            arguments.setdefault(name, value)
        arguments.pop(b"cmd", None)
        return Call(self.commands[0] if self.commands else b"", arguments)

    @property
    def calls(self) -> list[Call]:
        """The command and its sub-commands."""
        return [self.call, *((self.call.batch or ()) if self.call.command == b"batch" else ())]

    @property
    def versions(self) -> list[str]:
        """The media types that the client reads."""
        return self.numbered("X-HgProto-").split(" ")


# Bundles


Texts = dict[tuple[bytes, bytes], bytes]
"""The full text of each revision, by the section of the changegroup (a path for files) and the node."""

_CHUNK = struct.Struct(">i")
_SECTIONS = (b"changesets", b"manifests")


class _Bytes:
    """Reads a piece of a bundle from its front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.place : self.place + size]
        assert len(piece) == size, "the bundle is cut short"
        self.place += size
        return piece

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def chunk(self) -> bytes:
        size = self.number(">i")
        assert size == 0 or size > 4
        return self.take(size - 4) if size else b""


def _apply(base: bytes, delta: bytes) -> bytes:
    pieces, done, hunks = [], 0, _Bytes(delta)
    while hunks.place < len(delta):
        start, end, size = (hunks.number(">I") for _ in range(3))
        pieces += base[done:start], hunks.take(size)
        done = end
    return b"".join([*pieces, base[done:]])


def _group(data: _Bytes, section: bytes, version: str, texts: Texts) -> Iterator[tuple[bytes, tuple[bytes, ...]]]:
    """The revisions of a group: node, and parents and link.  Hashes are checked, and the texts go to ``texts``."""
    base = None
    while chunk := data.chunk():
        revision = _Bytes(chunk)
        node, p1, p2 = (revision.take(20) for _ in range(3))
        if version != "01":
            base = revision.take(20)
        elif base is None:
            base = p1
        link = revision.take(20)
        if version == "03":
            assert revision.number(">H") == 0, "flags of a revision"
        text = _apply(b"" if base == NULL else texts[section, base], chunk[revision.place :])
        assert hashlib.sha1(min(p1, p2) + max(p1, p2) + text).digest() == node
        texts[section, node] = text
        base = node
        yield node, (p1, p2, link)


def changegroup_contents(content: bytes, texts: Texts, version: str = "01") -> dict[bytes, dict[bytes, Any]]:
    """What is in a changegroup, whatever its order, deltas, and choice among equally good links.

    Args:
        content: the whole changegroup.
        texts: of the revisions that the receiver has; those in the changegroup are added.
        version: of the changegroup.

    Returns:
        The parents of each revision, by section and node.  That a hash fits its text and parents is asserted, and that
        a link names a changeset of the changegroup that has the revision.
    """
    data, found = _Bytes(content), {}
    links: dict[bytes, dict[bytes, bytes]] = {}

    def read(section: bytes) -> None:
        assert section not in found
        revisions = dict(_group(data, section, version, texts))
        found[section] = {node: rest[:2] for node, rest in revisions.items()}
        links[section] = {node: rest[2] for node, rest in revisions.items()}

    read(_SECTIONS[0])
    read(_SECTIONS[1])
    if version == "03":
        assert not data.chunk(), "a directory manifest"
    while path := data.chunk():
        read(path)
    assert data.place == len(content), "something follows the changegroup"
    for section, revisions in links.items():
        for node, link in revisions.items():
            assert link in found[_SECTIONS[0]]
            manifest = texts[_SECTIONS[0], link][:40]
            if section == _SECTIONS[0]:
                assert link == node
            elif section == _SECTIONS[1]:
                assert manifest == node.hex().encode()
            else:
                assert section + b"\0" + node.hex().encode() in texts[_SECTIONS[1], bytes.fromhex(manifest.decode())]
    return found


def bundle_parts(content: bytes) -> list[tuple[bytes, frozenset[tuple[bytes, bytes]], bytes]]:
    """The parts of an uncompressed bundle2: kind, parameters and payload; how they are cut into chunks is left out."""
    data = _Bytes(content)
    assert data.take(4) == b"HG20"
    assert data.take(data.number(">I")) == b"", "parameters of the stream"
    parts = []
    while size := data.number(">I"):
        header = _Bytes(data.take(size))
        kind = header.take(header.number(">B"))
        header.take(4)
        sizes = header.take(2)
        lengths = [(header.number(">B"), header.number(">B")) for _ in range(sum(sizes))]
        parameters = frozenset((header.take(name), header.take(value)) for name, value in lengths)
        payload = b""
        while length := data.number(">i"):
            assert length > 0, "an interruption"
            payload += data.take(length)
        parts.append((kind, parameters, payload))
    assert data.place == len(content)
    return parts
