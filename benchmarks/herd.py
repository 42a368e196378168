"""The cost of many clients: ours, hgweb under the same gunicorn settings, and the limit, in one run.

Usage: python benchmarks/herd.py REPOSITORY [--repeat N] [--only NAME...] [--large] [--under SERVER...]

It needs the extras ``mercurial`` and ``serve``, and ``wrk`` for figures that a Python client would limit.  The
repository is only read: pushes go to a copy.  Every figure is the median of ``--repeat`` rounds in which the
servers take turns.  CPU is that of the workers, from ``/proc``.  The limit is a bare WSGI application that returns
the same bytes with the same headers, or the same file given to ``wsgi.file_wrapper``.

Requests go to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

import attrs
import common
from common import HEADS, Reply, Request, Server, clone_request, fetch, hg, load, median, record, server
from synthetic import history

PROTOCOL = "0.1 0.2 comp=zstd,zlib,none,bzip2 partial-pull"


@attrs.frozen(kw_only=True)
class Options:
    """Options of the command line."""

    repository: Path
    repeat: int
    clients: int
    wave: int
    large: bool
    scratch: Path
    under: tuple[str, ...]
    threads: int
    connections: int
    seconds: float


def title(text: str, *columns: str) -> None:
    """Print the head of a table, with the load of the machine."""
    print(f"\n{text}  ({common.busy()})\n{'':30}" + "".join(f"{column:>15}" for column in columns), flush=True)


def row(label: str, *figures: float | str, form: str = "15.2f") -> None:
    """Print a line of a table."""
    words = (f"{figure:>15}" if isinstance(figure, str) else format(figure, form) for figure in figures)
    print(f"{label:30}" + "".join(words), flush=True)


def times(better: float) -> str:
    """Format a ratio."""
    return f"x {better:.2f}" if better < 10 else f"x {better:.0f}"


def ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of each round, since the load of the machine changes from round to round."""
    return median([mine / other for mine, other in zip(ours, others, strict=True)])


def small(options: Options) -> None:
    """Small commands: replies per second, and the CPU time of one."""
    head = hg("-R", str(options.repository), "log", "-r", "tip", "-T", "{node}").strip()
    arguments = {
        "capabilities": {},
        "heads": {},
        "branchmap": {},
        "listkeys": {"namespace": "phases"},
        "known": {"nodes": head},
        "batch": {"cmds": f"heads ;known nodes={head}"},
    }
    requests = []
    for command, given in arguments.items():
        headers = [("Accept", "application/mercurial-0.1"), ("X-Hgproto-1", PROTOCOL)]
        headers += [("X-Hgarg-1", urlencode(given))] if given else []
        requests.append(Request(f"cmd={command}", tuple(headers)))
    for under in options.under:
        columns = ("hgwire", "hgweb", "bare app", "of hgweb", "of bare", "CPU us", "bare", "of bare")
        title(f"small, {under}, replies/second", *columns)
        _small(options, under, requests)


def _small(options: Options, under: str, requests: Sequence[Request]) -> None:
    run = functools.partial(server, repository=options.repository, under=under, threads=options.threads)
    with ExitStack() as stack:
        ours = stack.enter_context(run("hgwire"))
        answers = {request: fetch(ours.port, request) for request in requests}
        servers = {
            "hgwire": ours,
            "bare": stack.enter_context(run("limit", answers=answers)),
            "hgweb": stack.enter_context(run("hgweb")),
        }
        for running in servers.values():
            for request in requests:
                running.warm_up(request)
        for request in requests:
            rates: dict[str, list[float]] = {name: [] for name in servers}
            costs: dict[str, list[float]] = {name: [] for name in servers}
            for _ in range(options.repeat):
                for name, running in servers.items():
                    before = running.cpu()
                    seen = load(running.port, request, options.seconds, options.connections)
                    rates[name].append(seen.rate)
                    costs[name].append((running.cpu() - before) / max(seen.replies, 1) * 1e6)
            rate = {name: median(figures) for name, figures in rates.items()}
            cost = {name: median(figures) for name, figures in costs.items()}
            print(
                f"{request.command:30}{rate['hgwire']:15.0f}{rate['hgweb']:15.0f}{rate['bare']:15.0f}"
                f"{times(rate['hgwire'] / rate['hgweb']):>15}{ratio(rates['hgwire'], rates['bare']):15.0%}"
                f"{cost['hgwire']:15.0f}{cost['bare']:15.0f}{ratio(costs['bare'], costs['hgwire']):15.0%}",
                flush=True,
            )


def measured(running: Server, action: Callable[[], object], count: int = 1) -> float:
    """CPU seconds of a server per action."""
    before = running.cpu()
    for _ in range(count):
        action()
    return (running.cpu() - before) / count


Operation = Callable[[str], object]
"""An operation of a client on a URL."""


def compare(options: Options, label: str, operation: Operation, count: int) -> None:
    """Server CPU of a repeated client operation: ours, hgweb's, and that of gunicorn alone.

    Args:
        options: of the command line.
        label: of the line.
        operation: of the client; it must be repeatable.
        count: repetitions per figure; a quarter of them for hgweb.
    """
    figures: dict[str, list[float]] = {"hgwire": [], "hgweb": [], "limit": []}
    requests = record(options.repository, operation)
    answers: dict[Request, Reply] = {}
    with ExitStack() as stack:
        servers = {}
        for kind in figures:
            running = stack.enter_context(server(kind, options.repository, answers=answers))
            running.warm_up(HEADS if kind != "limit" else requests[0])
            operation(running.url)
            if kind == "hgwire":
                answers = {request: fetch(running.port, request) for request in requests}
            servers[kind] = running
        for _ in range(options.repeat):
            for kind, running in servers.items():
                turn = functools.partial(operation, running.url)
                figures[kind].append(measured(running, turn, max(1, count // 4) if kind == "hgweb" else count))
    ours, theirs, limit = (median(figures[kind]) * 1000 for kind in figures)
    # Anything less is noise of the clock.
    beyond = max(ours - limit, 0.02)
    row(label, ours, theirs, limit, times(theirs / ours), times((theirs - limit) / beyond))


COLUMNS = ("hgwire ms", "hgweb ms", "limit ms", "better", "beyond limit")


def clone(options: Options) -> None:
    """A full clone whose bundle is cached."""
    title("repeated clone, server CPU", *COLUMNS)
    with tempfile.TemporaryDirectory() as folder:

        def operation(url: str, *flags: str) -> None:
            hg("clone", "-q", "-U", *flags, url, f"{folder}/clone")
            shutil.rmtree(f"{folder}/clone")

        compare(options, "clone", operation, 4)
        compare(options, "clone --stream", lambda url: operation(url, "--stream"), 8)


def generator(options: Options) -> None:
    """The ``getbundle`` of a clone under load: replies per second."""
    request = clone_request(options.repository)
    title("getbundle of a clone, replies a second", "hgwire", "hgweb", "file", "of hgweb", "of file", "CPU ms", "file")
    with ExitStack() as stack:
        ours = stack.enter_context(server("hgwire", options.repository, workers=2))
        ours.warm_up()
        fetch(ours.port, request)
        reply = fetch(ours.port, request)
        servers = {
            "hgwire": ours,
            "hgweb": stack.enter_context(server("hgweb", options.repository, workers=2)),
            "file": stack.enter_context(server("limit", options.repository, workers=2, answers={request: reply})),
        }
        for name, running in servers.items():
            if name != "file":
                running.warm_up()
            fetch(running.port, request)
        rates: dict[str, list[float]] = {name: [] for name in servers}
        costs: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(options.repeat):
            for name, running in servers.items():
                before = running.cpu()
                seen = load(running.port, request, 20 if name == "hgweb" else 4)
                # Replies that began before the end of the load must not count for the next one.
                running.settle()
                rates[name].append(seen.rate)
                costs[name].append((running.cpu() - before) / max(seen.replies, 1) * 1e3)
        rate = {name: median(figures) for name, figures in rates.items()}
        row(
            f"{reply.size / 1e6:.1f} MB, 8 connections",
            *rate.values(),
            times(rate["hgwire"] / rate["hgweb"]),
            f"{ratio(rates['hgwire'], rates['file']):.0%}",
            median(costs["hgwire"]),
            median(costs["file"]),
        )


def herd(options: Options) -> None:
    """Many independent real clients: bundles made, CPU, memory."""
    clients, wave = options.clients, options.wave
    title(f"{clients} clones, {wave} at a time", "hgwire", "hgweb")
    figures: dict[str, tuple[float, ...]] = {}
    entries = 0
    for kind in ("hgwire", "hgweb"):
        with server(kind, options.repository, workers=2) as running, tempfile.TemporaryDirectory() as folder:
            running.warm_up()
            running.forget_peak()
            memory, cpu, start = running.memory(), running.cpu(), time.monotonic()
            waiting = [str(Path(folder) / f"clone{number}") for number in range(clients)]
            for begin in range(0, clients, wave):
                _clone_at_once(running.url, waiting[begin : begin + wave])
            figures[kind] = running.cpu() - cpu, time.monotonic() - start, running.memory("VmHWM") - memory
            if kind == "hgwire":
                entries = sum(path.stat().st_size > 65536 for path in running.cache.rglob("*") if path.is_file())
                running.forget_peak()
                memory = running.memory()
                _clone_at_once(running.url, [f"{name}again" for name in waiting[:wave]])
                again = running.memory("VmHWM") - memory
    row("bundles made", str(entries), str(clients))
    for number, label in enumerate(("server CPU s", "wall s", "growth of memory, MiB")):
        row(label, *(figures[kind][number] for kind in figures))
    row("... once it is made", again)


def _clone_at_once(url: str, targets: list[str]) -> None:
    program = common.hg_program()
    running = [
        subprocess.Popen([program, "--config", "ui.clonebundles=no", "clone", "-q", "-U", url, target])
        for target in targets
    ]
    failed = [client.wait(900) for client in running]
    if any(failed):
        raise SystemExit(f"clones failed: {failed}")
    for target in targets:
        shutil.rmtree(target)


def pull(options: Options) -> None:
    """Pulls without new changesets, and pulls whose bundle is cached."""
    title("repeated pull, server CPU", *COLUMNS)
    tip = int(hg("-R", str(options.repository), "log", "-r", "tip", "-T", "{rev}"))
    for behind in (0, 50, 1000):
        with tempfile.TemporaryDirectory() as folder:
            old, new = f"{folder}/old", f"{folder}/new"
            upto = ["-r", str(max(0, tip - behind))] if behind else []
            hg("clone", "-q", "-U", "--pull", *upto, str(options.repository), old)

            def operation(url: str, old: str = old, new: str = new, behind: int = behind) -> None:
                if not behind:
                    hg("-R", old, "pull", "-q", url)
                    return
                shutil.copytree(old, new)
                hg("-R", new, "pull", "-q", url)
                shutil.rmtree(new)

            compare(options, f"{behind} changesets" if behind else "no-op", operation, 8)


def push(options: Options) -> None:
    """A clone right after a push of one changeset, which outdates every cached bundle."""
    title("clone after a push of one changeset, server CPU", "hgwire ms", "hgweb ms", "better")
    for length in (None, 5000):
        source = options.repository if length is None else history(length, options.scratch)
        figures: dict[str, list[float]] = {"hgwire": [], "hgweb": []}
        for kind in figures:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                served, work = folder / "served", folder / "work"
                shutil.copytree(source, served)
                hg("clone", "-q", str(source), str(work))
                with server(kind, served) as running:
                    running.warm_up()
                    hg("clone", "-q", "-U", running.url, str(folder / "clone"))
                    for number in range(options.repeat):
                        shutil.rmtree(folder / "clone")
                        (work / "pushed").write_text(f"{number}\n")
                        hg("-R", str(work), "commit", "-q", "-A", "-m", f"push {number}")
                        hg("-R", str(work), "push", "-q", "-f", running.url)
                        before = running.cpu()
                        hg("clone", "-q", "-U", running.url, str(folder / "clone"))
                        figures[kind].append(running.cpu() - before)
                        tips = {
                            hg("-R", str(path), "log", "-r", "tip", "-T", "{node}") for path in (work, folder / "clone")
                        }
                        assert len(tips) == 1, "the clone lacks what was pushed"
        mine, theirs = (median(figures[kind]) * 1000 for kind in figures)
        row("the repository" if length is None else f"synthetic, {length}", mine, theirs, times(theirs / max(mine, 1)))


def growth(options: Options) -> None:
    """The cost of a cached clone at several lengths of history."""
    title(
        "getbundle of a clone",
        "MB",
        "kept: CPU ms",
        "ms for a MB",
        "made: CPU ms",
        "hgweb: CPU ms",
        "heads: us",
        "hgweb: us",
    )
    for length in (1000, 10_000, 100_000) if options.large else (1000, 10_000):
        source = history(length, options.scratch)
        request = clone_request(source)
        with server("hgwire", source) as ours, server("hgweb", source) as theirs:
            ask = functools.partial(fetch, ours.port, request, keep=False)
            ours.warm_up()
            theirs.warm_up()
            made = measured(ours, ask)
            size = ask().size
            # Enough for several ticks of the clock, but only a few GB.
            count = max(20, min(1000, int(2e9 / size)))
            kept = median([measured(ours, ask, count) for _ in range(options.repeat)])
            hgweb = measured(theirs, functools.partial(fetch, theirs.port, request, keep=False))
            small_ours, small_theirs = (
                median([measured(running, functools.partial(fetch, running.port, HEADS), 300) for _ in range(3)])
                for running in (ours, theirs)
            )
        row(
            f"{length} changesets",
            size / 1e6,
            kept * 1000,
            kept * 1e9 / size,
            made * 1000,
            hgweb * 1000,
            small_ours * 1e6,
            small_theirs * 1e6,
        )


PARTS: dict[str, Callable[[Options], None]] = {
    "small": small,
    "clone": clone,
    "load": generator,
    "herd": herd,
    "pull": pull,
    "push": push,
    "growth": growth,
}


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--repeat", type=int, default=3, help="rounds of each measurement (default: 3)")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--clients", type=int, default=50, help="of the herd (default: 50)")
    parser.add_argument("--wave", type=int, default=10, help="how many of them run at once (default: 10)")
    parser.add_argument("--under", nargs="+", choices=common.SERVERS, default=["gthread"], help="of the part small")
    parser.add_argument("--threads", type=int, default=4, help="of the part small (default: 4)")
    parser.add_argument("--connections", type=int, default=8, help="of the part small (default: 8)")
    parser.add_argument("--seconds", type=float, default=2, help="of a round of the part small (default: 2)")
    parser.add_argument("--large", action="store_true", help="a history of 100,000 changesets too")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "hgwire-benchmarks")
    given = parser.parse_args()
    options = Options(
        repository=given.repository.resolve(),
        repeat=given.repeat,
        clients=given.clients,
        wave=given.wave,
        large=given.large,
        scratch=given.scratch.resolve(),
        under=tuple(given.under),
        threads=given.threads,
        connections=given.connections,
        seconds=given.seconds,
    )
    # Ending this process ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name, part in PARTS.items():
        if not given.only or name in given.only:
            part(options)


if __name__ == "__main__":
    main()
