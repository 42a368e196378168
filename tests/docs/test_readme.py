"""README's commands are those that .ci/run uses, and what it names exists."""

from __future__ import annotations

import argparse
import configparser
import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest
from docs_support import DOCUMENTS, ROOT, blocks

from hgwire_wsgi.cli import SUBCOMMANDS

RUN, TEST = (block.text.strip() for block in blocks("README.rst")[:2])
CI = (ROOT / ".ci" / "run").read_text()


def extras() -> dict[str, str]:
    configuration = configparser.ConfigParser(interpolation=None)
    configuration.read(ROOT / "setup.cfg")
    return dict(configuration["options.extras_require"])


def steps(command: str) -> list[str]:
    return command.split(" && ")


def test_readme_opens_with_the_two_commands() -> None:
    assert steps(RUN)[0] == steps(TEST)[0] == "python3 -m venv .venv"
    assert steps(RUN)[1] == ".venv/bin/pip install '.[mercurial,serve]'"
    assert steps(RUN)[2] == ".venv/bin/hgwire serve"
    assert steps(TEST)[1] == ".venv/bin/pip install '.[test]'"
    assert steps(TEST)[2].startswith(".venv/bin/python -m pytest")
    assert len(steps(RUN)) == len(steps(TEST)) == 3


def test_ci_runs_the_test_command_with_more_extras() -> None:
    lines = CI.splitlines()
    wanted = [
        step.replace(".venv/bin/pip install", ".venv/bin/pip install --quiet --disable-pip-version-check")
        .replace("'.[test]'", "'.[test,uwsgi,lint,docs,coverage]'")
        .replace(".venv/bin/", '"$venv/bin/')
        for step in steps(TEST)
    ]
    wanted = [re.sub(r'("\$venv/bin/\w+)', r'\1"', step).replace(" .venv", ' "$venv"') for step in wanted]
    places = [lines.index(step) for step in wanted]
    assert places == sorted(places)
    assert lines.index("export HGWIRE_REQUIRE_LIVE=1") < places[-1]
    for linter in ('"$venv/bin/ruff" check .', '"$venv/bin/ruff" format --check .', '"$venv/bin/mypy"'):
        assert linter in lines
    assert any(line.startswith('"$venv/bin/sphinx-build" -q -W') for line in lines)
    assert '"$venv/bin/python" .ci/twins.py' in lines


def test_ci_runs_every_supported_version_of_python() -> None:
    configuration = configparser.ConfigParser(interpolation=None)
    configuration.read(ROOT / "setup.cfg")
    supported = re.findall(r":: (3\.\d+)$", configuration["metadata"]["classifiers"], re.MULTILINE)
    (line,) = (line for line in CI.splitlines() if line.startswith("for version in"))
    assert set(supported) - {"3.11"} == set(re.findall(r"3\.\d+", line))


def test_every_dependency_has_a_lowest_version() -> None:
    """Or the run with the lowest versions would take any."""
    printed = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lowest.py", *extras()], check=True, capture_output=True, text=True
    ).stdout
    assert {"attrs", "webob", "zstandard", "mercurial", "pytest"} <= {
        line.split("==")[0] for line in printed.splitlines()
    }


def test_ci_stops_at_the_first_failure_and_is_valid_shell() -> None:
    assert CI.splitlines()[0] == "#!/usr/bin/env bash"
    assert "\nset -euo pipefail\n" in CI
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_the_extras_that_are_named_exist() -> None:
    text = CI + "".join((ROOT / document).read_text() for document in DOCUMENTS)
    named = {extra for group in re.findall(r"'(?:\.|hgwire-wsgi)\[([\w,]+)\]'", text) for extra in group.split(",")}
    assert {"mercurial", "serve", "test", "uwsgi", "lint"} <= named
    assert named <= extras().keys()


def test_the_files_that_are_named_exist() -> None:
    for document in DOCUMENTS:
        for name in re.findall(
            r"(?<![\w/])(?:docs|conf|benchmarks|hgwire_wsgi)/[\w./-]*\w", (ROOT / document).read_text()
        ):
            assert (ROOT / name).exists(), f"{document} names {name}"


@pytest.mark.parametrize(
    "line",
    [
        line
        for document in DOCUMENTS
        for block in blocks(document)
        for line in block.text.splitlines()
        if block.language == "sh" and "hgwire " in line
    ],
)
def test_the_options_of_commands_exist(line: str) -> None:
    words = shlex.split(line[line.index("hgwire ") :].partition(" > ")[0], comments=True)
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"hgwire_wsgi.cli.{SUBCOMMANDS[words[1]].module}").configure(parser)
    parser.parse_args(words[2:])
