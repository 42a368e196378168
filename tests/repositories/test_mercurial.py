from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi import (
    AccessRequest,
    BytesResponse,
    CacheSettings,
    CommandContext,
    CommandRegistry,
    ServerCapabilities,
    WireApp,
    WireMiddleware,
)
from hgwire_wsgi.events import RequestClosed
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.errors import CommandFailed, PermissionDenied, RepositoryNotFound, RepositoryUnusable
from hgwire_wsgi.repositories.finder import Found
from hgwire_wsgi.repositories.mercurial import MercurialProvider, MercurialRepository, state
from hgwire_wsgi.repositories.pool import Pool

# Mercurial leaves closing some pipes and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:invalid escape sequence"
)

OPEN = ("web.push_ssl=no", "web.allow-push=*")
Hg = Callable[..., str]


@pytest.fixture(scope="session")
def hg() -> Hg:
    def run(*arguments: str | Path, check: bool = True) -> str:
        command = [sys.executable, "-c", "from mercurial import dispatch; dispatch.run()", *map(str, arguments)]
        environment = {**os.environ, "HGRCPATH": "", "HGPLAIN": "1", "HGUSER": "test"}
        result = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        assert not check or result.returncode == 0, result.stderr
        return result.stdout.decode()

    return run


@pytest.fixture(scope="session")
def original(hg: Hg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "repo"
    hg("init", path)
    (path / "file").write_text("content\n")
    hg("-R", path, "commit", "-A", "-m", "first", "-d", "0 0")
    hg("-R", path, "branch", "side")
    hg("-R", path, "commit", "-m", "second", "-d", "0 0")
    return path


@pytest.fixture
def repo(original: Path, hg: Hg, tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    subprocess.run(["cp", "-a", original, path], check=True)
    return path


def app(root: Any, *config: str, **options: Any) -> WireTestApp:
    return WireTestApp(WireApp(MercurialProvider(root, config=config), **options))


def hgweb(path: Path) -> WireTestApp:
    from mercurial.hgweb import hgweb as make

    return WireTestApp(make(str(path).encode()), lint=False)


def add(repo: Path, name: str, hg: Hg) -> None:
    (repo / name).write_text(name)
    hg("-R", repo, "commit", "-A", "-m", name, "-d", "0 0")


def test_capabilities_are_hgwebs_and_what_the_transport_adds(repo: Path) -> None:
    ours = app(repo).wire("/", "capabilities").data.split()
    theirs = hgweb(repo).wire("/", "capabilities").data.split()
    assert set(ours) - set(theirs) == {b"httpmediatype=0.1rx,0.1tx,0.2rx,0.2tx"}
    assert set(theirs) - set(ours) == {b"httpmediatype=0.1rx,0.1tx,0.2tx"}
    assert ours == sorted(ours)


COMMANDS: list[tuple[str, dict[str, bytes]]] = [
    ("heads", {}),
    ("branchmap", {}),
    ("listkeys", {"namespace": b"phases"}),
    ("listkeys", {"namespace": b"namespaces"}),
    ("lookup", {"key": b"side"}),
    ("lookup", {"key": b"nosuch"}),
    ("known", {"nodes": b"0" * 40}),
    ("between", {"pairs": b"0" * 40 + b"-" + b"0" * 40}),
    ("branches", {"nodes": b""}),
    ("clonebundles", {}),
    ("clonebundles_manifest", {}),
    ("protocaps", {"caps": b"x"}),
    ("batch", {"cmds": b"heads ;known nodes=;lookup key=tip"}),
    ("changegroup", {"roots": b"0" * 40}),
    ("changegroupsubset", {"bases": b"0" * 40, "heads": b""}),
    ("getbundle", {}),
    ("getbundle", {"bundlecaps": b"HG20,bundle2=HG20%0Achangegroup%3D02%0Aphases%3Dheads", "phases": b"1"}),
    ("stream_out", {}),
    ("debugwireargs", {"one": b"1", "two": b"2", "three": b"3"}),
]


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_replies_are_hgwebs(repo: Path, command: str, arguments: dict[str, bytes]) -> None:
    for protocol in (None, "0.2"):
        ours, theirs = (
            each.wire("/", command, arguments, protocol=protocol, compression=["zstd"])
            for each in (app(repo), hgweb(repo))
        )
        assert (ours.status, ours.media_type, ours.engine, ours.data) == (
            theirs.status,
            theirs.media_type,
            theirs.engine,
            theirs.data,
        )


def test_manifests_of_clone_bundles_have_no_blank_lines(repo: Path) -> None:
    """Mercurial 7.2 sends a blank line after each line to clients that ask with the old command."""
    lines = b"https://example.org/a BUNDLESPEC=zstd-v2\nhttps://example.org/b REQUIRESNI=true\n"
    (repo / ".hg" / "clonebundles.manifest").write_bytes(lines)
    ours, theirs = (each.wire("/", "clonebundles").data for each in (app(repo), hgweb(repo)))
    assert ours == lines
    assert [line for line in theirs.splitlines() if line] == lines.splitlines()
    (repo / ".hg" / "clonebundles.manifest").write_bytes(b"peer-bundle-cache://x\n\n" + lines)
    assert app(repo).wire("/", "clonebundles").data == lines
    ours, theirs = (each.wire("/", "clonebundles_manifest").data for each in (app(repo), hgweb(repo)))
    assert ours == theirs


def test_changes_on_disk_are_seen(repo: Path, hg: Hg) -> None:
    served = app(repo)
    tip = served.wire("/", "heads").data
    add(repo, "more", hg)
    assert served.wire("/", "heads").data != tip
    hg("-R", repo, "bookmark", "mark")
    assert b"mark\t" in served.wire("/", "listkeys", {"namespace": b"bookmarks"}).data
    hg("-R", repo, "phase", "--secret", "--force", "tip")
    assert served.wire("/", "heads").data == tip
    (repo / ".hg" / "hgrc").write_text("[web]\nallow-pull = no\n")
    assert served.wire("/", "heads").response.status == "403 pull not authorized"


def test_state_changes_with_the_repository(repo: Path, hg: Hg) -> None:
    provider = MercurialProvider(repo)
    states = []
    for change in (lambda: None, lambda: add(repo, "x", hg), lambda: hg("-R", repo, "bookmark", "b")):
        change()
        with provider.lease("") as leased:
            states.append(leased.content_token())
    with provider.lease("") as leased:
        assert leased.content_token() == states[-1]
    assert len(set(states)) == len(states)


def test_a_share_sees_the_changes_of_its_source(repo: Path, hg: Hg, tmp_path: Path) -> None:
    hg("--config", "extensions.share=", "share", repo, tmp_path / "shared")
    served = app(tmp_path / "shared")
    before = served.wire("/", "heads").data
    add(repo, "more", hg)
    assert served.wire("/", "heads").data != before


def test_a_folder_is_served_as_it_changes(repo: Path, hg: Hg) -> None:
    served = app(repo.parent)
    assert served.wire("/repo", "heads").status == 200
    assert served.wire("/repo/", "heads").status == 200
    assert served.wire("/", "heads").status == 404
    assert served.wire("/nested/new", "heads").status == 404
    hg("init", repo.parent / "nested" / "new")
    assert served.wire("/nested/new", "heads").data == b"0" * 40 + b"\n"
    assert served.wire("/nested/new/below", "heads").status == 404


@pytest.mark.parametrize("path", ["/../repo", "/repo/../repo", "/./repo", "/repo/.hg", "/re\0po", "/.hg/repo"])
def test_paths_out_of_the_folder_are_none(repo: Path, path: str) -> None:
    located = MercurialProvider(repo.parent).locate(path)
    assert located is None or located[1]


def test_a_mapping_names_repositories(repo: Path) -> None:
    provider = MercurialProvider({"a/b": repo, "ünï": repo})
    assert provider.locate("/a/b") == ("a/b", "")
    assert provider.locate("/a/b/c/d") == ("a/b", "c/d")
    assert provider.locate("/a") is None
    quoted = "/ünï".encode().decode("latin-1")
    located = provider.locate(quoted)
    assert located is not None and located[1] == ""
    assert WireTestApp(WireApp(provider)).wire("/a/b", "heads").status == 200
    with provider.lease(located[0]) as leased:
        assert isinstance(leased, MercurialRepository)


def test_what_cannot_be_served_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a repository nor a folder"):
        MercurialProvider(tmp_path / "none")
    for setting in ("nonsense", "web=x", ".x=1", "web.=1"):
        with pytest.raises(ValueError, match=r"section\.name=value"):
            MercurialProvider(tmp_path, config=[setting])
        with pytest.raises(ValueError, match=r"section\.name=value"):
            MercurialProvider({"x": Found(tmp_path, config=[setting])})
    with pytest.raises(ValueError, match=r"ui\.debug is not a boolean"):
        MercurialProvider(tmp_path, config=["ui.debug=perhaps"])


def test_a_repository_that_vanished(repo: Path) -> None:
    provider = MercurialProvider(repo.parent)
    located = provider.locate("/repo")
    assert located is not None
    (repo / ".hg").rename(repo / "gone")
    with pytest.raises(RepositoryNotFound):
        provider.lease(located[0])


UNUSABLE = b"0\nthe repository cannot be served; the log of the server says why\n"


def test_unknown_requirements_are_reported_to_the_operator(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open(repo / ".hg" / "requires", "a") as requires:
        requires.write("from-the-future\n")
    served = app(repo.parent)
    for _ in range(2):
        reply = served.wire("/repo", "heads")
        assert (reply.status, reply.data) == (500, UNUSABLE)
    assert caplog.text.count("unknown to this Mercurial: from-the-future") == 1
    assert f"repository repo at {repo}: " in caplog.text


def test_a_broken_hgrc_is_reported_by_name_once_per_state(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    hgrc = repo / ".hg" / "hgrc"
    hgrc.write_text("nonsense\n")
    served = app(repo)
    for command in ("heads", "getbundle"):
        assert served.wire("/", command).data == UNUSABLE
    assert caplog.text.count(f"{hgrc}:1") == 1
    hgrc.write_text("[x]\nnonsense\n")
    assert served.wire("/", "heads").data == UNUSABLE
    assert caplog.text.count(f"{hgrc}:2") == 1
    hgrc.write_text("")
    assert served.wire("/", "heads").status == 200


def test_a_setting_that_a_command_cannot_use_is_reported(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    (repo / ".hg" / "hgrc").write_text("[server]\nbundle1 = perhaps\n")
    served = app(repo)
    for _ in range(2):
        assert served.wire("/", "getbundle").data == UNUSABLE
    assert caplog.text.count("server.bundle1 is not a boolean") == 1
    (repo / ".hg" / "hgrc").write_text("[server]\npullbundle = perhaps\n")
    assert served.wire("/", "getbundle").data == b"server.pullbundle is not a boolean ('perhaps')\n"
    assert caplog.text.count("server.pullbundle is not a boolean") == 1


def test_settings_of_one_repository_alone(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    places = {
        "open": Found(repo, ("web.allow-push=*", "web.push_ssl=no", "extensions.largefiles=")),
        "closed": Found(repo),
        "plain": repo,
    }
    provider = MercurialProvider(places, config=["web.allow-pull=*"])
    tokens = []
    for name in places:
        with provider.lease(name) as leased:
            tokens.append(leased.content_token())
            assert leased.setting("web", "allow-push") == ("*" if name == "open" else None)
            assert ("statlfile" in leased.commands()) == (name == "open")
            assert leased.setting("web", "allow-pull") == "*"
    assert tokens[0] != tokens[1] == tokens[2], "settings are part of the state"
    assert caplog.text.count("web.allow-pull is not a boolean") == 3


def test_a_function_finds_repositories_and_their_settings(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    places: dict[str, Any] = {"group/one": Found(repo, ["web.style=a"])}
    provider = MercurialProvider(places.get)
    assert provider.locate("/group/one/x") == ("group/one", "x") and provider.locate("/other") is None
    with provider.lease("group/one") as before:
        assert before.setting("web", "style") == "a"
    places["group/one"] = Found(repo, ["web.style=b"])
    with provider.lease("group/one") as after:
        assert after.setting("web", "style") == "b"
        assert after.content_token() != before.content_token()
    places["group/one"] = Found(repo, ["nonsense"])
    with provider.lease("group/one") as broken, pytest.raises(RepositoryUnusable):
        broken.heads()
    assert "not a setting of the form section.name=value: nonsense" in caplog.text
    del places["group/one"]
    with pytest.raises(RepositoryNotFound):
        provider.lease("group/one")


def test_a_missing_path_in_a_mapping_is_a_404_of_its_own(repo: Path, hg: Hg, caplog: pytest.LogCaptureFixture) -> None:
    missing = repo.parent / "missing"
    served = app({"here": repo, "gone": missing})
    assert caplog.text.count(f"repository gone: no repository at {missing}") == 1
    assert served.wire("/here", "heads").status == 200
    for _ in range(2):
        assert served.wire("/gone", "heads").status == 404
    assert caplog.text.count("no repository at") == 1
    hg("init", missing)
    assert served.wire("/gone", "heads").status == 200


def test_a_repository_that_vanishes_after_its_lease(repo: Path) -> None:
    provider = MercurialProvider(repo)
    with provider.lease("") as leased:
        (repo / ".hg").rename(repo / "gone")
        with pytest.raises(RepositoryNotFound):
            leased.heads()


def test_names(repo: Path) -> None:
    assert MercurialProvider(repo.parent).names(10) == ["repo"]


def test_engines_levels_and_headers_follow_hgrc(repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[server]\ncompressionengines = bz2, none\nmaxhttpheaderlen = 256\n")
    served = app(repo)
    tokens = served.wire("/", "capabilities").data.split()
    assert {b"compression=bzip2,none", b"httpheader=256"} <= set(tokens)
    assert served.wire("/", "getbundle", protocol="0.2", compression=["none", "bzip2"]).engine == "bzip2"
    (repo / ".hg" / "hgrc").write_text("[server]\nzliblevel = 0\n")
    body = served.wire("/", "getbundle").response.body
    assert body[:2] == b"\x78\x01"


def test_httppostargs_is_the_whole_applications(repo: Path) -> None:
    on, off = app(repo, "experimental.httppostargs=yes"), app(repo)
    assert b"httppostargs" in on.wire("/", "capabilities").data.split()
    assert b"httppostargs" not in off.wire("/", "capabilities").data.split()
    assert on.wire("/", "lookup", {"key": b"tip"}, via="post").status == 200
    assert off.wire("/", "lookup", {"key": b"tip"}, via="post").status == 400


def push(served: WireTestApp, bundle: bytes, **options: Any) -> Any:
    return served.wire("/", "unbundle", {"heads": b"force".hex().encode()}, body=bundle, **options)


@pytest.fixture
def bundle(repo: Path, hg: Hg, tmp_path: Path) -> bytes:
    """A bundle of one changeset that the repository does not have."""
    clone = tmp_path / "clone"
    hg("clone", "-q", repo, clone)
    add(clone, "pushed", hg)
    hg("-R", clone, "bundle", "-q", "-t", "none-v1", tmp_path / "bundle", repo)
    return (tmp_path / "bundle").read_bytes()


@pytest.mark.parametrize("engine", ["zstd", "zlib", "bzip2", "none"])
def test_a_push_as_0_2_is_decompressed(repo: Path, bundle: bytes, engine: str) -> None:
    served = app(repo, *OPEN)
    reply = push(served, bundle, media_type="application/mercurial-0.2", compression=[engine])
    assert reply.status == 200
    assert reply.data.startswith(b"2\nadding changesets\n"), "one head more"
    assert served.wire("/", "lookup", {"key": b"2"}).data.startswith(b"1 ")


@pytest.mark.parametrize(
    "damage",
    [
        lambda bundle: b"",
        lambda bundle: b"HG",
        lambda bundle: b"garbage",
        lambda bundle: b"HG10GZ" + bundle[6:],
        lambda bundle: b"HG10ZZ" + bundle[6:],
        lambda bundle: b"HG99" + bundle[4:],
        lambda bundle: bundle[: len(bundle) // 2],
        lambda bundle: bundle[:40] + b"\xff" * 40 + bundle[80:],
        lambda bundle: b"HG20\0\0\0\0\xff\xff\xff\xff" + bundle,
    ],
)
def test_a_damaged_push_changes_nothing_and_is_no_traceback(
    repo: Path, bundle: bytes, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    served = app(repo, *OPEN)
    before = served.wire("/", "heads").data
    reply = push(served, damage(bundle))
    assert reply.status == 400 or reply.data.startswith((b"0\n", b"HG20"))
    assert served.wire("/", "heads").data == before
    assert not (repo / ".hg" / "store" / "journal").exists()
    from mercurial import util

    # Before 7.2 Mercurial raises an error of its own for one kind of damage, which is logged as a warning.
    assert caplog.text == "" or not util.version().startswith(b"7.2")


def test_arguments_of_getbundle_that_mercurial_does_not_know_are_dropped(repo: Path) -> None:
    """It would print a warning for each."""
    served = app(repo)
    assert served.wire("/", "getbundle", {"nosuch": "1"}).data == served.wire("/", "getbundle").data


def test_a_truncated_push_changes_nothing(repo: Path, bundle: bytes) -> None:
    served = app(repo, *OPEN)
    before = served.wire("/", "heads").data
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "QUERY_STRING": "cmd=unbundle&heads=666f726365",
        "CONTENT_LENGTH": str(len(bundle) + 10),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(bundle),
    }
    statuses: list[str] = []
    response = served.app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    assert b"".join(response) == b"0\nthe request body is shorter than its Content-Length\n"
    assert statuses[0].startswith("400 ")
    assert served.wire("/", "heads").data == before


def test_pushkey_and_what_hooks_print(repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[hooks]\npushkey.say = echo hook says $HG_KEY from $HG_URL\n")
    served = app(repo, *OPEN)
    node = served.wire("/", "lookup", {"key": b"tip"}).data.split()[1]
    arguments = {"namespace": b"bookmarks", "key": b"mark", "old": b"", "new": node}
    reply = served.wire("/", "pushkey", arguments, body=b"", user="alice", environ={"REMOTE_ADDR": "192.0.2.1"})
    assert reply.status == 200
    assert reply.data.startswith(b"1\n")
    assert served.wire("/", "listkeys", {"namespace": b"bookmarks"}).data == b"mark\t" + node


def test_in_process_hooks_see_the_environ(repo: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(
        "def see(ui, repo, **kwargs):\n"
        "    ui.write(b'user %s\\n' % ui.environ.get(b'REMOTE_USER'))\n"
        "    assert b'wsgi.version' not in ui.environ or len(ui.environ) == len(list(ui.environ))\n"
    )
    (repo / ".hg" / "hgrc").write_text(f"[hooks]\nprepushkey.see = python:{hook}:see\n")
    served = app(repo, *OPEN)
    node = served.wire("/", "lookup", {"key": b"tip"}).data.split()[1]
    arguments = {"namespace": b"bookmarks", "key": b"mark", "old": b"", "new": node}
    assert served.wire("/", "pushkey", arguments, body=b"", user="alice").data == b"1\nuser alice\n"


def test_a_locked_repository_is_busy(repo: Path, hg: Hg) -> None:
    os.symlink(f"elsewhere.example:{os.getpid()}", repo / ".hg" / "store" / "lock")
    os.symlink(f"elsewhere.example:{os.getpid()}", repo / ".hg" / "wlock")
    served = app(repo, *OPEN, "ui.timeout=0", "ui.timeout.warn=-1")
    arguments = {"namespace": b"bookmarks", "key": b"mark", "old": b"", "new": b"1" * 40}
    reply = served.wire("/", "pushkey", arguments, body=b"")
    assert (reply.status, reply.response.headers.get("Retry-After")) == (503, "5")


def test_inline_bundles_stay_in_their_folder(repo: Path) -> None:
    folder = repo / ".hg" / "bundle-cache"
    sibling = repo / ".hg" / "bundle-cache-secret"
    for each in (folder, sibling):
        each.mkdir()
        (each / "bundle").write_bytes(b"bundle")
    served = app(repo)

    def ask(path: bytes) -> Any:
        return served.wire("/", "get_cached_bundle_inline", {"path": path}, protocol="0.2")

    assert ask(b"bundle").data == b"\x06bundle"
    for path in (b"../bundle-cache-secret/bundle", b"../hgrc", b"/etc/passwd", b"", b".", b"x\0y"):
        assert ask(path).status == 400, path
    assert ask(b"missing").data == b"0\nclonebundle missing does not exist\n"


def test_commands_of_extensions_are_offered_where_they_are_enabled(repo: Path, hg: Hg) -> None:
    plain = repo.parent / "plain"
    hg("clone", "-q", "-U", repo, plain)
    (repo / ".hg" / "hgrc").write_text("[extensions]\nlargefiles=\n")
    served = app(repo.parent)
    assert served.wire("/repo", "statlfile", {"sha": b"0" * 40}).data == b"2\n"
    assert served.wire("/repo", "putlfile", {"sha": b"0" * 40}, body=b"x").status == 403
    assert served.wire("/plain", "statlfile", {"sha": b"0" * 40}).status == 400
    assert served.wire("/plain", "heads").status == 200
    cmds = b"statlfile sha=" + b"0" * 40
    assert served.wire("/repo", "batch", {"cmds": cmds}).data == b"2\n"


@pytest.mark.parametrize("sha", [b"/etc/passwd", b"../../../../etc/passwd", b"", b"A" * 40, b"0" * 40 + b"\n"])
def test_largefiles_are_named_by_hashes_alone(repo: Path, sha: bytes) -> None:
    (repo / ".hg" / "hgrc").write_text("[extensions]\nlargefiles=\n")
    served = app(repo, *OPEN)
    for command, body in (("statlfile", None), ("getlfile", None), ("putlfile", b"x")):
        assert served.wire("/", command, {"sha": sha}, body=body).status == 400
    batched = b"statlfile sha=" + sha.replace(b"=", b":e")
    assert served.wire("/", "batch", {"cmds": batched}).status == 400
    assert served.wire("/", "batch", {"cmds": b"getlfile sha=" + b"0" * 40}).status == 400, "it streams"


def test_bundles_that_depend_on_who_asks_are_not_kept(repo: Path) -> None:
    (repo / "pub").mkdir()
    (repo / ".hg" / "hgrc").write_text("[narrowacl]\nalice.includes=*\nbob.includes=pub\n")
    with MercurialProvider(repo).lease("") as leased:
        assert not leased.may_cache("getbundle")
        assert leased.may_cache("heads")


@pytest.mark.parametrize("hook", ["preoutgoing", "outgoing.name", "prelistkeys"])
def test_replies_that_hooks_want_to_know_of_are_not_kept(repo: Path, tmp_path: Path, hook: str) -> None:
    log = tmp_path / "log"
    (repo / ".hg" / "hgrc").write_text(f"[hooks]\n{hook} = echo ran >> {log}\n")
    served = app(repo)
    for _ in range(2):
        if "listkeys" in hook:
            served.wire("/", "listkeys", {"namespace": b"bookmarks"})
            served.wire("/", "batch", {"cmds": b"listkeys namespace=bookmarks"})
        else:
            served.wire("/", "getbundle")
    assert len(log.read_text().splitlines()) == (4 if "listkeys" in hook else 2)


def test_the_middleware_knows_commands_of_a_repositorys_extensions(repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[extensions]\nlargefiles=\n")

    def pages(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    site = WireTestApp(WireMiddleware(pages, wire=WireApp(MercurialProvider(repo))))
    assert site.wire("/", "statlfile", {"sha": b"0" * 40}).data == b"2\n"
    assert site.wire("/", "putlfile", {"sha": b"0" * 40}, body=b"x").status == 403
    assert site.get("/?cmd=changelog").body == b"page"


def test_the_first_request_of_a_process_may_be_for_a_large_file(repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[extensions]\nlfs=\n")
    program = (
        "import sys, json\n"
        "from hgwire_wsgi import WireApp\n"
        "from hgwire_wsgi.repositories.mercurial import MercurialProvider\n"
        "from hgwire_wsgi.testing import WireTestApp\n"
        "app = WireTestApp(WireApp(MercurialProvider(sys.argv[1])), lint=False)\n"
        "kind = 'application/vnd.git-lfs+json'\n"
        "body = json.dumps({'operation': 'download', 'objects': []})\n"
        "headers = {'Content-Type': kind, 'Accept': kind}\n"
        "print(app.post('/.git/info/lfs/objects/batch', body, headers, expect_errors=True).status_int)\n"
        "print(app.get('/.hg/lfs/objects/' + 'a' * 64, expect_errors=True).status_int)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(repo)], capture_output=True, timeout=60, check=True)
    assert result.stdout.split() == [b"200", b"404"]


def test_a_hidden_repository_is_not_opened(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that it takes would show that there is one."""

    def hides(request: AccessRequest) -> None:
        raise RepositoryNotFound

    monkeypatch.setattr(Pool, "acquire", lambda *given: pytest.fail("opened"))
    served = WireTestApp(WireApp(MercurialProvider(repo), policy=hides))
    for command in ("heads", "unbundle", "nosuch", "batch"):
        assert served.wire("/", command).status == 404


def test_a_repository_that_the_first_format_cannot_hold(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Mercurial fails with an ``AssertionError`` there."""
    with (repo / ".hg" / "store" / "requires").open("a") as file:
        file.write("lfs\n")
    (repo / ".hg" / "hgrc").write_text("[extensions]\nlfs=\n")
    served = app(repo)
    none = {"roots": "0" * 40, "bases": "0" * 40, "heads": "0" * 40}
    for command, arguments in (
        ("getbundle", {}),
        ("changegroup", {"roots": none["roots"]}),
        ("changegroupsubset", {"bases": none["bases"], "heads": none["heads"]}),
    ):
        reply = served.wire("/", command, arguments)
        assert reply.status == 400 and b"only to clients with bundle2" in reply.data
    modern = {"bundlecaps": "HG20,bundle2=HG20%0Achangegroup%3D01%2C02%2C03", "cg": "1"}
    assert served.wire("/", "getbundle", modern).data.startswith(b"HG20")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("path", "method", "permission"),
    [
        (".git/info/lfs/objects/batch", "POST", "pull"),
        (".git/info/lfs/objects/batch", "GET", "pull"),
        (".git/info/lfs/objects/batch", "PUT", "upload"),
        (".hg/lfs/objects/aa", "POST", "push"),
        (".hg/lfs/objects/aa", "PUT", "upload"),
        (".hg/lfs/objects/aa", "HEAD", "pull"),
    ],
)
def test_what_requests_for_large_files_need(repo: Path, path: str, method: str, permission: str) -> None:
    """A reader may ask where to download files, by ``POST``."""
    provider = MercurialProvider(repo)
    assert provider.subresource_permission(path, method) == permission
    (repo / ".hg" / "hgrc").write_text("[web]\nallow-push=alice\npush_ssl=no\n[extensions]\nlfs=\n")
    environ = {"PATH_INFO": f"/{path}", "REQUEST_METHOD": method, "REMOTE_USER": "bob"}
    wire = WireApp(provider)
    found = wire.classify(dict(environ))
    assert found is not None and found.permission == ("pull" if permission == "pull" else "push")
    with contextlib.nullcontext() if permission == "pull" else pytest.raises(PermissionDenied):
        wire.authorize(environ)


def test_a_reply_from_between_two_equal_states_is_not_kept(repo: Path, hg: Hg) -> None:
    """The repository changes and changes back while a reply is made."""
    commands = CommandRegistry.standard()
    hg("-R", repo, "bookmark", "mark")
    marks = repo / ".hg" / "bookmarks"
    content = marks.read_bytes()

    @commands.command("marks", permission="pull", cacheable=True)
    def read(context: CommandContext) -> bytes:
        marks.write_bytes(b"")
        marks.write_bytes(content)
        return b"between"

    provider = MercurialProvider(repo)
    served = WireTestApp(WireApp(provider, commands=commands))
    with provider.lease("") as before:
        assert served.wire("/", "marks").data == b"between"
    with provider.lease("") as after:
        assert after.content_token() == before.content_token()
        assert after.change_stamp() != before.change_stamp()
    events: list[Any] = []
    observed = WireApp(provider, commands=commands, observers=[events.append])
    assert WireTestApp(observed).wire("/", "marks").data == b"between"
    assert WireTestApp(observed).wire("/", "marks").data == b"between"
    assert "hit" not in [event.cache for event in events if isinstance(event, RequestClosed)]


def test_a_setting_from_between_two_equal_states_is_not_remembered(repo: Path) -> None:
    hgrc = repo / ".hg" / "hgrc"
    hgrc.write_text("[web]\nallow_read = alice\n")
    provider = MercurialProvider(repo)
    with provider.lease("") as before:
        hgrc.write_text("[web]\nallow_read = *\n")
        assert before.settings("web", "allow_read") == ["*"]
    # Another file, or all of it might happen within one tick of the clock.
    (repo / "hgrc").write_text("[web]\nallow_read = alice\n")
    (repo / "hgrc").rename(hgrc)
    with provider.lease("") as after:
        assert after.content_token() == before.content_token()
        assert after.settings("web", "allow_read") == ["alice"]


def test_what_is_known_of_former_states_is_forgotten(repo: Path) -> None:
    provider = MercurialProvider(repo)
    known = []
    for number in range(3):
        (repo / ".hg" / "localtags").write_text(f"{number}")
        with provider.lease("") as leased:
            assert isinstance(leased, MercurialRepository)
            assert "heads" in leased.commands()
            known.append(weakref.ref(leased._facts))
    del leased
    assert [facts() is None for facts in known] == [True, True, False]


def test_a_stricter_permission_of_an_extension_counts(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mercurial import wireprotov1server

    for name in (b"heads", b"getbundle"):
        monkeypatch.setattr(wireprotov1server.commands[name], "permission", b"push")
    served = app(repo)
    for command in ("heads", "getbundle"):
        assert served.wire("/", command).status == 405, command


def test_included_configuration_counts(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "acl").write_text("[web]\nallow_read = alice, bob\n%include more\n")
    (repo / ".hg" / "hgrc").write_text(f"%include {tmp_path}/acl\n")
    served = app(repo)
    assert served.wire("/", "heads", user="bob").status == 200
    (tmp_path / "acl").write_text("[web]\nallow_read = alice\n%include more\n")
    assert served.wire("/", "heads", user="bob").status == 403
    (tmp_path / "more").write_text("[web]\nallow_read = bob\n")
    assert served.wire("/", "heads", user="bob").status == 200


def test_censored_content_is_not_served_from_the_cache(repo: Path, hg: Hg) -> None:
    add(repo, "secret", hg)
    node = hg("-R", repo, "log", "-r", "tip", "-T", "{node}")
    (repo / "secret").write_text("nothing")
    hg("-R", repo, "commit", "-m", "remove", "-d", "0 0")
    provider = MercurialProvider(repo)
    with provider.lease("") as before:
        hg("-R", repo, "--config", "extensions.censor=", "censor", "--no-check-heads", "-r", node, repo / "secret")
    with provider.lease("") as after:
        assert after.content_token() != before.content_token()


def test_small_bundles_of_large_stores_depend_on_the_last_transaction(
    repo: Path, hg: Hg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the index of each file would take longer than making the bundle."""
    provider = MercurialProvider(repo)

    def tokens() -> list[bytes]:
        with provider.lease("") as leased:
            (head,) = leased.heads()
            common = ([], list(leased.parents(head)[:1]))
            return [leased.bundle_token("getbundle", {"heads": [head], "common": each}) for each in common]

    for large, changed in ((False, [False, False]), (True, [False, True])):
        if large:
            monkeypatch.setattr(state, "_LARGE", 0)
        before = tokens()
        hg("-R", repo, "bookmark", "-f", f"moved-{large}")
        assert [one != other for one, other in zip(before, tokens(), strict=True)] == changed


def test_unknown_arguments_of_getbundle_have_no_effect(repo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    served = app(repo, cache=CacheSettings(disk=0))
    assert served.wire("/", "getbundle", {"unknown": b"1"}).data == served.wire("/", "getbundle").data
    assert capfd.readouterr() == ("", "")


def test_hosts_replace_commands_of_the_repository(repo: Path) -> None:
    commands = CommandRegistry.standard()
    commands.override("heads", lambda context: BytesResponse(b"mine"))

    @commands.command("count", args=["branch"], permission="pull")
    def count(context: CommandContext, branch: bytes) -> bytes:
        return b"%d" % len(context.repository.branchmap()[branch])

    served = app(repo, commands=commands)
    assert served.wire("/", "heads").data == b"mine"
    assert served.wire("/", "batch", {"cmds": b"heads ;count branch=side"}).data == b"mine;1"


def test_the_interface_for_host_commands(repo: Path) -> None:
    with MercurialProvider(repo).lease("") as leased:
        (head,) = leased.heads()
        first, second = leased.parents(head)
        assert leased.lookup(b"tip") == head
        assert list(leased.known([head, first, b"\1" * 20])) == [True, True, False]
        assert second == b"\0" * 20
        assert leased.branchmap() == {b"default": [first], b"side": [head]}
        assert leased.listkeys(b"bookmarks") == {}
        with pytest.raises(CommandFailed, match="unknown revision"):
            leased.lookup(b"nosuch")
        with pytest.raises(CommandFailed, match="unknown revision"):
            leased.parents(b"\1" * 20)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("getbundle", {"phases": b"1"}, b"phases need bundle2"),
        ("changegroup", {"roots": b"1" * 40}, b"unknown revision"),
        ("changegroupsubset", {"bases": b"", "heads": b"1" * 40}, b"unknown revision"),
        ("between", {"pairs": b"1" * 40 + b"-" + b"0" * 40}, b"unknown revision"),
        ("branches", {"nodes": b"1" * 40}, b"unknown revision"),
        ("pushkey", {"namespace": b"phases", "key": b"0", "old": b"1", "new": b"0"}, b"argument key"),
        ("pushkey", {"namespace": b"phases", "key": b"", "old": b"1", "new": b"0"}, b"not a node"),
        ("pushkey", {"namespace": b"phases", "key": b"1" * 40, "old": b"1", "new": b"-1"}, b"a phase is a number"),
        ("pushkey", {"namespace": b"phases", "key": b"1" * 40, "old": b"1", "new": b"0"}, b"unknown revision"),
    ],
)
def test_arguments_that_crash_mercurial_are_refused(
    repo: Path, command: str, arguments: dict[str, bytes], message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reply = app(repo, *OPEN).wire("/", command, arguments, body=b"" if command == "pushkey" else None)
    assert reply.status == 400
    assert message in reply.data
    assert caplog.text == ""


def test_what_mercurial_cannot_make_sense_of_is_the_requests_fault(
    repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reply = app(repo).wire("/", "getbundle", {"bundlecaps": b"HG20,bundle2=HG20", "phases": b"1"})
    assert (reply.status, reply.data) == (400, b"0\ngetbundle: malformed arguments\n")
    assert "could not process" in caplog.text


def test_unknown_heads_are_told(repo: Path) -> None:
    reply = app(repo).wire("/", "getbundle", {"heads": b"1" * 40, "common": b"0" * 40})
    assert (reply.status, reply.data) == (400, b"0\nunknown revision '" + b"1" * 40 + b"'\n")


def test_hidden_changesets_are_for_those_who_may(repo: Path, hg: Hg) -> None:
    evolve = ("--config", "experimental.evolution=all")
    add(repo, "x", hg)
    node = hg("-R", repo, "log", "-r", "tip", "-T", "{node}").encode()
    hg("-R", repo, *evolve, "update", "-q", ".^")
    hg("-R", repo, *evolve, "debugobsolete", node.decode())
    (repo / ".hg" / "hgrc").write_text(
        "[experimental]\nevolution=all\nserver.allow-hidden-access=alice\n[ui]\ntimeout=0\n"
    )
    served = app(repo)
    for user, query, known in ((None, "", b"0"), (None, "&access-hidden=1", b"0"), ("alice", "&access-hidden=1", b"1")):
        extra = {"REMOTE_USER": user} if user else {}
        reply = served.get(f"/?cmd=known&nodes={node.decode()}{query}", extra_environ=extra)
        assert reply.body == known
    cmds = {"cmds": b"lookup key=%s,access-hidden=1" % node}
    assert served.wire("/", "batch", cmds, user="alice").data.startswith(b"1 ")
    assert served.wire("/", "batch", cmds).data.startswith(b"0 ")


def test_many_threads_at_once(repo: Path) -> None:
    served = WireApp(MercurialProvider(repo))
    replies: list[bytes] = []

    def ask() -> None:
        for _ in range(20):
            replies.append(WireTestApp(served).wire("/", "getbundle").data)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(replies) == 80
    assert len(set(replies)) == 1


def test_hgweb_behind_for_its_pages(repo: Path) -> None:
    from mercurial.hgweb import hgweb as make

    site = WireTestApp(WireMiddleware(make(str(repo).encode()), wire=WireApp(MercurialProvider(repo))), lint=False)
    assert b"0.2rx" in site.wire("/", "capabilities").data
    assert b"<html" in site.get("/").body
    assert b"<title>" in site.get("/?cmd=changelog").body
    assert b"content" in site.get("/raw-file/tip/file").body
    assert site.get("/?cmd=nosuch", expect_errors=True).status == "400 method not found"
    assert site.wire("/below", "heads").status == 404


def test_offer_of_the_host_goes_before_the_providers(repo: Path) -> None:
    served = app(repo, "experimental.httppostargs=yes", capabilities=ServerCapabilities(max_header_length=8000))
    tokens = served.wire("/", "capabilities").data.split()
    assert b"httpheader=8000" in tokens
    assert b"httppostargs" not in tokens


def opened_in(provider: MercurialProvider) -> Any:
    """Mercurial's object that the next request uses."""
    with provider.lease("") as leased:
        leased.heads()
        return leased.local.unfiltered()


def test_an_open_repository_is_brought_to_the_next_state(repo: Path, hg: Hg, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = MercurialProvider(repo)
    before = opened_in(provider)
    with provider.lease("") as leased:
        known, heads = leased.commands(), leased.heads()
    add(repo, "another", hg)
    assert opened_in(provider) is before
    with provider.lease("") as leased:
        assert leased.commands() is known
        assert leased.heads() != heads
    # A setting is read only when a repository is opened.
    (repo / ".hg" / "hgrc").write_text("[web]\nallow-pull = yes\n")
    after = opened_in(provider)
    assert after is not before
    with provider.lease("") as leased:
        assert leased.commands() is not known

    def fail(self: object, clearfilecache: bool = False) -> None:
        raise ValueError

    monkeypatch.setattr(type(after), "invalidate", fail)
    add(repo, "third", hg)
    assert opened_in(provider) is not after, "it cannot be emptied"


def test_a_renewed_repository_finds_new_tags(repo: Path, hg: Hg) -> None:
    provider = MercurialProvider(repo)

    def where(tag: bytes) -> str:
        with provider.lease("") as leased:
            return leased.lookup(tag).hex()

    add(repo, "another", hg)
    for revision in "0", "1":
        node = hg("log", "-R", repo, "-r", revision, "-T", "{node}")
        for options in [], ["--local"]:
            hg("tag", "-R", repo, "-f", "-r", revision, *options, f"tag{options}")
            assert where(f"tag{options}".encode()) == node


def test_a_renewed_repository_reads_its_parents_anew(repo: Path, hg: Hg) -> None:
    """Mercurial takes files for equal that were changed in the same second and have the same size and inode."""
    provider = MercurialProvider(repo)
    add(repo, "another", hg)
    nodes = [hg("log", "-R", repo, "-r", revision, "-T", "{node}") for revision in ("0", "1")]
    for node in nodes * 4:
        with (repo / ".hg" / "dirstate").open("r+b") as dirstate:
            dirstate.write(bytes.fromhex(node))
        with provider.lease("") as leased:
            assert leased.lookup(b".").hex() == node
            # Read whole, as a hook may have done.
            assert leased.local.dirstate._map.identity is not None


@pytest.mark.parametrize("hook", ["python:os.path.isfile", "true"])
def test_a_hook_in_python_may_have_changed_the_object(repo: Path, hg: Hg, hook: str) -> None:
    provider = MercurialProvider(repo)
    (repo / ".hg" / "hgrc").write_text(f"[hooks]\nincoming = {hook}\n")
    before = opened_in(provider)
    add(repo, "another", hg)
    assert (opened_in(provider) is before) == (hook == "true")


def test_a_repository_with_extensions_is_opened_in_each_state(repo: Path, hg: Hg) -> None:
    provider = MercurialProvider(repo)
    (repo / ".hg" / "hgrc").write_text("[extensions]\nshare =\n")
    before = opened_in(provider)
    add(repo, "another", hg)
    assert opened_in(provider) is not before


def test_facts_are_computed_anew_when_an_extension_was_loaded(
    repo: Path, hg: Hg, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = MercurialProvider(repo)
    with provider.lease("") as leased:
        known = leased.commands()
    loaded = "hgwire_wsgi.repositories.mercurial.sharing.extensions"
    monkeypatch.setattr(f"{loaded}._order", [b"another"])
    monkeypatch.setattr(f"{loaded}._extensions", {b"another": pytest})
    add(repo, "another", hg)
    with provider.lease("") as leased:
        assert leased.commands() is not known
