"""Users and passwords with real clients and servers: who is let in, and how often a push crosses the wire."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from live_hg import Outcome, environment, run_hg
from live_servers import HERE, ROOT, beside_python, require
from live_wait import PATIENCE, wait_for
from ports import free_port

from hgwire_wsgi.client import V1Client

PROJECT = """\
import json
import os

from hgwire_wsgi import (
    RequestClosed, TrustedProxies, WireApp, basic, bearer, first_of, hgweb_policy, login_first, trusted_header
)
from hgwire_wsgi.repositories.mercurial import MercurialProvider

PASSWORDS = {"alice": "password", "ém": "pässword"}


def verify(user, password):
    return PASSWORDS.get(user) == password


def write(event):
    if isinstance(event, RequestClosed):
        fields = [event.commands[:1], event.status, event.user, event.address, event.bytes_in]
        with open("events.json", "a") as file:
            file.write(json.dumps(fields) + "\\n")


proxies = TrustedProxies(os.environ["TRUSTED"].split())
tokens = bearer({"sesame": "robot"}.get)
app = WireApp(
    MercurialProvider("served", config=["web.push_ssl=no", "web.allow-push=alice ém robot"]),
    identify=first_of(trusted_header("X-Forwarded-User", proxies), basic(verify), tokens),
    proxies=proxies,
    policy=login_first(hgweb_policy, os.environ["LOGIN_FIRST"].split()),
    observers=[write],
)
"""

BULK = 2_000_000
"""Bytes that a push sends; they cannot be compressed."""


@attrs.frozen
class Place:
    """A folder with a repository to serve, and a clone that has more."""

    folder: Path
    environ: dict[str, str]

    def hg(self, *arguments: str) -> Outcome:
        return run_hg(arguments, environ=self.environ, cwd=self.folder)

    @property
    def events(self) -> list[Any]:
        path = self.folder / "events.json"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    require("hg")
    hgrc = "[ui]\nusername = Live Test <live@example.com>\ninteractive = no\n"
    place = Place(tmp_path, environment(tmp_path / "home", hgrc))
    place.hg("init", "served")
    (tmp_path / "served" / "base").write_text("base")
    place.hg("-R", "served", "commit", "-A", "-m", "base")
    place.hg("clone", "served", "work")
    (tmp_path / "work" / "bulk").write_bytes(os.urandom(BULK))
    place.hg("-R", "work", "commit", "-A", "-m", "bulk")
    (tmp_path / "project.py").write_text(PROJECT)
    return place


Serve = Callable[..., int]


@pytest.fixture
def serve(place: Place) -> Iterator[Serve]:
    """Start a server for ``project:app``; gives its port, or 0 for a socket."""
    started: list[subprocess.Popen[bytes]] = []

    def run(command: list[str], address: Any, **variables: str) -> None:
        environ = {
            **place.environ,
            "LOGIN_FIRST": "",
            "TRUSTED": "127.0.0.1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            **variables,
        }
        with open(place.folder / "server.log", "ab") as log:
            process = subprocess.Popen(
                command, env=environ, cwd=place.folder, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
                if probe.connect_ex(address) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((place.folder / "server.log").read_text())

    def serve(kind: str = "gunicorn", bind: str = "", **variables: str) -> int:
        require(kind)
        port = 0 if bind else free_port()
        where = bind or f"127.0.0.1:{port}"
        commands = {
            "gunicorn": [
                *(sys.executable, "-m", "gunicorn", "project:app", "--bind", where, "--no-control-socket"),
                *("--worker-class", "gthread", "--threads", "4", "--graceful-timeout", "1"),
            ],
            "waitress": [sys.executable, "-m", "waitress", f"--listen={where}", "project:app"],
            "uwsgi": [
                *(str(beside_python("uwsgi")), "--module", "project:app", "--virtualenv", sys.prefix, "--http", where),
                *("--master", "--need-app", "--die-on-term", "--lazy-apps", "--threads", "4", "--pythonpath", "."),
            ],
            "nginx": ["nginx", "-p", str(place.folder), "-c", "nginx.conf", "-e", "nginx.log"],
        }
        run(commands[kind], bind.removeprefix("unix:") if bind else ("127.0.0.1", port), **variables)
        return port

    serve.run = run  # type: ignore[attr-defined]  # for nginx
    yield serve
    for process in reversed(started):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Relay:
    """Passes connections on, and counts the bytes that clients send."""

    def __init__(self, target: int) -> None:
        self.sent = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._connect, self._listener.accept()[0])

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            down = self._start(self._pump, server, client, False)
            self._pump(client, server, True)
            down.join(PATIENCE)

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if up:
                    with self._lock:
                        self.sent += len(data)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *failure: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)


def push(place: Place, port: int, login: str = "alice:password@", *more: str) -> int:
    return place.hg("-R", "work", "push", f"http://{login}127.0.0.1:{port}/", *more).code


@pytest.mark.parametrize(
    ("login", "code"),
    [
        ("alice:password@", 0),
        ("alice:wrong@", 255),
        ("eve:password@", 255),
        ("", 255),
    ],
)
def test_who_may_push(place: Place, serve: Serve, login: str, code: int) -> None:
    port = serve()
    assert place.hg("clone", f"http://127.0.0.1:{port}/", "clone").code == 0
    assert push(place, port, login) == code
    users = [user for commands, status, user, *_ in place.events if commands == ["unbundle"] and status == 200]
    assert users == ["alice"] * (code == 0)
    log = (place.folder / "server.log").read_text()
    assert "Traceback" not in log and "ssword" not in log


@pytest.mark.parametrize(("first", "times"), [("", 2), ("capabilities", 1), ("branchmap", 1)])
@pytest.mark.parametrize("credentials", ["url", "auth"])
def test_how_often_a_push_crosses_the_wire(
    place: Place, serve: Serve, first: str, times: int, credentials: str
) -> None:
    with Relay(serve(LOGIN_FIRST=first)) as relay:
        if credentials == "url":
            assert push(place, relay.port) == 0
        else:
            auth = {"prefix": "127.0.0.1", "username": "alice", "password": "password", "schemes": "http"}
            flags = [word for key, value in auth.items() for word in ("--config", f"auth.x.{key}={value}")]
            assert push(place, relay.port, "", *flags) == 0
    assert BULK * times < relay.sent < BULK * times + 20_000
    assert [size > BULK for commands, _, _, _, size in place.events if commands == ["unbundle"]] == [True] * times


def test_reading_stays_anonymous(place: Place, serve: Serve) -> None:
    """With ``branchmap``, a clone needs no login; with ``capabilities``, it does."""
    for first, code in (("branchmap", 0), ("capabilities", 255)):
        port = serve(LOGIN_FIRST=first)
        assert place.hg("clone", f"http://127.0.0.1:{port}/", f"clone-{first}").code == code


def raw(port: int, request: bytes, *, patience: float = 10) -> bytes:
    """Send bytes, and return what comes until the server closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), patience) as connection:
        connection.sendall(request)
        seen = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := connection.recv(65536):
                seen += data
        return seen


@pytest.mark.parametrize(
    ("header", "status", "user"),
    [
        ("Bearer sesame", b"200", "robot"),
        ("Bearer other", b"401", None),
        ("Bearer", b"401", None),
        ("Basic " + base64.b64encode("ém:pässword".encode()).decode(), b"200", "ém"),
        ("Basic " + base64.b64encode("ém:pässword".encode("latin-1")).decode(), b"200", "ém"),
        ("Basic " + base64.b64encode(b"alice").decode(), b"401", None),
        ("Basic \xff", b"401", None),
        ("Digest username=alice", b"200", None),
    ],
)
def test_authorization(place: Place, serve: Serve, header: str, status: bytes, user: str | None) -> None:
    port = serve()
    lines = f"GET /?cmd=heads HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {header}\r\n\r\n"
    answer = raw(port, lines.encode("latin-1"))
    assert answer.split()[1] == status
    assert (b"WWW-Authenticate: " in answer) is (status == b"401")
    assert place.events[-1][2] == user
    assert "Traceback" not in (place.folder / "server.log").read_text()


def test_a_header_counts_only_from_a_front_end(place: Place, serve: Serve) -> None:
    """The client here is at 127.0.0.1, so it is the trusted front end; what it says of others counts."""
    port = serve()
    lines = "GET /?cmd=heads HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\n\r\n"
    raw(port, lines.format("X-Forwarded-User: Ã©m\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.1").encode("latin-1"))
    assert place.events[-1][1:4] == [200, "ém", "192.0.2.1"]


NGINX = """\
pid nginx.pid;
daemon off;
master_process off;
events {{}}
http {{
    access_log off;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            auth_basic "front";
            auth_basic_user_file users;
            proxy_pass http://unix:{folder}/app.sock;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header Authorization "";
            proxy_set_header X-Forwarded-User $remote_user;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


def test_a_front_end_that_verifies_passwords(place: Place, serve: Any) -> None:
    """nginx verifies them, and passes the user on through a Unix socket.  What clients claim does not count."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    serve(bind=f"unix:{place.folder}/app.sock", TRUSTED="unix")
    port = free_port()
    (place.folder / "nginx.conf").write_text(NGINX.format(port=port, folder=place.folder))
    (place.folder / "users").write_text("alice:{PLAIN}pw\nbob:{PLAIN}pw\n")
    serve.run([nginx, "-p", str(place.folder), "-c", "nginx.conf", "-e", "nginx.log"], ("127.0.0.1", port))
    forged = b"X-Forwarded-User: alice\r\nX-Forwarded-For: 10.0.0.1\r\n"
    login = base64.b64encode(b"bob:pw")
    answer = raw(port, b"GET /?cmd=heads HTTP/1.0\r\nAuthorization: Basic " + login + b"\r\n" + forged + b"\r\n")
    assert b" 200 " in answer.splitlines()[0], answer
    # nginx may have the whole answer before it is closed.
    wait_for(lambda: place.events, "the event")
    assert place.events[-1][1:4] == [200, "bob", "127.0.0.1"]
    assert push(place, port, "bob:pw@") == 255
    assert push(place, port, "alice:pw@") == 0
    assert [event[:4] for event in place.events if event[0] == ["unbundle"]][-1] == [
        *(["unbundle"], 200, "alice", "127.0.0.1")
    ]


@pytest.mark.parametrize(("kind", "decides"), [("gunicorn", False), ("waitress", False), ("uwsgi", True)])
def test_a_refused_push_that_waits_for_permission(place: Place, serve: Serve, kind: str, decides: bool) -> None:
    """``Expect: 100-continue``: where the server lets the application decide, the body is never sent."""
    port = serve(kind)
    head = f"POST /?cmd=unbundle HTTP/1.1\r\nHost: x\r\nContent-Length: {BULK}\r\nExpect: 100-continue\r\n"
    media = "Content-Type: application/mercurial-0.1\r\nX-HgArg-1: heads=666f726365\r\n\r\n"
    answer = raw(port, (head + media).encode(), patience=2)
    assert (b" 401 " in answer.splitlines()[0]) is decides
    assert answer.startswith(b"HTTP/1.1 100 ") is not decides


def test_our_own_client_logs_in(place: Place, serve: Serve) -> None:
    port = serve(LOGIN_FIRST="capabilities")
    with V1Client(f"http://alice:password@127.0.0.1:{port}/") as client:
        assert len(client.call_bytes("heads")) == 41
    assert place.events[-1][2] == "alice"
