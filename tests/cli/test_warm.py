"""``hgwire warm``: a clone that follows makes no bundle, however the repositories are served."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from cli_support import Running
from wire_servers import serving

from hgwire_wsgi import WireApp
from hgwire_wsgi.cache.settings import CacheSettings
from hgwire_wsgi.cli import main
from hgwire_wsgi.cli import options as options_module
from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.http.v1 import bundles as bundles_module
from hgwire_wsgi.repositories.mercurial import MercurialProvider

RunHg = Callable[..., str]
Serve = Callable[..., Running]

HG = " ".join(hg_command())
OLD_HG = f"{HG} --config devel.legacy.exchange=bundle1"
"""As a client before Mercurial 3.5 asks."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands whose replies were made by this process."""
    commands: list[str] = []
    render = bundles_module.render

    def counting(call: Any, *rest: Any) -> Any:
        if call.command.reply != "bytes":
            commands.append(call.command.name)
        return render(call, *rest)

    monkeypatch.setattr(bundles_module, "render", counting)
    return commands


def serving_from(root: Path, cache: Path, **settings: Any) -> AbstractContextManager[str]:
    """The application in this process, where it can be watched."""
    return serving(WireApp(MercurialProvider(root, **settings), cache=CacheSettings(folder=cache)))


def warm(*arguments: str | Path) -> int:
    return main(["warm", *map(str, arguments)])


def entries(cache: Path) -> set[Path]:
    """The bundles in a cache; what is shorter is something else."""
    return {path for path in cache.glob("??/*") if path.stat().st_size > 1000}


@pytest.fixture
def shelf(demonstration: Path, tmp_path: Path, hg: RunHg) -> Path:
    """A folder with two different repositories, one of them deeper."""
    shelf = tmp_path / "shelf"
    shutil.copytree(demonstration, shelf / "one")
    shutil.copytree(demonstration, shelf / "deep" / "two")
    hg("-R", shelf / "deep" / "two", "bookmark", "-r", "0", "another")
    return shelf


def test_a_clone_finds_its_bundle(
    demonstration: Path, cache: Path, made: list[str], hg: RunHg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warm(demonstration, "--cache-dir", cache) == 0
    assert capsys.readouterr().out == f"{demonstration}: zstd, 0.0 MiB, made\n"
    assert made == ["getbundle"]
    made.clear()
    with serving_from(demonstration, cache) as url:
        hg("clone", url, tmp_path / "clone")
        assert made == []
        assert hg("-R", tmp_path / "clone", "log", "-T", "{node}\n") == hg("-R", demonstration, "log", "-T", "{node}\n")
    assert len(entries(cache)) == 1


def test_without_it_the_first_clone_makes_its_bundle(
    demonstration: Path, cache: Path, made: list[str], hg: RunHg, tmp_path: Path
) -> None:
    """Else the test above would prove nothing."""
    with serving_from(demonstration, cache) as url:
        hg("clone", url, tmp_path / "clone")
    assert made == ["getbundle"]


def test_the_second_time_there_is_nothing_to_do(
    demonstration: Path, cache: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for fate in ("made", "already cached"):
        assert warm(demonstration, "--cache-dir", cache) == 0
        assert capsys.readouterr().out == f"{demonstration}: zstd, 0.0 MiB, {fate}\n"
    assert made == ["getbundle"]


def test_the_server_chooses_the_engine(
    demonstration: Path,
    cache: Path,
    made: list[str],
    hg: RunHg,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only = "server.compressionengines=zlib"
    assert warm(demonstration, "--cache-dir", cache, "--config", only) == 0
    assert capsys.readouterr().out == f"{demonstration}: zlib, 0.0 MiB, made\n"
    made.clear()
    with serving_from(demonstration, cache, config=[only]) as url:
        hg("clone", url, tmp_path / "clone")
    assert made == []


@pytest.mark.parametrize("engine", ["zstd", "zlib", "bzip2", "none", "0.1"])
def test_engines_by_name(engine: str, demonstration: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = ("--config", "server.compressionengines=zstd,zlib,bz2,none")
    assert warm(demonstration, "--cache-dir", cache, "--engine", engine, *every) == 0
    assert capsys.readouterr().out == f"{demonstration}: {engine}, 0.0 MiB, made\n"
    (entry,) = entries(cache)
    prefix = b"x" if engine == "0.1" else bytes([len(engine)]) + engine.encode()
    assert entry.read_bytes().startswith(prefix)


def test_several_engines_and_clients_make_a_bundle_each(
    demonstration: Path, cache: Path, made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = ("--hg", HG, "--hg", OLD_HG)
    assert warm(demonstration, "--cache-dir", cache, "--engine", "0.1", "--engine", "zstd", *clients) == 0
    assert len(made) == 4 and len(entries(cache)) == 4
    assert capsys.readouterr().out == f"{demonstration}: 0.1, 0.0 MiB, made; zstd, 0.0 MiB, made\n"


def test_posted_arguments(demonstration: Path, cache: Path, made: list[str], hg: RunHg, tmp_path: Path) -> None:
    post = "experimental.httppostargs=true"
    assert warm(demonstration, "--cache-dir", cache, "--config", post) == 0
    made.clear()
    with serving_from(demonstration, cache, config=[post]) as url:
        hg("clone", url, tmp_path / "clone")
    assert made == []


def test_access_rules_are_those_of_the_server(demonstration: Path, cache: Path, tmp_path: Path) -> None:
    """Bundles are made of what only some may read; they are asked when they come."""
    closed = tmp_path / "closed"
    shutil.copytree(demonstration, closed)
    (closed / ".hg" / "hgrc").write_text("[web]\ndeny_read = *\n")
    assert warm(closed, "--cache-dir", cache) == 0
    assert len(entries(cache)) == 1


def test_a_manifest_of_clone_bundles_is_not_followed(
    demonstration: Path, cache: Path, made: list[str], hg: RunHg, tmp_path: Path
) -> None:
    """A client for which there is none in it asks for a bundle nevertheless, and says that it looked."""
    repo = tmp_path / "repo"
    shutil.copytree(demonstration, repo)
    (repo / ".hg" / "hgrc").write_text("[extensions]\nclonebundles =\n")
    manifest = repo / ".hg" / "clonebundles.manifest"
    manifest.write_text("http://host.invalid/it.hg BUNDLESPEC=future-v9\n")
    assert warm(repo, "--cache-dir", cache) == 0
    made.clear()
    with serving_from(repo, cache) as url:
        hg("clone", url, tmp_path / "clone")
    assert made == []


def test_a_bundle_is_whole_also_after_a_push(demonstration: Path, cache: Path, hg: RunHg, tmp_path: Path) -> None:
    """Clients may get an older one and the rest, but what is made ahead is what they need in the long run."""
    repo = tmp_path / "repo"
    shutil.copytree(demonstration, repo)
    assert warm(repo, "--cache-dir", cache) == 0
    (older,) = entries(cache)
    hg("-R", repo, "commit", "--config", "ui.allowemptycommit=yes", "-m", "empty", "-u", "you")
    assert warm(repo, "--cache-dir", cache) == 0
    (newer,) = entries(cache) - {older}
    assert newer.stat().st_size > older.stat().st_size


@pytest.mark.parametrize("names", [["shelf"], ["shelf", "alone"]])
def test_folders_under_a_server_of_its_own(
    names: list[str],
    serve: Serve,
    shelf: Path,
    demonstration: Path,
    cache: Path,
    hg: RunHg,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(demonstration, tmp_path / "alone")
    hg("-R", tmp_path / "alone", "bookmark", "-r", "0", "third")
    options = ["--cache-dir", cache, "--allow-push", "--config", "server.zstdlevel=5", "--cache-size", "1M"]
    served = [tmp_path / name for name in names]
    assert warm(*served, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        *(str(shelf / name) for name in ("one", "deep/two")),
        *(str(path) for path in served[1:]),
    ]
    kept = entries(cache)
    assert len(kept) == len(lines)
    running = serve(*served, *options, "--workers", "1")
    prefix = "shelf/" if len(names) > 1 else ""
    for name in (f"{prefix}one", f"{prefix}deep/two", *names[1:]):
        hg("clone", running.url + name, tmp_path / "clones" / name)
    assert entries(cache) == kept
    assert running.stop() == (0, "")


def test_a_repository_with_an_odd_name(demonstration: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(demonstration, tmp_path / "shelf" / "Straße 100%?#")
    assert warm(tmp_path / "shelf", "--cache-dir", cache) == 0
    assert len(entries(cache)) == 1


@pytest.mark.parametrize(("client", "fate"), [(HG, "zstd, 0.0 MiB, made"), (OLD_HG, "nothing to clone")])
def test_an_empty_repository(
    client: str, fate: str, hg: RunHg, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Newer clients ask for a bundle nevertheless, which may hold bookmarks."""
    hg("init", tmp_path / "empty")
    assert warm(tmp_path / "empty", "--cache-dir", cache, "--hg", client) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'empty'}: {fate}\n"


# Mercurial leaves the pipe of a hook to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_may_not_be_kept_is_said(demonstration: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warm(demonstration, "--cache-dir", cache, "--config", "hooks.outgoing=true") == 1
    assert capsys.readouterr().out.endswith(": zstd, 0.0 MiB, not cached (hook configured, or too large)\n")
    assert warm(demonstration, "--cache-dir", cache, "--cache-size", "1k") == 1
    assert "not cached" in capsys.readouterr().out
    assert entries(cache) == set()


def test_a_cache_that_is_too_small_for_all(
    shelf: Path, cache: Path, hg: RunHg, capsys: pytest.CaptureFixture[str]
) -> None:
    for repository in (shelf / "one", shelf / "deep" / "two"):
        (repository / "noise").write_bytes(os.urandom(1 << 20))
        hg("-R", repository, "commit", "-A", "-u", "me", "-m", "noise", repository / "noise")
    assert warm(shelf, "--cache-dir", cache, "--cache-size", "1500k") == 1
    captured = capsys.readouterr()
    assert captured.out.count("made") == 2
    assert captured.err == "hgwire: 1 bundle was evicted; raise --cache-size\n"


def test_one_that_cannot_be_cloned_does_not_stop_the_others(
    shelf: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shelf / "one" / ".hg" / "requires").write_text("the impossible\n")
    assert warm(shelf, "--cache-dir", cache) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{shelf / 'one'}: hg cannot clone it: abort: ")
    assert lines[1] == f"{shelf / 'deep' / 'two'}: zstd, 0.0 MiB, made"


def test_a_refusal_is_told(
    demonstration: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(bundles_module._Producer, "__call__", fail)
    assert warm(demonstration, "--cache-dir", cache) == 1
    assert capsys.readouterr().out == f"{demonstration}: the server refuses: internal server error\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cache-size", "0"], "nothing can be cached with --cache-size 0"),
        (["--config", "x=y"], "--config takes SECTION.NAME=VALUE, not 'x=y'"),
        (["--hg", "/nowhere/hg"], "cannot run /nowhere/hg: No such file or directory"),
        (
            ["--config", "experimental.httppostargs=perhaps"],
            "experimental.httppostargs is not a boolean ('perhaps')",
        ),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], message: str, demonstration: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warm(demonstration, "--cache-dir", cache, *arguments) in (1, 2)
    assert capsys.readouterr().err == f"hgwire: {message}\n"


@pytest.mark.parametrize("command", ["", " ", "'hg"])
def test_a_client_that_is_no_command(
    command: str, demonstration: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        warm(demonstration, "--cache-dir", cache, "--hg", command)
    assert f"argument --hg: not a command: {command!r}" in capsys.readouterr().err


def test_a_path_that_the_terminal_cannot_show(
    demonstration: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demonstration, tmp_path / "shelf" / os.fsdecode(b"\xff"))
    assert warm(tmp_path / "shelf", "--cache-dir", cache) == 0
    assert capsys.readouterr().out == f"{tmp_path}/shelf/\\udcff: zstd, 0.0 MiB, made\n"


def test_a_user_without_a_home_names_a_folder(
    demonstration: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options_module, "CacheSettings", functools.partial(CacheSettings, folder=None))
    assert warm(demonstration) == 2
    assert capsys.readouterr().err == "hgwire: this user has no cache folder; set one with --cache-dir\n"


def test_it_needs_mercurial(
    demonstration: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert warm(demonstration) == 1
    assert capsys.readouterr().err == (
        'hgwire: mercurial is not installed; run: pip install "hgwire-wsgi[mercurial]"\n'
    )


def test_a_folder_that_cannot_be_used(demonstration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert warm(demonstration, "--cache-dir", tmp_path / "file" / "cache") == 1
    assert capsys.readouterr().err == f"hgwire: bundles cannot be cached in {tmp_path}/file/cache: Not a directory\n"
