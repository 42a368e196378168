"""Negotiation settings from the configuration of a repository.

An invalid setting is reported and ignored, because Mercurial too ignores it until it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from mercurial import error

from ...compression import ENGINES, Engine
from ...negotiation import ServerCapabilities
from .errors import message_of

__all__ = ["adjust_capabilities"]

_LEVELS = {"zstd": ("zstdlevel", 1, 22), "zlib": ("zliblevel", -1, 9), "bzip2": ("bz2level", 1, 9)}
"""The setting in the section ``server``, and the valid levels of the engine."""

_WIRE_NAMES = {"bz2": "bzip2"}

Report = Callable[[str], None]


def adjust_capabilities(ui: Any, server: ServerCapabilities, report: Report) -> ServerCapabilities:
    """Apply ``server.compressionengines``, ``server.<engine>level`` and ``server.maxhttpheaderlen``.

    Args:
        ui: the configuration of the repository.
        server: the capabilities of the application.
        report: called with each problem.
    """
    engines = _engines(ui, server, report) or server.engines
    length = _integer(ui, "maxhttpheaderlen", 0, None, report)
    return attrs.evolve(
        server,
        engines=tuple(_at_level(ui, engine, report) for engine in engines),
        legacy_engine=_at_level(ui, server.legacy_engine, report),
        max_header_length=server.max_header_length if length is None else length,
    )


def _engines(ui: Any, server: ServerCapabilities, report: Report) -> list[Engine]:
    """The configured engines without repetitions, each at its first position."""
    known = {**ENGINES, **{engine.name: engine for engine in server.engines}}
    names = [name.decode("utf-8", "replace") for name in ui.configlist(b"server", b"compressionengines")]
    names = [_WIRE_NAMES.get(name, name) for name in names]
    unique = list(dict.fromkeys(names))
    if len(unique) < len(names):
        report("server.compressionengines names an engine twice; the first one counts")
    if unknown := [name for name in unique if name not in known]:
        report(f"server.compressionengines names unknown engines, which are ignored: {', '.join(unknown)}")
    return [known[name] for name in unique if name in known]


def _at_level(ui: Any, engine: Engine, report: Report) -> Engine:
    if engine.name not in _LEVELS:
        return engine
    level = _integer(ui, *_LEVELS[engine.name], report)
    return engine if level is None else attrs.evolve(engine, level=level)


def _integer(ui: Any, name: str, lowest: int, highest: int | None, report: Report) -> int | None:
    """A number from the section ``server``; ``None`` if it is not set or invalid."""
    key = name.encode("ascii")
    if not ui.hasconfig(b"server", key):
        return None
    try:
        value = int(ui.configint(b"server", key))
    except error.ConfigError as failure:
        report(f"{message_of(failure)}; the default is used")
        return None
    if value < lowest or (highest is not None and value > highest):
        report(f"server.{name} is out of range ({value}); the default is used")
        return None
    return value
