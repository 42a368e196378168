"""``hgwire serve``, mostly as a process: what happens after gunicorn starts is covered there, not in this process."""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import os
import re
import shutil
import signal
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_support import PATIENCE, Running
from ports import free_port

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
    """What the servers have left in the folder for temporary files."""
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
    assert f"\n    {hg} clone http://x/ hgwire-demo\n" in serve_module._demonstration_banner("http://x/")
    assert "clone" not in serve_module._demonstration_banner("unix:/x")


def test_a_folder_is_searched_during_requests(serve: Serve, demonstration: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    running = serve(tmp_path / "shelf", "--workers", "1")
    copy(demonstration, tmp_path / "shelf" / "new")
    assert fetch(running.url + "new?cmd=heads")
    copy(demonstration, tmp_path / "shelf" / "later" / "newer")
    assert fetch(running.url + "later/newer?cmd=heads")


def test_an_hgweb_config_with_pages(serve: Serve, demonstration: Path, tmp_path: Path, hg: HG) -> None:
    """As ``hg serve --web-conf`` does it, below ``web.prefix``; ``--bind`` goes before the address in the file."""
    (tmp_path / "hgweb.config").write_text(
        f"[paths]\nsome/demo = {demonstration}\n[web]\nprefix = /hg\nport = 1\naccesslog = log\n"
    )
    running = serve("hgweb.config", "--pages", "--workers", "1")
    assert running.url.endswith("/hg")
    assert 'href="/hg/some/demo/"' in fetch(running.url)
    assert "greeting.py" in fetch(running.url + "/some/demo/file/default/")
    hg("clone", running.url + "/some/demo", tmp_path / "clone")
    assert running.stop() == (0, "")
    assert "cmd=capabilities" in (tmp_path / "log").read_text()


def test_the_address_and_the_certificate_of_an_hgweb_config(
    serve: Serve, demonstration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], taken_port: int
) -> None:
    file = tmp_path / "hgweb.config"
    file.write_text(f"[paths]\n/ = {demonstration}\n[web]\nport = {taken_port}\n")
    assert main(["serve", str(file)]) == 1
    assert f"cannot listen at 127.0.0.1:{taken_port}" in capsys.readouterr().err
    pem = Path(__file__).resolve().parents[1] / "client" / "localhost.pem"
    file.write_text(f"[paths]\n/ = {demonstration}\n[web]\ncertificate = {pem}\n")
    running = serve(file, "--workers", "1")
    context = ssl.create_default_context(cafile=str(pem))
    host = running.url.rpartition(":")[2].rstrip("/")
    with urllib.request.urlopen(f"https://localhost:{host}/?cmd=heads", timeout=30, context=context) as response:
        assert len(response.read()) > 40


@pytest.mark.parametrize("bind", ["{port}", ":{port}", "localhost:{port}"])
def test_addresses_without_a_host_or_with_a_name(serve: Serve, demonstration: Path, bind: str) -> None:
    port = free_port()
    running = serve(demonstration, "--workers", "1", "--bind", bind.format(port=port))
    assert running.printed == f"Serving http://127.0.0.1:{port}/\n"
    assert len(fetch(running.url + "?cmd=heads").split()) == 2


def test_a_unix_socket(serve: Serve, demonstration: Path, tmp_path: Path) -> None:
    running = serve(demonstration, "--workers", "1", "--bind", "unix:hg.sock")
    assert running.printed == f"Serving unix:{tmp_path}/hg.sock\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "hg.sock"))
        connection.sendall(b"GET /?cmd=heads HTTP/1.0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.0 200"
    assert running.stop() == (0, "")
    assert not (tmp_path / "hg.sock").exists()


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


def test_passwords_in_a_file(serve: Serve, demonstration: Path, tmp_path: Path, hg: HG) -> None:
    pytest.importorskip("passlib")
    users = tmp_path / "users"
    users.write_text("alice:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n")
    served = copy(demonstration, tmp_path / "served")
    running = serve(served, "--htpasswd", users, "--config", "web.allow-push=alice", "--config", "web.push_ssl=no")
    hg("clone", running.url, tmp_path / "clone")
    hg("-R", tmp_path / "clone", "commit", "--config", "ui.allowemptycommit=yes", "-m", "empty", "-u", "you")
    for login, code in (("", 255), ("alice:wrong@", 255), ("eve:myPassword@", 255), ("alice:myPassword@", 0)):
        hg("-R", tmp_path / "clone", "push", running.url.replace("//", f"//{login}"), code=code)
    assert running.stop()[0] == 0
    assert "alice@127.0.0.1  pushed 1 changeset" in running.printed


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


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "M", "5MB", "\u0665"])
def test_what_is_not_a_size(text: str, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_warnings_of_the_package_are_shown(serve: Serve, demonstration: Path, hg: HG, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    running = serve(demonstration, "--workers", "1", "--cache-dir", tmp_path / "file")
    hg("clone", "-U", running.url, tmp_path / "clone")
    code, errors = running.stop()
    assert code == 0
    assert re.search(r"^\[.*\] \[\d+\] \[WARNING\] .*cache", errors, re.MULTILINE)


def test_the_access_log_counts_cached_bundles(serve: Serve, demonstration: Path, tmp_path: Path) -> None:
    running = serve(demonstration, "--access-log", tmp_path / "access", "--workers", "1")
    url = f"{running.url}?cmd=getbundle&common={'0' * 40}"
    sizes = []
    for method in ("GET", "GET", "HEAD"):
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=PATIENCE) as response:
            sizes.append(len(response.read()))
    assert running.stop() == (0, "")
    logged = re.findall(r'getbundle.*" 200 (\d+) ', (tmp_path / "access").read_text())
    assert [int(size) for size in logged] == sizes
    assert sizes[0] == sizes[1] > 1000 and sizes[2] == 0


def operations(running: Running) -> list[str]:
    """Stop a server, and take its lines about operations apart: without the time and the amount."""
    assert running.stop() == (0, "")
    lines = running.printed.splitlines()[1:]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d  127\.0\.0\.1  .*", line) for line in lines), lines
    return [re.sub(r"[\d.]+ (bytes|kB) in [\d.]+ m?s", "SIZE", line.split("  ", 2)[2]) for line in lines]


def test_operations_are_printed(serve: Serve, demonstration: Path, tmp_path: Path, hg: HG) -> None:
    served = copy(demonstration, tmp_path / "served")
    running = serve(served, "--allow-push", "--cache-dir", tmp_path / "cache")
    hg("clone", "-U", running.url, tmp_path / "one")
    hg("clone", "-U", running.url, tmp_path / "two")
    hg("-R", tmp_path / "one", "commit", "--config", "ui.allowemptycommit=yes", "-m", "empty", "-u", "you")
    hg("-R", tmp_path / "one", "push", "-f")
    hg("-R", tmp_path / "two", "pull")
    hg("id", running.url)
    hg("id", running.url + "nowhere", code=255)
    cloned, again, pushed, pulled, *rest = operations(running)
    assert cloned == "cloned served: SIZE"
    assert again.startswith("cloned served: SIZE")
    assert pushed == "pushed 1 changeset to served"
    assert pulled.startswith("pulled from served: SIZE")
    assert len(rest) == 1 and rest[0].startswith("was refused access to /nowhere: ")


def test_a_refused_push_is_printed(serve: Serve, demonstration: Path, tmp_path: Path, hg: HG) -> None:
    running = serve(copy(demonstration, tmp_path / "shelf" / "one").parent, "--cache-dir", tmp_path / "cache")
    hg("clone", "-U", running.url + "one", tmp_path / "clone")
    hg("-R", tmp_path / "clone", "commit", "--config", "ui.allowemptycommit=yes", "-m", "empty", "-u", "you")
    hg("-R", tmp_path / "clone", "push", "-f", code=255)
    cloned, refused = operations(running)
    assert cloned == "cloned one: SIZE"
    assert refused.startswith("was refused: push to one: ")


def test_quiet(serve: Serve, demonstration: Path, tmp_path: Path, hg: HG) -> None:
    running = serve(demonstration, "-q")
    hg("clone", "-U", running.url, tmp_path / "clone")
    assert operations(running) == []


def test_nothing_is_printed_without_a_standard_output(demonstration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    serve_module.configure(parser)
    served = read_options(parser.parse_args([str(demonstration)]))
    monkeypatch.setattr(sys, "stdout", None)
    assert serve_module._printers(served) == ()


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, hg: HG) -> Path:
    """A repository whose bundle does not fit into the buffers of a connection."""
    root = tmp_path_factory.mktemp("large") / "large"
    hg("init", root)
    (root / "file").write_bytes(os.urandom(16 << 20))
    hg("-R", root, "commit", "-A", "-m", "large", "-u", "you")
    return root


@pytest.mark.parametrize("pause", [0.02, 1.5])
@pytest.mark.parametrize("all_processes", [True, False])
def test_a_second_interrupt_ends_it_quietly_during_a_download(
    serve: Serve, large: Path, pause: float, all_processes: bool
) -> None:
    """Ctrl-C on a terminal reaches all processes; ``kill -INT`` only the server's."""
    running = serve(large, "--workers", "1")
    host, port = running.url.removeprefix("http://").rstrip("/").split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as client:
        client.request("GET", f"/?cmd=getbundle&common={'0' * 40}")
        response = client.getresponse()
        assert response.status == 200 and response.read(1000)
        kill = os.killpg if all_processes else os.kill
        for _ in range(2):
            kill(running.process.pid, signal.SIGINT)
            time.sleep(pause)
        begun = time.monotonic()
        running.process.wait(PATIENCE)
        assert time.monotonic() - begun < 20
    code, errors = running.stop()
    assert (code, errors) == (0, "")
    if pause > 1:
        assert "press Ctrl-C again" in running.printed


def test_a_download_may_end_after_an_interrupt(serve: Serve, large: Path) -> None:
    running = serve(large, "--workers", "1")
    with urllib.request.urlopen(f"{running.url}?cmd=getbundle&common={'0' * 40}", timeout=PATIENCE) as response:
        received = len(response.read(1000))
        os.killpg(running.process.pid, signal.SIGINT)
        time.sleep(1)
        received += len(response.read())
    assert received > 16 << 20
    running.process.wait(PATIENCE)
    assert running.stop() == (0, "")


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
        (["file", "a"], "file: an hgweb.config is served alone"),
        (["x" * 300], f"{'x' * 300} is not a folder"),
        (["a/repo", "empty"], "empty contains no repository; only a folder that is served alone may be empty"),
        (["a/repo", "b/repo"], "would both be served at /repo"),
        (["a", "a"], "would both be served at /a/repo"),
        (["a", "--config", "web.push_ssl"], "--config takes SECTION.NAME=VALUE, not 'web.push_ssl'"),
        (["a", "--config", "push_ssl=no"], "--config takes SECTION.NAME=VALUE, not 'push_ssl=no'"),
        (["a", "--config", ".x=y"], "--config takes SECTION.NAME=VALUE, not '.x=y'"),
        (["a", "--htpasswd", "nowhere"], "nowhere cannot be read: No such file or directory"),
        (["a", "--bind", "here"], "--bind takes PORT, HOST:PORT, [IPV6]:PORT or unix:PATH, not 'here'"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "--htpasswd" in arguments:
        pytest.importorskip("passlib")
    if "--bind" not in arguments:
        arguments = [*arguments, "--bind", "127.0.0.1:0"]
    assert main(["serve", *arguments]) == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


def test_an_address_in_use(taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--bind", str(taken_port)]) == 1
    assert capsys.readouterr().err == f"hgwire: cannot listen at 127.0.0.1:{taken_port}: the address is in use\n"


@pytest.mark.parametrize("option", ["--workers", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_numbers_are_positive(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", option, value])
    assert f"argument {option}: not a positive number: '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra"), [("gunicorn", "serve"), ("mercurial", "mercurial"), ("passlib", "htpasswd")]
)
def test_a_missing_extra_is_named(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert main(["serve", *(["--htpasswd", "file"] if extra == "htpasswd" else [])]) == 1
    expected = f'hgwire: {module} is not installed; run: pip install "hgwire-wsgi[{extra}]"\n'
    assert capsys.readouterr().err == expected
