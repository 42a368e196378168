"""The code blocks of the documentation, and pages whose blocks run."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.rst"), *(ROOT / "docs").rglob("*.rst"))
    if "_build" not in path.parts
)

_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n((?: +:.*\n)*)\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
_FILE = re.compile(r"# (\w+)\.py\n")


@attrs.frozen
class Block:
    """One ``code-block``: its language, its ``:name:`` (empty without one), and its text without the indentation."""

    language: str
    name: str
    text: str

    @property
    def module(self) -> str:
        """What other blocks import it as: ``project`` if it begins with ``# project.py``."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language == "python" else ""


def blocks(document: str) -> list[Block]:
    """The code blocks of a document, in their order."""
    source = (ROOT / document).read_text()
    found = []
    for language, options, text in _BLOCK.findall(source + "\n"):
        name = re.search(r":name: (\S+)", options)
        lines = [line[4:] for line in text.splitlines()]
        found.append(Block(language, name[1] if name else "", "\n".join(lines).strip("\n") + "\n"))
    assert len(found) == source.count(".. code-block::"), document
    return found


class Page:
    """A page whose Python blocks run in their order, in one namespace, as a reader would type them.

    A block that begins with ``# project.py`` can be imported by the later ones.  A named block of another language
    becomes a file, ``NAME.LANGUAGE``, before anything runs.

    Args:
        document: the path of the page below the root.
        folder: replaces ``/srv`` in all blocks; the files are written there.
    """

    def __init__(self, document: str, folder: Path) -> None:
        self.folder = folder
        self._document = document
        self.blocks = [attrs.evolve(each, text=each.text.replace("/srv", str(folder))) for each in blocks(document)]
        # Frameworks look for the module that calls them, and for its folder.
        self._module = ModuleType("page_" + re.sub(r"\W", "_", document))
        self._module.__file__ = str(folder / "page.py")
        self._namespace = vars(self._module)
        self._run = self._steps()
        self._done: dict[str, dict[str, Any]] = {}
        for block in self.blocks:
            if block.name and block.language != "python":
                (folder / f"{block.name}.{block.language}").write_text(block.text)

    def __call__(self, name: str = "", **names: Any) -> dict[str, Any]:
        """Run the page up to a block, or to its end.

        Args:
            name: of the block; what ran before does not run again.
            names: what the text around the blocks takes for granted.

        Returns:
            The names that exist after that block.

        Raises:
            KeyError: if the page has no such block.
        """
        self._namespace.update(names)
        if name not in self._done:
            for done in self._run:
                if done == name:
                    break
        return self._done[name] if name else self._namespace

    def forget(self) -> None:
        """Forget the modules that the page defined."""
        for name in (self._module.__name__, *(block.module for block in self.blocks)):
            sys.modules.pop(name, None)

    def _steps(self) -> Iterator[str]:
        sys.modules[self._module.__name__] = self._module
        for number, block in enumerate(self.blocks):
            if block.language != "python":
                continue
            where = f"{self._document}:{block.name or number}"
            # For tracebacks.
            linecache.cache[where] = (len(block.text), None, block.text.splitlines(keepends=True), where)
            exec(compile(block.text, where, "exec"), self._namespace)
            names = dict(self._namespace)
            if block.module:
                sys.modules[block.module] = ModuleType(block.module)
                vars(sys.modules[block.module]).update(names)
            if block.name:
                self._done[block.name] = names
            yield block.name
