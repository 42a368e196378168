"""What a server says of itself in its ``capabilities`` reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import unquote

__all__ = ["Capabilities"]


class Capabilities(Mapping[str, str]):
    """The tokens of the reply: names, each with what stands behind its ``=``, or with an empty string.

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
        """The parts of a value that is a list with commas; empty without the capability."""
        return tuple(unquote(word) for word in self.get(name, "").split(",") if word)

    @property
    def max_header_length(self) -> int:
        """Longest header line for arguments, in bytes; 0 if they do not travel in headers."""
        value = self.get("httpheader", "").partition(",")[0]
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0

    @property
    def post_args(self) -> bool:
        """Whether arguments may be posted."""
        return "httppostargs" in self

    @property
    def media_types(self) -> tuple[str, ...]:
        """Media type versions the server sends; without a word of it, 0.1."""
        sent = tuple(word.removesuffix("tx") for word in self.words("httpmediatype") if word.endswith("tx"))
        return sent or ("0.1",)
