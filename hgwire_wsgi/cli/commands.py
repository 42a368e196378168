"""``hgwire commands``: the table of wire protocol commands, as text or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..commands.registry import CommandRegistry

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire commands``."""
    parser.add_argument("--json", action="store_true", help="print the whole table as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the standard commands to standard output."""
    table = CommandRegistry.standard().describe()
    print(json.dumps(table, indent=2) if args.json else _columns(table))
    return 0


def _columns(table: Sequence[Mapping[str, Any]]) -> str:
    rows = [(row["name"], row["permission"], _usage(row)) for row in table]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        f"{name:{widths[0]}}  {permission:{widths[1]}}  {names}".rstrip() for name, permission, names in rows
    )


def _usage(row: Mapping[str, Any]) -> str:
    names = [argument["name"] if argument["required"] else f"[{argument['name']}]" for argument in row["arguments"]]
    return " ".join([*names, *(["*"] if row["rest"] else [])])
