"""Every file of ``conf/`` serves a clone and a push, and what it was written for."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from ports import free_port

CONF = Path(__file__).resolve().parents[2] / "conf"
HG = Callable[..., str]
Start = Callable[..., None]
Beside = Callable[[str], str]

LARGE = 3 * 1024 * 1024
"""Bytes of a file that does not compress: more than nginx takes by default."""


def clone_and_push(hg: HG, url: str, folder: Path) -> None:
    clone = folder / "clone"
    hg("clone", url, clone)
    (clone / "large").write_bytes(os.urandom(LARGE))
    hg("-R", clone, "commit", "-A", "-m", "large", "-u", "tester")
    hg("-R", clone, "push")
    assert hg("id", "-i", "-r", "default", url) == hg("-R", clone, "id", "-i", "-r", "tip")


def ask_with_headers(port: int, count: int) -> int:
    """Send ``known`` with as many headers of arguments; gives the status."""
    value = "nodes=" + "+".join(["11" * 20] * (count * 1000 // 41))
    headers = {
        f"X-HgArg-{number}": value[offset : offset + 1000]
        for number, offset in enumerate(range(0, len(value), 1000), 1)
    }
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/demo?cmd=known", headers=headers)
        response = connection.getresponse()
        body = response.read()
    assert response.status != 200 or set(body) <= set(b"0"), body
    return response.status


def gunicorn_command(beside: Beside, port: int) -> list[str]:
    return [
        beside("gunicorn"),
        *("-c", str(CONF / "gunicorn.conf.py"), "--bind", f"127.0.0.1:{port}", "--workers", "1", "project:app"),
    ]


def test_gunicorn(hg: HG, start: Start, beside: Beside, project: Path) -> None:
    port = free_port()
    start(gunicorn_command(beside, port), port)
    clone_and_push(hg, f"http://127.0.0.1:{port}/demo", project)
    assert ask_with_headers(port, 900) == 200


def test_gunicorn_with_the_settings_of_the_package(beside: Beside, project: Path) -> None:
    command = [beside("gunicorn"), "--print-config", "project:app", "-c"]
    environment = {**os.environ, "ROOT_FOLDER": str(project / "repos"), "PYTHONPATH": f"{CONF.parent}:{project}"}
    printed = [
        subprocess.run([*command, settings], env=environment, capture_output=True, text=True, check=True).stdout
        for settings in (str(CONF / "gunicorn.conf.py"), "python:hgwire_wsgi.cli.gunicorn_settings")
    ]
    settings = [{line for line in text.splitlines() if not re.match(r"config |.* at 0x", line)} for text in printed]
    assert settings[0] == settings[1]
    assert any(re.fullmatch(r"limit_request_fields += 1000", line) for line in settings[0])


def test_uwsgi(hg: HG, start: Start, beside: Beside, project: Path) -> None:
    port = free_port()
    ini = (CONF / "uwsgi.ini").read_text()
    # In strict mode a misspelled option is an error; the last one here is of uWSGI 2.1, which 2.0 would ignore.
    changes = {
        "\nhttp = 127.0.0.1:8000": f"\nhttp = 127.0.0.1:{port}",
        "\nwsgi-manage-chunked-input = true": "\nstrict = true",
    }
    for old, new in changes.items():
        assert ini.count(old) == 1
        ini = ini.replace(old, new)
    (project / "uwsgi.ini").write_text(ini)
    start([beside("uwsgi"), "--ini", "uwsgi.ini"], port, HGWIRE_APP="project:app")
    clone_and_push(hg, f"http://127.0.0.1:{port}/demo", project)
    assert ask_with_headers(port, 55) == 200
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.connect()
        first = connection.sock
        for _ in range(2):
            connection.request("GET", "/demo?cmd=heads")
            assert len(connection.getresponse().read().split()) == 2
        assert connection.sock is first, "connections stay open"


def test_paste(hg: HG, start: Start, beside: Beside, project: Path) -> None:
    pytest.importorskip("waitress")
    port = free_port()
    ini = (CONF / "paste.ini").read_text()
    changes = {
        "listen = 127.0.0.1:8000": f"listen = 127.0.0.1:{port}",
        "\nroot = /srv/hg": f"\nroot = {project / 'repos'}",
        "alice, bob": "*\n    web.push_ssl = no",
    }
    for old, new in changes.items():
        assert ini.count(old) == 1
        ini = ini.replace(old, new)
    (project / "paste.ini").write_text(ini)
    start([beside("pserve"), "paste.ini"], port)
    clone_and_push(hg, f"http://127.0.0.1:{port}/demo", project)
    assert ask_with_headers(port, 200) == 200


def write_nginx(project: Path, server: str) -> None:
    """A configuration for one process that writes below the project's folder."""
    folders = "".join(
        f"    {kind}_temp_path {project}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    (project / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {project}/nginx.pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\n    access_log off;\n{folders}{server}}}\n"
    )


def test_nginx_in_front_of_gunicorn(hg: HG, start: Start, beside: Beside, project: Path) -> None:
    nginx, port, backend = beside("nginx"), free_port(), free_port()
    server = (CONF / "nginx.conf").read_text()
    for old, new in {"127.0.0.1:8000": f"127.0.0.1:{backend}", "listen 8080": f"listen 127.0.0.1:{port}"}.items():
        assert server.count(old) == 1
        server = server.replace(old, new)
    write_nginx(project, server)
    start(gunicorn_command(beside, backend), backend)
    start([nginx, "-p", str(project), "-c", "nginx.conf", "-e", "stderr"], port)
    clone_and_push(hg, f"http://127.0.0.1:{port}/demo", project)
    assert ask_with_headers(port, 300) == 200
    assert not list((project / "client_body").iterdir()), "a push was written to disk first"


GUARDED = """\
from hgwire_wsgi import AuthorizeApp, WireApp
from project import app

decide = AuthorizeApp(app, statuses=[401, 403])
open_to_all = WireApp(app.provider, policy=lambda request: None)

def decisions(environ, start_response):
    return (decide if environ["PATH_INFO"] == "/authorize" else app)(environ, start_response)
"""


def test_nginx_asks_before_it_passes_a_request_on(hg: HG, start: Start, beside: Beside, project: Path) -> None:
    """Behind nginx is an application that refuses nothing."""
    nginx, port, decisions, guarded = beside("nginx"), free_port(), free_port(), free_port()
    server = (CONF / "nginx-authorize.conf").read_text()
    ports = {"127.0.0.1:8000": f"127.0.0.1:{decisions}", "127.0.0.1:8001": f"127.0.0.1:{guarded}"}
    for old, new in {**ports, "listen 8080": f"listen 127.0.0.1:{port}"}.items():
        assert server.count(old) == 1
        server = server.replace(old, new)
    write_nginx(project, server)
    (project / "guarded.py").write_text(GUARDED)
    for name, rules in (("closed", "allow_read = alice"), ("frozen", "deny_push = *")):
        hg("clone", "-U", project / "repos" / "demo", project / "repos" / name)
        (project / "repos" / name / ".hg" / "hgrc").write_text(f"[web]\n{rules}\n")
    start([*gunicorn_command(beside, decisions)[:-1], "guarded:decisions"], decisions)
    start([*gunicorn_command(beside, guarded)[:-1], "guarded:open_to_all"], guarded)
    start([nginx, "-p", str(project), "-c", "nginx.conf", "-e", "stderr"], port)
    clone_and_push(hg, f"http://127.0.0.1:{port}/demo", project)
    assert ask_with_headers(port, 300) == 200
    assert not list((project / "client_body").iterdir()), "a push was written to disk first"

    def ask(method: str, target: str, at: int = port, **headers: str) -> tuple[int, str, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", at, timeout=60)) as connection:
            connection.request(method, target, headers={name.replace("_", "-"): each for name, each in headers.items()})
            response = connection.getresponse()
            return response.status, response.getheader("WWW-Authenticate", ""), response.read()

    assert ask("GET", "/closed?cmd=heads", guarded)[0] == 200, "it refuses nothing"
    closed = ask("GET", "/closed?cmd=heads")
    assert closed[:2] == (401, 'Basic realm="Mercurial"')
    assert ask("GET", "/closed?cmd=heads", X_Original_URI="/demo?cmd=heads", X_Original_Method="GET") == closed
    assert ask("POST", "/frozen?cmd=unbundle&heads=666f726365") == (403, "", b"push not authorized\n")
    assert ask("GET", "/demo?cmd=unbundle&heads=666f726365") == (405, "", b"push requires POST request\n")
    assert ask("GET", "/demo?cmd=batch", X_HgArg_1="cmds=heads+%3Bpushkey+")[0] == 405
    assert ask("GET", "/none?cmd=heads") == (404, "", b"no such repository\n")
    assert ask("GET", "/demo/../closed?cmd=heads")[0] == 400
    assert ask("GET", "/authorize")[0] == 404
    assert ask("GET", "/frozen?cmd=heads")[0] == 200


@pytest.mark.parametrize(
    "directive",
    [
        "client_max_body_size 0",
        "proxy_request_buffering off",
        "proxy_buffering off",
        "proxy_http_version 1.1",
        "proxy_set_header X-Forwarded-Proto $scheme",
        "gzip off",
    ],
)
def test_nginx_has_what_the_protocol_needs(directive: str) -> None:
    """Where there is no nginx to try it, at least nobody deletes it unnoticed."""
    assert re.search(rf"^\s+{re.escape(directive)};$", (CONF / "nginx.conf").read_text(), re.MULTILINE)


def test_nginx_can_be_told_to_send_bundles() -> None:
    """The location is the one of docs/caching.rst, and a comment, because by default nothing is sent that way."""
    commented = re.findall(r"^ {4}#(.*)$", (CONF / "nginx.conf").read_text(), re.MULTILINE)
    location = [line for line in commented if not line.startswith(" ") or line.startswith("    ")]
    document = (CONF.parent / "docs" / "caching.rst").read_text()
    assert len(location) == 4
    assert "\n".join(f"    {line}" for line in location) in document
    assert 'accel_prefix="/hgwire-cache/"' in document


def test_every_file_is_tested() -> None:
    source = Path(__file__).read_text()
    for path in CONF.iterdir():
        assert f'CONF / "{path.name}"' in source
