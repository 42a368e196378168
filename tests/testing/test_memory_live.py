"""An unmodified ``hg`` against the backend in memory, under the simplest server there is.

The input of :mod:`wsgiref` does not end where the body does: whoever reads too much waits for ever.
"""

from __future__ import annotations

import os
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from hgwire_wsgi import ServerCapabilities, WireApp
from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

pytest.importorskip("mercurial")

OPEN = {"web.allow-push": "*", "web.push_ssl": "false"}
Hg = Callable[..., "subprocess.CompletedProcess[str]"]


class QuietHandler(WSGIRequestHandler):
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


@pytest.fixture(params=[False, True], ids=["arguments in headers", "arguments posted"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, MemoryRepository]]]:
    """A URL and the repositories below it: one with a history, and an empty one."""
    full = MemoryRepository(settings=OPEN)
    base = full.commit({"a": b"1\n", "dir/b": b"2\n"}, message="base")
    left = full.commit({"a": b"1\n1\n"}, message="left")
    right = full.commit({"c": b"\1\nmarked\n"}, message="right", parents=[base], branch="side")
    full.commit({}, message="merge", parents=[left, right])
    full.commit({".hgtags": base.hex().encode() + b" v1\n"}, message="tag")
    full.pushkey(b"bookmarks", b"mark", b"", left.hex().encode())
    closed = MemoryRepository(settings={**OPEN, "web.allow-push": "somebody"})
    repositories = {"full": full, "empty": MemoryRepository(settings=OPEN), "closed": closed}
    app = WireApp(MemoryProvider(repositories), capabilities=ServerCapabilities(post_args=request.param))
    server = make_server("127.0.0.1", 0, app, server_class=ThreadingServer, handler_class=QuietHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hg(tmp_path: Path) -> Hg:
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        done = subprocess.run(
            [*hg_command(), "--config", "ui.username=Ann", *arguments],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    return run


def test_clone_pull_and_push(served: tuple[str, dict[str, MemoryRepository]], hg: Hg, tmp_path: Path) -> None:
    url, repositories = served
    full, empty = repositories["full"], repositories["empty"]
    hg("clone", f"{url}/full", "one")
    hg("-R", "one", "verify")
    assert hg(
        "-R", "one", "log", "-r", "v1+mark+heads(all())", "-T", "{desc} {branch} {phase}\n"
    ).stdout.splitlines() == [*("base default public", "left default public", "tag default public")]
    assert (tmp_path / "one" / "c").read_bytes() == b"\1\nmarked\n"
    hg("clone", "-r", "v1", f"{url}/full", "two")
    assert hg("identify", "-r", "mark", f"{url}/full").stdout.split()[0] == full.lookup(b"mark").hex()[:12]

    (tmp_path / "one" / "new").write_bytes(os.urandom(100_000))
    hg("-R", "one", "commit", "-A", "-m", "pushed")
    hg("-R", "one", "bookmark", "-f", "-r", "tip", "mark")
    hg("-R", "one", "outgoing")
    pushed = hg("-R", "one", "push", "-B", "mark").stdout
    assert "remote: added 1 changesets with 1 changes to 1 files" in pushed
    tip = full.lookup(b"tip")
    assert full.lookup(b"mark") == tip
    assert full.files(tip)["new"] == (tmp_path / "one" / "new").read_bytes()
    assert hg("-R", "one", "log", "-r", "tip", "-T", "{node} {phase}").stdout == f"{tip.hex()} public"

    hg("-R", "two", "incoming")
    hg("-R", "two", "pull", "-u")
    hg("-R", "two", "verify")
    assert (tmp_path / "two" / "new").read_bytes() == full.files(tip)["new"]
    hg("-R", "two", "pull")
    hg("-R", "two", "outgoing", code=1)

    assert "no changes found" in hg("clone", f"{url}/empty", "three").stdout
    hg("-R", "two", "push", f"{url}/empty")
    assert empty.heads() == full.heads() and empty.branchmap() == full.branchmap()


def test_refusals(served: tuple[str, dict[str, MemoryRepository]], hg: Hg, tmp_path: Path) -> None:
    url, repositories = served
    full = repositories["full"]
    hg("clone", f"{url}/full", "one")
    hg("-R", "one", "update", "0")
    (tmp_path / "one" / "a").write_bytes(b"another head\n")
    hg("-R", "one", "commit", "-m", "head")
    before = full.content_token()
    assert "push creates new remote head" in hg("-R", "one", "push", code=255).stderr
    assert "unknown revision 'nosuch'" in hg("-R", "one", "pull", "-r", "nosuch", code=255).stderr
    assert full.content_token() == before
    hg("-R", "one", "push", "-f")
    assert len(full.heads()) == 2
    assert "authorization required" in hg("-R", "one", "push", f"{url}/closed", code=255).stderr
