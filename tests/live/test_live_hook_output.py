"""What hooks print: the user who pushes sees it as with hgweb, and it never reaches the server's standard output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from live_hg import environment, run_hg
from live_pair import CLIENT_HGRC
from live_repos import Workshop
from live_servers import SIDES, require
from ports import free_port

KINDS = ["preoutgoing", "outgoing", "prelistkeys", "listkeys", "prepushkey", "pushkey", "prechangegroup"]
KINDS += ["pretxnchangegroup", "changegroup", "incoming", "pretxnclose", "txnclose"]

HOOKS = """
import os, subprocess, sys

def talk(ui, repo, hooktype, **kwargs):
    hooktype = hooktype.decode()
    print(f"PRINTED {hooktype}")
    sys.stdout.flush()
    print(f"BUFFERED {hooktype}")
    os.write(1, f"WRITTEN {hooktype}\\n".encode())
    subprocess.run(["echo", f"CHILD {hooktype}"])
    ui.write(b"UI %s\\n" % hooktype.encode())
    ui.status(b"STATUS %s\\n" % hooktype.encode())
    ui.warn(b"WARNING %s\\n" % hooktype.encode())
"""

APPS = {
    "ours": """
from hgwire_wsgi import WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider
application = WireApp(MercurialProvider({place!r}))
""",
    "hgweb": """
from mercurial.hgweb import hgweb
application = hgweb({place!r}.encode())
""",
}

WORDS = ("PRINTED", "BUFFERED", "WRITTEN", "CHILD", "UI", "STATUS", "WARNING", "ECHO", "COMPLAINT")


@attrs.frozen
class Running:
    """A server whose standard output and standard error go to two files."""

    url: str
    folder: Path
    side: str
    server: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Stop the server, so that nothing is left in a buffer."""
        self.server.terminate()
        self.server.wait(30)

    def words(self, name: str) -> set[tuple[str, str]]:
        """What hooks wrote to a file: the words and the kinds of hooks."""
        return said((self.folder / name).read_text())


def said(text: str) -> set[tuple[str, str]]:
    return set(re.findall(rf"({'|'.join(WORDS)}) (\w+)", text))


@pytest.fixture(params=SIDES)
def running(request: pytest.FixtureRequest, workshop: Workshop, tmp_path: Path) -> Iterator[Running]:
    require("hg", "gunicorn")
    (tmp_path / "hooks.py").write_text(HOOKS)
    lines = ["[web]", "allow-push=*", "push_ssl=no", "[hooks]"]
    for kind in KINDS:
        lines += [f"{kind}.python=python:{tmp_path}/hooks.py:talk"]
        lines += [f"{kind}.shell=echo ECHO {kind}; echo COMPLAINT {kind} >&2"]
    place = workshop.copy("history", tmp_path / "repo", "\n".join(lines) + "\n")
    (tmp_path / "served.py").write_text(APPS[request.param].format(place=str(place)))
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "4", "-b", f"127.0.0.1:{port}"]
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        server = subprocess.Popen(
            [*command, "served:application"],
            cwd=tmp_path,
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    url = f"http://127.0.0.1:{port}"
    found = Running(url, tmp_path, request.param, server)
    try:
        for _ in range(200):
            try:
                get(f"{url}/?cmd=heads")
                break
            except OSError:
                time.sleep(0.1)
        yield found
    finally:
        found.stop()


def get(url: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as reply:
        content: bytes = reply.read()
        return content


def test_hook_output(running: Running, workshop: Workshop, tmp_path: Path) -> None:
    environ: dict[str, str] = environment(tmp_path / "home", CLIENT_HGRC)
    clone = tmp_path / "clone"
    cloned = run_hg(["clone", "-q", running.url, str(clone)], environ=environ, cwd=tmp_path)
    assert (cloned.code, cloned.out, cloned.err) == (0, "", "")
    (clone / "new").write_text("new\n")
    for words in (["commit", "-q", "-A", "-m", "new", "-u", "test"], ["bookmark", "mark"]):
        assert run_hg(words, environ=environ, cwd=clone).code == 0
    pushed = run_hg(["push", "-B", "mark", running.url], environ=environ, cwd=clone)
    assert pushed.code == 0, pushed
    replies = [get(f"{running.url}/?cmd=listkeys&namespace={name}") for name in ("bookmarks", "phases", "namespaces")]
    assert not any(said(reply.decode()) for reply in replies)

    in_push = {"prepushkey", "pushkey", "prechangegroup", "pretxnchangegroup", "changegroup", "incoming"}
    in_push |= {"pretxnclose", "txnclose"}
    seen = said(pushed.out + pushed.err)
    assert {kind for word, kind in seen if word == "ECHO"} == in_push
    assert {word for word, _ in seen} == {"UI", "STATUS", "WARNING", "ECHO", "COMPLAINT"}
    assert seen == {(word, kind) for word in {word for word, _ in seen} for kind in in_push}

    running.stop()
    errors, output = running.words("err"), running.words("out")
    assert {kind for word, kind in errors if word == "WRITTEN"} == set(KINDS)
    assert {kind for word, kind in errors if word == "PRINTED"} == set(KINDS)
    assert {kind for word, kind in errors if word == "CHILD"} == set(KINDS)
    assert {kind for word, kind in errors if word == "ECHO"} == set(KINDS) - in_push
    # hgweb loses what a hook prints without flushing; it comes out when the server ends.
    assert {word for word, _ in output} <= ({"BUFFERED"} if running.side == "hgweb" else set())
