"""What SECURITY.rst names exists."""

from __future__ import annotations

import re

from docs_support import ROOT

TEXT = (ROOT / "SECURITY.rst").read_text()
NAMED = re.findall(r"``(tests/[^`]*)``", TEXT)


def test_every_named_test_exists() -> None:
    assert len(NAMED) > 30
    assert [name for name in NAMED if not (ROOT / name).exists()] == []
    for name in NAMED:
        if name.endswith(".py") and not name.startswith("tests/torture/"):
            assert re.search(r"^def test_", (ROOT / name).read_text(), re.MULTILINE), f"{name} has no tests"


def test_every_promise_names_a_test() -> None:
    promised = TEXT.partition("Against anyone")[2].partition("Not promised")[0]
    promises = re.split(r"^\*\*", promised, flags=re.MULTILINE)[1:]
    assert len(promises) > 15
    assert [promise.split("**")[0] for promise in promises if "``tests/" not in promise] == []


def test_every_torture_script_shows_something() -> None:
    scripts = {path.name for path in (ROOT / "tests" / "torture").glob("*.py") if path.read_text().startswith("#!")}
    named = {name.rpartition("/")[2] for name in NAMED if name.startswith("tests/torture/")}
    # slow_scenes.py runs it.
    assert scripts - {"slow_clients.py"} == named - {""}


def test_the_readme_leads_here() -> None:
    assert "``SECURITY.rst``" in (ROOT / "README.rst").read_text()
