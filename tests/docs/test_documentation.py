"""The examples in the documentation do what the text says."""

from __future__ import annotations

import base64
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docs_support import DOCUMENTS, Page, blocks
from wire_servers import serving

pytest.importorskip("webtest")

from hgwire_wsgi import WireApp, WireMiddleware
from hgwire_wsgi.cli.demo import clean_environment, hg_command
from hgwire_wsgi.testing import WireTestApp
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

Pages = Callable[[str], Page]

HGWEB_LEAKS = "ignore::ResourceWarning"
"""hgweb leaves the files of its templates to the garbage collector."""


@pytest.mark.parametrize(
    "document", [each for each in DOCUMENTS if any(block.language == "python" for block in blocks(each))]
)
@pytest.mark.filterwarnings(HGWEB_LEAKS)
def test_every_program_runs(document: str, page: Pages) -> None:
    """From the first block to the last, in their order."""
    for framework in ("flask", "pyramid"):
        pytest.importorskip(framework)
    with serving(page("docs/http-v2.rst")("api")["app"]) as url:
        page(document)(url=url + "/project")


def clonable(app: Any, path: str) -> bool:
    return len(WireTestApp(app).wire(path, "heads").data.split()) == 2


def test_the_project(page: Pages) -> None:
    for document in ("README.rst", "docs/embedding.rst"):
        app = page(document)("project")["app"]
        assert isinstance(app, WireApp)
        assert clonable(app, "/project")


def test_flask(page: Pages) -> None:
    pytest.importorskip("flask")
    assert clonable(page("README.rst")("flask")["app"], "/hg/project")
    app = page("docs/embedding.rst")("flask")["app"]
    assert clonable(app, "/hg/project")
    assert WireTestApp(app).get("/").text == "The repositories are below /hg."
    assert len(app.test_client().get("/hg/project?cmd=heads").data.split()) == 2


def test_authentication(page: Pages) -> None:
    pytest.importorskip("werkzeug")
    middleware = page("docs/embedding.rst")("authentication")["BasicAuthentication"]
    commands = page("docs/commands.rst")("commands")["commands"]
    wire = WireApp(MemoryProvider({"": MemoryRepository()}), commands=commands)
    app = WireTestApp(middleware(wire, check=lambda user, password: (user, password) == ("alice", "secret")))
    for credentials, user in (("alice:secret", b"alice"), ("alice:guess", b"nobody"), ("", b"nobody")):
        encoded = base64.b64encode(credentials.encode()).decode()
        headers = {"Authorization": f"Basic {encoded}"} if credentials else {}
        assert app.wire("/", "whoami", headers=headers, user="mallory").data == user


def user_seen_by(app: Any, authorization: str = "", **environ: str) -> str:
    """The user that the policy of an application sees, or the status of a refusal."""
    seen: list[str] = []
    again = WireApp(app.provider, policy=lambda request: seen.append(str(request.user)), **arguments_of(app))
    headers = {"Authorization": authorization} if authorization else {}
    reply = WireTestApp(again).wire("/project", "heads", headers=headers, environ=environ)
    return seen[0] if reply.status == 200 else str(reply.status)


def arguments_of(app: Any) -> dict[str, Any]:
    return {"identify": app._arrive.identify, "proxies": app._arrive.proxies}


def login(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_identities(page: Pages) -> None:
    pytest.importorskip("passlib")
    identities = page("docs/identities.rst")
    app = identities("basic")["app"]
    assert user_seen_by(app, login("alice", "secret")) == "alice"
    assert user_seen_by(app, login("alice", "wrong")) == user_seen_by(app, login("eve", "")) == "401"
    assert user_seen_by(app, REMOTE_USER="mallory") == "None"
    app = identities("htpasswd")["app"]
    assert user_seen_by(app, login("alice", "myPassword")) == "alice"
    assert user_seen_by(app, login("eve", "myPassword")) == "401"
    app = identities("bearer")["app"]
    assert user_seen_by(app, login("alice", "secret")) == "alice"
    assert user_seen_by(app, "Bearer sesame") == "robot"
    assert user_seen_by(app, "Bearer x") == "401"
    assert user_seen_by(app) == "None"
    app = identities("front")["app"]
    assert user_seen_by(app, REMOTE_ADDR="10.1.2.3", HTTP_X_FORWARDED_USER="carol") == "carol"
    assert user_seen_by(app, REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_USER="carol") == "None"
    asks = WireTestApp(identities("login-first")["app"], extra_environ={"wsgi.url_scheme": "https"})
    hgrc = identities.folder / "hg" / "project" / ".hg" / "hgrc"
    hgrc.write_text("[web]\nallow-push = *\n")
    assert asks.wire("/project", "capabilities").status == 200
    hgrc.write_text("[web]\nallow-push = alice\n")
    assert asks.wire("/project", "capabilities").status == 401
    assert asks.wire("/project", "heads").status == 200
    headers = {"Authorization": login("alice", "secret")}
    assert asks.wire("/project", "capabilities", headers=headers).status == 200


def test_pyramid(page: Pages) -> None:
    pytest.importorskip("pyramid")
    assert clonable(page("README.rst")("pyramid")["app"], "/hg/project")
    app = page("docs/embedding.rst")("pyramid")["app"]
    assert clonable(app, "/hg/project")
    assert WireTestApp(app).get("/").text == "The repositories are below /hg."


def test_pyramid_view(page: Pages) -> None:
    pytest.importorskip("pyramid")
    app = page("docs/embedding.rst")("pyramid-view")["app"]
    assert clonable(app, "/hg/project")
    pushed = WireTestApp(app).wire("/hg/project", "unbundle", {"heads": "force"}, body=b"", user="carol")
    # The name of the user comes from Pyramid, which has no security policy here.
    assert pushed.status in (401, 403)


def test_one_line_for_a_configuration_of_gunicorn(page: Pages) -> None:
    pytest.importorskip("gunicorn")
    from hgwire_wsgi.cli import gunicorn_settings

    assert page("docs/deployment.rst")("post-fork")["post_fork"] is gunicorn_settings.post_fork


def test_paste(page: Pages, srv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loadapp = pytest.importorskip("paste.deploy").loadapp
    page("docs/embedding.rst")
    (tmp_path / "pages.py").write_text(
        "def app_factory(global_conf):\n"
        "    def pages(environ, start_response):\n"
        "        start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "        return [b'pages']\n"
        "    return pages\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = loadapp(f"config:{srv}/paste.ini")
    assert clonable(app, "/project")
    assert WireTestApp(app).get("/project").text == "pages"
    assert WireTestApp(app).wire("/project", "unbundle", body=b"", user="carol").status in (401, 403)


@pytest.mark.filterwarnings(HGWEB_LEAKS)
def test_hgweb(page: Pages) -> None:
    for document_app in (
        page("README.rst")("hgweb")["app"],
        page("docs/embedding.rst")("hgweb")["app"],
        page("docs/hgweb-config.rst")("hgweb-config")["application"],
    ):
        assert isinstance(document_app, WireMiddleware)
        assert clonable(document_app, "/project")
        page = WireTestApp(document_app, lint=False).get("/project/rev/next")
        assert "Merge stable" in page.text


def test_by_hand(page: Pages) -> None:
    app = page("docs/embedding.rst")("by-hand")["app"]
    assert clonable(app, "/hg/project")
    assert WireTestApp(app).get("/hgweb").text == "The repositories are below /hg.\n"


def hg(*arguments: str | Path) -> str:
    """Run ``hg``; gives what it printed on standard output."""
    command = [*hg_command(), *map(str, arguments)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def push_key(app: Any, namespace: str, key: str, user: str | None = None) -> int:
    arguments = {"namespace": namespace, "key": key, "old": "", "new": ""}
    return WireTestApp(app).wire("/project", "pushkey", arguments, body=b"", user=user).status


def open_for_pushes(srv: Path) -> Path:
    hgrc = srv / "hg" / "project" / ".hg" / "hgrc"
    hgrc.write_text("[web]\nallow-push = *\npush_ssl = no\n")
    return hgrc


def test_a_policy(page: Pages, srv: Path) -> None:
    open_for_pushes(srv)
    app = page("docs/access.rst")("policy")["app"]
    assert clonable(app, "/project")
    assert [push_key(app, "bookmarks", "b", user) for user in ("alice", "eve", None)] == [200, 403, 403]


def test_combined_policies(page: Pages, srv: Path) -> None:
    app = WireTestApp(page("docs/access.rst")("combine")["app"])
    assert clonable(app.app, "/project")
    (srv / "hg" / "project").rename(srv / "hg" / "moving")
    (srv / "hg" / "drafts").mkdir()
    (srv / "hg" / "moving").rename(srv / "hg" / "drafts" / "project")
    hidden, missing = (app.wire(path, "heads").response for path in ("/drafts/project", "/drafts/none"))
    assert (hidden.status, hidden.headers, hidden.body) == (missing.status, missing.headers, missing.body)
    assert app.wire("/drafts/project", "heads", user="alice").status == 200
    (srv / "maintenance").touch()
    assert app.wire("/drafts/project", "heads", user="alice").response.headers["Retry-After"] == "3600"


def test_a_policy_protects_keys_and_a_hook_protects_bundles(page: Pages, srv: Path, tmp_path: Path) -> None:
    hgrc = open_for_pushes(srv)
    access = page("docs/access.rst")
    app = access("arguments")["app"]
    assert push_key(app, "bookmarks", "feature") == 200
    assert push_key(app, "bookmarks", "release-1") == push_key(app, "phases", "11" * 20) == 403
    assert push_key(app, "bookmarks", "release-1", "robot") == 200
    assert WireTestApp(app).wire("/project", "listkeys", {"namespace": "obsolete"}).status == 403
    with serving(app) as url:
        work, remote = tmp_path / "work", f"{url}/project"
        hg("clone", remote, work)

        def push(bookmark: str, exchange: str = "bundle2") -> str:
            hg("-R", work, "bookmark", "-f", "-r", "0", bookmark)
            command = ["-R", str(work), "push", "-r", "0", "-B", bookmark, remote]
            command += ["--config", f"devel.legacy.exchange={exchange}"]
            environment = clean_environment()
            done = subprocess.run(
                [*hg_command(), *command], env=environment, capture_output=True, text=True, timeout=60
            )
            return done.stdout + done.stderr

        marks = srv / "hg" / "project" / ".hg" / "bookmarks"
        refused = "only the robot "
        assert refused in push("release-2", "bundle1")
        assert refused not in push("release-2")
        assert "release-2" in marks.read_text(), "a policy does not see into a bundle"
        hgrc.write_text(hgrc.read_text() + next(each.text for each in access.blocks if each.name == "hooks"))
        before = marks.read_text()
        for exchange in ("bundle2", "bookmarks", "bundle1"):
            assert refused in push("release-3", exchange)
        assert marks.read_text() == before
        assert "exporting bookmark other" in push("other")


def test_decisions(page: Pages, srv: Path) -> None:
    app = WireTestApp(page("docs/access.rst")("authorize")["app"])
    assert clonable(app.app, "/project")

    def ask(method: str, uri: str) -> int:
        headers = {"X-Original-Method": method, "X-Original-URI": uri}
        return int(app.get("/authorize", headers=headers, expect_errors=True).status_int)

    questions = (("GET", "/project?cmd=heads"), ("POST", "/project?cmd=unbundle"), ("GET", "/none"))
    assert [ask(*each) for each in questions] == [204, 403, 403]


def test_classify(page: Pages) -> None:
    permission_needed = page("docs/embedding.rst")("classify")["permission_needed"]

    def environ(query: str, **more: str) -> dict[str, Any]:
        return {"REQUEST_METHOD": "GET", "QUERY_STRING": query, "wsgi.input": io.BytesIO(), **more}

    assert permission_needed(environ("cmd=heads")) == "pull"
    assert permission_needed(environ("cmd=unbundle")) == "push"
    assert permission_needed(environ("cmd=batch", HTTP_X_HGARG_1="cmds=heads+%3Bpushkey+")) == "push"
    assert permission_needed(environ("")) is None


def test_the_command_of_the_readme(page: Pages) -> None:
    names = page("README.rst")("command-test")
    names["test_headcount"]()
    assert WireTestApp(names["app"]).wire("/project", "headcount").data == b"3\n"


def test_commands(page: Pages) -> None:
    names = page("docs/commands.rst")("testing")
    names["test_headcount_of_an_empty_repository"]()
    names["test_unknown_nodes_are_missing"]()

    app = WireTestApp(WireApp(MemoryProvider({"": MemoryRepository()}), commands=names["commands"]))
    assert app.wire("/", "missing", {"nodes": "no node"}).status == 400
    assert app.wire("/", "whoami", user="alice").data == b"alice"
    reply = app.wire("/", "numbers", {"upto": "3"}, protocol="0.2", compression=["zstd"])
    assert (reply.engine, reply.data) == ("zstd", b"0\n1\n2\n")
    assert app.wire("/", "numbers", {"upto": "x"}).data == b"upto must be a number\n"
    assert app.wire("/", "clonebundles").status == 400
    assert app.wire("/", "lookup", {"key": "secret"}).data == b"0 unknown revision\n"
    assert app.wire("/", "lookup", {"key": "tip"}).data == b"1 " + b"0" * 40 + b"\n"


def test_post_args(page: Pages) -> None:
    app = WireTestApp(page("docs/deployment.rst")("post-args")["app"])
    assert b"httppostargs" in app.wire("/project", "capabilities").data.split()


def test_caching(page: Pages, srv: Path) -> None:
    getbundle = {"common": "0" * 40}
    apps = [
        page("README.rst")("cache")["app"],
        page("docs/caching.rst")("settings")["app"],
        page("docs/caching.rst")("accel")["app"],
    ]
    lengths = [len(WireTestApp(app).wire("/project", "getbundle", getbundle).data) for app in apps[:2]]
    assert lengths[0] == lengths[1] > 1000
    (entry,) = (path for path in (srv / "hgwire-cache").glob("*/*") if path.stat().st_size > 1000)
    sent = WireTestApp(apps[2]).get("/project?cmd=getbundle", headers={"X-HgArg-1": "common=" + "0" * 40})
    assert sent.headers["X-Accel-Redirect"] == f"/hgwire-cache/{entry.parent.name}/{entry.name}"
    assert sent.body == b""


def test_what_is_declared_to_be_kept(page: Pages) -> None:
    commands = page("docs/caching.rst")("declare")["commands"]
    assert commands["headcount"].cacheable and commands["lookup"].cacheable
    app = WireTestApp(WireApp(MemoryProvider({"": MemoryRepository()}), commands=commands))
    # An empty repository has the null revision as its head.
    assert app.wire("/", "headcount").data == b"1\n"
    assert app.wire("/", "lookup", {"key": "TIP"}).data == b"1 " + b"0" * 40 + b"\n"


def test_threads(page: Pages) -> None:
    app = WireTestApp(page("docs/caching.rst")("threads")["app"])
    reply = app.wire("/project", "getbundle", {"common": "0" * 40}, protocol="0.2", compression=["zstd"])
    assert reply.engine == "zstd" and len(reply.data) > 1000


def test_client_and_version_2(page: Pages, tmp_path: Path) -> None:
    with serving(page("docs/http-v2.rst")("api")["app"]) as url:
        url += "/project"
        page("README.rst")("client", url=url)
        names = page("docs/client.rst")("v1", url=url)
        bundle = (tmp_path / "all.hg").read_bytes()
        assert len(names["heads"]) == 2
        pieces = page("docs/client.rst")("v2", url=url)["pieces"]
        assert b"".join(pieces[0]) == names["branches"].result()
        assert b"HG10UN" + b"".join(pieces[1]) == bundle
        revision = page("docs/client.rst")("errors")["revision"]
        assert revision(url, "tip").encode() in names["heads"]
        assert revision(url, "nothing") is None
        assert revision(url + "/nowhere", "tip").startswith("failed: ")
    assert revision(url, "tip").startswith("failed: ")


def test_finding(page: Pages) -> None:
    app = page("docs/backends.rst")("finding")["app"]
    assert clonable(app, "/project") and WireTestApp(app).wire("/other", "heads").status == 404
    keys = {"namespace": b"bookmarks", "key": b"mark", "old": b"", "new": b""}
    statuses = [
        WireTestApp(app).wire("/project", "pushkey", keys, body=b"", user=user).status for user in ("alice", "eve")
    ]
    assert statuses == [200, 403]


def test_the_backend_is_enough_for_a_clone(page: Pages, srv: Path, tmp_path: Path) -> None:
    source, snapshot = srv / "hg" / "project", srv / "snapshots" / "project"
    snapshot.mkdir(parents=True)
    hg("-R", source, "bundle", "--all", "--type", "none-v1", snapshot / "bundle.hg")
    (snapshot / "heads").write_text(hg("-R", source, "heads", "--topo", "-T", "{node}\n"))
    with serving(page("docs/backends.rst")("snapshots")["app"]) as url:
        hg("clone", f"{url}/project", tmp_path / "clone")
        log = ("log", "-T", "{node} {phase}\n")
        assert hg("-R", tmp_path / "clone", *log).replace("public", "draft") == hg("-R", source, *log)
        assert hg("-R", tmp_path / "clone", "pull").splitlines()[-1] == "no changes found"
