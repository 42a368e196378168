"""Many clients of one repository, whose operations have the same result in every order.

Each client has its own line of changesets, bookmarks and phases on a common base, and all clients pull everything.
So many clients at once, and the same clients one by one against another server, must end with the same repositories.

What the server has confirmed to one client, such as a push, must be visible to every request that starts later.  Each
pull and clone checks that; a stale reply would break it.
"""

from __future__ import annotations

import random
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from live_hg import Outcome, Scribe, run_hg

KINDS = {"clone": 3, "pull": 4, "push": 5, "bookmark": 2, "phase": 2}
"""The operations of a client, with their weights."""

BASE_NOISE = 700_000
"""Incompressible bytes in the base: a thread makes the bundle of a clone, and a small cache is soon full."""

SERVER_HGRC = "[phases]\npublish = no\n"

_RACES = re.compile(r"changed while pushing|push race|\block|please try again", re.IGNORECASE)
_ATTEMPTS = 40
_DUMP = "{node} {p1node} {p2node} {phase} {branch} {desc|firstline}\\n"

Run = Callable[[Sequence[str], Path], Outcome]
"""Runs ``hg`` in a folder."""


def build_base(scribe: Scribe, repo: Path, noise: int = BASE_NOISE) -> None:
    """Make the repository that everything starts from."""
    repo.mkdir(parents=True)
    scribe("init", str(repo))
    random_ = random.Random(noise)
    for number in range(8):
        (repo / f"noise{number}").write_bytes(random_.randbytes(noise // 8))
        scribe("commit", "-A", "-q", "-d", "0 0", "-m", f"base {number}", repo=repo)
    scribe("phase", "-p", "all()", repo=repo)
    scribe("update", "-q", "null", repo=repo)
    (repo / ".hg" / "hgrc").write_text(SERVER_HGRC)


def plan(seed: int, clients: int, operations: int) -> list[list[str]]:
    """Return the operations of each client, in order.  The same seed gives the same plan."""
    random_ = random.Random(seed)
    chosen = random_.choices(list(KINDS), list(KINDS.values()), k=operations)
    return [chosen[number::clients] for number in range(clients)]


class SharedScribe:
    """One command server for the clients of many threads."""

    def __init__(self, scribe: Scribe) -> None:
        self._scribe = scribe
        self._lock = threading.Lock()

    def __call__(self, *args: str, repo: Path, code_ok: Sequence[int] = (0,)) -> str:
        """Run one command; see :class:`Scribe`."""
        with self._lock:
            return self._scribe(*args, repo=repo, code_ok=code_ok)


@attrs.define(eq=False)
class Herd:
    """What the clients of one run share.

    Attributes:
        url: of the repository.
        scribe: for what clients do at home.
        run: for what they ask of the server.
        counts: operations done, by kind, and ``again`` for those that lost a race.
    """

    url: str
    scribe: SharedScribe
    run: Run
    folder: Path
    counts: Counter[str] = attrs.Factory(Counter)
    _told: set[tuple[str, str, int]] = attrs.Factory(set)
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def tell(self, *facts: tuple[str, str, int]) -> None:
        """Record what the server has confirmed to a client."""
        with self._lock:
            self._told.update(facts)

    def told(self) -> set[tuple[str, str, int]]:
        """Return everything that was confirmed so far."""
        with self._lock:
            return set(self._told)

    def count(self, kind: str) -> None:
        """Count an operation."""
        with self._lock:
            self.counts[kind] += 1


@attrs.frozen
class View:
    """The contents of a repository, independent of the order in which they arrived."""

    changesets: frozenset[str]
    bookmarks: frozenset[str]

    @classmethod
    def read(cls, scribe: SharedScribe, repo: Path) -> View:
        """Read a repository."""
        changesets = scribe("log", "-r", "all()", "-T", _DUMP, repo=repo).splitlines()
        bookmarks = scribe("bookmarks", "-T", "{bookmark} {node}\\n", repo=repo, code_ok=(0, 1)).splitlines()
        return cls(frozenset(changesets), frozenset(line for line in bookmarks if line.count(" ") == 1))

    def lasting(self) -> View:
        """Return the view without the bookmarks that their owners delete again: a client that pulled one keeps it."""
        return attrs.evolve(self, bookmarks=frozenset(line for line in self.bookmarks if not line.startswith("gone")))

    def missing(self, facts: set[tuple[str, str, int]], *, bookmarks: bool) -> list[tuple[str, str, int]]:
        """Return the facts that do not hold in this repository."""
        serials: dict[str, int] = {}
        holds: set[tuple[str, str, int]] = set()
        for line in self.changesets:
            node, _, _, phase, branch, words = line.split(" ", 5)
            if branch.startswith("line"):
                serials[node] = int(words.split()[1])
            holds.add(("changeset", node, 0))
            if phase == "public":
                holds.add(("public", node, 0))
        here = {name: serials.get(node, -1) for name, node in (line.split(" ") for line in self.bookmarks)}
        return [
            fact
            for fact in facts
            if fact not in holds and not (fact[0] == "bookmark" and (not bookmarks or here.get(fact[1], -1) >= fact[2]))
        ]


class Member:
    """One client.

    Args:
        herd: what it shares.
        number: of the client.
        repo: its repository, a clone of the base.
    """

    def __init__(self, herd: Herd, number: int, repo: Path) -> None:
        self.herd = herd
        self.number = number
        self.repo = repo
        self._random = random.Random(number)
        self._nodes: list[str] = []
        self._published = 0
        self._gone = False
        self._clone: Path | None = None
        self._clones = 0

    def do(self, kind: str) -> None:
        """Do one operation.

        Raises:
            AssertionError: it fails, or something that was confirmed is missing.
        """
        OPERATIONS[kind](self)
        self.herd.count(kind)

    def push(self) -> None:
        """Commit something and push it."""
        scribe = self.herd.scribe
        if not self._nodes:
            scribe("update", "-q", "default", repo=self.repo)
            scribe("branch", "-q", f"line{self.number}", repo=self.repo)
        made = []
        for _ in range(self._random.randint(1, 3)):
            serial = len(self._nodes)
            (self.repo / f"file{self.number}-{serial}").write_bytes(self._random.randbytes(3000))
            scribe("commit", "-A", "-q", "-d", "0 0", "-m", f"line {serial}", repo=self.repo)
            made.append(scribe("log", "-r", ".", "-T", "{node}", repo=self.repo))
            self._nodes.append(made[-1])
        self._ask("push", "-q", "--new-branch")
        self.herd.tell(*(("changeset", node, 0) for node in made))

    def phase(self) -> None:
        """Make some of this client's changesets public."""
        if self._published == len(self._nodes):
            return self.push()
        self._published = self._random.randint(self._published + 1, len(self._nodes))
        node = self._nodes[self._published - 1]
        self.herd.scribe("phase", "-p", node, repo=self.repo)
        self._ask("push", "-q", "-r", node)
        self.herd.tell(*(("public", node, 0) for node in self._nodes[: self._published]))

    def bookmark(self) -> None:
        """Move a bookmark of this client forward, or set or delete a temporary one."""
        if not self._nodes:
            return self.push()
        scribe = self.herd.scribe
        if self._random.random() < 0.3:
            name = f"gone{self.number}"
            scribe("bookmark", *(["-d", name] if self._gone else ["-i", "-r", self._nodes[-1], name]), repo=self.repo)
            self._gone = not self._gone
            return self._ask("push", "-q", "-B", name)
        name = f"mark{self.number}-{self._random.randrange(2)}"
        scribe("bookmark", "-f", "-i", "-r", self._nodes[-1], name, repo=self.repo)
        self._ask("push", "-q", "-B", name)
        self.herd.tell(("bookmark", name, len(self._nodes) - 1))

    def pull(self) -> None:
        """Pull, and check that everything is there that was confirmed before the pull began."""
        told = self.herd.told()
        self._ask("pull", "-q")
        missing = View.read(self.herd.scribe, self.repo).missing(told, bookmarks=False)
        assert not missing, (self.number, missing)

    def clone(self) -> None:
        """Clone, check that everything is there that was confirmed before the clone began, and verify it."""
        told = self.herd.told()
        self._clones += 1
        target = self.herd.folder / f"clone{self.number}-{self._clones}"
        flags = ["--stream"] if self._random.random() < 0.2 else []
        self._run(["clone", "-q", "-U", *flags, self.herd.url, str(target)], (0,))
        missing = View.read(self.herd.scribe, target).missing(told, bookmarks=True)
        assert not missing, (self.number, missing)
        self.herd.scribe("verify", "-q", repo=target)
        if self._clone is not None:
            shutil.rmtree(self._clone)
        self._clone = target

    def end(self) -> list[View]:
        """Pull into all repositories of this client, verify them, and return their contents."""
        views = []
        for repo in filter(None, (self.repo, self._clone)):
            self._run(["--cwd", str(repo), "pull", "-q", self.herd.url], (0, 1))
            self.herd.scribe("verify", "-q", repo=repo)
            views.append(View.read(self.herd.scribe, repo).lasting())
        return views

    def _ask(self, *args: str) -> None:
        self._run(["--cwd", str(self.repo), *args, self.herd.url], (0, 1))

    def _run(self, args: list[str], ok: Sequence[int]) -> None:
        """Run a client, and repeat it if another client won the race: that is not a failure of the server."""
        for _ in range(_ATTEMPTS):
            outcome = self.herd.run(args, self.herd.folder)
            if outcome.code in ok:
                return
            assert _RACES.search(outcome.err), outcome
            self.herd.count("again")
        raise AssertionError(f"no success after {_ATTEMPTS} attempts: {outcome}")


OPERATIONS: dict[str, Callable[[Member], None]] = {
    "clone": Member.clone,
    "pull": Member.pull,
    "push": Member.push,
    "bookmark": Member.bookmark,
    "phase": Member.phase,
}


def members(herd: Herd, base: Path, count: int) -> list[Member]:
    """Return the clients, each with a copy of the base."""
    made = []
    for number in range(count):
        repo = herd.folder / f"member{number}"
        shutil.copytree(base, repo)
        made.append(Member(herd, number, repo))
    return made


def at_once(herd: Herd, base: Path, plans: list[list[str]]) -> list[View]:
    """Run the plans of all clients at the same time, and return the final contents of all their repositories."""
    clients = members(herd, base, len(plans))
    failures: list[BaseException] = []

    def live(member: Member, kinds: list[str]) -> None:
        try:
            for kind in kinds:
                if failures:
                    return
                member.do(kind)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=live, args=pair) for pair in zip(clients, plans, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [view for member in clients for view in member.end()]


def one_by_one(herd: Herd, base: Path, plans: list[list[str]]) -> list[View]:
    """Run the plans with the clients taking turns; see :func:`at_once`."""
    clients = members(herd, base, len(plans))
    for turn in range(max(map(len, plans))):
        for member, kinds in zip(clients, plans, strict=True):
            if turn < len(kinds):
                member.do(kinds[turn])
    return [view for member in clients for view in member.end()]


def processes(environ: dict[str, str]) -> Run:
    """Return a function that runs each client as a new process."""
    return lambda args, cwd: run_hg(args, environ=environ, cwd=cwd)


def in_scribe(scribe: SharedScribe, home: Path) -> Run:
    """Return a function that runs clients in the command server, which is faster: enough for the reference."""

    def run(args: Sequence[str], cwd: Path) -> Outcome:
        return Outcome(tuple(args), 0, scribe(*args, repo=home, code_ok=(0, 1)), "")

    return run
