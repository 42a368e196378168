"""Five configurations of an operator, asked at every address by three kinds of users: hgwebdir's answers and ours.

Both run in this process, on the same repositories.  Answers are alike if they are of the same kind (:func:`kind`), and
if successful ones have the same content (:func:`content`).  :data:`INTENDED` lists the differences, each with its
reason.
"""

from __future__ import annotations

import gc
import io
import os
import subprocess
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import error
from mercurial import ui as uimod
from mercurial.hgweb import hgwebdir

from hgwire_wsgi import WireApp, WireMiddleware
from hgwire_wsgi.cli.demo import clean_environment, hg_command
from hgwire_wsgi.repositories.mercurial import HgwebConfigProvider, hgweb_pages

# Mercurial leaves closing some pipes and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:invalid escape sequence"
)

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

USERS = (None, "reader", "writer")

STAR = """
[paths]
/ = {top}/one/*
more/deep = {top}/two/*
more = {top}/two/inner/*
[web]
push_ssl = no
allow-push = writer
"""

DOUBLE_STAR = """
[paths]
code = {top}/one/**
other = {top}/two/**
/ = {top}/three/**
[web]
allow_read = reader, writer
allow-push = *
deny_push = reader
"""

COLLECTIONS = """
[paths]
first = {top}/one/plain
[collections]
{top}/one = {top}/one
{top} = {top}/two
elsewhere = {top}/three
[web]
descend = no
push_ssl = no
allow-push = writer
deny_read = nobody
"""

INCLUDE = """
%include {top}/missing.rc
%include rules/base.rc
[paths]
/ = {top}/one/*
[web]
push_ssl = no
%unset deny_read
[hooks]
prelistkeys.deny = python:{top}/hooks.py:deny
"""

VIRTUAL = """
[paths]
/ = {top}/one/plain
with space/and é = {top}/one/plain
twice/a = {top}/two/inner/leaf
twice/b = {top}/two/inner/leaf
twice = {top}/one/locked
"quoted = {top}/one/closed
plus+percent%20 = {top}/one/plain
list = {top}/one/plain, {top}/one/locked
[web]
hidden = yes
push_ssl = no
allow_read = writer
allow-push = writer
"""

CONFIGURATIONS = {
    "star": STAR,
    "double star": DOUBLE_STAR,
    "collections": COLLECTIONS,
    "include": INCLUDE,
    "virtual": VIRTUAL,
}

REPOSITORIES = {
    "one/plain": "",
    "one/plain/nested": "[web]\nallow_read = writer\n",
    "one/plain/nested/deeper": "",
    "one/locked": "[web]\ndeny_read = *\n",
    "one/closed": "[web]\nallow-pull = no\nallow-push = reader\n",
    "one/hidden": "[web]\nhidden = yes\n",
    "one/own rules é": "[web]\nallow_read = reader, writer\nallow-push = *\npush_ssl = no\ndeny_push =\n",
    "one/renamed": "[web]\nname = another name\n[paths]\ndefault = /nowhere\n",
    "one/tls": "[web]\npush_ssl = yes\n",
    "one/folder/inside": "[web]\nallow-push =\n",
    "one/queued": "",
    "one/queued/.hg/patches": "[web]\ndeny_read = reader\n",
    "two/inner/leaf": "%include ../../../../rules/own.rc\n",
    "two/.dotted": "",
    "three": "[web]\nallow-push = writer\n",
    "three/index": "",
}
"""Path: its ``hgrc``."""


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("parity")

    def hg(*words: str | Path) -> None:
        subprocess.run([*hg_command(), *map(str, words)], env=clean_environment(), check=True, capture_output=True)

    original = top / "original"
    hg("init", original)
    (original / "file").write_text("content\n")
    hg("-R", original, "commit", "-A", "-m", "first", "-d", "0 0", "-u", "test")
    hg("-R", original, "bookmark", "mark")
    hg("-R", original, "bundle", "--all", "--type", "none-v1", top / "all.hg")
    for name, hgrc in REPOSITORIES.items():
        path = top / name
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", original / ".hg", path / ".hg"], check=True)
        (path / ".hg" / "hgrc").write_text(hgrc)
    # A patch queue with a repository of its own is inside ``.hg``.
    (top / "one" / "link").symlink_to(top / "two" / "inner")
    (top / "rules").mkdir()
    (top / "rules" / "base.rc").write_text("[web]\ndeny_read = *\nallow-push = reader, writer\n%include more.rc\n")
    (top / "rules" / "more.rc").write_text("[server]\nuncompressed = no\n[web]\ndeny_push = reader\n")
    (top / "rules" / "own.rc").write_text("[web]\nallow_read = reader, writer\n")
    (top / "hooks.py").write_text("def deny(ui, namespace, **more):\n    return namespace == b'phases'\n")
    return top


@attrs.frozen
class Answer:
    """An answer; status 0 if the application raised an exception."""

    status: int
    type: str
    body: bytes


@attrs.frozen
class Ask:
    """A request: method, path, query arguments and body."""

    method: str
    path: str
    command: str
    arguments: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def to(self, app: Application, user: str | None) -> Answer:
        started: list[tuple[str, dict[str, str]]] = []
        written: list[bytes] = []
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path,
            "QUERY_STRING": urlencode([("cmd", self.command), *self.arguments]) if self.command else "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_HOST": "127.0.0.1",
            "CONTENT_TYPE": "application/mercurial-0.1",
            "CONTENT_LENGTH": str(len(self.body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        if user is not None:
            environ["REMOTE_USER"] = user

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started.append((status, {name.lower(): value for name, value in headers}))
            return written.append

        try:
            chunks = app(environ, start)
            try:
                body = b"".join(chunks)
            finally:
                getattr(chunks, "close", lambda: None)()
        except Exception:
            return Answer(0, "", b"")
        status, headers = started[-1]
        return Answer(int(status[:3]), headers.get("content-type", ""), b"".join(written) + body)


def asks(path: str, names: Container[str], bundle: bytes) -> Iterator[Ask]:
    """Everything that is asked at an address: less where there is no repository."""
    key = (("namespace", "bookmarks"), ("key", "nosuch"), ("old", ""), ("new", ""))
    yield Ask("GET", path, "capabilities")
    yield Ask("POST", path, "unbundle", (("heads", b"force".hex()),), bundle)
    if path.strip("/") not in names or "//" in path:
        return
    for command in ("heads", "branchmap", "getbundle", "nosuch"):
        yield Ask("GET", path, command)
    yield Ask("GET", path, "listkeys", (("namespace", "bookmarks"),))
    yield Ask("GET", path, "listkeys", (("namespace", "phases"),))
    yield Ask("GET", path, "lookup", (("key", "tip"),))
    yield Ask("GET", path, "batch", (("cmds", "heads ;known nodes="),))
    yield Ask("GET", path, "stream_out")
    yield Ask("GET", path, "pushkey", key)
    yield Ask("POST", path, "pushkey", key)
    yield Ask("GET", path, "unbundle", (("heads", b"force".hex()),))


def addresses(names: Iterable[str]) -> list[str]:
    """Every address that can matter: of repositories, above and below them, misspelt, and none at all."""
    found = {"", "/", "/missing", "/missing/below", "/index", "/static/x", "/..", "/a/../b", "/%2e%2e/one", "/ ", "/\0"}
    for name in names:
        found |= {f"/{name}", f"/{name}/", f"/{name}//", f"/{name}/.", f"/{name}/..", f"/{name}/below", f"/{name}/.hg"}
        found |= {f"/{name}/rev/tip", f"/{name}/missing/.hg/x", f"/{name}x", f"/{name}".swapcase(), f"/{name}/index"}
        found |= {f"/{name}".replace("/", "//"), f"/{name}".replace(" ", "%20"), f"/{name}\0", f"/../{name}"}
        parts = name.split("/")
        found |= {"/" + "/".join(parts[:count]) for count in range(len(parts))}
        found |= {"/" + "/".join(parts[:count]) + "/" for count in range(len(parts))}
    return sorted(found)


def kind(answer: Answer) -> str:
    """What an answer means: 401 and 403 both refuse; which one it is, access policies decide."""
    if answer.status == 200 and answer.type.startswith("text/html"):
        return "page"
    if answer.status == 200:
        return "error" if answer.type == "application/hg-error" else "reply"
    return {0: "crash", 401: "refused", 403: "refused", 400: "bad request"}.get(answer.status, str(answer.status))


def content(ask: Ask, answer: Answer) -> object:
    """What two successful answers must have in common."""
    if ask.command == "capabilities":
        return sorted(word for word in answer.body.split() if not word.startswith(b"httpmediatype="))
    if ask.command == "getbundle":
        return zlib.decompress(answer.body)
    if ask.command == "unbundle":
        return answer.body.partition(b"\n")[0]
    return answer.body


@attrs.frozen
class Difference:
    """An intended difference: our kind of answer and hgwebdir's, and why."""

    ours: str
    theirs: str
    reason: str
    applies: Callable[[Ask], bool] = lambda ask: True


INTENDED = [
    Difference("404", "page", "a client that asks a folder gets an error instead of a list of repositories in HTML"),
    Difference(
        "404", "crash", "hgweb fails when a client asks for a static file", lambda ask: ask.path.startswith("/static/")
    ),
    *(
        Difference(ours, "crash", "hgweb fails if the path begins with two slashes", lambda ask: ask.path[:2] == "//")
        for ours in ("reply", "refused", "404")
    ),
    *(
        Difference(
            "bad request", theirs, "an unknown command is an error of the protocol", lambda ask: ask.command == "nosuch"
        )
        for theirs in ("page", "refused")
    ),
    Difference("bad request", "crash", "hgweb fails if a hook denies", lambda ask: ask.command == "listkeys"),
]


EXPECTED_KINDS = {
    None: {"refused", "404"},
    "reader": {"reply", "refused", "404", "405"},
    "writer": {"reply", "refused", "404", "405"},
}
"""What the answers to each user must include."""


def explain(ask: Ask, ours: Answer, theirs: Answer) -> str | None:
    """Why two answers differ; empty if they do not, ``None`` if they should not."""
    if kind(ours) == kind(theirs):
        return "" if ours.status != 200 or content(ask, ours) == content(ask, theirs) else None
    pair = kind(ours), kind(theirs)
    return next((each.reason for each in INTENDED if pair == (each.ours, each.theirs) and each.applies(ask)), None)


def sides(top: Path, name: str) -> tuple[Any, WireApp, WireMiddleware]:
    file = top / f"{name}.config"
    file.write_text(CONFIGURATIONS[name].format(top=top))
    provider = HgwebConfigProvider(file)
    wire = WireApp(provider)
    return hgwebdir(os.fsencode(file), baseui=uimod.ui.load()), wire, WireMiddleware(hgweb_pages(provider), wire=wire)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_same_repositories(name: str, top: Path) -> None:
    theirs, wire, _ = sides(top, name)
    finder = wire.provider.finder  # type: ignore[attr-defined]
    found = {known: finder.find(known).root for known in finder.current().repositories}
    assert found == {known.decode("latin-1"): path for known, path in dict(theirs.repos).items()}


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    """Save most of the time: hgwebdir collects garbage after each request.

    Do it once per test, while Mercurial's warnings are ignored.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(gc, "collect", lambda *arguments, **options: 0)
        yield
    gc.collect()


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_address(name: str, user: str | None, top: Path) -> None:
    theirs, wire, _ = sides(top, name)
    bundle = (top / "all.hg").read_bytes()
    unexplained, kinds = [], set()
    names = {known.decode("latin-1") for known, _ in theirs.repos}
    for path in addresses(names):
        for ask in asks(path, names, bundle):
            expected, ours = ask.to(theirs, user), ask.to(wire, user)
            kinds.add(kind(ours))
            if explain(ask, ours, expected) is None:
                unexplained.append((ask.method, ask.path, ask.command, kind(ours), kind(expected)))
    assert not unexplained, "\n".join(map(str, unexplained[:50]))
    assert kinds >= EXPECTED_KINDS[user], "the configuration tests too little"


@pytest.mark.parametrize("name", ["star", "collections"])
def test_every_page(name: str, top: Path) -> None:
    """With ``hgweb_pages`` behind it, browsers get hgwebdir's pages; and clients that ask a folder get its list."""
    theirs, _, middleware = sides(top, name)
    # hgweb fails if the path begins with two slashes; the middleware answers below .hg itself, for large files.
    paths = [path for path in addresses(known.decode("latin-1") for known, _ in theirs.repos) if path[:2] != "//"]
    for path in (path for path in paths if "/.hg" not in path):
        ask = Ask("GET", path, "")
        expected, ours = ask.to(theirs, "reader"), ask.to(middleware, "reader")
        assert (ours.status, ours.body.split(b"\n")) == (expected.status, expected.body.split(b"\n")), ask


def test_hgwebdir_stops_if_a_path_is_missing_and_we_do_not(top: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = top / "missing.config"
    file.write_text(f"[paths]\nmissing = {top}/nowhere\n/ = {top}/nowhere/*\nthere = {top}/one/plain\n")
    with pytest.raises((error.InputError, OSError)):
        hgwebdir(os.fsencode(file), baseui=uimod.ui.load())
    wire = WireApp(HgwebConfigProvider(file))
    assert [record.getMessage() for record in caplog.records] == [
        f"no repositories are served from {top}/nowhere: No such file or directory",
        f"repository missing: no repository at {top}/nowhere",
    ]
    assert Ask("GET", "/missing", "heads").to(wire, None).status == 404
    assert Ask("GET", "/there", "heads").to(wire, None).status == 200


def test_hgwebdir_serves_no_bundle_file_and_we_do(top: Path) -> None:
    file = top / "bundle.config"
    file.write_text(f"[paths]\nall = {top}/all.hg\nplain = {top}/one/plain\n[web]\nallow-push = *\npush_ssl = no\n")
    with pytest.raises(error.InputError):
        hgwebdir(os.fsencode(file), baseui=uimod.ui.load())
    wire = WireApp(HgwebConfigProvider(file))
    ask = Ask("GET", "/all", "getbundle")
    assert content(ask, ask.to(wire, None)) == content(ask, attrs.evolve(ask, path="/plain").to(wire, None))
    push = Ask("POST", "/all", "unbundle", (("heads", b"force".hex()),), (top / "all.hg").read_bytes())
    assert kind(push.to(wire, "writer")) == "refused"
