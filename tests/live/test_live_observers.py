"""Observers on a real server: correct events for every request, at its start and at its end, and for bundles.

The observer writes events to a file.  Each test finds its own by the ``X-Request-ID`` that it sent.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from live_hg import environment, run_hg
from live_pair import CLIENT_HGRC
from live_repos import Workshop
from live_servers import OURS, Server, Site, StartServer
from live_wait import PATIENCE, wait_for
from live_wire import Answer, Wire

pytestmark = pytest.mark.skipif(OURS != "ours", reason="hgweb has no observers: HGWIRE_LIVE_OURS is set")

EVERYTHING = "common=" + "0" * 40
ALICE = {"Authorization": "Basic " + base64.b64encode(b"alice:pw").decode()}
PUSH = {"Content-Type": "application/mercurial-0.1", "X-HgArg-1": "heads=666f726365"}
LOCKED = "[web]\nallow-push = alice\n"


@attrs.frozen
class Watched:
    """A server, its repositories and cache, and the file that its observer writes."""

    server: Server
    site: Path
    cache: Path
    file: Path

    def events(self, request_id: str) -> list[dict[str, Any]]:
        """Wait for the end of a request, and return its events."""

        def found() -> list[dict[str, Any]]:
            lines = self.file.read_text().splitlines(keepends=True) if self.file.exists() else []
            events = [json.loads(line) for line in lines if line.endswith("\n")]
            # A bundle may be complete before or after the request for which it is made.
            mine = [
                event for event in events if event["request_id"] == request_id and event["event"] != "ChangegroupMade"
            ]
            return mine if any(event["event"] == "RequestClosed" for event in mine) else []

        return wait_for(found, f"the end of request {request_id}")

    def closed(self, request_id: str) -> dict[str, Any]:
        """Return the second event of a request, after checking that there are two and that they agree."""
        events = self.events(request_id)
        assert [event["event"] for event in events] == ["RequestStarted", "RequestClosed"], events
        started, closed = events
        for name in ("method", "path", "user", "address"):
            assert started[name] == closed[name], events
        assert closed["address"] == "127.0.0.1"
        assert closed["wall"] >= 0 and closed["cpu"] >= 0
        return closed

    def all_closed(self) -> bool:
        """Whether every request that has started is closed.  No request may have more of these events than two."""
        seen: dict[str, list[str]] = {}
        for line in self.file.read_text().splitlines():
            event = json.loads(line)
            if event["event"] != "ChangegroupMade":
                seen.setdefault(event["request_id"], []).append(event["event"])
        assert all(kinds in (["RequestStarted"], ["RequestStarted", "RequestClosed"]) for kinds in seen.values()), seen
        return all(len(kinds) == 2 for kinds in seen.values())


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, start_server: StartServer, workshop: Workshop
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    for original, name in (("large-push", "repo"), ("long-clone", "long"), ("empty", "target")):
        workshop.copy(original, folder / "site" / name)
    workshop.copy("empty", folder / "site" / "locked", LOCKED)
    workshop.copy("empty", folder / "site" / "broken")
    cache, file = folder / "cache", folder / "events"
    site = Site(side="ours", root=str(folder / "site"), cache={"folder": str(cache)}, observed=str(file))
    made = Watched(start_server("gunicorn", site), folder / "site", cache, file)
    yield made
    assert "Traceback" not in made.server.log(), made.server.log()


def ask(watched: Watched, name: str, query: str, path: str = "/repo", **more: Any) -> tuple[Answer, dict[str, Any]]:
    """Send a request with this ID, and return the response and the closing event."""
    headers = {"X-Request-ID": name, **more.pop("headers", {})}
    with Wire(watched.server.port, path) as wire:
        answer = wire.send(query, headers=headers, **more)
    closed = watched.closed(name)
    expected = (answer.status, len(answer.body), path)
    assert (closed["status"], closed["bytes_out"], closed["path"]) == expected, closed
    return answer, closed


def test_a_clone_and_a_cached_one(watched: Watched) -> None:
    for number, expected in enumerate(["miss", "hit", "hit"]):
        headers = {"X-HgArg-1": EVERYTHING}
        answer, closed = ask(watched, f"clone{number}", "cmd=getbundle", headers=headers)
        assert (closed["outcome"], closed["cache"], closed["error"]) == ("ok", expected, "")
        assert (closed["repository"], closed["commands"], closed["method"]) == ("repo", ["getbundle"], "GET")
        assert len(answer.body) > 3 << 20
        assert closed["changes"] == [] and closed["bytes_in"] == 0
        # The client gets the last byte shortly before the bundle gets its final name.
        wait_for(lambda: not list(watched.cache.glob("*/*.part")), "the bundle has its name")


def test_short_replies_and_head(watched: Watched) -> None:
    first, _ = ask(watched, "first", "cmd=heads")
    again, closed = ask(watched, "again", "cmd=heads")
    assert first.body == again.body and closed["cache"] == "hit"
    head, closed = ask(watched, "head", "cmd=heads", method="HEAD")
    assert head.headers["content-length"] == str(len(first.body))
    assert (closed["method"], closed["outcome"], closed["bytes_out"]) == ("HEAD", "ok", 0)
    _, closed = ask(watched, "headclone", "cmd=getbundle", method="HEAD", headers={"X-HgArg-1": EVERYTHING})
    assert (closed["outcome"], closed["bytes_out"]) == ("ok", 0)


def test_a_batch_names_its_commands(watched: Watched) -> None:
    headers = {"X-HgArg-1": "cmds=heads+%3Bknown+nodes%3D"}
    _, closed = ask(watched, "batch", "cmd=batch", headers=headers)
    assert closed["commands"] == ["batch", "heads", "known"]


def test_a_push_and_refused_ones(watched: Watched, workshop: Workshop, tmp_path: Path) -> None:
    bundle = tmp_path / "push.hg"
    workshop.hg("bundle", "-q", "--all", "-t", "none-v1", str(bundle), repo=workshop.original("drafts"))
    node = workshop.hg("log", "-r", "tip", "-T", "{node}", repo=workshop.original("drafts"))
    body = bundle.read_bytes()
    push = {"method": "POST", "headers": PUSH, "body": body}

    _, closed = ask(watched, "refused", "cmd=unbundle", "/locked", **push)
    assert (closed["status"], closed["outcome"], closed["user"]) == (401, "refused", None)
    assert closed["error"] and closed["changes"] == []

    answer, closed = ask(watched, "push", "cmd=unbundle", "/locked", **{**push, "headers": {**PUSH, **ALICE}})
    assert answer.body.startswith(b"1\n"), answer
    assert (closed["status"], closed["outcome"], closed["user"]) == (200, "ok", "alice")
    assert closed["commands"] == ["unbundle"] and closed["bytes_in"] == len(body) and closed["cache"] == ""
    (changes,) = closed["changes"]
    assert (changes["changesets"], changes["heads_added"]) == (3, [node])

    arguments = f"namespace=bookmarks&key=mark&old=&new={node}"
    headers = {**PUSH, **ALICE, "X-HgArg-1": arguments}
    _, closed = ask(watched, "bookmark", "cmd=pushkey", "/locked", method="POST", headers=headers, body=b"")
    (changes,) = closed["changes"]
    assert changes["bookmarks"] == {b"mark".hex(): [None, node]} and changes["changesets"] == 0

    _, closed = ask(watched, "garbage", "cmd=unbundle", "/target", **{**push, "body": b"nothing of the kind"})
    assert closed["outcome"] == "refused" and closed["error"] and closed["changes"] == []


@pytest.mark.parametrize(
    ("query", "path", "status"),
    [
        ("cmd=heads", "/nowhere", 404),
        ("cmd=nonsense", "/repo", 400),
        ("cmd=known", "/repo", 400),
        ("", "/nowhere", 404),
    ],
)
def test_bad_requests(watched: Watched, query: str, path: str, status: int) -> None:
    _, closed = ask(watched, f"bad-{query[4:]}{path.replace('/', '-')}", query, path)
    assert (closed["status"], closed["outcome"]) == (status, "refused")
    assert closed["error"]


def test_a_failure_of_the_server(watched: Watched) -> None:
    (watched.site / "broken" / ".hg" / "hgrc").write_text("[web\n")
    _, closed = ask(watched, "broken", "cmd=heads", "/broken")
    assert (closed["status"], closed["outcome"], closed["repository"]) == (500, "failed", "broken")
    assert closed["error"]


def abort(watched: Watched, name: str, path: str) -> dict[str, Any]:
    """Request everything, read a little, reset the connection, and return the closing event."""
    request = f"GET {path}?cmd=getbundle HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {name}\r\n"
    with socket.create_connection(("127.0.0.1", watched.server.port), timeout=PATIENCE) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(f"{request}X-HgArg-1: {EVERYTHING}\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    closed = watched.closed(name)
    assert (closed["status"], closed["commands"]) == (200, ["getbundle"])
    return closed


def test_an_aborted_clone(watched: Watched) -> None:
    """While the bundle is being made, and when it is cached."""
    closed = abort(watched, "cut", "/long")
    assert closed["outcome"] == "cut" and closed["error"]
    assert 0 < closed["bytes_out"] < 20 << 20
    wait_for(lambda: not list(watched.cache.glob("*/*.part")), "the bundle has its name")
    answer, _ = ask(watched, "whole", "cmd=getbundle", "/long", headers={"X-HgArg-1": EVERYTHING})
    closed = abort(watched, "cached", "/long")
    # If the kernel sends the file, the application does not learn how much was sent.
    assert closed["outcome"] in ("ok", "cut") and closed["bytes_out"] <= len(answer.body)


def test_every_request_of_a_client(watched: Watched, workshop: Workshop, tmp_path: Path) -> None:
    """A clone and a push by ``hg``: every request that has started is closed."""
    environ = environment(tmp_path / "home", CLIENT_HGRC)
    url = f"{watched.server.base}/target"
    work = workshop.copy("ahead", tmp_path / "work")
    run_hg(["push", "-q", url], environ=environ, cwd=work, code_ok=[0])
    run_hg(["clone", "-q", url, "clone"], environ=environ, cwd=tmp_path, code_ok=[0])
    wait_for(watched.all_closed, "all requests are closed")
    events = [json.loads(line) for line in watched.file.read_text().splitlines()]
    pushed = [event for event in events if event.get("commands") == ["unbundle"] and event["repository"] == "target"]
    (changes,) = pushed[-1]["changes"]
    assert (changes["changesets"], len(changes["heads_added"])) == (9, 2)
    (made,) = [event for event in events if event["event"] == "ChangegroupMade" and event["repository"] == "target"]
    assert (made["generator"], made["reason"], made["changesets"], made["aside"]) == ("hgwire", "", 9, {})
