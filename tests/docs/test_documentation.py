"""The examples in the documentation do what the text says."""

from __future__ import annotations

import ast
import base64
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docs_support import DOCUMENTS, blocks
from wire_servers import serving

pytest.importorskip("webtest")

from hgwire_wsgi import WireApp, WireMiddleware
from hgwire_wsgi.cli.demo import clean_environment, hg_command
from hgwire_wsgi.testing import WireTestApp
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

Example = Callable[..., dict[str, Any]]


def test_every_program_in_the_documentation_is_run_here() -> None:
    """Each has a name, and a test in this folder that mentions both the document and the name in one call."""
    called = {
        tuple(argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant))
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "example"
    }
    written = {
        (document, block.name) for document in DOCUMENTS for block in blocks(document) if block.language == "python"
    }
    assert written == called


def clonable(app: Any, path: str) -> bool:
    return len(WireTestApp(app).wire(path, "heads").data.split()) == 2


@pytest.fixture
def project(example: Example) -> Any:
    """The module that the other examples import."""
    return example("README.rst", "project", module="project")["app"]


def test_the_project(project: Any, example: Example) -> None:
    assert isinstance(project, WireApp)
    assert clonable(project, "/project")
    assert clonable(example("docs/embedding.rst", "project")["app"], "/project")


def test_flask(project: Any, example: Example) -> None:
    pytest.importorskip("flask")
    assert clonable(example("README.rst", "flask")["app"], "/hg/project")
    app = example("docs/embedding.rst", "flask")["app"]
    assert clonable(app, "/hg/project")
    assert WireTestApp(app).get("/").text == "The repositories are below /hg."
    assert len(app.test_client().get("/hg/project?cmd=heads").data.split()) == 2


def test_authentication(project: Any, example: Example) -> None:
    pytest.importorskip("werkzeug")
    middleware = example("docs/embedding.rst", "authentication")["BasicAuthentication"]
    commands = example("docs/commands.rst", "commands")["commands"]
    wire = WireApp(MemoryProvider({"": MemoryRepository()}), commands=commands)
    app = WireTestApp(middleware(wire, check=lambda user, password: (user, password) == ("alice", "secret")))
    for credentials, user in (("alice:secret", b"alice"), ("alice:guess", b"nobody"), ("", b"nobody")):
        encoded = base64.b64encode(credentials.encode()).decode()
        headers = {"Authorization": f"Basic {encoded}"} if credentials else {}
        assert app.wire("/", "whoami", headers=headers, user="mallory").data == user


def test_pyramid(project: Any, example: Example) -> None:
    pytest.importorskip("pyramid")
    assert clonable(example("README.rst", "pyramid")["app"], "/hg/project")
    app = example("docs/embedding.rst", "pyramid")["app"]
    assert clonable(app, "/hg/project")
    assert WireTestApp(app).get("/").text == "The repositories are below /hg."


def test_paste(srv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loadapp = pytest.importorskip("paste.deploy").loadapp
    (block,) = [block for block in blocks("docs/embedding.rst") if block.name == "paste"]
    (tmp_path / "site.ini").write_text(block.text.replace("/srv", str(srv)))
    (tmp_path / "pages.py").write_text(
        "def app_factory(global_conf):\n"
        "    def pages(environ, start_response):\n"
        "        start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "        return [b'pages']\n"
        "    return pages\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = loadapp(f"config:{tmp_path}/site.ini")
    assert clonable(app, "/project")
    assert WireTestApp(app).get("/project").text == "pages"
    assert WireTestApp(app).wire("/project", "unbundle", body=b"", user="carol").status in (401, 403)


# hgweb leaves the files of its templates to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_hgweb(project: Any, example: Example, srv: Path) -> None:
    (srv / "hgweb.conf").write_text(f"[paths]\n/ = {srv}/hg/**\n")
    for document_app in (example("README.rst", "hgweb")["app"], example("docs/embedding.rst", "hgweb")["app"]):
        assert isinstance(document_app, WireMiddleware)
        assert clonable(document_app, "/project")
        page = WireTestApp(document_app, lint=False).get("/project/rev/next")
        assert "Merge stable" in page.text


def test_by_hand(project: Any, example: Example) -> None:
    app = example("docs/embedding.rst", "by-hand")["app"]
    assert clonable(app, "/hg/project")
    assert WireTestApp(app).get("/hgweb").text == "The repositories are below /hg.\n"


def test_classify(project: Any, example: Example) -> None:
    permission_needed = example("docs/embedding.rst", "classify")["permission_needed"]

    def environ(query: str, **more: str) -> dict[str, Any]:
        return {"REQUEST_METHOD": "GET", "QUERY_STRING": query, "wsgi.input": io.BytesIO(), **more}

    assert permission_needed(environ("cmd=heads")) == "pull"
    assert permission_needed(environ("cmd=unbundle")) == "push"
    assert permission_needed(environ("cmd=batch", HTTP_X_HGARG_1="cmds=heads+%3Bpushkey+")) == "push"
    assert permission_needed(environ("")) is None


def test_the_command_of_the_readme(example: Example) -> None:
    names = example("README.rst", "command")
    example("README.rst", "command-test", app=names["app"])["test_headcount"]()
    assert WireTestApp(names["app"]).wire("/project", "headcount").data == b"3\n"


def test_commands(example: Example, srv: Path) -> None:
    names = example("docs/commands.rst", "commands")
    example("docs/commands.rst", "stream", commands=names["commands"])
    example("docs/commands.rst", "override", commands=names["commands"])
    tests = example("docs/commands.rst", "testing", commands=names["commands"])
    tests["test_headcount_of_an_empty_repository"]()
    tests["test_unknown_nodes_are_missing"]()

    app = WireTestApp(WireApp(MemoryProvider({"": MemoryRepository()}), commands=names["commands"]))
    assert app.wire("/", "missing", {"nodes": "no node"}).status == 400
    assert app.wire("/", "whoami", user="alice").data == b"alice"
    reply = app.wire("/", "numbers", {"upto": "3"}, protocol="0.2", compression=["zstd"])
    assert (reply.engine, reply.data) == ("zstd", b"0\n1\n2\n")
    assert app.wire("/", "numbers", {"upto": "x"}).data == b"upto must be a number\n"
    assert app.wire("/", "clonebundles").status == 400
    assert app.wire("/", "lookup", {"key": "secret"}).data == b"0 unknown revision\n"
    assert app.wire("/", "lookup", {"key": "tip"}).data == b"1 " + b"0" * 40 + b"\n"


def test_post_args(example: Example) -> None:
    app = WireTestApp(example("docs/deployment.rst", "post-args")["app"])
    assert b"httppostargs" in app.wire("/project", "capabilities").data.split()


def test_caching(example: Example, srv: Path) -> None:
    getbundle = {"common": "0" * 40}
    apps = [
        example("README.rst", "cache")["app"],
        example("docs/caching.rst", "settings")["app"],
        example("docs/caching.rst", "accel")["app"],
    ]
    lengths = [len(WireTestApp(app).wire("/project", "getbundle", getbundle).data) for app in apps[:2]]
    assert lengths[0] == lengths[1] > 1000
    (entry,) = (path for path in (srv / "hgwire-cache").glob("*/*") if path.stat().st_size > 1000)
    sent = WireTestApp(apps[2]).get("/project?cmd=getbundle", headers={"X-HgArg-1": "common=" + "0" * 40})
    assert sent.headers["X-Accel-Redirect"] == f"/hgwire-cache/{entry.parent.name}/{entry.name}"
    assert sent.body == b""


def test_what_is_declared_to_be_kept(example: Example) -> None:
    commands = example("docs/caching.rst", "declare")["commands"]
    assert commands["headcount"].cacheable and commands["lookup"].cacheable
    app = WireTestApp(WireApp(MemoryProvider({"": MemoryRepository()}), commands=commands))
    # An empty repository has the null revision as its head.
    assert app.wire("/", "headcount").data == b"1\n"
    assert app.wire("/", "lookup", {"key": "TIP"}).data == b"1 " + b"0" * 40 + b"\n"


def test_threads(example: Example) -> None:
    app = WireTestApp(example("docs/caching.rst", "threads")["app"])
    reply = app.wire("/project", "getbundle", {"common": "0" * 40}, protocol="0.2", compression=["zstd"])
    assert reply.engine == "zstd" and len(reply.data) > 1000


def test_client_and_version_2(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(example("docs/http-v2.rst", "api")["app"]) as url:
        url += "/project"
        example("README.rst", "client", url=url)
        names = example("docs/client.rst", "v1", url=url)
        bundle = (tmp_path / "all.hg").read_bytes()
        assert len(names["heads"]) == 2
        pieces = example("docs/client.rst", "v2", url=url)["pieces"]
        assert b"".join(pieces[0]) == names["branches"].result()
        assert b"HG10UN" + b"".join(pieces[1]) == bundle
        revision = example("docs/client.rst", "errors")["revision"]
        assert revision(url, "tip").encode() in names["heads"]
        assert revision(url, "nothing") is None
        assert revision(url + "/nowhere", "tip").startswith("failed: ")
    assert revision(url, "tip").startswith("failed: ")


def test_the_backend_is_enough_for_a_clone(example: Example, srv: Path, tmp_path: Path) -> None:
    def hg(*arguments: str | Path) -> str:
        done = subprocess.run(
            [*hg_command(), *map(str, arguments)], env=clean_environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    source, snapshot = srv / "hg" / "project", srv / "snapshots" / "project"
    snapshot.mkdir(parents=True)
    hg("-R", source, "bundle", "--all", "--type", "none-v1", snapshot / "bundle.hg")
    (snapshot / "heads").write_text(hg("-R", source, "heads", "--topo", "-T", "{node}\n"))
    with serving(example("docs/backends.rst", "snapshots")["app"]) as url:
        hg("clone", f"{url}/project", tmp_path / "clone")
        log = ("log", "-T", "{node} {phase}\n")
        assert hg("-R", tmp_path / "clone", *log).replace("public", "draft") == hg("-R", source, *log)
        assert hg("-R", tmp_path / "clone", "pull").splitlines()[-1] == "no changes found"
