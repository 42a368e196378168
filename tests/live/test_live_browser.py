"""What a browser shows, and what a web page must not be able to do."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from live_repos import Workshop
from live_servers import OURS, Server, Site, StartServer
from live_wire import Wire

pytestmark = pytest.mark.skipif(OURS != "ours", reason="hgweb has web pages: HGWIRE_LIVE_OURS is set")

FORM = "application/x-www-form-urlencoded"
BROWSER = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-Mode": "navigate",
}
KEY = "namespace=bookmarks&key=mark&old=&new="


def as_user(name: str) -> dict[str, str]:
    """Return the header that authenticates a user."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:pw".encode()).decode()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    workshop.copy("history", folder / "open")
    workshop.copy("public-only", folder / "below" / "deep")
    workshop.copy("public-only", folder / "alices", "[web]\nallow_read = alice\n")
    workshop.copy("public-only", folder / "nobodys", "[web]\nallow-pull = no\n")
    return folder


@pytest.fixture(scope="module")
def server(site: Path, start_server: StartServer) -> Server:
    return start_server("gunicorn", Site(side="ours", root=str(site), mount="/code"))


def listed(server: Server, **headers: str) -> list[str]:
    """Return the list of repositories at the root: the part of each URL below the root."""
    with Wire(server.port, "/code/") as wire:
        answer = wire.send("", headers={**BROWSER, **headers})
        head = wire.send("", method="HEAD", headers={**BROWSER, **headers})
    assert answer.status == head.status == 200, answer
    assert answer.headers["content-type"].startswith("text/plain")
    assert head.headers["content-length"] == answer.headers["content-length"] == str(len(answer.body))
    lines = answer.text.splitlines()
    assert all(line.startswith(server.base + "/") for line in lines), lines
    return [line.removeprefix(server.base + "/") for line in lines]


def test_the_list_of_repositories(server: Server) -> None:
    """Those that the user may read, and no others."""
    assert sorted(listed(server)) == ["below/deep", "open"]
    assert sorted(listed(server, **as_user("alice"))) == ["alices", "below/deep", "open"]
    assert sorted(listed(server, **as_user("bob"))) == ["below/deep", "open"]


@pytest.mark.parametrize("path", ["/nothing-here", "/open/nothing-here", "/below", "/open/file/tip", "/alices", "/.hg"])
def test_a_path_without_a_command(server: Server, path: str) -> None:
    with Wire(server.port, f"/code{path}") as wire:
        answer = wire.send("", headers=BROWSER)
    assert answer.status == (401 if path == "/alices" else 404)
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body.strip() and b"<" not in answer.body


def test_a_path_with_a_command(server: Server) -> None:
    """The answer is one that clients understand."""
    with Wire(server.port, "/code/nothing-here") as wire:
        answer = wire.command("heads")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/hg-error"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": FORM},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": FORM, "Origin": "https://evil.example"},
        {"Content-Type": FORM, "Origin": "https://evil.example", "X-HgArg-1": KEY},
        {"Content-Type": FORM, "Origin": "null", "X-HgArg-1": KEY},
        {"Content-Type": FORM, "Sec-Fetch-Site": "cross-site", "X-HgArg-1": KEY},
        {"Content-Type": "application/mercurial-0.1", "Sec-Fetch-Site": "cross-site", "X-HgArg-1": KEY},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers.items() if name != "X-HgArg-1"),
)
def test_a_page_cannot_push(server: Server, site: Path, workshop: Workshop, headers: dict[str, str]) -> None:
    """Arguments are in the query string, or in headers that a page cannot send to another site anyway."""
    before = workshop.hg.state(site / "open")
    node = workshop.hg("log", "-r", "0", "-T", "{node}", repo=site / "open")
    sent = {name: value + node if name == "X-HgArg-1" else value for name, value in headers.items()}
    query = "cmd=pushkey" if "X-HgArg-1" in sent else f"cmd=pushkey&{KEY}{node}"
    with Wire(server.port, "/code/open") as wire:
        answer = wire.send(query, method="POST", headers=sent, body=b"")
    assert answer.status in (403, 415), answer
    assert workshop.hg.state(site / "open") == before
