"""What an ``hgweb.config`` says about the server itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi.cache.settings import CacheSettings
from hgwire_wsgi.cli import CommandLineError
from hgwire_wsgi.cli.options import Served
from hgwire_wsgi.cli.webconf import Mounted, WebSettings, answer, read_web


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "hgweb.config"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("values", "bind"),
    [
        ({}, ""),
        ({"prefix": "/x"}, ""),
        ({"port": "9000"}, "127.0.0.1:9000"),
        ({"address": "0.0.0.0"}, "0.0.0.0:8000"),
        ({"address": "hg.example.com", "port": "80"}, "hg.example.com:80"),
        ({"address": "::1", "port": ""}, "[::1]:8000"),
        ({"ipv6": "yes"}, "[::1]:8000"),
        ({"address": "", "ipv6": "no", "port": "1"}, "127.0.0.1:1"),
    ],
)
def test_addresses(values: dict[str, str], bind: str) -> None:
    assert WebSettings.of(values).bind == bind


@pytest.mark.parametrize(("prefix", "expected"), [("", ""), ("/", ""), ("hg", "/hg"), ("/hg/x/", "/hg/x")])
def test_prefixes(prefix: str, expected: str) -> None:
    assert WebSettings.of({"prefix": prefix}).prefix == expected


def test_files() -> None:
    settings = WebSettings.of({"certificate": "/c.pem", "accesslog": "-", "errorlog": ""})
    assert settings == WebSettings(certificate="/c.pem", access_log="-")


def test_mercurial_reads_the_file_in_another_process(config: Callable[[str], Path]) -> None:
    served = Served(root=str(config("[web]\nport = 9000\n")), config=["web.prefix=é"], cache=CacheSettings())
    assert read_web(served) == WebSettings(bind="127.0.0.1:9000", prefix="/é")
    config(" nonsense")
    with pytest.raises(CommandLineError, match=r"hgweb\.config:1: ") as caught:
        read_web(served)
    assert caught.value.code == 1


def test_what_the_other_process_prints(config: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mercurial")
    answer(str(config("[web]\nport = 9000\nstyle = gitweb\n")), "web.address=::1")
    assert json.loads(capsys.readouterr().out) == {"address": "::1", "port": "9000"}
    with pytest.raises(SystemExit, match="nonsense"):
        answer(str(config("")), "nonsense")


def test_an_application_below_a_prefix() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return [environ["SCRIPT_NAME"].encode(), environ["PATH_INFO"].encode()]

    def ask(path: str) -> list[bytes]:
        started.clear()
        return list(Mounted(app, "/hg")({"SCRIPT_NAME": "/x", "PATH_INFO": path}, lambda *args: started.append(args)))

    started: list[Any] = []
    assert ask("/hg") == [b"/x/hg", b""]
    assert ask("/hg/a/b") == [b"/x/hg", b"/a/b"]
    assert started == []
    for path in ("", "/", "/hgx", "/x/hg"):
        assert ask(path) == [b"Not Found\n"]
        assert started[0][0] == "404 Not Found"
