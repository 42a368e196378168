"""Slow clients against real servers: others are answered throughout, and everything recovers when they leave.

The scenes are those of ``tests/torture/slow_clients.py``, shorter.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_hg import Outcome, environment, run_hg
from live_pair import CLIENT_HGRC
from live_repos import Workshop
from live_servers import Server, Site, StartServer
from live_wait import PATIENCE, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "torture"))

import slow_clients
from slow_clients import Probe, Target, answer, held

SECONDS = 2.0
LIMIT = 1.0
"""Seconds in which ``capabilities`` must be answered."""

HGRC = "[web]\npush_ssl = no\nallow-push = *\n[ui]\ntimeout = 2\n"

KINDS = ("gunicorn", "uwsgi", "waitress")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    made = tmp_path_factory.mktemp("admission")
    workshop.copy("long-clone", made / "long")
    workshop.copy("history", made / "repo")
    return made


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, folder: Path, start_server: StartServer) -> Server:
    more = ("--connection-limit=1000",) if request.param == "waitress" else ()
    return start_server(request.param, Site(side="ours", root=str(folder), post_args=True, options=more), HGRC)


def target_of(server: Server, name: str = "long") -> Target:
    return Target(f"{server.base}/{name}")


@pytest.mark.parametrize(
    ("count", "connect"),
    [
        (60, slow_clients.clone),
        (16, slow_clients.push_without_body),
        (16, lambda target: slow_clients.push_without_body(target, chunked=True)),
        (16, slow_clients.arguments_without_body),
    ],
    ids=["clones", "bodies", "chunked", "arguments"],
)
def test_clients_that_wait_delay_nobody(server: Server, count: int, connect: Callable[[Target], socket.socket]) -> None:
    target = target_of(server)
    slow_clients.ask(target)
    start = server.logged
    with Probe(target) as probe, held(count, lambda: connect(target)):
        time.sleep(SECONDS)
    assert probe.slowest < LIMIT
    assert slow_clients.ask(target) < LIMIT
    # All slots are free again as soon as the server has noticed that the clients are gone.
    wait_for(lambda: _is_served(target), "a clone is served")
    assert server.log(start).count("the server is busy: ") <= 1


def _is_served(target: Target) -> bool:
    with slow_clients.clone(target) as client:
        return answer(client).startswith("HTTP/1.1 200")


def test_pushes_to_a_locked_repository(server: Server, folder: Path, workshop: Workshop, tmp_path: Path) -> None:
    """Some wait for the lock, all others are refused at once; everyone is told to try again."""
    target = target_of(server, "repo")
    slow_clients.ask(target)
    with slow_clients.locked(folder / "repo"), Probe(target) as probe, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(slow_clients.push(target)) for _ in range(24)]
        answers = {answer(client) for client in clients}
    assert answers == {
        "HTTP/1.1 503 the repository is locked; try again later",
        "HTTP/1.1 503 the server is busy; try again in 10 seconds",
    }
    assert probe.slowest < LIMIT
    environ = environment(tmp_path / "home", CLIENT_HGRC)
    run_hg(["clone", "-q", f"{server.base}/repo", "clone"], environ=environ, cwd=tmp_path, code_ok=[0])
    clone = tmp_path / "clone"
    workshop.commit(clone, "after the lock", new=f"{server.kind}\n")
    with slow_clients.locked(folder / "repo"):
        refused = run_hg(["push", "-f"], environ=environ, cwd=clone, code_ok=[255])
    assert "abort: HTTP Error 503: the repository is locked; try again later" in refused.err
    wait_for(lambda: run_hg(["push", "-f"], environ=environ, cwd=clone).code == 0, "the push succeeds")


LARGE = 12_000_000
"""Bytes of a push that are more than a server reads of a refused one."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    """A repository with a large changeset that cannot be compressed."""
    repo = tmp_path_factory.mktemp("large") / "large"
    workshop.hg("init", str(repo))
    (repo / "file").write_bytes(os.urandom(LARGE))
    workshop.hg("commit", "-q", "-A", "-m", "large", repo=repo)
    return repo


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_push_that_is_refused_says_why(
    kind: str, large: Path, start_server: StartServer, workshop: Workshop, tmp_path: Path
) -> None:
    """Although most of it is not read; and after a challenge it is sent again, with a password."""
    for name, allowed in (("denied", "nobody"), ("secret", "ann")):
        workshop.hg("init", str(tmp_path / "site" / name))
        hgrc = f"[web]\nallow-push = {allowed}\n[phases]\npublish = no\n"
        (tmp_path / "site" / name / ".hg" / "hgrc").write_text(hgrc)
    server = start_server(kind, Site(side="ours", root=str(tmp_path / "site")), HGRC)
    environ = environment(tmp_path / "home", CLIENT_HGRC)

    def push(name: str, credentials: str = "") -> Outcome:
        url = f"http://{credentials}127.0.0.1:{server.port}/{name}"
        return run_hg(["push", "-f", url], environ=environ, cwd=large)

    for name in ("denied", "secret"):
        assert "abort: http authorization required" in push(name).err
    assert "abort: HTTP Error 403: push not authorized" in push("denied", "ann:pw@").err
    assert push("secret", "ann:pw@").code == 0
    assert "Traceback" not in server.log() or kind == "uwsgi", server.log()


def test_transfers_that_are_too_slow_are_ended(folder: Path, start_server: StartServer, tmp_path: Path) -> None:
    """On a server that gives its socket to the application."""
    events = tmp_path / "events"
    deadlines = {"rate": 100_000, "receive": 0.5, "send": 0.5}
    site = Site(side="ours", root=str(folder), deadlines=deadlines, observed=str(events))
    server = start_server("gunicorn", site, HGRC)
    target = target_of(server)
    with slow_clients.push_without_body(target) as client:
        assert answer(client) == "HTTP/1.1 408 the request body arrives too slowly"
    for _ in ("made", "cached"):
        with slow_clients.clone(target) as client:
            wait_for(lambda: "the client read too slowly" in events.read_text(), "the clone is cut")
            client.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1 << 20):
                    pass
        events.write_text("")
    assert slow_clients.ask(target) < LIMIT
    assert "Traceback" not in server.log(), server.log()
