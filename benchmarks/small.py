"""Small commands beside hgweb, uncached, in one run: steady, after each push, and as the first request of a process.

Usage: python benchmarks/small.py REPOSITORY [--repeat N] [--only NAME...] [--no-first]

It needs the extra ``mercurial``.  The repository is only read: each server has copies of its own, since the first to
answer writes Mercurial's caches for the other.  One copy is plain.  The other, ``rich``, has 40 branches, 60 heads,
5,000 bookmarks, draft and secret changesets, and 50,000 obsolescence markers.  Good repositories to ask about are those
of ``synthetic.py`` with 100,000 changesets.

Requests are WSGI calls in this process.  Figures are medians of the CPU time of the process in microseconds, all
threads included, since the reply must be made whichever thread makes it.  ``ratio`` is hgweb's figure divided by ours:
above 1, ours is better.  ``push`` stands for a changeset that Mercurial commits between two requests, so every request
finds a state that it has not seen.  The cache of small replies is off.  ``getbundle`` is sent by a client that has
everything; its bundles are not stored either.

The last table has the microseconds of reading the state of the repository.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

import attrs
import common
from common import hg, median
from v1 import environ

import hgwire_wsgi.repositories.mercurial  # noqa: F401  # before Mercurial's modules, which it imports in their order

KINDS = ("hgwire", "hgweb")
BRANCHES, HEADS, BOOKMARKS, MARKERS = 40, 60, 5000, 50_000
SECONDS = 0.05
"""CPU time of one steady measurement."""

HEADER = 1024
"""Bytes of arguments in one header."""


# Requests.


@attrs.frozen
class Question:
    """A request: the command, and its arguments as clients send them in headers."""

    command: str
    arguments: tuple[tuple[str, str], ...] = ()

    def environ(self) -> dict[str, Any]:
        """As a WSGI server gives it to the application."""
        encoded = urlencode(self.arguments, quote_via=quote_plus)
        headers = [encoded[start : start + HEADER] for start in range(0, len(encoded), HEADER)]
        found = environ("/", f"cmd={self.command}")
        return {**found, **{f"HTTP_X_HGARG_{number}": part for number, part in enumerate(headers, 1)}}


def questions(nodes: list[str], head: str) -> dict[str, list[Question]]:
    """What is asked, each as a list of requests.

    Args:
        nodes: of the repository, in the order of their revisions.
        head: one of its heads.
    """
    random_ = random.Random(1)

    def known(count: int) -> str:
        # Discovery asks about what the client has; the server lacks every tenth.
        return " ".join(
            f"{random_.getrandbits(160):040x}" if number % 10 == 9 else random_.choice(nodes) for number in range(count)
        )

    def batch(count: int) -> Question:
        return Question("batch", (("cmds", f"heads ;known nodes={known(count)}"),))

    caps = "HG20,bundle2=HG20%0Abookmarks%0Achangegroup%3D01%2C02%2C03%0Alistkeys%0Aphases%3Dheads"
    nothing = (("bookmarks", "1"), ("bundlecaps", caps), ("cg", "0"), ("common", head), ("heads", head))
    found = {
        "capabilities": [Question("capabilities")],
        "heads": [Question("heads")],
        "branchmap": [Question("branchmap")],
        **{
            f"listkeys {name}": [Question("listkeys", (("namespace", name),))]
            for name in ("namespaces", "bookmarks", "phases", "obsolete")
        },
        "lookup tip": [Question("lookup", (("key", "tip"),))],
        "lookup node": [Question("lookup", (("key", nodes[len(nodes) // 2]),))],
        **{f"known {count:,}": [Question("known", (("nodes", known(count)),))] for count in (1, 100, 10_000)},
        "between": [Question("between", (("pairs", f"{nodes[len(nodes) - 1]}-{nodes[max(0, len(nodes) - 1000)]}"),))],
        "batch 200": [batch(200)],
        "batch 10,000": [batch(10_000)],
        "discovery, 5 rounds": [batch(200) for _ in range(5)],
        "getbundle, nothing": [Question("getbundle", nothing)],
    }
    return found


def call(app: Callable[..., Any], question: Question) -> bytes:
    """Send a request as a WSGI server does."""
    return send(app, question.environ())


def send(app: Callable[..., Any], given: dict[str, Any]) -> bytes:
    statuses: list[str] = []
    response = app(given, lambda status, headers, exc_info=None: statuses.append(status))
    body = b"".join(response)
    if hasattr(response, "close"):
        response.close()
    if not statuses[0].startswith("200"):
        raise SystemExit(f"{given['QUERY_STRING']}: {statuses[0]}: {body[:200]!r}")
    return body


def make_app(kind: str, repository: Path) -> Callable[..., Any]:
    """An application without caches of replies."""
    if kind == "hgweb":
        from mercurial.hgweb import hgweb

        theirs: Callable[..., Any] = hgweb(str(repository).encode())
        return theirs
    from hgwire_wsgi import CacheSettings, WireApp
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    return WireApp(MercurialProvider(repository), cache=CacheSettings(memory=0, folder=None))


# Repositories.


def open_local(path: Path) -> Any:
    from mercurial import hg as hgmod
    from mercurial import ui as uimod

    ui = uimod.ui.load()
    ui.setconfig(b"ui", b"quiet", b"yes")
    ui.setconfig(b"experimental", b"evolution", b"all")
    return hgmod.repository(ui, str(path).encode())


class Writer:
    """Commits changesets to a repository, as pushes would."""

    def __init__(self, path: Path) -> None:
        self._repo = open_local(path).unfiltered()
        self._count = 0

    def commit(self, parent: bytes | None = None, branch: bytes = b"default", phase: int = 0) -> bytes:
        """Commit a changeset.

        Args:
            parent: its parent (default: the last one that this made, or tip).
            branch: its branch.
            phase: its phase.
        """
        from mercurial import context

        repo, self._count = self._repo, self._count + 1
        base = repo[parent if parent is not None else b"tip"]
        text = b"commit %d\n" % self._count

        def filectx(repo_: Any, memctx: Any, path: bytes) -> Any:
            return context.memfilectx(repo_, memctx, path, text)

        made = context.memctx(
            repo,
            (base.node(), None),
            text,
            [b"small-%d" % (self._count % 50)],
            filectx,
            b"bench",
            b"%d 0" % (1_700_000_000 + self._count),
            {b"branch": branch},
        )
        with repo.ui.configoverride({(b"phases", b"new-commit"): phase}):
            node: bytes = repo.commitctx(made)
        return node


def enrich(path: Path) -> None:
    """Add branches, heads, bookmarks, phases and markers to a repository."""
    random_ = random.Random(2)
    repo = open_local(path).unfiltered()
    writer = Writer(path)
    count = len(repo)
    nodes = [repo.changelog.node(revision) for revision in range(count)]
    with writer._repo.wlock(), writer._repo.lock(), writer._repo.transaction(b"rich") as transaction:
        for number in range(HEADS):
            base = nodes[count - 1 - random_.randrange(count // 10)]
            for _ in range(3):
                base = writer.commit(base, b"branch-%02d" % (number % BRANCHES), number % 3)
        markers = [(random_.randbytes(20), (nodes[-1 - number % 100],)) for number in range(MARKERS)]
        writer._repo.obsstore.add(transaction, [(old, new, 0, (), (0.0, 0), None) for old, new in markers])
    lines = (b"%s feature/%05d\n" % (random_.choice(nodes).hex().encode(), number) for number in range(BOOKMARKS))
    (path / ".hg" / "bookmarks").write_bytes(b"".join(lines))
    (path / ".hg" / "hgrc").write_text("[experimental]\nevolution = all\n")
    # Mercurial fills its caches, as after any push.
    hg("-R", str(path), "debugupdatecaches")


def shape(path: Path) -> tuple[list[str], str]:
    """All nodes that a server shows, and a head."""
    repo = open_local(path).filtered(b"served")
    changelog = repo.changelog
    return [changelog.node(revision).hex() for revision in changelog], repo.heads()[0].hex()


# Measurements.


def cpu(action: Callable[[], object]) -> float:
    """Microseconds of CPU time of the process."""
    start = time.process_time()
    action()
    return (time.process_time() - start) * 1e6


def each(action: Callable[[], object], count: int) -> float:
    """Microseconds of CPU time of one of several calls."""
    return cpu(lambda: [action() for _ in range(count)]) / count


def steady(app: Callable[..., Any], asked: list[Question]) -> float:
    """Microseconds of requests in a state that was seen before."""
    environs = [question.environ() for question in asked]

    def ask() -> None:
        for given in environs:
            send(app, dict(given))

    ask()
    count = max(3, int(SECONDS * 1e6 / max(cpu(ask), 1.0)))
    return cpu(lambda: [ask() for _ in range(count)]) / count


def after_push(app: Callable[..., Any], writer: Writer, asked: list[Question]) -> float:
    """Microseconds of requests after a push."""
    environs = [question.environ() for question in asked]
    writer.commit()
    gc.collect()
    return cpu(lambda: [send(app, given) for given in environs])


def first(kind: str, repository: Path, asked: list[Question]) -> float:
    """Microseconds of the first requests of a process, without those of importing modules."""
    given = json.dumps([[question.command, question.arguments] for question in asked])
    command = [sys.executable, __file__, str(repository), "--first", kind]
    return float(subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=60).stdout)


def run_first(kind: str, repository: Path) -> None:
    """The body of the process of :func:`first`."""
    asked = [Question(command, tuple(map(tuple, arguments))) for command, arguments in json.load(sys.stdin)]
    # Modules are imported when they are first needed; a small repository needs them all.
    with tempfile.TemporaryDirectory() as temporary:
        hg("init", temporary)
        call(make_app(kind, Path(temporary)), Question("heads"))
    environs = [question.environ() for question in asked]

    def serve() -> None:
        app = make_app(kind, repository)
        for given in environs:
            send(app, given)

    print(cpu(serve))


def compare(label: str, figures: dict[str, list[float]]) -> None:
    ours, theirs = (median(figures[kind]) for kind in KINDS)
    print(f"{label:40}{ours:12.0f}{theirs:12.0f}{theirs / ours:8.2f}", flush=True)


def table(title: str, copies: dict[str, Path], options: argparse.Namespace) -> None:
    nodes, head = shape(copies["hgwire"])
    asked = {
        label: each
        for label, each in questions(nodes, head).items()
        if not options.only or any(word in label for word in options.only)
    }
    apps = {kind: make_app(kind, copies[kind]) for kind in KINDS}
    writers = {kind: Writer(copies[kind]) for kind in KINDS}
    print(f"\n{title}  ({common.busy()})\n{'microseconds':40}" + "".join(f"{kind:>12}" for kind in KINDS) + "   ratio")
    for label, each in asked.items():
        if label.startswith(("heads", "known", "branchmap", "listkeys bookmarks", "lookup tip")):
            replies = [call(apps[kind], each[0]) for kind in KINDS]
            if replies[0] != replies[1]:
                raise SystemExit(f"{label}: the replies differ")
        figures: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(options.repeat):
            for kind in KINDS:
                figures[kind].append(steady(apps[kind], each))
        compare(f"{label}, steady", figures)
    for label, each in asked.items():
        figures = {kind: [] for kind in KINDS}
        for _ in range(options.repeat):
            for kind in KINDS:
                figures[kind].append(after_push(apps[kind], writers[kind], each))
        compare(f"{label}, after a push", figures)
    for label, each in asked.items() if options.first_requests else ():
        if label in ("heads", "batch 200", "branchmap", "listkeys bookmarks"):
            figures = {kind: [first(kind, copies[kind], each) for _ in range(3)] for kind in KINDS}
            compare(f"{label}, first of a process", figures)


def tokens(copies: dict[str, Path], repeat: int) -> None:
    """Microseconds of reading the state."""
    from mercurial import hg as hgmod

    from hgwire_wsgi.repositories.mercurial.state import StateReader

    print(f"\n{'microseconds of reading the state':40}{'unchanged':>12}{'young':>12}{'changed':>12}{'hgweb':>12}")
    for title, path in copies.items():
        writer = Writer(path)
        reader = StateReader(str(path).encode(), b"")
        cached = hgmod.cachedlocalrepo(open_local(path))
        rows: list[list[float]] = [[], [], [], []]
        for _ in range(repeat):
            writer.commit()
            rows[2].append(cpu(reader.read))
            rows[1].append(each(reader.read, 20))
        time.sleep(2.5)
        reader.read()
        for _ in range(repeat):
            rows[0].append(each(reader.read, 1000))
            rows[3].append(each(cached._repostate, 1000))
        print(f"{title:40}" + "".join(f"{median(row):12.1f}" for row in rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--repeat", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only commands whose label has one of these words")
    parser.add_argument("--no-first", dest="first_requests", action="store_false", help="start no processes")
    parser.add_argument("--only-tokens", action="store_true", help="only the last table")
    parser.add_argument("--first", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    repository = options.repository.resolve()
    if options.first:
        run_first(options.first, repository)
        return
    with tempfile.TemporaryDirectory(prefix="small-") as temporary:
        plain, rich = ({kind: Path(temporary) / f"{name}-{kind}" for kind in KINDS} for name in ("plain", "rich"))
        for kind in KINDS:
            shutil.copytree(repository, plain[kind])
        shutil.copytree(repository, rich["hgwire"])
        enrich(rich["hgwire"])
        shutil.copytree(rich["hgwire"], rich["hgweb"])
        if not options.only_tokens:
            table("plain", plain, options)
            table("rich", rich, options)
        tokens({"plain": plain["hgwire"], "rich": rich["hgwire"]}, options.repeat)


if __name__ == "__main__":
    main()
