from __future__ import annotations

import argparse
import importlib.util
import shutil
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import PATIENCE, Running

from hgwire_wsgi.cache.settings import CacheSettings
from hgwire_wsgi.cli import main
from hgwire_wsgi.cli import serve as serve_module
from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.cli.options import read_options

HG = Callable[..., str]
Serve = Callable[..., Running]


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return str(response.read().decode())


def temporary(tmp_path: Path) -> list[str]:
    """What servers left in their folder for temporary files."""
    return [path.name for path in (tmp_path / "tmp").iterdir()]


def copy(demonstration: Path, target: Path) -> Path:
    shutil.copytree(demonstration, target)
    return target


def test_a_stranger_clones_commits_and_pushes(serve: Serve, hg: HG, tmp_path: Path) -> None:
    running = serve("--pid-file", tmp_path / "pid")
    assert (tmp_path / "pid").read_text().strip() == str(running.process.pid)
    assert len(temporary(tmp_path)) == 1
    hg("clone", running.url, tmp_path / "clone")
    assert (tmp_path / "clone" / "greeting.py").exists()
    (tmp_path / "clone" / "new.txt").write_text("hello\n")
    hg("-R", tmp_path / "clone", "commit", "-A", "-m", "Say hello", "-u", "you@example.com")
    hg("-R", tmp_path / "clone", "push")
    assert hg("id", "-i", "-r", "default", running.url) == hg("-R", tmp_path / "clone", "id", "-i", "-r", "tip")
    code, errors = running.stop()
    assert (code, errors) == (0, "")
    assert not (tmp_path / "pid").exists()
    assert temporary(tmp_path) == []
    assert f" clone {running.url} hgwire-demo\n" in running.printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_end_it_cleanly_with_a_connection_open(serve: Serve, tmp_path: Path, number: int) -> None:
    running = serve("--workers", "1")
    host, port = running.url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET /?cmd=heads HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert running.stop(number) == (0, "")
    assert temporary(tmp_path) == []


def test_the_serving_process_opens_no_repository(serve: Serve) -> None:
    running = serve("--workers", "1")
    fetch(running.url + "?cmd=heads")
    maps = Path(f"/proc/{running.process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    worker = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()[0]
    assert "mercurial" in Path(f"/proc/{worker}/maps").read_text(), "else this test would prove nothing"
    assert "mercurial" not in maps.read_text()


def test_one_repository_is_served_at_the_root(serve: Serve, demonstration: Path, hg: HG) -> None:
    running = serve(demonstration)
    assert running.printed == f"Serving {running.url}\n"
    assert hg("id", "-i", running.url + "#stable") == hg("-R", demonstration, "id", "-i", "-r", "stable")


def test_several_are_served_by_name_and_folders_with_their_own(
    serve: Serve, demonstration: Path, tmp_path: Path
) -> None:
    one = copy(demonstration, tmp_path / "one")
    copy(demonstration, tmp_path / "shelf" / "two")
    copy(demonstration, tmp_path / "shelf" / "deep" / "three")
    copy(demonstration, tmp_path / "shelf" / "two" / "inner")
    running = serve(one, tmp_path / "shelf", "--allow-push", "--workers", "1")
    for name in ("one", "shelf/two", "shelf/deep/three"):
        assert len(fetch(f"{running.url}{name}?cmd=heads").split()) == 2
    for name in ("", "two", "shelf", "shelf/two/inner"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"{running.url}{name}?cmd=heads")


def test_ipv6(serve: Serve, demonstration: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    running = serve(demonstration, "--workers", "1", "--bind", "[::1]:0")
    assert running.url.startswith("http://[::1]:")
    assert len(fetch(running.url + "?cmd=heads").split()) == 2


@pytest.mark.parametrize("on_path", [True, False])
def test_the_line_to_try_works_where_hg_is_not_on_path(on_path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/hg" if on_path else None)
    hg = "hg" if on_path else " ".join(hg_command())
    assert f"\n    {hg} clone {{url}} hgwire-demo\n" in serve_module._demonstration_banner()


def test_a_folder_is_searched_as_requests_come(serve: Serve, demonstration: Path, tmp_path: Path) -> None:
    copy(demonstration, tmp_path / "shelf" / "old")
    running = serve(tmp_path / "shelf", "--workers", "1")
    assert fetch(running.url + "old?cmd=heads")
    copy(demonstration, tmp_path / "shelf" / "later" / "new")
    assert fetch(running.url + "later/new?cmd=heads")


@pytest.mark.parametrize(("flags", "code"), [([], 255), (["--allow-push"], 0)])
def test_pushes_need_to_be_allowed(
    serve: Serve, demonstration: Path, tmp_path: Path, hg: HG, flags: list[str], code: int
) -> None:
    served = copy(demonstration, tmp_path / "served")
    running = serve(served, *flags)
    hg("clone", running.url, tmp_path / "clone")
    hg("-R", tmp_path / "clone", "commit", "--config", "ui.allowemptycommit=yes", "-m", "empty", "-u", "you")
    hg("-R", tmp_path / "clone", "push", code=code)
    assert len(hg("-R", served, "log", "-T", "x")) == (12 if code == 0 else 11)


def test_configuration_reaches_repositories_and_the_offer(serve: Serve, demonstration: Path) -> None:
    plain = serve(demonstration, "--workers", "1")
    assert "httppostargs" not in fetch(plain.url + "?cmd=capabilities").split()
    posting = serve(
        *(demonstration, "--workers", "1", "--config", "experimental.httppostargs=true"),
        *("--config", "server.maxhttpheaderlen=2048"),
    )
    assert {"httppostargs", "httpheader=2048"} <= set(fetch(posting.url + "?cmd=capabilities").split())


def bundles(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def test_bundles_are_kept_where_and_if_wanted(serve: Serve, demonstration: Path, hg: HG, tmp_path: Path) -> None:
    for name, more, kept in (("on", (), True), ("off", ("--cache-size", "0"), False)):
        running = serve(demonstration, "--workers", "1", "--cache-dir", tmp_path / name, *more)
        hg("clone", running.url, tmp_path / f"clone-{name}")
        assert running.stop() == (0, "")
        assert bool(bundles(tmp_path / name)) == kept


@pytest.mark.parametrize("given", [False, True])
def test_the_bundles_of_a_demonstration_go_with_it(serve: Serve, hg: HG, tmp_path: Path, given: bool) -> None:
    running = serve("--workers", "1", *(("--cache-dir", tmp_path / "kept") if given else ()))
    hg("clone", running.url, tmp_path / "clone")
    (folder,) = (tmp_path / "tmp").iterdir()
    assert bool(bundles(folder / "cache")) != given
    assert running.stop() == (0, "")
    assert temporary(tmp_path) == []
    assert bool(bundles(tmp_path / "kept")) == given


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("123", 123), ("7k", 7168), ("500M", 524288000), ("2G", 2 << 30), ("1T", 1 << 40)]
)
def test_sizes(text: str, size: int, demonstration: Path) -> None:
    parser = argparse.ArgumentParser()
    serve_module.configure(parser)
    assert read_options(parser.parse_args([str(demonstration), "--cache-size", text])).cache.disk == size


def test_the_cache_is_as_the_package_has_it_unless_told_otherwise(demonstration: Path) -> None:
    parser = argparse.ArgumentParser()
    serve_module.configure(parser)
    assert read_options(parser.parse_args([str(demonstration)])).cache == CacheSettings()


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "M", "5MB", "\u0665"])
def test_sizes_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", f"--cache-size={text}"])
    assert f"argument --cache-size: not a size such as 500M or 2G: '{text}'" in capsys.readouterr().err


def test_logs(serve: Serve, demonstration: Path, tmp_path: Path) -> None:
    logs = ("--access-log", tmp_path / "access", "--error-log", tmp_path / "error")
    running = serve(demonstration, *logs, "--workers", "1", "--threads", "3")
    fetch(running.url + "?cmd=heads")
    assert running.stop() == (0, "")
    assert "GET /?cmd=heads" in (tmp_path / "access").read_text()
    assert "Shutting down" in (tmp_path / "error").read_text()


def test_workers_that_cannot_start_end_it(serve: Serve, demonstration: Path, tmp_path: Path) -> None:
    running = serve(demonstration, "--pid-file", tmp_path / "pid", "--config", "experimental.httppostargs=perhaps")
    assert running.process.wait(PATIENCE) == 3
    code, errors = running.stop()
    assert (code, "HaltServer" in errors, "Traceback" in errors) == (3, False, False)
    assert "experimental.httppostargs is not a boolean" in errors
    assert not (tmp_path / "pid").exists()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.fixture
def folders(demonstration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory: repositories ``a/repo`` and ``b/repo``, an empty folder, a file."""
    for name in ("a", "b"):
        (tmp_path / name / "repo" / ".hg").mkdir(parents=True)
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["file"], "file is not a folder"),
        (["x" * 300], f"{'x' * 300} is not a folder"),
        (["empty"], "empty is neither a repository nor a folder with repositories"),
        (["a/repo", "empty"], "empty is neither a repository nor a folder with repositories"),
        (["a/repo", "b/repo"], "would both be served at /repo"),
        (["a", "a"], "would both be served at /a/repo"),
        (["a", "--config", "web.push_ssl"], "--config takes SECTION.NAME=VALUE, not 'web.push_ssl'"),
        (["a", "--config", "push_ssl=no"], "--config takes SECTION.NAME=VALUE, not 'push_ssl=no'"),
        (["a", "--config", ".x=y"], "--config takes SECTION.NAME=VALUE, not '.x=y'"),
        (["a", "--bind", "8000"], "--bind takes HOST:PORT, not '8000'"),
        (["a", "--bind", "localhost:http"], "--bind takes HOST:PORT, not 'localhost:http'"),
        (["a", "--bind", "127.0.0.1:65536"], "--bind takes HOST:PORT, not '127.0.0.1:65536'"),
        (["a", "--bind", ":80"], "--bind takes HOST:PORT, not ':80'"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "--bind" not in arguments:
        arguments = [*arguments, "--bind", "127.0.0.1:0"]
    assert main(["serve", *arguments]) == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


@pytest.mark.parametrize("bind", ["127.0.0.1:{port}", "host.invalid:80"])
def test_an_address_that_cannot_be_had(bind: str, taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    bind = bind.format(port=taken_port)
    assert main(["serve", "--bind", bind]) == 1
    assert capsys.readouterr().err.startswith(f"hgwire: cannot listen at {bind}: ")


@pytest.mark.parametrize("option", ["--workers", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_numbers_are_positive(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", option, value])
    assert f"argument {option}: not a number from 1: '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "extra"), [("gunicorn", "serve"), ("mercurial", "mercurial")])
def test_a_missing_extra_is_named(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert main(["serve"]) == 1
    expected = f'hgwire: {module} is not installed; run: pip install "hgwire-wsgi[{extra}]"\n'
    assert capsys.readouterr().err == expected
