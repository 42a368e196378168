from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi.cli import CommandLineError
from hgwire_wsgi.cli.address import check_address, read_address, shown_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8000", "127.0.0.1:8000"),
        (":8000", ":8000"),
        ("0", "127.0.0.1:0"),
        ("localhost:80", "localhost:80"),
        ("10.0.0.1:65535", "10.0.0.1:65535"),
        ("[::1]:8000", "[::1]:8000"),
        ("unix:/run/hg.sock", "unix:/run/hg.sock"),
        ("unix:///run/hg.sock", "unix:/run/hg.sock"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert read_address(text) == address


def test_the_path_of_a_socket_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_address("unix:hg.sock") == f"unix:{tmp_path}/hg.sock"


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "localhost", "localhost:http", "127.0.0.1:65536", "127.0.0.1:-1", "::1:8000", "[::1]", "[::1:80"),
        *("unix:", "\u0665", "8000\n", "fd://3"),
    ],
)
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(CommandLineError) as caught:
        read_address(text)
    assert str(caught.value) == f"--bind takes PORT, HOST:PORT, [IPV6]:PORT or unix:PATH, not {text!r}"
    assert caught.value.code == 2


def why_not(address: str) -> str:
    with pytest.raises(CommandLineError) as caught:
        check_address(address)
    assert caught.value.code == 1
    message = str(caught.value)
    assert message.startswith(f"cannot listen at {address}: ")
    return message.removeprefix(f"cannot listen at {address}: ")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_free_address_stays_free(tmp_path: Path) -> None:
    for address in ("127.0.0.1:0", ":0", f"unix:{tmp_path}/hg.sock"):
        check_address(address)
        check_address(address)
    assert not os.listdir(tmp_path)


def test_a_port_in_use(taken: int) -> None:
    assert why_not(f"127.0.0.1:{taken}") == "the address is in use"


@pytest.mark.parametrize("host", ["host.invalid", "a..b", "[127.0.0.1]", "\xe4" * 100])
def test_a_host_that_does_not_exist(host: str) -> None:
    assert why_not(f"{host}:80") == "the host name cannot be resolved"


def test_an_address_of_another_machine() -> None:
    assert why_not("203.0.113.1:0") == "this machine does not have that address"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "no permission; ports below 1024 are usually reserved for the administrator"),
        (errno.EAFNOSUPPORT, "this machine does not support that kind of address"),
        (errno.ENOBUFS, os.strerror(errno.ENOBUFS)),
    ],
)
def test_what_the_system_refuses(number: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError(number, "with some noise")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert why_not("127.0.0.1:80") == reason


def test_a_socket_that_a_server_listens_at(tmp_path: Path) -> None:
    path = tmp_path / "hg.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        # From the second time on, the queue is full.
        for _ in range(3):
            assert why_not(f"unix:{path}") == "the address is in use"
    assert path.exists()


def test_a_socket_that_a_server_left(tmp_path: Path) -> None:
    path = tmp_path / "hg.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    check_address(f"unix:{path}")
    assert not path.exists()


def test_a_file_in_the_place_of_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    assert why_not(f"unix:{path}") == "there is a file that is not a socket"
    assert path.read_text() == "precious"


def test_folders_that_cannot_have_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert why_not(f"unix:{tmp_path}/no/hg.sock") == f"{tmp_path}/no is not a folder"
    assert why_not(f"unix:{tmp_path}/file/hg.sock") == f"{tmp_path}/file is not a folder"
    assert why_not(f"unix:{tmp_path}/{'x' * 150}").startswith("the path is too long for a socket")

    def forbidden(path: str) -> None:
        raise PermissionError(errno.EACCES, "with some noise")

    monkeypatch.setattr("hgwire_wsgi.cli.address._remove_stale", forbidden)
    assert why_not(f"unix:{tmp_path}/hg.sock") == f"no permission to create a file in {tmp_path}"


@pytest.mark.parametrize(
    ("listener", "shown"),
    [
        ("http://10.0.0.1:80", "http://10.0.0.1:80/"),
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000/"),
        ("http://[::]:8000", "http://[::1]:8000/"),
        ("unix:/run/hg.sock", "unix:/run/hg.sock"),
    ],
)
def test_an_address_for_a_person(listener: str, shown: str) -> None:
    assert shown_address(listener) == shown
