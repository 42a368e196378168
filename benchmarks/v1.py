"""Version 1 beside hgweb, in one run: microseconds of small commands, and CPU and memory of a first clone and a push.

``herd.py`` measures repeated operations.

Usage: python benchmarks/v1.py REPOSITORY [--repeat N]

It needs the extras ``mercurial`` and ``serve``.  The repository is only read: pushes go to a copy.  Every figure is a
median; ``ratio`` is hgweb's figure divided by ours: above 1, ours is better.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from common import hg, median, server

PROTOCOL = "0.1 0.2 comp=zstd,zlib,none,bzip2 partial-pull"


def environ(path: str, query: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_ACCEPT": "application/mercurial-0.1",
        "HTTP_X_HGPROTO_1": PROTOCOL,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": sys.stdin.buffer,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def call(app: Callable[..., Any], path: str, query: str) -> bytes:
    statuses: list[str] = []
    response = app(environ(path, query), lambda status, headers, exc_info=None: statuses.append(status))
    body = b"".join(response)
    if hasattr(response, "close"):
        response.close()
    if not statuses[0].startswith("200"):
        raise SystemExit(f"{query}: {statuses[0]}: {body[:200]!r}")
    return body


def microseconds(app: Callable[..., Any], path: str, query: str, seconds: float) -> float:
    call(app, path, query)
    start = time.perf_counter()
    call(app, path, query)
    count = max(3, int(seconds / max(time.perf_counter() - start, 1e-6)))
    start = time.perf_counter()
    for _ in range(count):
        call(app, path, query)
    return (time.perf_counter() - start) / count * 1e6


def small_commands(repository: Path, repeat: int) -> None:
    from mercurial.hgweb import hgweb, hgwebdir_mod

    from hgwire_wsgi import WireApp
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    bare = str(repository).encode()
    apps = {
        "hgwire": (WireApp(MercurialProvider(repository)), "/"),
        "hgweb": (hgweb(bare), "/"),
        "hgwire, many": (WireApp(MercurialProvider({"one": repository, "two": repository})), "/one"),
        "hgwebdir": (hgwebdir_mod.hgwebdir({b"one": bare, b"two": bare}), "/one"),
    }
    head = call(apps["hgwire"][0], "/", "cmd=heads").split()[0].decode()
    queries = {
        "capabilities": "cmd=capabilities",
        "heads": "cmd=heads",
        "branchmap": "cmd=branchmap",
        "listkeys phases": "cmd=listkeys&namespace=phases",
        "listkeys bookmarks": "cmd=listkeys&namespace=bookmarks",
        "known": f"cmd=known&nodes={head}",
        "batch": "cmd=batch&cmds=" + quote_plus(f"heads ;known nodes={head}"),
    }
    print(f"{'microseconds in process':24}" + "".join(f"{name:>14}" for name in apps) + f"{'ratio':>8}{'many':>8}")
    for label, query in queries.items():
        rounds: dict[str, list[float]] = {name: [] for name in apps}
        for _ in range(repeat):
            for name, (app, path) in apps.items():
                rounds[name].append(microseconds(app, path, query, 0.05))
        ours, hgweb_, many, hgwebdir = (median(rounds[name]) for name in apps)
        figures = "".join(f"{figure:14.0f}" for figure in (ours, hgweb_, many, hgwebdir))
        print(f"{label:24}{figures}{hgweb_ / ours:8.2f}{hgwebdir / many:8.1f}")


def transfers(repository: Path, repeat: int) -> None:
    """A full clone from, and a full push to, a fresh worker each time; nothing is cached."""
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "target"
        for _ in range(repeat):
            for kind in ("hgwire", "hgweb"):
                for operation in ("clone", "clone --stream", "push"):
                    shutil.rmtree(target, ignore_errors=True)
                    served = repository
                    if operation == "push":
                        hg("init", str(target))
                        served = target
                    with server(kind, served) as running:
                        running.warm_up()
                        before = running.cpu()
                        if operation == "push":
                            hg("-R", str(repository), "push", "-q", "-f", running.url)
                        else:
                            hg(*operation.split(), "-q", "-U", running.url, str(target))
                        measured = running.cpu() - before, running.memory("VmHWM")
                    figures.setdefault((operation, kind), []).append(measured)
    print(f"\n{'under gunicorn':24}{'hgwire':>12}{'hgweb':>12}{'ratio':>8}")
    for operation in ("clone", "clone --stream", "push"):
        for index, what in enumerate(("server CPU s", "peak MiB")):
            ours, theirs = (median([run[index] for run in figures[operation, kind]]) for kind in ("hgwire", "hgweb"))
            print(f"{operation + ', ' + what:24}{ours:12.2f}{theirs:12.2f}{theirs / max(ours, 0.01):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--repeat", type=int, default=5, help="rounds of each measurement (default: 5)")
    options = parser.parse_args()
    repository = options.repository.resolve()
    small_commands(repository, options.repeat)
    transfers(repository, options.repeat)


if __name__ == "__main__":
    main()
