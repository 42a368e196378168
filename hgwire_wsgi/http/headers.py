"""The headers of a request by their HTTP names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

__all__ = ["Headers"]


@functools.lru_cache(maxsize=4096)
def _variable(name: str) -> str:
    """The CGI variable that holds a header (RFC 3875, section 4.1.18)."""
    variable = name.upper().replace("-", "_")
    return variable if variable in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_" + variable


@functools.lru_cache(maxsize=256)
def _numbered_variables(prefix: str) -> tuple[str, ...]:
    """The CGI variables of the first headers with a prefix and a number."""
    return tuple(f"{_variable(prefix)}{number}" for number in range(1, _FEW + 1))


_FEW = 4
"""Most requests have fewer numbered headers."""


class Headers:
    """The headers in a WSGI environ.  After the first use of a name, a lookup is one dictionary lookup."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def get(self, name: str, default: str | None = None, /) -> str | None:
        """The value of a header; servers join a repeated one with commas.  What is not text counts as absent."""
        value = self._environ.get(_variable(name), default)
        return value if isinstance(value, str) else default

    def numbered(self, prefix: str) -> tuple[str, ...]:
        """The values of headers ``<prefix>1``, ``<prefix>2``, and so on; a gap ends them."""
        get = self._environ.get
        values: list[str] = []
        for variable in _numbered_variables(prefix):
            if not isinstance(value := get(variable), str):
                return tuple(values)
            values.append(value)
        while isinstance(value := get(f"{_variable(prefix)}{len(values) + 1}"), str):
            values.append(value)
        return tuple(values)

    def __contains__(self, name: str) -> bool:
        return _variable(name) in self._environ
