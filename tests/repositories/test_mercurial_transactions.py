"""What observers are told about pushes."""

from __future__ import annotations

import errno
import gc
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi.commands.context import CommandContext
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.events import PushChanges
from hgwire_wsgi.negotiation import ClientProtocol, ServerCapabilities

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.transactions import observed

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

Run = Callable[..., list[PushChanges]]


def hg(*arguments: str | Path) -> str:
    program = "from mercurial import dispatch; dispatch.run()"
    environment = {**os.environ, "HGUSER": "test"}
    command = [sys.executable, "-c", program, "--config", "experimental.evolution=all", *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True, text=True).stdout


def node_of(repository: Path, revision: str) -> str:
    return hg("-R", repository, "log", "-r", revision, "-T", "{node}")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two draft changesets, served without publishing."""
    path = tmp_path / "repo"
    hg("init", path)
    (path / ".hg" / "hgrc").write_text("[phases]\npublish=no\n[experimental]\nevolution=all\n")
    for name in "ab":
        (path / name).write_text(name)
        hg("-R", path, "commit", "-q", "-A", "-m", name)
    return path


@pytest.fixture
def run(repo: Path) -> Run:
    """Runs a command, and returns what it reported."""
    provider = MercurialProvider(repo)

    def run(name: str, body: bytes = b"", observed: bool = True, **arguments: str) -> list[PushChanges]:
        reported: list[PushChanges] = []
        with provider.lease("") as repository:
            command = repository.commands()[name]
            context = make_context(
                repository=repository,
                arguments={key: value.encode() for key, value in arguments.items()},
                body=io.BytesIO(body),
                report_changes=reported.append if observed else None,
            )
            response = command.handler(context)
            b"".join(getattr(response, "chunks", ()))
        return reported

    return run


def not_called(context: CommandContext, name: str) -> Any:
    raise AssertionError(name)


def make_context(**fields: Any) -> CommandContext:
    return CommandContext(
        user=None,
        protocol=ClientProtocol(),
        server=ServerCapabilities(),
        client="remote:http::",
        environ={},
        authorize=lambda permission: None,
        runner=not_called,
        **fields,
    )


FORCE = b"force".hex()


def bundle_of(clone: Path, repo: Path, kind: str, *options: str) -> bytes:
    path = clone.parent / "bundle"
    hg("-R", clone, "bundle", "-q", "-t", kind, *options, path, repo)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["none-v1", "none-v2"])
def test_a_push(run: Run, repo: Path, tmp_path: Path, kind: str) -> None:
    clone = tmp_path / "clone"
    hg("clone", "-q", repo, clone)
    (clone / "c").write_text("c")
    hg("-R", clone, "commit", "-q", "-A", "-m", "c")
    hg("-R", clone, "update", "-q", "0")
    (clone / "d").write_text("d")
    hg("-R", clone, "commit", "-q", "-A", "-m", "d")
    (old,) = (node_of(repo, "tip"),)
    new = [node_of(clone, "2"), node_of(clone, "3")]
    body = bundle_of(clone, repo, kind)
    assert run("unbundle", body, heads=FORCE) == [
        PushChanges(
            changesets=2,
            heads_added=tuple(sorted(map(bytes.fromhex, new))),
            heads_removed=(bytes.fromhex(old),),
        )
    ]
    assert [changes.changesets for changes in run("unbundle", body, heads=FORCE)] in ([0], [])


def test_the_first_push(tmp_path: Path, repo: Path) -> None:
    empty = tmp_path / "empty"
    hg("init", empty)
    reported: list[PushChanges] = []
    with MercurialProvider(empty).lease("") as repository:
        context = make_context(
            repository=repository,
            arguments={"heads": FORCE.encode()},
            body=io.BytesIO(bundle_of(repo, empty, "none-v2")),
            report_changes=reported.append,
        )
        repository.commands()["unbundle"].handler(context)
    (changes,) = reported
    assert (changes.changesets, len(changes.heads_added), changes.heads_removed) == (2, 1, ())


def test_bookmarks(run: Run, repo: Path) -> None:
    first, second = (node_of(repo, name) for name in "01")
    pushed = {"namespace": "bookmarks", "key": "mark"}
    nodes = [bytes.fromhex(node) for node in (first, second)]
    for old, new, expected in (
        ("", first, (None, nodes[0])),
        (first, second, (nodes[0], nodes[1])),
        (second, "", (nodes[1], None)),
    ):
        assert run("pushkey", old=old, new=new, **pushed) == [PushChanges(bookmarks={b"mark": expected})]


def test_phases(run: Run, repo: Path) -> None:
    reported = run("pushkey", namespace="phases", key=node_of(repo, "1"), old="1", new="0")
    assert reported == [PushChanges(phases=2)]


def test_markers(run: Run, repo: Path) -> None:
    exported = repo.parent / "other"
    hg("clone", "-q", repo, exported)
    hg("-R", exported, "debugobsolete", "1" * 40, node_of(repo, "tip"))
    keys = subprocess.run(
        [sys.executable, "-c", KEYS, str(exported)], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert run("pushkey", namespace="obsolete", key="dump0", old="", new=keys.strip()) == [PushChanges(obsmarkers=1)]


KEYS = """
import sys
from mercurial import hg, ui
loaded = ui.ui.load()
loaded.setconfig(b"experimental", b"evolution", b"all")
print(hg.repository(loaded, sys.argv[1].encode()).listkeys(b"obsolete")[b"dump0"].decode())
"""


def test_without_an_observer(run: Run, repo: Path) -> None:
    pushed = {"namespace": "bookmarks", "key": "mark", "old": "", "new": node_of(repo, "0")}
    assert run("pushkey", observed=False, **pushed) == []
    assert hg("-R", repo, "bookmarks").split()[0] == "mark"


def test_a_push_that_fails_ends_the_observation(run: Run, repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[hooks]\npretxnclose.no=false\n[phases]\npublish=no\n")
    mark = {"namespace": "bookmarks", "key": "mark", "old": "", "new": node_of(repo, "0")}
    with pytest.raises(CommandFailed):
        run("pushkey", **mark)
    (repo / ".hg" / "hgrc").write_text("")
    assert run("pushkey", observed=False, **mark) == []


def test_a_transaction_that_cannot_be_aborted_is_left_alone(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its destructor would abort it again, and print a traceback."""
    failed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    with MercurialProvider(repo).lease("") as leased:
        local = leased.local  # type: ignore[attr-defined]  # a Mercurial repository has it

        def fail() -> None:
            with local.lock():
                transaction = local.transaction(b"test")
                transaction._count = 0
                raise OSError(errno.ENOSPC, "no space")

        with pytest.raises(OSError, match="no space"), observed(local, None):
            fail()
        gc.collect()
    assert failed == []
