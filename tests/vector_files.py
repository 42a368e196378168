"""Where the recorded vectors are, and how their values are written.

``HGWIRE_VECTORS=FOLDER`` replays another folder of the same format; without it the tests replay ``tests/vectors``.  No
test may depend on the name of a case, on the order of cases, or on how many there are.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

__all__ = ["COPIES", "FOLDER", "file_of", "parameters", "raw_bytes"]

COPIES = Path(__file__).resolve().parent / "vectors"
"""The vectors that came with the project."""

FOLDER = Path(os.environ.get("HGWIRE_VECTORS") or COPIES)
"""The vectors to replay."""

if not any(FOLDER.glob("*/*.json")):
    raise FileNotFoundError(f"no vectors in {FOLDER}")


@functools.cache
def file_of(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A file of vectors, such as ``negotiation/v1.json``; one without cases if the folder does not have it."""
    path = folder / name
    data: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return {"cases": [], "payloads": {}, **data}


def raw_bytes(value: Any) -> bytes:
    """A byte value: hexadecimal, repeated, or a concatenation of such."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    if "concat" in value:
        return b"".join(map(raw_bytes, value["concat"]))
    return raw_bytes(value["repeat_hex"]) * int(value["count"])


def parameters(cases: list[Any]) -> Any:
    """Run a test with each of these cases as its argument ``case``."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases])
