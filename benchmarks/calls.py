"""How far a request travels: calls, modules and switches between modules of this package, for six requests.

Usage: python benchmarks/calls.py REPOSITORY [--against CHECKOUT]

It needs the extra ``mercurial``.  The repository is only read: the push goes to a copy.  ``--against`` runs this script
once more with the package of another checkout, and prints both.

A call is one entry of a Python function, generator step or comprehension whose code is in the package, on any thread,
from the WSGI call to the ``close`` of the response.  The server that consumes the response is not counted.  A switch is
a call whose module is not that of the call before it on its thread.  Every figure is the median of some runs, since
threads take turns differently.  ``getbundle, cold cache`` grows with the bundle, because each chunk passes through the
package.

The last lines say how many modules use some words, and how long the package is.  Code lines are those that are neither
blank nor only a comment or a docstring.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from wsgiref.util import FileWrapper

WORDS = ("start_response", "environ", "webob")
RUNS = 3
PROTOCOL = "0.1 0.2 comp=zstd,zlib,none,bzip2 partial-pull"
SETTLE = 0.2
"""Seconds until threads that a request started are done with it."""

Figures = dict[str, tuple[float, ...]]
Request = dict[str, Any]


class Tracer:
    """Collects the calls of the package's functions, for each thread in their order."""

    def __init__(self, package: Path) -> None:
        self._prefix = str(package) + os.sep
        self._calls: defaultdict[int, list[str]] = defaultdict(list)

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Trace this thread, and those started meanwhile."""
        self._calls.clear()
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        time.sleep(SETTLE)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self._prefix):
            self._calls[threading.get_ident()].append(frame.f_code.co_filename)

    def figures(self) -> tuple[int, int, int]:
        """Calls, modules, switches."""
        threads = list(self._calls.values())
        switches = sum(before != after for calls in threads for before, after in itertools.pairwise(calls))
        return sum(map(len, threads)), len({module for calls in threads for module in calls}), switches


# Requests.


def get(command: str, arguments: str = "") -> Request:
    """The environ of a version 1 command."""
    return {"QUERY_STRING": f"cmd={command}", **({"HTTP_X_HGARG_1": arguments} if arguments else {})}


def post(media_type: str, body: bytes, **environ: str) -> Request:
    """The environ of a request with a body."""
    given = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": media_type, "CONTENT_LENGTH": str(len(body)), **environ}
    return {**given, "wsgi.input": io.BytesIO(body)}


def multirequest() -> Request:
    """Three commands of version 2 as frames: heads, branchmap, and listkeys with an argument."""
    frames = b"".join(
        (
            frame(1, 0x11, b"heads", begin=True),
            frame(3, 0x11, b"branchmap"),
            frame(5, 0x12, b"listkeys"),
            frame(5, 0x22, struct.pack("<HH", 9, 6) + b"namespace" + b"phases"),
        )
    )
    media_type = "application/mercurial-exp-framing-0002"
    return post(media_type, frames, PATH_INFO="/api/exp-http-v2-0001/ro/multirequest", HTTP_ACCEPT=media_type)


def frame(request_id: int, type_and_flags: int, payload: bytes, *, begin: bool = False) -> bytes:
    """A frame of stream 1."""
    header = struct.pack("<IHBBB", len(payload), request_id, 1, int(begin), type_and_flags)
    return header[:3] + header[4:] + payload


def send(app: Callable[..., Any], request: Request) -> bytes:
    """Run a request as a server does and return the body of the response."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_ACCEPT": "application/mercurial-0.1",
        "HTTP_X_HGPROTO_1": PROTOCOL,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **request,
    }
    statuses: list[str] = []
    response = app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    body = b"".join(response)
    if hasattr(response, "close"):
        response.close()
    if not statuses[0].startswith("200"):
        raise SystemExit(f"{environ['QUERY_STRING'] or environ['PATH_INFO']}: {statuses[0]}: {body[:200]!r}")
    return body


# What is measured.


def travels(repository: Path) -> Figures:
    """Calls, modules and switches of each request."""
    import hgwire_wsgi

    tracer = Tracer(Path(hgwire_wsgi.__file__).parent)
    runs: dict[str, list[tuple[int, int, int]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        bundle = changeset_to_push(repository, scratch)
        for number in range(RUNS):
            for label, figures in one_run(repository, bundle, scratch / str(number), tracer):
                runs.setdefault(label, []).append(figures)
    return {
        label: tuple(statistics.median(column) for column in zip(*figures, strict=True))
        for label, figures in runs.items()
    }


def one_run(
    repository: Path, bundle: bytes, scratch: Path, tracer: Tracer
) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Each request once, with applications and caches of their own."""
    import hgwire_wsgi
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    # The name of version 0.1, too, so that it can be compared with.
    api = getattr(hgwire_wsgi, "ApiSettings", None) or hgwire_wsgi.Api

    def application(path: Path) -> hgwire_wsgi.WireApp:
        return hgwire_wsgi.WireApp(
            MercurialProvider(path, config=["web.push_ssl=no", "web.allow-push=*"]),
            cache=hgwire_wsgi.CacheSettings(folder=str(scratch / "cache")),
            api=api(server=True, http_v2=True, workers=4),
        )

    def measure(app: hgwire_wsgi.WireApp, request: Request) -> tuple[int, int, int]:
        with tracer.tracing():
            send(app, request)
        return tracer.figures()

    app = application(repository)
    send(app, get("capabilities"))
    cold = measure(app, get("heads"))
    yield "v1 heads, warm", measure(app, get("heads"))
    yield "v1 heads, cold", cold
    head = send(app, get("heads")).split()[0].decode()
    bundlecaps = "HG20%2Cbundle2%3DHG20%250Achangegroup%253D01%252C02"
    clone = get("getbundle", f"bundlecaps={bundlecaps}&cg=1&common={'0' * 40}&heads={head}")
    yield "getbundle, cold cache", measure(app, clone)
    yield "getbundle, warm cache", measure(app, clone)
    target = scratch / "target"
    shutil.copytree(repository, target)
    taker = application(target)
    send(taker, get("capabilities"))
    push = post("application/mercurial-0.1", bundle, QUERY_STRING="cmd=unbundle", HTTP_X_HGARG_1="heads=666f726365")
    yield "push", measure(taker, push)
    yield "v2 multirequest, 3 commands, 4 workers", measure(app, multirequest())


def changeset_to_push(repository: Path, scratch: Path) -> bytes:
    """A bundle of one changeset that the repository lacks."""
    clone, bundle = str(scratch / "clone"), scratch / "bundle.hg"
    hg("clone", "-q", "-U", "--pull", str(repository), clone)
    hg("-R", clone, "update", "-q", "null")
    (scratch / "clone" / "calls.txt").write_text("calls\n")
    hg("-R", clone, "commit", "-q", "-A", "-m", "calls", "-u", "bench")
    hg("-R", clone, "bundle", "-q", "-r", "tip", str(bundle), str(repository))
    return bundle.read_bytes()


def hg(*arguments: str) -> None:
    """Run Mercurial beside this interpreter, or else the one on the path."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    program = shutil.which("hg", path=path)
    if program is None:
        raise SystemExit("no hg found")
    subprocess.run([program, *arguments], check=True, env={**os.environ, "HGRCPATH": "", "HGPLAIN": "1"}, timeout=600)


def sources() -> Figures:
    """Modules that use a word, and the length of the package."""
    import hgwire_wsgi

    texts = [path.read_text("utf-8") for path in Path(hgwire_wsgi.__file__).parent.rglob("*.py")]
    found: Figures = {
        f"modules with {word}": (sum(bool(re.search(rf"\b{word}\b", text)) for text in texts),) for word in WORDS
    }
    found["modules"] = (len(texts),)
    found["code lines"] = (sum(map(code_lines, texts)),)
    found["all lines"] = (sum(len(text.splitlines()) for text in texts),)
    return found


def code_lines(text: str) -> int:
    """Lines that are neither blank nor only a comment or a docstring."""
    marks = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in marks:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        # Strings that are statements: docstrings, and those below an attribute.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


# The table.


def elsewhere(repository: Path, checkout: Path) -> Figures:
    """The same figures for the package of another checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    command = [sys.executable, __file__, str(repository), "--json"]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=900).stdout
    figures = json.loads(said)
    if not Path(figures.pop("package")).is_relative_to(checkout.resolve()):
        raise SystemExit(f"{checkout} has no package hgwire_wsgi")
    return {label: tuple(row) for label, row in figures.items()}


def table(columns: dict[str, Figures]) -> str:
    """The figures of each package side by side."""
    rows = {label: [columns[name].get(label, ()) for name in columns] for label in next(iter(columns.values()))}
    lines = ["calls / modules / switches between modules".ljust(44) + "".join(f"{name:>22}" for name in columns)]
    for label, cells in rows.items():
        words = (" / ".join(f"{figure:.0f}" for figure in cell) or "-" for cell in cells)
        lines.append(label.ljust(44) + "".join(f"{word:>22}" for word in words))
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table or, for the parent of a comparison, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the package of another checkout")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, with the path of the package")
    options = parser.parse_args()
    repository = options.repository.resolve()
    os.environ.update(HGRCPATH="", HGPLAIN="1")
    ours = {**travels(repository), **sources()}
    if options.json:
        import hgwire_wsgi

        print(json.dumps({"package": hgwire_wsgi.__file__, **ours}))
        return
    columns = {"this package": ours}
    if options.against:
        columns = {str(options.against)[-20:]: elsewhere(repository, options.against), **columns}
    print(table(columns))


if __name__ == "__main__":
    main()
