"""Shared by the benchmarks: servers under the same gunicorn settings, real clients, recorded requests, load."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import attrs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(HGRCPATH="", HGPLAIN="1", LC_ALL="C.UTF-8")

OPEN = ("web.push_ssl=no", "web.allow-push=*")
"""Server settings that allow anyone to push."""

APP = """
import json, logging, os, sys
# waitress reports each request that waits for a thread.
logging.getLogger("waitress.queue").setLevel(logging.ERROR)
sys.path.insert(0, {root!r})
with open("app.json") as file:
    settings = json.load(file)
path, kind = settings["path"], settings["kind"]
if kind == "hgwire":
    from hgwire_wsgi import CacheSettings, WireApp
    from hgwire_wsgi.repositories.mercurial import MercurialProvider
    provider = MercurialProvider(path, config=settings["config"])
    application = WireApp(provider, cache=CacheSettings(**settings["cache"]))
elif kind == "hgweb":
    from mercurial import extensions, ui as uimod
    from mercurial.hgweb import hgweb
    ui = uimod.ui.load()
    for item in settings["config"]:
        key, value = item.split("=")
        section, name = key.split(".")
        ui.setconfig(section.encode(), name.encode(), value.encode())
    extensions.loadall(ui)
    extensions.populateui(ui)
    # A folder of repositories is served at their paths; by default hgweb looks for new ones every 20 seconds.
    repository = os.path.isdir(os.path.join(path, ".hg"))
    application = hgweb(path.encode() if repository else {{b"/": path.encode() + b"/**"}}, baseui=ui)
else:
    # The limit: the same bytes with the same headers, and nothing else; a long response is a file.
    answers = {{}}
    for question, headers, body in settings["answers"]:
        with open(body, "rb") as file:
            content = file.read()
        answers[question] = [tuple(header) for header in headers], body, content

    def application(environ, start_response):
        question = environ["QUERY_STRING"] + environ.get("HTTP_X_HGARG_1", "")
        headers, name, body = answers[question]
        start_response("200 OK", list(headers))
        if len(body) > 65536:
            return environ["wsgi.file_wrapper"](open(name, "rb", buffering=0), 262144)
        return [body]
"""


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# Requests.


@attrs.frozen
class Request:
    """A request as a client sent it."""

    query: str
    headers: tuple[tuple[str, str], ...]

    @property
    def command(self) -> str:
        """The name of its command."""
        return self.query.partition("cmd=")[2].partition("&")[0]

    @property
    def question(self) -> str:
        """Query and arguments, by which the bare application finds its response."""
        return self.query + dict(self.headers).get("X-Hgarg-1", "")


_START = 1024
"""Bytes; more than an engine's name, the header of its format and the parameters of a bundle take."""

HEADS = Request("cmd=heads", ())
"""A cheap request."""


@attrs.frozen
class Reply:
    """A response; ``first`` and ``last`` are the seconds until its first data and its last byte.

    Of a body that is not kept, ``body`` is the start.  hgweb sends the engine's name and the start of a bundle before
    it has read anything, so the first KiB does not count as data.
    """

    headers: tuple[tuple[str, str], ...]
    body: bytes
    size: int
    first: float
    last: float


def fetch(port: int, request: Request, *, keep: bool = True) -> Reply:
    """Send a request over a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.connect()
    start = time.perf_counter()
    connection.request("GET", f"/?{request.query}", headers=dict(request.headers))
    response = connection.getresponse()
    pieces: list[bytes] = []
    size, first = 0, 0.0
    # readinto() would wait for a full buffer.
    while piece := response.read1(1 << 18):
        size += len(piece)
        if size > _START and not first:
            first = time.perf_counter() - start
        if keep or size - len(piece) <= _START:
            pieces.append(piece)
    last = time.perf_counter() - start
    connection.close()
    if response.status != 200:
        raise SystemExit(f"{request.query}: {response.status} {response.reason}: {b''.join(pieces)[:300]!r}")
    hop_by_hop = {"connection", "date", "server", "transfer-encoding", "content-length"}
    headers = [(name, value) for name, value in response.getheaders() if name.lower() not in hop_by_hop]
    return Reply((*headers, ("Content-Length", str(size))), b"".join(pieces), size, first or last, last)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


def record(repository: Path, action: Callable[[str], object]) -> list[Request]:
    """The requests that an action sends to the URL of a repository, which it receives."""
    from mercurial.hgweb import hgweb

    seen: list[Request] = []
    inner = hgweb(str(repository).encode())

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        headers = [
            (key[5:].replace("_", "-").title(), value)
            for key, value in environ.items()
            if key.startswith("HTTP_") and key not in ("HTTP_HOST", "HTTP_CONNECTION")
        ]
        seen.append(Request(environ["QUERY_STRING"], tuple(headers)))
        return inner(environ, start_response)

    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            action(f"http://127.0.0.1:{listener.server_port}/")
        finally:
            listener.shutdown()
            thread.join()
    return seen


def clone_request(repository: Path) -> Request:
    """The ``getbundle`` of a full clone."""
    with tempfile.TemporaryDirectory() as folder:
        requests = record(repository, lambda url: hg("clone", "-q", "-U", url, f"{folder}/clone"))
    return next(request for request in requests if request.command == "getbundle")


# Clients.


def hg_program() -> str:
    """The ``hg`` beside this interpreter, or the one on PATH."""
    executable = shutil.which("hg", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    if executable is None:
        raise SystemExit("no hg found")
    return executable


def hg(*arguments: str) -> str:
    """Run a client and return its output."""
    command = [hg_program(), "--config", "ui.username=bench", "--config", "ui.clonebundles=no", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout


@attrs.frozen
class Load:
    """Result of a load generator: replies per second, and their number."""

    rate: float
    replies: int


def load(port: int, request: Request, seconds: float, connections: int = 8) -> Load:
    """Repeat one request over several connections, with ``wrk`` if it is installed.

    Only replies that are complete when the time is up count, as with ``wrk``.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        return _load(port, request, seconds, connections)
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "120s"]
    for name, value in request.headers:
        command += ["-H", f"{name}: {value}"]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/?{request.query}"], check=True, capture_output=True, text=True
    ).stdout
    failures = [line for line in said.splitlines() if "Non-2xx" in line or "Socket errors" in line]
    if failures:
        raise SystemExit(f"{request.query[:60]}: {failures}")
    counted = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert counted and rate, said
    return Load(float(rate[1]), int(counted[1]))


def _load(port: int, request: Request, seconds: float, connections: int) -> Load:
    until = time.monotonic() + seconds

    def client(_: int) -> int:
        count = 0
        buffer = bytearray(1 << 18)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
            while time.monotonic() < until:
                connection.request("GET", f"/?{request.query}", headers=dict(request.headers))
                response = connection.getresponse()
                while response.readinto(buffer):
                    pass
                if response.status != 200:
                    raise SystemExit(f"{request.query[:60]}: {response.status} {response.reason}")
                count += time.monotonic() < until
        return count

    with ThreadPoolExecutor(connections) as clients:
        replies = sum(clients.map(client, range(connections)))
    return Load(replies / seconds, replies)


# Servers.


@attrs.frozen
class Server:
    """A server under gunicorn."""

    port: int
    workers: tuple[int, ...]
    """Process IDs."""
    folder: Path

    @property
    def url(self) -> str:
        """URL of the repository."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def cache(self) -> Path:
        """The folder of cached bundles, if there is one."""
        return self.folder / "cache"

    def cpu(self) -> float:
        """CPU seconds of all workers so far."""
        return sum(map(cpu_seconds, self.workers))

    def memory(self, field: str = "VmRSS") -> float:
        """MiB of all workers; ``VmHWM`` is the peak."""
        return sum(memory_mib(worker, field) for worker in self.workers)

    def forget_peak(self) -> None:
        """Reset the memory peak."""
        for worker in self.workers:
            Path(f"/proc/{worker}/clear_refs").write_text("5")

    def settle(self) -> None:
        """Wait until the workers are idle."""
        before = -1.0
        deadline = time.monotonic() + 60
        while self.cpu() != before and time.monotonic() < deadline:
            before = self.cpu()
            time.sleep(0.3)

    def kill(self) -> None:
        """End the server at once."""
        os.killpg(os.getpgid(self.workers[0]), signal.SIGKILL)

    def warm_up(self, request: Request = HEADS) -> None:
        """Send so many requests at once that every worker answers one and has finished what it does only once."""
        together = 4 * len(self.workers)
        with ThreadPoolExecutor(together) as clients:
            list(clients.map(lambda _: fetch(self.port, request), range(6 * together)))


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, in nanosecond resolution, including threads that have ended."""
    # The ID of a process's clock is made of the inverted process ID and a kind, here the scheduler's:
    # clock_getcpuclockid(3).
    return time.clock_gettime(~pid << 3 | 2)


def memory_mib(pid: int, field: str) -> float:
    """MiB from a line of ``/proc/PID/status``."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc")


@contextmanager
def server(
    kind: str,
    repository: Path,
    *,
    workers: int = 1,
    threads: int = 4,
    cache: dict[str, Any] | None = None,
    config: Sequence[str] = (),
    answers: dict[Request, Reply] | None = None,
    under: str = "gthread",
) -> Iterator[Server]:
    """Run a server, with the same settings for every kind.

    Args:
        kind: ``hgwire``, ``hgweb``, or ``limit`` (prepared responses).
        repository: to serve.
        workers: processes.
        threads: per worker.
        cache: settings of our caches (default: a temporary folder).
        config: settings of Mercurial, ``section.name=value``.
        answers: the prepared responses of ``limit``.
        under: one of :data:`SERVERS`.
    """
    with tempfile.TemporaryDirectory(prefix=f"herd-{kind}-") as temporary:
        folder = Path(temporary)
        (folder / "app.py").write_text(APP.format(root=str(ROOT)))
        kept = []
        for number, (request, answer) in enumerate((answers or {}).items()):
            body = folder / f"answer{number}"
            body.write_bytes(answer.body)
            kept.append((request.question, answer.headers, str(body)))
        settings: dict[str, Any] = {"path": str(repository), "kind": kind, "config": [*OPEN, *config], "answers": kept}
        settings["cache"] = {"folder": str(folder / "cache"), **(cache or {})}
        (folder / "app.json").write_text(json.dumps(settings))
        port = free_port()
        command = _command(under, port, workers, threads)
        process = subprocess.Popen(command, cwd=folder, start_new_session=True)
        try:
            yield Server(port, _ready(process, port, 0 if under == "waitress" else workers), folder)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


SERVERS = ("gthread", "sync", "uwsgi", "waitress")
"""Two kinds of workers of gunicorn, and two other servers.  Of these, gthread and waitress keep connections open."""


def _command(under: str, port: int, workers: int, threads: int) -> list[str]:
    """The command that serves ``app.py``."""
    address, programs = f"127.0.0.1:{port}", Path(sys.executable).parent
    if under == "waitress":
        return [str(programs / "waitress-serve"), f"--listen={address}", f"--threads={threads}", "app:application"]
    if under == "uwsgi":
        command = [str(programs / "uwsgi"), "--master", "--lazy-apps", "--need-app", "--die-on-term"]
        command += ["--http-socket", address, "--processes", str(workers), "--threads", str(threads)]
        return [
            *command,
            "--logto",
            os.devnull,
            "--add-header",
            "Connection: close",
            "-H",
            sys.prefix,
            "--buffer-size",
            "65535",
            "--module",
            "app",
        ]
    command = [sys.executable, "-m", "gunicorn", "-k", under, "-w", str(workers), "--threads", str(threads)]
    command += ["-b", address, "--limit-request-fields", "1000", "--limit-request-field_size", "16000"]
    return [*command, "--timeout", "600", "--log-level", "error", "app:application"]


def _ready(process: subprocess.Popen[bytes], port: int, workers: int) -> tuple[int, ...]:
    """Wait for a server; return its workers, or the server itself if it has none."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            pass
        else:
            if len(children) == workers:
                return tuple(map(int, children)) or (process.pid,)
        time.sleep(0.05)
    raise SystemExit("the server did not start")


# Figures.


def median(figures: Sequence[float]) -> float:
    """The median; on a shared machine, single slow runs would distort a mean."""
    return statistics.median(figures)


def busy() -> str:
    """The load of the machine."""
    return "load " + " ".join(f"{figure:.1f}" for figure in os.getloadavg())
