#!/usr/bin/env python3
"""Print the lowest versions that setup.cfg allows, as a constraints file for pip.

Usage: .ci/lowest.py EXTRA... > constraints.txt

The extras are those that will be installed; the extras that they name are included.
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SETUP = Path(__file__).resolve().parent.parent / "setup.cfg"

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,]+)\])?(?:>=(?P<lowest>[\w.]+))?")


def lowest(extras: list[str]) -> dict[str, str]:
    """The lowest version of each requirement, by name.

    Raises:
        SystemExit: if a requirement has none, or an extra does not exist.
    """
    configuration = configparser.ConfigParser(interpolation=None)
    configuration.read(SETUP)
    every = configuration["options.extras_require"]

    def requirements(lines: str) -> Iterator[tuple[str, str]]:
        for line in filter(None, lines.splitlines()):
            found = _REQUIREMENT.match(line)
            assert found is not None, line
            if found["extras"]:
                for extra in found["extras"].split(","):
                    yield from requirements(every[extra])
            elif found["lowest"]:
                yield found["name"], found["lowest"]
            else:
                raise SystemExit(f"setup.cfg: {line} has no lower bound")

    unknown = [extra for extra in extras if extra not in every]
    if unknown:
        raise SystemExit(f"setup.cfg has no extra {', '.join(unknown)}")
    groups = [configuration["options"]["install_requires"], *(every[extra] for extra in extras)]
    return dict(sorted(each for group in groups for each in requirements(group)))


if __name__ == "__main__":
    for package, version in lowest(sys.argv[1:]).items():
        print(f"{package}=={version}")
