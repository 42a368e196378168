"""``hgwire call`` against servers in this process."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire_servers import Peer, http, raw_server, serving

from hgwire_wsgi import ApiSettings, WireApp
from hgwire_wsgi.cli import main
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository


@pytest.fixture(scope="module")
def repository() -> MemoryRepository:
    made = MemoryRepository(settings={"web.allow-push": "*", "web.push_ssl": "no"})
    made.commit({"a": b"line\n" * 100_000}, message="first")
    return made


@pytest.fixture(scope="module")
def url(repository: MemoryRepository) -> Iterator[str]:
    app = WireApp(
        MemoryProvider({"": repository}), api=ApiSettings(server=True, http_v2=True), policy=lambda request: None
    )
    with serving(app) as address:
        yield address


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    handlers = {
        b"size": lambda arguments, data: b"%d %s" % (len(data), arguments[b"name"]),
        b"talk": lambda arguments, data: ([(b"\x1b[1mhello\n",)], b"reply"),
    }
    with serving(Peer(handlers)) as address:
        yield address


@pytest.mark.parametrize("version", [[], ["--v1"], ["--v2"]])
def test_a_reply(version: list[str], url: str, repository: MemoryRepository, capfdbinary: Any) -> None:
    node = repository.heads()[0].hex()
    assert main(["call", url, "lookup", "key=tip", *version]) == 0
    assert capfdbinary.readouterr() == (f"1 {node}\n".encode(), b"")


@pytest.mark.parametrize("place", range(4))
def test_an_option_may_stand_anywhere(place: int, url: str, repository: MemoryRepository, capfdbinary: Any) -> None:
    words = [url, "lookup", "key=tip"]
    assert main(["call", *words[:place], "--v2", *words[place:]]) == 0
    assert capfdbinary.readouterr().out == f"1 {repository.heads()[0].hex()}\n".encode()


def test_options_between_arguments(peer: str, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.write_bytes(b"12345")
    words = ["call", "--v2", peer, "size", "--data", str(data), "name=a", "--output", str(out), "more=b"]
    assert main(words) == 0
    assert out.read_bytes() == b"5 a"


@pytest.mark.parametrize("words", [[], ["http://localhost"], ["--v2", "http://localhost", "--timeout", "3"]])
def test_arguments_that_are_required(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["call", *words])
    assert caught.value.code == 2
    assert re.search(r"arguments are required: .*COMMAND", capsys.readouterr().err)


def test_unknown_options(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["call", "http://localhost", "heads", "--v3"])
    assert "unrecognized arguments: --v3" in capsys.readouterr().err


def test_help(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["call", "--help"])
    assert caught.value.code == 0
    assert "URL COMMAND" in capsys.readouterr().out


def test_a_command_that_writes(url: str, repository: MemoryRepository, capfdbinary: Any) -> None:
    node = repository.heads()[0].hex()
    assert main(["call", url, "pushkey", "namespace=bookmarks", "key=b", "old=", f"new={node}"]) == 0
    assert main(["call", url, "--v2", "listkeys", "namespace=bookmarks"]) == 0
    assert capfdbinary.readouterr().out == f"1\nb\t{node}".encode()


def test_push_says_that_an_unknown_command_writes(capfdbinary: Any) -> None:
    ok = http(b"", "application/mercurial-0.1")
    with raw_server(ok) as (address, requests):
        for words in (["x-thing"], ["--push", "x-thing"]):
            assert main(["call", address, *words]) == 0
    assert [request.partition(b" ")[0] for request in requests[1::2]] == [b"GET", b"POST"]


@pytest.mark.parametrize("version", ["--v1", "--v2"])
def test_an_error(version: str, url: str, capfdbinary: Any) -> None:
    assert main(["call", url, "lookup", version]) == 1
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert err.startswith(b"hgwire: ") and b"key" in err and err.count(b"\n") == 1


def test_data_and_output(peer: str, tmp_path: Path, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.write_bytes(bytes(100_000))
    assert main(["call", peer, "size", "name=a=\u00e9", "--v2", "--data", str(data), "--output", str(out)]) == 0
    assert out.read_bytes() == "100000 a=\u00e9".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"12345")))
    assert main(["call", peer, "size", "name=", "--v2", "--push", "--data", "-"]) == 0
    assert capfdbinary.readouterr().out == b"5 "


def test_text_output_goes_to_standard_error(peer: str, capfdbinary: Any) -> None:
    assert main(["call", peer, "talk", "--v2"]) == 0
    assert capfdbinary.readouterr() == (b"reply", b"?[1mhello\n")


def test_a_reply_that_breaks_off(capfdbinary: Any, tmp_path: Path) -> None:
    ok = http(b"", "application/mercurial-0.1")
    broken = http(b"abc", "application/mercurial-0.1", more="Content-Length: 10\r\n")
    with raw_server(ok, broken) as (address, _):
        assert main(["call", address, "heads"]) == 1
    out, err = capfdbinary.readouterr()
    assert out == b"abc"
    assert b"7 bytes are missing" in err


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["key"], 2, "NAME=VALUE"),
        (["--data", "/no/such/file"], 2, "No such file"),
    ],
)
def test_what_cannot_be_done(arguments: list[str], code: int, problem: str, url: str, capsys: Any) -> None:
    assert main(["call", url, "heads", *arguments]) == code
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("version", ["--v1", "--v2"])
@pytest.mark.parametrize("words", [["\udcff"], ["heads", "\udcff=1"]])
def test_words_that_are_not_text(words: list[str], version: str, url: str, capsys: Any) -> None:
    assert main(["call", url, *words, version]) == 1
    assert capsys.readouterr().err == "hgwire: not UTF-8: the name or an argument of a command\n"


@pytest.mark.parametrize("name", ["no such", "no?such", "no#such", "n\u00f6"])
def test_a_name_is_quoted_in_the_url(name: str, url: str, capfdbinary: Any) -> None:
    assert main(["call", url, name, "--v2"]) == 1
    assert capfdbinary.readouterr().err.startswith(b"hgwire: unknown wire protocol command: " + name.encode()[:2])


def test_no_url(capsys: Any) -> None:
    assert main(["call", "u:secret@host", "heads"]) == 1
    assert "http://" in capsys.readouterr().err
