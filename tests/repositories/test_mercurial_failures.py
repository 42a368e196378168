"""What goes wrong on the server: hooks that exit, full disks, dead processes.  And nodes that no repository has.

In each case: a failed request with a reason, a repository that verifies, and a next push that works.
"""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi import Limits, RepositoryRecovered, WireApp
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:invalid escape sequence"
)

OPEN = ("web.push_ssl=no", "web.allow-push=*", "experimental.httppostargs=yes")
FORCE = b"force".hex().encode()
CAPS = b"HG20,bundle2=HG20%0Achangegroup%3D01%2C02"

Environment = dict[str, str]


def hg(*arguments: str | Path, check: bool = True) -> str:
    program = "from mercurial import dispatch; dispatch.run()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    result = subprocess.run(command, env={**os.environ, "HGUSER": "test"}, timeout=60, capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stderr
    return result.stdout


def serve(path: Path, *config: str, recover: bool = False, **options: Any) -> WireTestApp:
    return WireTestApp(WireApp(MercurialProvider(path, config=(*OPEN, *config), recover=recover), **options))


def push(app: WireTestApp, bundle: bytes) -> Any:
    return app.wire("/", "unbundle", {"heads": FORCE}, body=bundle)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A repository, and a bundle of three changesets that it lacks, one of which has a large file."""
    top = tmp_path_factory.mktemp("made")
    hg("init", top / "repo")
    (top / "repo" / "file").write_text("content\n")
    hg("-R", top / "repo", "commit", "-q", "-A", "-m", "first")
    hg("clone", "-q", top / "repo", top / "clone")
    for name, content in (("a", b"a"), ("b", os.urandom(300_000)), ("c", b"c")):
        (top / "clone" / name).write_bytes(content)
        hg("-R", top / "clone", "commit", "-q", "-A", "-m", name)
    hg("-R", top / "clone", "bundle", "-q", "-t", "none-v2", top / "bundle", top / "repo")
    return top / "repo", (top / "bundle").read_bytes()


@pytest.fixture
def repo(made: tuple[Path, bytes], tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", made[0], tmp_path / "repo"], check=True)
    return tmp_path / "repo"


@pytest.fixture
def bundle(made: tuple[Path, bytes]) -> bytes:
    return made[1]


def is_untouched(repo: Path) -> bool:
    hg("-R", repo, "verify", "-q")
    return hg("-R", repo, "log", "-T", "x") == "x" and not (repo / ".hg" / "store" / "journal").exists()


def pushes_again(repo: Path, bundle: bytes, app: WireTestApp | None = None) -> bool:
    reply = push(app or serve(repo), bundle)
    hg("-R", repo, "verify", "-q")
    return reply.status == 200 and hg("-R", repo, "log", "-T", "x") == "xxxx"


@pytest.mark.parametrize("statement", ["sys.exit(3)", "raise KeyboardInterrupt", "exit()", "raise MemoryError"])
@pytest.mark.parametrize("hook", ["pretxnchangegroup", "pretxnclose", "prechangegroup"])
def test_a_hook_that_exits_fails_its_push(
    repo: Path, bundle: bytes, statement: str, hook: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "leaving.py").write_text(
        f"import os, sys\n\ndef hook(**_):\n    if os.path.exists({str(tmp_path / 'leave')!r}):\n        {statement}\n"
    )
    (tmp_path / "leave").touch()
    app = serve(repo, f"hooks.{hook}=python:{tmp_path}/leaving.py:hook")
    reply = push(app, bundle)
    expected = "the server is out of memory" if "Memory" in statement else "a command or hook on the server called exit"
    assert reply.status in (500, 503) and expected in reply.data.decode()
    assert expected in reply.response.status
    assert len(caplog.records) == 1
    assert is_untouched(repo)
    (tmp_path / "leave").unlink()
    assert pushes_again(repo, bundle, app)


CHILD = """
import os, resource, signal, sys
from hgwire_wsgi import WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.testing import WireTestApp

repo, bundle, size, *config = sys.argv[1:]
app = WireTestApp(WireApp(MercurialProvider(repo, config=config)))
def push():
    body = open(bundle, "rb").read()
    return app.wire("/", "unbundle", {"heads": b"force".hex()}, body=body)
if int(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
reply = push()
print(reply.response.status)
if int(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(push().response.status)
"""


def run_child(repo: Path, bundle: bytes, *config: str, size: int = 0) -> subprocess.CompletedProcess[str]:
    path = repo.parent / "pushed"
    path.write_bytes(bundle)
    command = [sys.executable, "-c", CHILD, str(repo), str(path), str(size), *OPEN, *config]
    return subprocess.run(command, timeout=60, capture_output=True, text=True)


@pytest.mark.parametrize("size", [100_000, 400])
def test_a_full_disk_fails_the_push(repo: Path, bundle: bytes, size: int) -> None:
    assert resource.RLIMIT_FSIZE  # a file cannot grow beyond this, which looks like a full disk
    result = run_child(repo, bundle, size=size)
    assert result.stdout.splitlines() == ["507 the server has no space left to write to", "200 Script output follows"]
    assert result.stderr.count("the server cannot write") == 1 and "Traceback" not in result.stderr
    hg("-R", repo, "verify", "-q")
    assert hg("-R", repo, "log", "-T", "x") == "xxxx"


@pytest.fixture
def abandoned(repo: Path, bundle: bytes, tmp_path: Path) -> Path:
    """A repository whose server was killed in the middle of a push."""
    (tmp_path / "kill.py").write_text("import os\n\ndef hook(**_):\n    os.kill(os.getpid(), 9)\n")
    assert run_child(repo, bundle, f"hooks.pretxnchangegroup=python:{tmp_path}/kill.py:hook").returncode == -9
    assert (repo / ".hg" / "store" / "journal").exists()
    return repo


READS: list[tuple[str, dict[str, bytes]]] = [
    ("heads", {}),
    ("branchmap", {}),
    ("listkeys", {"namespace": b"phases"}),
    ("getbundle", {"common": b"0" * 40, "bundlecaps": CAPS}),
    ("changegroup", {"roots": b"0" * 40}),
]


def test_what_can_be_read_amid_an_abandoned_transaction(abandoned: Path, repo: Path, made: tuple[Path, bytes]) -> None:
    before, after = serve(made[0]), serve(abandoned)
    for command, arguments in READS:
        assert before.wire("/", command, arguments).data == after.wire("/", command, arguments).data


WRITES: list[tuple[str, dict[str, bytes]]] = [
    ("unbundle", {"heads": FORCE}),
    ("pushkey", {"namespace": b"bookmarks", "key": b"b", "old": b"", "new": b"0" * 40}),
]
STREAMS: list[tuple[str, dict[str, bytes]]] = [
    ("stream_out", {}),
    ("getbundle", {"common": b"0" * 40, "bundlecaps": CAPS + b"%0Astream%3Dv2", "stream": b"1"}),
]


@pytest.mark.parametrize(("command", "arguments"), [*WRITES, *STREAMS])
def test_what_is_refused_amid_an_abandoned_transaction(
    abandoned: Path, bundle: bytes, command: str, arguments: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    body = {"unbundle": bundle, "pushkey": b""}.get(command)
    reply = serve(abandoned).wire("/", command, arguments, body=body)
    assert reply.status == 503
    assert b"abandoned transaction found: an administrator must run 'hg recover'" in reply.data
    assert "Traceback" not in caplog.text
    hg("-R", abandoned, "recover")
    assert is_untouched(abandoned)
    assert pushes_again(abandoned, bundle)


@pytest.mark.parametrize("allowed", ["argument", "hgrc"])
@pytest.mark.parametrize(("command", "arguments"), [*WRITES, *STREAMS])
def test_an_abandoned_transaction_is_rolled_back_where_that_is_allowed(
    abandoned: Path,
    bundle: bytes,
    command: str,
    arguments: dict[str, bytes],
    allowed: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    events: list[Any] = []
    if allowed == "hgrc":
        (abandoned / ".hg" / "hgrc").write_text("[hgwire]\nrecover = yes\n")
    app = serve(abandoned, recover=allowed == "argument", observers=[events.append])
    body = {"unbundle": bundle, "pushkey": b""}.get(command)
    assert app.wire("/", command, arguments, body=body, user="alice").status == 200
    (recovered,) = (event for event in events if isinstance(event, RepositoryRecovered))
    assert (recovered.user, recovered.repository, recovered.path) == ("alice", "", "/")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "an abandoned transaction was found and rolled back" in caplog.text
    assert capfd.readouterr().out == ""
    if command != "unbundle":
        assert is_untouched(abandoned)
    assert pushes_again(abandoned, bundle, app)
    assert len([event for event in events if isinstance(event, RepositoryRecovered)]) == 1


def test_without_observers_recovery_is_only_logged(abandoned: Path, bundle: bytes) -> None:
    assert pushes_again(abandoned, bundle, serve(abandoned, recover=True))


def test_a_running_transaction_is_none_that_was_abandoned(repo: Path, bundle: bytes) -> None:
    """A journal whose owner finishes while we wait for the lock."""
    from mercurial import localrepo

    journal = repo / ".hg" / "store" / "journal"
    journal.touch()
    app = serve(repo)
    lock = localrepo.localrepository.lock

    def finish_first(self: Any, *arguments: Any, **options: Any) -> Any:
        journal.unlink(missing_ok=True)
        return lock(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(localrepo.localrepository, "lock", finish_first)
        assert push(app, bundle).status == 200


WORKING_DIRECTORY = b"f" * 40
NODES = [WORKING_DIRECTORY, WORKING_DIRECTORY.upper(), b"f" * 64, b"1" * 40, b"1" * 64, b"0" * 40, b"0" * 64]
NULL = b"0" * 40


@pytest.mark.parametrize("node", NODES)
def test_nodes_that_no_repository_has(repo: Path, node: bytes, caplog: pytest.LogCaptureFixture) -> None:
    app = serve(repo)
    (head,) = app.wire("/", "heads").data.split()
    questions: list[tuple[str, dict[str, bytes]]] = [
        ("known", {"nodes": node}),
        ("lookup", {"key": node}),
        ("branches", {"nodes": node}),
        ("between", {"pairs": node + b"-" + NULL}),
        ("between", {"pairs": head + b"-" + node}),
        ("changegroup", {"roots": node}),
        ("changegroupsubset", {"bases": node, "heads": head}),
        ("changegroupsubset", {"bases": NULL, "heads": node}),
        ("getbundle", {"heads": node, "common": NULL}),
        ("getbundle", {"heads": head, "common": node, "bundlecaps": CAPS}),
        ("getbundle", {"heads": node, "common": node, "bundlecaps": CAPS, "phases": b"1", "listkeys": b"phases"}),
        ("batch", {"cmds": b"known nodes=%s;lookup key=%s" % (node, node)}),
        ("pushkey", {"namespace": b"bookmarks", "key": b"x", "old": b"", "new": node}),
        ("pushkey", {"namespace": b"phases", "key": node, "old": b"1", "new": b"0"}),
        ("pushkey", {"namespace": b"obsolete", "key": node, "old": b"", "new": node}),
        ("pushkey", {"namespace": b"\xff", "key": node, "old": b"", "new": node}),
        ("unbundle", {"heads": node}),
    ]
    for command, arguments in questions:
        caplog.clear()
        body = {"pushkey": b"", "unbundle": b"HG20\0\0\0\0\0\0\0\0"}.get(command)
        reply = app.wire("/", command, arguments, body=body)
        assert reply.status < 500, (command, reply.data)
        assert len(caplog.records) <= 1 and not any(record.exc_info for record in caplog.records), command


def test_names_that_are_not_utf_8(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = serve(repo)
    (head,) = app.wire("/", "heads").data.split()
    for name in (b"\xff\xfe", b"\xc3\xa9", b"\xe9", b"a\0b", b"\xed\xb3\xbf"):
        for command, arguments in (
            ("lookup", {"key": name}),
            ("listkeys", {"namespace": name}),
            ("pushkey", {"namespace": b"bookmarks", "key": name, "old": b"", "new": head}),
            ("pushkey", {"namespace": name, "key": name, "old": name, "new": name}),
            ("getbundle", {"heads": head, "common": NULL, "bundlecaps": CAPS + b"," + name, "listkeys": name}),
            ("protocaps", {"caps": name}),
        ):
            body = b"" if command == "pushkey" else None
            reply = app.wire("/", command, arguments, body=body, user=name.decode("latin-1"))
            assert reply.status < 500, (command, name, reply.data)
        assert app.wire("/", "listkeys", {"namespace": b"bookmarks"}).status == 200
    assert "Traceback" not in caplog.text


def test_walks_are_bounded(repo: Path) -> None:
    app = serve(repo, limits=Limits(walk=1))
    (head,) = app.wire("/", "heads").data.split()
    asked = {"branches": {"nodes": head + b" " + head}, "between": {"pairs": b" ".join([head + b"-" + NULL] * 2)}}
    for command, arguments in asked.items():
        reply = app.wire("/", command, arguments)
        assert (reply.status, b"more than 1 changesets to visit" in reply.data) == (400, True)
        assert serve(repo, limits=Limits(walk=2)).wire("/", command, arguments).status == 200


def measure(run: Callable[[], Any]) -> tuple[Any, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    return run(), resource.getrusage(resource.RUSAGE_SELF).ru_utime - before


def test_a_batch_of_the_same_is_one_computation(repo: Path) -> None:
    app = serve(repo)
    (head,) = app.wire("/", "heads").data.split()
    reply, seconds = measure(lambda: app.wire("/", "batch", {"cmds": b";".join([b"heads "] * 50_000)}, via="post"))
    assert reply.data == b";".join([head + b"\n"] * 50_000)
    assert seconds < 2


def test_many_nodes_take_time_in_proportion(repo: Path) -> None:
    logging.getLogger("hgwire_wsgi")
    app = serve(repo)
    (head,) = app.wire("/", "heads").data.split()
    many = b" ".join(os.urandom(20).hex().encode() for _ in range(100_000))
    for command, arguments, status in (
        ("known", {"nodes": many}, 200),
        ("getbundle", {"heads": many, "common": NULL, "bundlecaps": CAPS}, 400),
        ("getbundle", {"heads": head, "common": many, "bundlecaps": CAPS}, 200),
        ("changegroup", {"roots": many}, 400),
    ):
        reply, seconds = measure(lambda: app.wire("/", command, arguments, via="post"))  # noqa: B023  # called at once
        assert reply.status == status
        assert seconds < 5
