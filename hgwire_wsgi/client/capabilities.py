"""The server's ``capabilities`` reply, parsed for a client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

__all__ = ["Capabilities"]

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*", re.ASCII)


def _comparable(version: str) -> tuple[int, ...]:
    """Convert a version to numbers; anything else sorts below all versions."""
    return tuple(map(int, version.split("."))) if _VERSION.fullmatch(version) else ()


class Capabilities(Mapping[str, str]):
    """The tokens of the reply: names, each with the value after its ``=``, or an empty string.

    Args:
        reply: the reply as sent.
    """

    def __init__(self, reply: bytes = b"") -> None:
        self._tokens: dict[str, str] = {}
        for token in reply.decode("utf-8", "replace").split():
            name, _, value = token.partition("=")
            self._tokens.setdefault(name, value)

    def __getitem__(self, name: str) -> str:
        return self._tokens[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"<Capabilities {' '.join(self._tokens)}>"

    def words(self, name: str) -> tuple[str, ...]:
        """The parts of a comma-separated value, unquoted; empty without the capability."""
        return tuple(unquote(word) for word in self.get(name, "").split(",") if word)

    @property
    def max_header_length(self) -> int:
        """Maximum length of a header line with arguments, in bytes; 0 if arguments do not travel in headers."""
        value = self.get("httpheader", "").partition(",")[0]
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0

    @property
    def post_args(self) -> bool:
        """Whether arguments may be posted."""
        return "httppostargs" in self

    @property
    def sends(self) -> tuple[str, ...]:
        """Media type versions of the server's replies, none below its ``mintx``; 0.1 if it announces none."""
        return self._media_types("tx")

    @property
    def receives(self) -> tuple[str, ...]:
        """Media type versions the server accepts for request bodies, none below its ``minrx``; 0.1 by default."""
        return self._media_types("rx")

    def _media_types(self, direction: str) -> tuple[str, ...]:
        words = self.words("httpmediatype")
        bound = f"min{direction}="
        lowest = max((_comparable(word.removeprefix(bound)) for word in words if word.startswith(bound)), default=())
        versions = tuple(word.removesuffix(direction) for word in words if word.endswith(direction)) or ("0.1",)
        return tuple(version for version in versions if _comparable(version) >= lowest)
