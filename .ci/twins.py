#!/usr/bin/env python3
"""Check that each module is covered to the last branch by its own tests.

Usage: .ci/twins.py [-j PROCESSES] [MODULE...]

``hgwire_wsgi/x/y.py`` belongs to ``tests/x/test_y.py``.  Since names of test files are unique, what else is named after
the module counts, too: ``tests/x/test_y_*.py``, ``tests/x/test_*_y.py`` and ``tests/test_x_y*.py``.  A module that
defines no function and no class needs no tests.  The tables below name the exceptions: ``TESTS`` where the tests of a
module are elsewhere, ``GAPS`` where a module may have missing lines or branches, and why.

Each set of test files runs in a process of its own under coverage.py, with branches, and only its modules are measured.
The processes are forked from this one, which has loaded pytest and the libraries, but nothing of the package: so each
child also measures what a module does when it is imported.  Processes that a test starts are not measured.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import attrs
import coverage
import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "hgwire_wsgi"

PRELOADED = ("mercurial.hg", "webob", "zstandard", "webtest", "hypothesis.strategies", "waitress", "gunicorn.app.base")
"""Libraries that many tests need and that take long to import."""

PYTEST_OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "--hypothesis-profile=twins"),
    # They are preloaded on purpose.
    *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
)

_BACKEND = tuple(sorted(f"repositories/{path.name}" for path in ROOT.glob("tests/repositories/test_mercurial*.py")))

_APP = (
    *("http/test_app.py", "http/test_app_admission.py", "http/test_app_moved.py", "http/test_failures.py"),
    *("http/test_deadlines.py", "http/test_wsgi.py", "http/test_wsgi_rates.py"),
)

TESTS: dict[str, tuple[str, ...]] = {
    "__init__.py": ("test_exports.py",),
    "cache/stores/base.py": ("cache/stores/test_folder.py", "cache/test_single_flight.py"),
    "access/admission.py": ("access/test_admission.py", "http/test_app_admission.py", "http/test_uwsgi.py"),
    "cache/bundles.py": ("cache/test_bundles.py", "http/v1/test_v1_kept_bundles.py"),
    "commands/registry.py": ("commands/test_registry.py", "http/test_routing.py"),
    "commands/responses.py": (
        "commands/test_responses.py",
        "http/v1/test_v1_renderers.py",
        "http/v1/test_v1_bundles.py",
    ),
    "dispatch.py": (
        *("test_dispatch.py", "access/test_request.py"),
        *("http/test_app.py", "http/test_app_moved.py", "http/test_failures.py", "http/v1/test_v1_bundles.py"),
        "repositories/test_mercurial_permissions.py",
    ),
    "http/app.py": (*_APP, "http/v1/test_v1_repeats.py", "repositories/test_mercurial_hgwebconfig.py"),
    "http/arrival.py": ("http/test_arrival.py", "http/test_authorize.py", "http/test_failures.py"),
    "http/body.py": ("http/test_body.py", "http/test_deadlines.py", "http/test_wsgi_rates.py"),
    "http/message.py": ("http/test_message.py", *_APP),
    "http/v1/bundles.py": (
        *("http/v1/test_v1_bundles.py", "http/v1/test_v1_kept_bundles.py", "http/test_app_admission.py"),
    ),
    "http/v1/transport.py": (
        *("http/v1/test_v1_transport.py", "http/v1/test_v1_bundles.py", "http/v1/test_v1_kept_bundles.py"),
        *("http/v1/test_v1_repeats.py", "http/test_app_admission.py"),
    ),
    "cli/gunicorn_app.py": ("cli/test_gunicorn_settings.py", "cli/test_gunicorn_hooks.py"),
    "framing/exp0002.py": ("framing/test_exp0002.py", "framing/test_server_reactor.py"),
    "framing/reactor.py": (
        "framing/test_reactor.py",
        "framing/test_server_reactor.py",
        "framing/test_client_reactor.py",
    ),
    "testing/history.py": ("testing/test_history.py", "testing/test_memory.py"),
    "repositories/base.py": (
        "repositories/test_base.py",
        "http/test_app.py",
        "http/test_routing.py",
        "http/test_authorize.py",
    ),
    "repositories/mercurial/changegroups/conditions.py": ("repositories/test_mercurial_changegroup_conditions.py",),
    **dict.fromkeys(
        (f"repositories/mercurial/changegroups/{name}.py" for name in ("deltas", "generator", "revlogs")),
        (
            *("repositories/test_changegroup_damage.py", "repositories/test_changegroup_deltas.py"),
            *("repositories/test_changegroup_equality.py", "repositories/test_changegroup_growth.py"),
            *("repositories/test_changegroup_replies.py", "repositories/test_changegroup_revlogs.py"),
        ),
    ),
    "repositories/mercurial/changegroups/details.py": (
        *("repositories/test_changegroup_damage.py", "repositories/test_changegroup_details.py"),
        "repositories/test_changegroup_equality.py",
    ),
    "repositories/mercurial/changegroups/texts.py": (
        *("repositories/test_changegroup_damage.py", "repositories/test_changegroup_texts.py"),
        "repositories/test_changegroup_equality.py",
    ),
    "repositories/mercurial/changegroups/seam.py": ("repositories/test_mercurial_changegroup_seam.py",),
    "repositories/mercurial/checks.py": _BACKEND,
    "repositories/mercurial/commands.py": _BACKEND,
    "repositories/mercurial/errors.py": _BACKEND,
    "repositories/mercurial/files.py": (
        *("repositories/test_mercurial_files.py", "repositories/test_mercurial_settings.py"),
    ),
    "repositories/mercurial/provider.py": _BACKEND,
    "repositories/mercurial/repository.py": _BACKEND,
    "repositories/mercurial/state.py": (*_BACKEND, "repositories/test_state.py"),
    "repositories/mercurial/transactions.py": (
        *("repositories/test_mercurial_transactions.py", "repositories/test_mercurial_failures.py"),
    ),
}
"""Module: its test files, where the rule of the names does not find them."""


@attrs.frozen
class Gap:
    """What a module's own tests need not cover.

    Attributes:
        missing: lines and branches, at most.
        reason: why other tests cover them, or none can.
    """

    missing: int
    reason: str


GAPS: dict[str, Gap] = {
    "cache/stores/folder.py": Gap(2, "two threads that check one file, and one that vanishes while it is checked"),
    "cli/serve.py": Gap(55, "it runs a server; test_serve.py starts it as a process, which is not measured"),
    "cli/webconf.py": Gap(1, "what another process runs"),
    "cli/warm.py": Gap(1, "an application whose cache is off; the command refuses that before"),
    "repositories/mercurial/commands.py": Gap(9, "replies to pushes, permissions asked midway: tests/live"),
    "dispatch.py": Gap(
        2, "a signal that arrives while the policy is asked, and one policy that hides and one that fails"
    ),
    "http/arrival.py": Gap(1, "a signal that arrives while the user is identified"),
    "repositories/mercurial/transactions.py": Gap(1, "a transaction inside another one, without an observer"),
    "repositories/mercurial/provider.py": Gap(3, "encodings that the environment of the tests replaces: tests/live"),
    "repositories/mercurial/repository.py": Gap(
        26, "names of modules before Mercurial 7.2; lfs, and data for other protocols: in processes and in tests/live"
    ),
    "repositories/mercurial/state.py": Gap(
        5, "files that change while they are read, stores without a list of files: random changes in test_state.py"
    ),
    "repositories/pool.py": Gap(2, "what a forked process does is tested in one, which is not measured"),
}
"""Module: what may be missing."""

_PRAGMA = re.compile(r"# *pragma: *no *(?:cover|branch)(?P<reason>.*)")


@attrs.frozen
class Result:
    """Of one run: what is missing in each module, and the output of pytest if a test failed."""

    missing: dict[str, list[str]]
    failure: str = ""


def main() -> int:
    """Run everything and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", "--processes", type=int, default=2, help="test runs side by side (default: 2)")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="files of the package (default: all)")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    chosen = [Path(name).resolve().relative_to(ROOT / PACKAGE).as_posix() for name in options.modules] or modules()
    count = 0

    def complain(complaints: Iterable[str]) -> None:
        nonlocal count
        for each in complaints:
            count += 1
            print(each, flush=True)

    complain([*unknown_names(), *pragmas_without_reason(chosen)])
    runs: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for module in chosen:
        found = tests_of(module)
        if found:
            runs[found].append(module)
        elif defines(module) and module not in GAPS:
            complain([f"{module}: no tests (expected {expected_name(module)})"])
    start = time.monotonic()
    for files, result in run_all(dict(runs), options.processes):
        if result.failure:
            complain([f"{', '.join(files)}: failed\n{result.failure}"])
        for module, missing in result.missing.items():
            complain(complaint(module, missing, files))
    print(f"{len(chosen)} modules, {len(runs)} runs, {time.monotonic() - start:.0f} s, {count} complaints")
    return bool(count)


def modules() -> list[str]:
    """Every module, as a path below the package."""
    return sorted(path.relative_to(ROOT / PACKAGE).as_posix() for path in (ROOT / PACKAGE).rglob("*.py"))


def defines(module: str) -> bool:
    """Whether a module defines anything, rather than only collecting names for export."""
    tree = ast.parse((ROOT / PACKAGE / module).read_text("utf-8"))
    return any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(tree))


def expected_name(module: str) -> str:
    """The name of a module's test file."""
    path = Path(module)
    return f"tests/{path.with_name(f'test_{stem(path)}.py').as_posix()}"


def stem(path: Path) -> str:
    """What a module's tests are called after: a package gives ``__init__`` its own name."""
    name = path.parent.name or PACKAGE if path.stem == "__init__" else path.stem
    return name.strip("_")


def tests_of(module: str) -> tuple[str, ...]:
    """The test files of a module, as paths below ``tests``."""
    if module in TESTS:
        return TESTS[module]
    path = Path(module)
    folder = ROOT / "tests" / path.parent
    patterns = [f"test_{stem(path)}.py"]
    if path.stem != "__init__":
        patterns += [f"test_{stem(path)}_*.py", f"test_*_{stem(path)}.py"]
    found = {each for pattern in patterns for each in folder.glob(pattern)}
    if path.parent.name and path.stem != "__init__":
        found.update(folder.parent.glob(f"test_{path.parent.name}_{stem(path)}*.py"))
    return tuple(sorted(each.relative_to(ROOT / "tests").as_posix() for each in found))


def unknown_names() -> Iterator[str]:
    """Entries of the tables that name nothing."""
    known = set(modules())
    for module in sorted({*TESTS, *GAPS} - known):
        yield f"{module}: in a table of {Path(__file__).name}, but there is no such module"
    for module, files in TESTS.items():
        for name in files:
            if not (ROOT / "tests" / name).exists():
                yield f"{module}: tests/{name} does not exist"


def pragmas_without_reason(chosen: list[str]) -> Iterator[str]:
    """Exclusions from coverage that do not say why."""
    for module in chosen:
        for number, line in enumerate((ROOT / PACKAGE / module).read_text("utf-8").splitlines(), 1):
            found = _PRAGMA.search(line)
            if found and len(re.findall(r"\w+", found["reason"])) < 2:
                yield f"{module}:{number}: a pragma needs its reason beside it: # pragma: no cover: why"


def complaint(module: str, missing: list[str], files: tuple[str, ...]) -> Iterator[str]:
    """What to say about a module."""
    gap = GAPS.get(module, Gap(0, ""))
    if len(missing) > gap.missing:
        allowed = f" (allowed: {gap.missing}, {gap.reason})" if gap.missing else ""
        yield f"{module}: {len(missing)} missing{allowed} with {', '.join(files)}: {' '.join(missing)}"
    elif len(missing) < gap.missing:
        print(f"note: {module} has {len(missing)} missing, {gap.missing} are allowed")


# Running.


def run_all(runs: dict[tuple[str, ...], list[str]], processes: int) -> Iterator[tuple[tuple[str, ...], Result]]:
    """Run each set of test files in a process of its own, the longest files first."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    context = multiprocessing.get_context("fork")
    waiting = sorted(runs, key=lambda files: sum((ROOT / "tests" / name).stat().st_size for name in files))
    receivers: dict[multiprocessing.connection.Connection, tuple[tuple[str, ...], BaseProcess]] = {}
    while waiting or receivers:
        while waiting and len(receivers) < processes:
            files = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=run_in_child, args=(files, runs[files], sender))
            process.start()
            sender.close()
            receivers[receiver] = files, process
        ready = multiprocessing.connection.wait(list(receivers))
        for receiver in [each for each in receivers if each in ready]:
            files, ended = receivers.pop(receiver)
            try:
                yield files, receiver.recv()
            except EOFError:
                yield files, Result({}, "the process died")
            ended.join()


def run_in_child(files: tuple[str, ...], measured: list[str], sender: multiprocessing.connection.Connection) -> None:
    """Run some test files and send the result."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        result = run(files, measured, output)
    sender.send(result)
    sender.close()
    # Threads of a failed test must not keep the process.
    os._exit(0)


def run(files: tuple[str, ...], measured: list[str], output: io.StringIO) -> Result:
    """Run some test files under coverage."""
    # Random examples would cover something else each time.
    hypothesis.settings.register_profile("twins", derandomize=True, deadline=None, database=None)
    paths = [str(ROOT / PACKAGE / module) for module in measured]
    cover = coverage.Coverage(data_file=None, branch=True, include=paths, config_file=str(ROOT / "setup.cfg"))
    cover.set_option("run:disable_warnings", ["no-data-collected"])
    cover.start()
    try:
        code = pytest.main([*PYTEST_OPTIONS, *(f"tests/{name}" for name in files)])
    finally:
        cover.stop()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return Result({}, "\n".join(output.getvalue().splitlines()[-40:]))
    return Result({module: missing(cover, path) for module, path in zip(measured, paths, strict=True)})


def missing(cover: coverage.Coverage, path: str) -> list[str]:
    """The lines and branches of a module that did not run, such as ``12`` or ``12->15``."""
    report = io.StringIO()
    try:
        with contextlib.redirect_stdout(report):
            cover.json_report(morfs=[path], outfile="-")
    except coverage.exceptions.NoDataError:
        return ["never imported"]
    (figures,) = json.loads(report.getvalue())["files"].values()
    lines = set(figures["missing_lines"])
    # A branch out of a line that did not run says nothing more.
    arcs = [(start, end) for start, end in figures["missing_branches"] if start not in lines and end not in lines]
    texts = [(line, str(line)) for line in lines]
    texts += [(start, f"{start}->{end if end > 0 else 'exit'}") for start, end in arcs]
    return [text for _, text in sorted(texts)]


if __name__ == "__main__":
    sys.exit(main())
