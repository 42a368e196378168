"""The code blocks of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.rst", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").iterdir()))

_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n((?: +:.*\n)*)\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)


@attrs.frozen
class Block:
    """One ``code-block``: its language, its ``:name:`` (empty without one), and its text without the indentation."""

    language: str
    name: str
    text: str


def blocks(document: str) -> list[Block]:
    source = (ROOT / document).read_text()
    found = []
    for language, options, text in _BLOCK.findall(source + "\n"):
        name = re.search(r":name: (\S+)", options)
        lines = [line[4:] for line in text.splitlines()]
        found.append(Block(language, name[1] if name else "", "\n".join(lines).strip("\n") + "\n"))
    assert len(found) == source.count(".. code-block::"), document
    return found
