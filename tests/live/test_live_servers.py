"""Clone and push under gunicorn, uWSGI and waitress, with bodies of known length and chunked ones."""

from __future__ import annotations

import contextlib
import http.client
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_pair import MakePair, Pair, Side
from live_repos import Workshop
from live_servers import Site, StartServer
from live_wait import PATIENCE
from live_wire import Wire

KINDS = ["gunicorn", "uwsgi", "waitress"]


@pytest.fixture(params=KINDS)
def pair(
    request: pytest.FixtureRequest,
    make_pair: Callable[..., MakePair],
    tmp_path: Path,
    servers_by_kind: dict[str, MakePair],
) -> Pair:
    """Ours under each server in turn, hgweb under gunicorn."""
    if request.param not in servers_by_kind:
        servers_by_kind[request.param] = make_pair(request.param)
    return servers_by_kind[request.param](request, tmp_path)


@pytest.fixture(scope="session")
def servers_by_kind() -> dict[str, MakePair]:
    return {}


def test_clone_commit_push_pull(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve()
        clone = side.clone(served.url)
        streamed = side.clone(served.url, "streamed", "--stream", "-U")
        (clone / "new").write_text("new\n")
        side.hg("commit", "-q", "-A", "-m", "new", cwd=clone)
        side.hg("push", cwd=clone)
        side.hg("pull", cwd=streamed)
        side.hg("pull", cwd=streamed)
        return side.state(served.path), side.state(streamed)

    server, streamed = pair.same(scenario)
    assert server["changesets"][-1].endswith("new")
    assert [line.split()[0] for line in server["changesets"]] == [line.split()[0] for line in streamed["changesets"]]


def test_large_push_and_clone(pair: Pair) -> None:
    """3 MiB up and down: more than any buffer in between."""

    def scenario(side: Side) -> Any:
        served = side.serve("empty")
        work = side.checkout("large-push")
        side.hg("push", served.url, cwd=work)
        clone = side.clone(served.url)
        return (clone / "large").read_bytes() == (work / "large").read_bytes()

    assert pair.same(scenario)


def test_refused_push_with_a_large_body(pair: Pair) -> None:
    """The client sends its whole body before it reads; the refusal must still reach it."""

    def scenario(side: Side) -> Any:
        served = side.serve("empty", hgrc="[web]\nallow-push = alice\n")
        side.hg("push", served.url, cwd=side.checkout("large-push"), ok=(255,))
        side.hg("push", served.url.replace("//", "//alice:pw@", 1), cwd=side.folder / "work")
        return side.state(served.path)

    assert len(pair.same(scenario)["changesets"]) == 1


def test_failing_hook(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        hook = "sh -c 'echo not today; echo really not >&2; exit 1'"
        served = side.serve(hgrc=f"[hooks]\npretxnchangegroup.no = {hook}\n")
        side.hg("push", served.url, cwd=side.checkout("ahead"), ok=(255,))
        return side.state(served.path)

    assert len(pair.same(scenario)["changesets"]) == 7
    refused = pair.sides["ours"].transcript[0]
    assert "remote: not today" in refused.out and "remote: really not" in refused.out


def test_many_heads(pair: Pair) -> None:
    """All arguments that a discovery sends fit through the server's limits on headers."""

    def scenario(side: Side) -> Any:
        served = side.serve("heads")
        partial = side.clone(served.url, "partial", "-U", "-r", "0")
        side.hg("pull", "-q", "-r", "1", "-r", "700", cwd=partial)
        side.hg("incoming", "-q", "-r", "5", "-T", "{rev}\n", cwd=partial)
        return side.state(partial)

    assert len(pair.same(scenario)["changesets"]) == 3


def chunks(data: bytes) -> Iterator[bytes]:
    """Cut bytes into pieces of many sizes."""
    sizes = random.Random(1)
    position = 0
    while position < len(data):
        size = sizes.choice([1, 10, 1000, 65536, 300_000])
        yield data[position : position + size]
        position += size


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunked_push_written_by_hand(
    kind: str, start_server: StartServer, workshop: Workshop, tmp_path: Path
) -> None:
    """No hg client sends chunked bodies today; proxies do."""
    target = workshop.copy("empty", tmp_path / "site" / "repo")
    bundle = tmp_path / "push.hg"
    workshop.hg("bundle", "-q", "--all", "-t", "none-v1", str(bundle), repo=workshop.original("large-push"))
    data = bundle.read_bytes()
    assert len(data) > 1 << 20
    server = start_server(kind, Site(side="ours", root=str(target.parent)))
    headers = {"X-HgArg-1": "heads=666f726365", "Content-Type": "application/mercurial-0.1"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        connection.request("POST", "/repo?cmd=unbundle", body=chunks(data), headers=headers, encode_chunked=True)
        answer = connection.getresponse()
        said = answer.read()
        assert (answer.status, said[:2]) == (200, b"1\n"), (said, server.log())
        if kind == "uwsgi":
            # Its router gives a connection with a chunked body up afterwards, and does not say so.
            connection.close()
        # Elsewhere the end of a chunked body is known: the connection serves on.
        connection.request("GET", "/repo?cmd=heads")
        node = workshop.hg("log", "-r", "tip", "-T", "{node}\n", repo=target)
        assert connection.getresponse().read() == node.encode()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_stops_when_asked(kind: str, start_server: StartServer, workshop: Workshop, tmp_path: Path) -> None:
    """It is not killed, and logs no failure: nothing of ours keeps a process alive."""
    target = workshop.copy("history", tmp_path / "site" / "repo")
    server = start_server(kind, Site(side="ours", root=str(target.parent)))
    with Wire(server.port, "/repo") as wire:
        assert wire.command("heads").status == 200
    code = server.stop()
    # waitress has no handler of SIGTERM and ends by it; SIGKILL would be -9.
    assert code == (-signal.SIGTERM if kind == "waitress" else 0)
    assert "Traceback" not in server.log()
