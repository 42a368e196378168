"""Clone and push under gunicorn, uWSGI and waitress, with bodies of known length and chunked ones."""

from __future__ import annotations

import contextlib
import functools
import http.client
import random
import re
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from live_pair import MakePair, Pair, Side
from live_repos import Workshop
from live_servers import OURS, Server, Site, StartServer, descriptors, needs_proc
from live_wait import PATIENCE, wait_for
from live_wire import Wire

KINDS = ["gunicorn", "uwsgi", "waitress"]
ABORTS = 200
"""Number of aborted clones: more than any pool of threads, connections or repositories holds."""


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
    """3 MiB in both directions: more than any buffer in between."""

    def scenario(side: Side) -> Any:
        served = side.serve("empty")
        work = side.checkout("large-push")
        side.hg("push", served.url, cwd=work)
        clone = side.clone(served.url)
        return (clone / "large").read_bytes() == (work / "large").read_bytes()

    assert pair.same(scenario)


def test_refused_push_with_a_large_body(pair: Pair) -> None:
    """The client reads only after it has sent its whole body; the refusal must still reach it."""

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
    """All arguments of a discovery fit into the limits of the server on headers."""

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


@attrs.frozen
class Own:
    """A server of ours alone, which offers posted arguments."""

    server: Server
    site: Path
    cache: Path


@pytest.fixture(scope="session")
def own_servers() -> dict[str, Own]:
    return {}


@pytest.fixture(params=KINDS)
def own(
    request: pytest.FixtureRequest,
    start_server: StartServer,
    tmp_path_factory: pytest.TempPathFactory,
    own_servers: dict[str, Own],
) -> Own:
    """Each kind of server in turn."""
    if OURS != "ours":
        pytest.skip("hgweb fails these: HGWIRE_LIVE_OURS is set")
    if request.param not in own_servers:
        folder = tmp_path_factory.mktemp("own")
        (folder / "site").mkdir()
        cache = folder / "cache"
        site = Site(side="ours", root=str(folder / "site"), post_args=True, cache={"folder": str(cache)})
        own_servers[request.param] = Own(start_server(request.param, site), folder / "site", cache)
    return own_servers[request.param]


def send_chunked(own: Own, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send a chunked request, then another one, and return the status and body of the first response."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", own.server.port, timeout=PATIENCE)) as connection:
        connection.request("POST", target, body=chunks(body), headers=headers, encode_chunked=True)
        answer = connection.getresponse()
        said = answer.read()
        if own.server.kind == "uwsgi":
            # After a chunked body its router closes the connection without saying so.
            connection.close()
        # With the others the connection is usable again.
        connection.request("GET", f"{target.partition('?')[0]}?cmd=heads")
        after = connection.getresponse()
        assert after.status == 200 and len(after.read().strip()) == 40
        return answer.status, said


def large_bundle(workshop: Workshop, folder: Path) -> bytes:
    """Return a push of more than a MiB."""
    bundle = folder / "push.hg"
    workshop.hg("bundle", "-q", "--all", "-t", "none-v1", str(bundle), repo=workshop.original("large-push"))
    return bundle.read_bytes()


@pytest.mark.parametrize("posted", [False, True], ids=["arguments in headers", "posted arguments"])
def test_a_chunked_push_written_by_hand(own: Own, workshop: Workshop, tmp_path: Path, posted: bool) -> None:
    """No hg client sends chunked bodies today; proxies do."""
    target = workshop.copy("empty", own.site / f"push{posted}")
    data, arguments = large_bundle(workshop, tmp_path), "heads=666f726365"
    headers = {"X-HgArgs-Post": str(len(arguments))} if posted else {"X-HgArg-1": arguments}
    headers["Content-Type"] = "application/mercurial-0.1"
    body = arguments.encode() + data if posted else data
    status, said = send_chunked(own, f"/{target.name}?cmd=unbundle", body, headers)
    assert (status, said[:2]) == (200, b"1\n"), (said, own.server.log())
    tips = [workshop.hg("log", "-T", "{node}", repo=repo) for repo in (target, workshop.original("large-push"))]
    assert tips[0] == tips[1]
    assert "Traceback" not in own.server.log()


def test_chunked_arguments_of_a_pull(own: Own, workshop: Workshop) -> None:
    """The body holds nothing else; then it ends before the announced length of the arguments."""
    target = workshop.copy("public-only", own.site / "pull")
    node = workshop.hg("log", "-r", "0", "-T", "{node}", repo=target)
    arguments = f"nodes={'+'.join([node, 'f' * 40] * 2000)}".encode()
    url = f"/{target.name}?cmd=known"
    headers = {"Content-Type": "application/mercurial-0.1", "X-HgArgs-Post": str(len(arguments))}
    assert send_chunked(own, url, arguments, headers) == (200, b"10" * 2000)
    status, said = send_chunked(own, url, arguments[:-1], headers)
    assert status == 400 and b"X-HgArgs-Post" in said
    assert "Traceback" not in own.server.log()


def test_pushkey_as_a_form(own: Own, workshop: Workshop) -> None:
    """As clients before 2.3 send it: their HTTP library declares every POST without a media type as a form."""
    target = workshop.copy("public-only", own.site / "form")
    node = workshop.hg("log", "-r", "0", "-T", "{node}", repo=target)
    headers = {
        "Accept": "application/mercurial-0.1",
        "User-Agent": "mercurial/proto-1.0",
        "Content-Type": "application/x-www-form-urlencoded",
        "Vary": "X-HgArg-1",
        "X-HgArg-1": f"key=mark&namespace=bookmarks&new={node}&old=",
    }
    with Wire(own.server.port, f"/{target.name}") as wire:
        answer = wire.send("cmd=pushkey", method="POST", headers=headers, body=b"")
        assert (answer.status, answer.body) == (200, b"1\n"), answer
        refused = wire.send(
            "cmd=pushkey", method="POST", headers={**headers, "Origin": "https://evil.example"}, body=b""
        )
        assert refused.status == 403, refused
        del headers["X-HgArg-1"]
        query = f"cmd=pushkey&key=other&namespace=bookmarks&new={node}&old="
        assert wire.send(query, method="POST", headers=headers, body=b"").status == 415
    assert workshop.hg.state(target)["bookmarks"] == [f"mark {node}"]


@needs_proc
def test_clients_that_abort_a_cached_clone(own: Own, workshop: Workshop) -> None:
    """No file of the cache stays open, whenever the client disconnects."""
    target = workshop.copy("large-push", own.site / "abort")
    command = f"/{target.name}?cmd=getbundle"
    with Wire(own.server.port, f"/{target.name}") as wire:
        whole = len(wire.command("getbundle", common="0" * 40).body)
        wait_for(lambda: not list(own.cache.glob("*/*.part")), "the bundle has its name")
        assert len(wire.command("getbundle", common="0" * 40).body) == whole > 3 << 20
        own_files = set(descriptors(own.server.worker))
        for number in range(ABORTS):
            with socket.create_connection(("127.0.0.1", own.server.port), timeout=PATIENCE) as client:
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(
                    f"GET {command} HTTP/1.1\r\nHost: localhost\r\nX-HgArg-1: common={'0' * 40}\r\n\r\n".encode()
                )
                if number % 3:
                    client.recv(number * 100)
        assert wire.command("heads").status == 200

    def left() -> list[str]:
        now = list(descriptors(own.server.worker))
        return [name for name in now if name.startswith(str(own.cache)) and name not in own_files]

    wait_for(lambda: not left(), "all files are closed")
    wait_for(lambda: len(list(descriptors(own.server.worker))) < len(own_files) + ABORTS // 4, "connections are closed")
    assert "Traceback" not in own.server.log(), own.server.log()


def test_gunicorns_access_log_counts_the_bytes_of_a_cached_bundle(
    start_server: StartServer, workshop: Workshop, tmp_path: Path
) -> None:
    target = workshop.copy("large-push", tmp_path / "site" / "repo")
    options = ("-c", "python:hgwire_wsgi.cli.gunicorn_settings", "--access-logfile", "-")
    cache = tmp_path / "cache"
    site = Site(side="ours", root=str(target.parent), cache={"folder": str(cache)}, options=options)
    server = start_server("gunicorn", site)
    with Wire(server.port, "/repo") as wire:
        sizes = []
        for _ in range(3):
            sizes.append(len(wire.command("getbundle", common="0" * 40).body))
            wait_for(lambda: not list(cache.glob("*/*.part")), "the bundle has its name")
        heads = len(wire.command("heads").body)
    logged = functools.partial(re.findall, r'"GET /repo\?cmd=(\w+) HTTP/1.1" 200 (\d+)')
    expected = [*(("getbundle", str(size)) for size in sizes), ("heads", str(heads))]
    wait_for(lambda: len(logged(server.log())) == len(expected), "all requests are logged")
    assert logged(server.log()) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_stops_when_asked(kind: str, start_server: StartServer, workshop: Workshop, tmp_path: Path) -> None:
    """It need not be killed, and logs no failure: nothing of ours keeps the process alive."""
    target = workshop.copy("history", tmp_path / "site" / "repo")
    server = start_server(kind, Site(side="ours", root=str(target.parent)))
    with Wire(server.port, "/repo") as wire:
        assert wire.command("heads").status == 200
    code = server.stop()
    # waitress does not handle SIGTERM, so the signal ends it; SIGKILL would be -9.
    assert code == (-signal.SIGTERM if kind == "waitress" else 0)
    assert "Traceback" not in server.log()
