"""Slow clients against real servers: others are answered throughout, and everything recovers when they leave.

The scenes are those of ``tests/torture/slow_clients.py``, shorter.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_hg import environment, run_hg
from live_pair import CLIENT_HGRC
from live_repos import Workshop
from live_servers import Server, Site, StartServer
from live_wait import wait_for

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
