"""Mercurial 4.6.2, which has a client for frames, as a foreign client of version 2.

It needs Python 2.7 and is in no current distribution.  Set ``HGWIRE_HG462`` to the command that runs it, for instance
``/opt/python2.7/bin/python /opt/mercurial-4.6.2/hg`` after ``python setup.py build_ext -i`` in its sources.

Its ``debugwireproto --peer raw`` sends the given requests and logs the traffic of its socket.  It names the frames of a
later revision with the same header, so the tests give frame types by number.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from live_wait import PATIENCE

from hgwire_wsgi import ApiSettings, BytesResponse, CommandRegistry, WireApp
from hgwire_wsgi.framing import EXP_0002, PROFILES, ClientReactor, Error, FrameBuffer, Request, ResponseData
from hgwire_wsgi.framing import ResponseError as FrameError
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))

from wire_servers import serving

HG = shlex.split(os.environ.get("HGWIRE_HG462", ""))
FRAMES = EXP_0002.media_type

pytestmark = pytest.mark.skipif(not HG, reason="HGWIRE_HG462 is not set: the command that runs Mercurial 4.6.2")

# BODYFILE of 4.6.2 passes the split line to open(), instead of the file name in it.
_EXTENSION = """\
from mercurial import debugcommands
def _open(name, mode):
    return open(name[1] if isinstance(name, list) else name, mode)
debugcommands.open = _open
"""


@attrs.frozen
class Exchange:
    """One request and its response.

    Attributes:
        request: the request body as our server read it.
        status: the status as the client read it.
        media_type: its ``Content-Type``.
        body: the response body.
    """

    request: bytes
    status: int
    media_type: str | None
    body: bytes


class Recorder:
    """Keeps the bodies of requests."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read()
        self.bodies.append(body)
        return self.app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)


class _Socket:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


@pytest.fixture(scope="module")
def repository() -> MemoryRepository:
    made = MemoryRepository()
    made.commit({"a": b"a\n" * 50_000}, message="first", branch="default")
    made.commit({"b": b"b\n"}, message="second")
    return made


@pytest.fixture(scope="module")
def served(repository: MemoryRepository) -> Iterator[tuple[str, Recorder]]:
    commands = CommandRegistry.standard()

    @commands.command("size", permission="push", reply="push", body=True)
    def size(context: Any) -> BytesResponse:
        return BytesResponse(b"%d bytes" % len(b"".join(iter(lambda: context.body.read(4096), b""))))

    @commands.command("big", permission="pull")
    def big(context: Any) -> BytesResponse:
        return BytesResponse(b"0123456789abcdef" * 10_000)

    app = WireApp(
        MemoryProvider({"": repository}),
        commands=commands,
        policy=lambda request: None,
        api=ApiSettings(server=True, http_v2=True, encodings=tuple(PROFILES.values())[1:]),
    )
    recorder = Recorder(app)
    with serving(recorder) as url:
        yield url, recorder


@pytest.fixture
def hg(tmp_path: Path) -> Callable[..., str]:
    """A function that runs the foreign client and returns what it printed."""
    extension = tmp_path / "bodyfile.py"
    extension.write_text(_EXTENSION)
    environment = {
        **{name: os.environ[name] for name in ("PATH",) if name in os.environ},
        "HGRCPATH": "",
        "HGPLAIN": "1",
        "HOME": str(tmp_path),
        "LC_ALL": "C",
    }

    def run(*arguments: str | Path, given: str = "") -> str:
        done = subprocess.run(
            [*HG, "--config", f"extensions.bodyfile={extension}", *map(str, arguments)],
            input=given.encode(),
            env=environment,
            capture_output=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.decode("latin-1")

    return run


def response_in(log: str) -> tuple[int, str | None, bytes]:
    """Parse the response out of a log of the socket, which shows each line that was read, with escapes."""
    received = log.partition("makefile('rb', None)\n")[2]
    lines = re.findall(r"^s>     (.*)\n", received, re.MULTILINE)
    data = "".join(lines).encode("latin-1").decode("unicode_escape").encode("latin-1")
    response = http.client.HTTPResponse(_Socket(data))  # type: ignore[arg-type]  # it needs makefile() alone
    response.begin()
    return response.status, response.getheader("Content-Type"), response.read()


Way = Callable[[list[str], Path], str]


def by_its_own_encoder(lines: list[str], folder: Path) -> str:
    """Return the frames as text, which the client encodes itself."""
    return "".join(f"    frame {_numbered(line)}\n" for line in lines)


def _numbered(line: str) -> str:
    request, stream, stream_flags, name, flags, payload = line.split(" ", 5)
    number = EXP_0002.frame_types[name]
    values = EXP_0002.flags[number]
    return (
        f"{request} {stream} {stream_flags} {number} {sum(values.get(flag, 0) for flag in flags.split('|'))} {payload}"
    )


def by_ours(lines: list[str], folder: Path) -> str:
    """Return a file with the frames, encoded by ``hgwire frames encode``."""
    encoded = subprocess.run(
        [sys.executable, "-m", "hgwire_wsgi", "frames", "encode"],
        input="\n".join(lines).encode(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    path = folder / "frames"
    path.write_bytes(encoded.stdout)
    return f"    BODYFILE {path}\n"


@pytest.fixture(params=[by_its_own_encoder, by_ours], ids=["its frames", "our frames"])
def exchange(
    request: pytest.FixtureRequest, served: Any, hg: Callable[..., str], tmp_path: Path
) -> Callable[..., Exchange]:
    """A function that sends frames to a URL through the foreign client."""
    url, recorder = served

    def run(path: str, *lines: str, **headers: str) -> Exchange:
        sent = {"accept": FRAMES, "content-type": FRAMES, "user-agent": "test", **headers}
        script = f"httprequest POST api/exp-http-v2-0001/{path}\n"
        script += "".join(f"    {name.replace('_', '-')}: {value}\n" for name, value in sent.items())
        way: Way = request.param
        script += way(list(lines), tmp_path)
        log = hg("debugwireproto", "--peer", "raw", "--verbose", f"{url}/", given=script)
        return Exchange(recorder.bodies[-1], *response_in(log))

    return run


def replies(exchange: Exchange) -> dict[int, bytes]:
    """Return the reply to each request, read by a reactor that has these requests open."""
    assert exchange.status == 200, exchange.body
    assert exchange.media_type == FRAMES, exchange.body
    buffer = FrameBuffer()
    buffer.feed(exchange.request)
    reactor = ClientReactor(EXP_0002)
    for frame in buffer:
        reactor.requests[frame.request_id] = Request(frame.request_id, EXP_0002.client_waiting, sent=True)
    found: dict[int, bytes] = {}
    for action in reactor.receive_data(exchange.body):
        assert not isinstance(action, Error), action.message
        if isinstance(action, ResponseData):
            found[action.request_id] = found.get(action.request_id, b"") + action.data
        elif isinstance(action, FrameError):
            found[action.request_id] = b"error: " + action.message
    assert not isinstance(reactor.receive_eof(), Error)
    return found


def test_a_command(exchange: Any, repository: MemoryRepository) -> None:
    done = exchange("ro/heads", "1 1 stream-begin command-name eos heads")
    assert done.request == b"\x05\x00\x00\x01\x00\x01\x01\x11heads"
    assert replies(done) == {1: repository.heads()[0].hex().encode() + b"\n"}


def test_arguments(exchange: Any, repository: MemoryRepository) -> None:
    done = exchange(
        "ro/lookup",
        "1 1 stream-begin command-name have-args lookup",
        "1 1 stream-end command-argument eoa \\x03\\x00\\x03\\x00keytip",
    )
    assert replies(done) == {1: b"1 " + repository.heads()[0].hex().encode() + b"\n"}


def test_interleaved_commands(exchange: Any, repository: MemoryRepository) -> None:
    """The example of the specification, with a third request in another stream."""
    done = exchange(
        "ro/multirequest",
        "1 1 stream-begin command-name have-args listkeys",
        "3 1 0 command-name have-args listkeys",
        "5 3 stream-begin command-name eos heads",
        "3 1 0 command-argument eoa \\x09\\x00\\x09\\x00namespacebookmarks",
        "1 1 0 command-argument eoa \\x09\\x00\\x0a\\x00namespacenamespaces",
    )
    found = replies(done)
    assert found.keys() == {1, 3, 5}
    assert found[1].startswith(b"bookmarks\t") and found[3] == b""
    assert found[5] == repository.heads()[0].hex().encode() + b"\n"


def test_data(exchange: Any) -> None:
    done = exchange(
        "rw/size",
        "1 1 stream-begin command-name have-data size",
        "1 1 0 command-data continuation \\x00\\xff\\n",
        "1 1 0 command-data eos abc",
    )
    assert replies(done) == {1: b"6 bytes"}


@pytest.mark.parametrize("encoding", ["", "zlib", "zstd-8mb"])
def test_a_long_reply(exchange: Any, encoding: str) -> None:
    headers = {"x_hgproto_1": f"comp={encoding}"} if encoding else {}
    done = exchange("ro/big", "1 1 stream-begin command-name eos big", **headers)
    assert replies(done) == {1: b"0123456789abcdef" * 10_000}
    assert (len(done.body) < 10_000) == bool(encoding)


def test_a_failure(exchange: Any) -> None:
    found = replies(exchange("ro/lookup", "1 1 stream-begin command-name eos lookup"))
    assert found[1].startswith(b"error: ") and b"key" in found[1]


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [
        ("ro/nosuch", ["1 1 stream-begin command-name eos nosuch"], 404),
        ("ro/heads", ["1 1 0 command-name eos heads"], 200),
        ("ro/heads", ["2 1 stream-begin command-name eos heads"], 200),
        ("ro/heads", ["1 1 stream-begin command-name eos branchmap"], 200),
        ("ro/size", ["1 1 stream-begin command-name eos size"], 403),
        ("ro/heads", ["1 1 stream-begin command-name have-args heads"], 400),
    ],
)
def test_refusals(exchange: Any, path: str, lines: list[str], status: int) -> None:
    done = exchange(path, *lines)
    assert done.status == status, done.body
    assert (done.media_type or "").startswith("text/plain")
    assert done.body


@pytest.mark.parametrize("advertise", ["false", "true"])
def test_it_clones_over_version_1(
    served: Any, repository: MemoryRepository, hg: Callable[..., str], tmp_path: Path, advertise: str
) -> None:
    """Even when it asks for an API that no server offers any more."""
    hg("clone", "--config", f"experimental.httppeer.advertise-v2={advertise}", f"{served[0]}/", tmp_path / "clone")
    assert hg("log", "-R", tmp_path / "clone", "-r", "tip", "-T", "{node}") == repository.heads()[0].hex()
    hg("verify", "-R", tmp_path / "clone")
