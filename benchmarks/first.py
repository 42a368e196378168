"""What is asked for the first time, beside hgweb and Git: clones and pulls that no cache can answer.

Usage: python benchmarks/first.py REPOSITORY [--repeat N] [--changesets N...] [--scratch FOLDER]

It requires the extras ``mercurial`` and ``serve``; the columns of Git appear where ``git`` is installed.  The
repository is only read, and its changesets should be public.  Synthetic histories of N changesets (1,000, 10,000 and
100,000) follow, to show growth; ``--changesets 0`` leaves them out.

Each measured request goes to a new server with an empty cache, ours and hgweb's by turns, under the same gunicorn
settings; the client is not an ``hg``, but sends what ``hg`` sent.  Before it the server has answered a few small
commands and the clone of the first changeset alone, so that modules are imported and the repository is open.

Rows: *clone* by a client that knows one compression engine; the first *pull* of the last N changesets: the client has
all others, and asks for all heads; *pull -r*: it asks for one head of several (of a single head: for its parent), so
the changeset of each file revision must be found through the manifests.  Pulls are compressed with zstd.

Columns: *CPU* of the server until it is idle again; *first data* (more than a KiB, or all of it) and *last byte* as the
client sees them; *growth* is the peak of the server's memory minus what it had before.  The first line of a row has the
minimum of all rounds, the second the median.  *ratio* is ours divided by hgweb's; below 1, ours is better.  *git* is
``git pack-objects`` alone, the part of a Git server that does the work, on one pack with a bitmap index; there *growth*
is the maximum resident size of the process, mapped files included.

The aims are those of the project: what they allow is compared with the ratio of the minimums.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import attrs
from common import Request, busy, clone_request, fetch, hg, median, server
from git_history import GitHistory, converted
from synthetic import history

NULL = "0" * 40
SIZES = (1, 50, 1000)
"""Changesets of a pull; half of the history follows."""

ENGINES = "server.compressionengines=zstd,zlib,none"
"""By default neither server sends data uncompressed."""

HEADER = 1000
"""Bytes of arguments in a header; clients divide them at 1,024 with its name."""

COLUMNS = ("CPU ms", "first data ms", "last byte ms", "growth MiB")

NOISE = (0.0, 2.0, 0.0, 1.0)
"""In the units of the columns; an aim that is missed by less counts as met."""


@attrs.frozen
class Figures:
    """Measured values of a request: milliseconds, and MiB."""

    cpu: float
    first: float
    last: float
    growth: float


@attrs.frozen(kw_only=True)
class Case:
    """A request that is measured.

    Args:
        label: of its row.
        engine: that the client knows.
        heads: the changesets that it asks for, as hexadecimal nodes.
        common: those that it has; empty for a clone.
        aim: the highest allowed ratio of CPU; ``None`` if there is no aim.
    """

    label: str
    engine: str
    heads: Sequence[str]
    common: Sequence[str] = ()
    aim: float | None = None


def cases(repository: Path) -> list[Case]:
    """The requests that are measured with a repository."""
    heads = nodes(repository, "heads(all())")
    one = heads[-1:] if len(heads) > 1 else nodes(repository, "tip^")
    count = len(nodes(repository, "all()"))
    half = count // 2
    aims = {50: 2 / 3, half: 1 / 3}
    found = [
        Case(label="clone, zstd", engine="zstd", heads=heads, aim=1 / 3),
        Case(label="clone, zlib", engine="zlib", heads=heads),
        Case(label="clone, none", engine="none", heads=heads, aim=1 / 4),
    ]
    for label, wanted in (("pull", heads), ("pull -r", one)):
        reached = "::" + "+".join(wanted) if wanted != heads else "all()"
        for size in (*(size for size in SIZES if size < half), half):
            common = nodes(repository, f"heads(({reached}) - last({reached}, {size}))")
            found.append(
                Case(label=f"{label} {size:,}", engine="zstd", heads=wanted, common=common, aim=aims.get(size))
            )
    return found


def nodes(repository: Path, revset: str) -> list[str]:
    """Hexadecimal nodes of changesets, the oldest first."""
    return hg("-R", str(repository), "log", "-r", f"sort({revset}, rev)", "-T", "{node}\n").split()


def asking(recorded: Request, case: Case) -> Request:
    """The ``getbundle`` of a clone by a real client, with other arguments."""
    headers = dict(recorded.headers)
    arguments = {name: values[0] for name, values in parse_qs(headers.pop("X-Hgarg-1"), keep_blank_values=True).items()}
    arguments |= {"heads": " ".join(case.heads), "common": " ".join(case.common) or NULL}
    encoded = urlencode(sorted(arguments.items()))
    parts = [encoded[start : start + HEADER] for start in range(0, len(encoded), HEADER)]
    headers |= {f"X-Hgarg-{number}": part for number, part in enumerate(parts, 1)}
    headers["Vary"] = ",".join([*(f"X-HgArg-{number}" for number in range(1, len(parts) + 1)), "X-HgProto-1"])
    headers["X-Hgproto-1"] = f"0.1 0.2 comp={case.engine} partial-pull"
    return Request(recorded.query, tuple(headers.items()))


# Measuring.

Runs = dict[str, list[Figures]]
"""The figures of a case by server: all rounds."""


def served(kind: str, repository: Path, engine: str, before: Request, request: Request) -> Figures:
    """Send a request to a new server, and another one before."""
    with server(kind, repository, config=[ENGINES]) as running:
        running.warm_up()
        fetch(running.port, before, keep=False)
        running.settle()
        running.forget_peak()
        memory, cpu = running.memory(), running.cpu()
        reply = fetch(running.port, request, keep=False)
        assert reply.body.startswith(bytes([len(engine)]) + engine.encode()), "another engine was used"
        running.settle()
        used = (running.cpu() - cpu) * 1000
        grown = running.memory("VmHWM") - memory
        # A clean end takes gunicorn a second or two.
        running.kill()
    return Figures(used, reply.first * 1000, reply.last * 1000, grown)


LAUNCHER = """
import json, os, sys, time
start = time.monotonic()
program = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
os.close(1)  # so that the reader sees the end
status, usage = os.wait4(program, 0)[1:]
json.dump([start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, status], sys.stderr)
"""
"""Starts a program from a small process: its maximum resident size begins with that of the process that starts it."""


def packed(git: GitHistory, case: Case) -> Figures:
    """Let Git make the pack for the same changesets."""
    command, given = git.pack(case.heads, case.common)
    with tempfile.TemporaryFile() as file:
        file.write(given)
        file.seek(0)
        launched = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
        process = subprocess.Popen(launched, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    with process:
        assert process.stdout and process.stderr
        process.stdout.read(1)
        first = time.monotonic()
        while process.stdout.read(1 << 18):
            pass
        last = time.monotonic()
        start, cpu, size, failed = json.loads(process.stderr.read())
    if failed:
        raise SystemExit(f"git pack-objects failed: {failed}")
    return Figures(cpu * 1000, (first - start) * 1000, (last - start) * 1000, size / 1024)


def rounds(repository: Path, recorded: Request, case: Case, repeat: int, git: GitHistory | None) -> Runs:
    """Measure by turns.

    Args:
        repository: to serve.
        recorded: the ``getbundle`` of a full clone.
        case: to measure.
        repeat: how many turns.
        git: the same history, if Git is installed.
    """
    request = asking(recorded, case)
    root = asking(recorded, attrs.evolve(case, heads=nodes(repository, "first(all())"), common=()))
    measured: dict[str, Callable[[], Figures]] = {
        "hgwire": lambda: served("hgwire", repository, case.engine, root, request),
        "hgweb": lambda: served("hgweb", repository, case.engine, root, request),
    }
    if git is not None:
        measured["git"] = lambda: packed(git, case)
    found: Runs = {name: [] for name in measured}
    for _ in range(repeat):
        for name, measure in measured.items():
            found[name].append(measure())
    return found


# Tables.

Numbers = tuple[float, ...]
Row = dict[str, Numbers]
"""The figures of a case by server, in the order of the columns."""


def summed(found: Runs, of: Callable[[Sequence[float]], float]) -> Row:
    """One figure for all rounds."""
    return {name: tuple(map(of, zip(*map(attrs.astuple, runs), strict=True))) for name, runs in found.items()}


def line(label: str, row: Row) -> None:
    """Print a line of the table."""
    cells = []
    for ours, theirs, git in zip(row["hgwire"], row["hgweb"], row.get("git", ("",) * len(COLUMNS)), strict=True):
        cells.append(f"{ours:9.1f}{theirs:9.1f}{ratio(ours, theirs):6.2f}{git and format(git, '8.1f'):>8}")
    print(f"{label:16}" + " |".join(cells), flush=True)


def ratio(ours: float, theirs: float) -> float:
    """Ours divided by theirs."""
    return ours / max(theirs, 1e-3)


def report(repository: Path, repeat: int, git: GitHistory | None) -> dict[str, Row]:
    """Measure all cases with a repository; their minimums."""
    count = len(nodes(repository, "all()"))
    print(f"\n{repository.name}: {count:,} changesets; minimum and median of {repeat} rounds  ({busy()})")
    print(" " * 16 + " |".join(f"{column:^32}" for column in COLUMNS))
    print(" " * 16 + " |".join(f"{'ours':>9}{'hgweb':>9}{'ratio':>6}{'git':>8}" for _ in COLUMNS), flush=True)
    recorded = clone_request(repository)
    found = {}
    judged = []
    for case in cases(repository):
        measured = rounds(repository, recorded, case, repeat, git)
        found[case.label] = summed(measured, min)
        line(case.label, found[case.label])
        line("", summed(measured, median))
        judged.append(verdict(case, found[case.label]))
    print("aims:", *judged, sep="\n", flush=True)
    return found


def verdict(case: Case, row: Row) -> str:
    """Compare with the aims: CPU of the case, and neither later data nor more memory than hgweb."""
    allowed = (case.aim, 1.0, None, 1.0)
    said = []
    for column, noise, aim, ours, theirs in zip(COLUMNS, NOISE, allowed, row["hgwire"], row["hgweb"], strict=True):
        if aim is None:
            continue
        over = ours - aim * theirs
        met = "met" if over <= 0 else "met within noise" if over <= noise else "MISSED"
        said.append(f"{column.rpartition(' ')[0]} {ratio(ours, theirs):.2f} (at most {aim:.2f}) {met}")
    return f"{case.label:16}" + "; ".join(said)


def growth(reports: dict[str, dict[str, Row]]) -> None:
    """Print how the first clone grows with the history."""
    print(f"\n{'clone, zstd':24}{'CPU us a changeset':>27}{'growth MiB':>27}")
    print(f"{'':24}" + f"{'ours':>9}{'hgweb':>9}{'git':>9}" * 2)
    for name, rows in reports.items():
        row = rows["clone, zstd"]
        count = int(name.rpartition("-")[2])
        costs = "".join(f"{row[kind][0] * 1000 / count:9.1f}" if kind in row else " " * 9 for kind in KINDS)
        memory = "".join(f"{row[kind][3]:9.1f}" if kind in row else " " * 9 for kind in KINDS)
        print(f"{name:24}{costs}{memory}", flush=True)


KINDS = ("hgwire", "hgweb", "git")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds of each measurement (default: 5)")
    parser.add_argument("--changesets", type=int, nargs="*", default=[1000, 10_000, 100_000], metavar="N")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "hgwire-benchmarks")
    given = parser.parse_args()
    # Ending this process ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scratch = given.scratch.resolve()
    if shutil.which("git") is None:
        print("git is not installed: without its columns")

    def of(repository: Path) -> dict[str, Row]:
        git = converted(repository, scratch / "git") if shutil.which("git") else None
        return report(repository, given.repeat, git)

    of(given.repository.resolve())
    lengths = [length for length in given.changesets if length]
    if lengths:
        growth({path.name: of(path) for path in (history(length, scratch) for length in lengths)})


if __name__ == "__main__":
    main()
