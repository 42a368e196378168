"""Extensions as they are installed: the commands they register or change, and clients that use them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from hgwire_wsgi import WireApp
from hgwire_wsgi.cli.demo import hg_command

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

COMMANDS_OF = {
    "evolve": {"evoext_obshashrange_v1"},
    "fastannotate": {"getannotate"},
    "largefiles": {"getlfile", "lheads", "putlfile", "statlfile"},
    "lfs": set(),
    "narrow": {"narrow_widen"},
    "remotefilelog": {"x_rfl_getfile", "stream_out_shallow", "x_rfl_getflogheads"},
    "topic": {"_exttopics_heads", "branchmaptns", "tns_heads"},
}
"""Extensions that touch the wire protocol."""

EXTERNAL = {"evolve", "topic", "pullbundle"}

PROGRAM = """
import json, sys
from hgwire_wsgi.repositories.mercurial import MercurialProvider
config = ["fastannotate.server=true", "remotefilelog.server=true"]
if len(sys.argv) > 2:
    config.append(f"extensions.{sys.argv[2]}=")
provider = MercurialProvider(sys.argv[1], config=config)
with provider.lease("") as repository:
    commands = repository.commands()
print(json.dumps({name: command.permission for name, command in commands.items()}))
"""


def installed() -> list[str]:
    """Every extension that comes with Mercurial, and evolve's if it is installed."""
    from hgext import __path__ as folders

    bundled = {
        path.stem
        for folder in folders
        for path in Path(folder).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    found = importlib.util.find_spec("hgext3rd")
    others = {name for name in EXTERNAL if found is not None and importlib.util.find_spec(f"hgext3rd.{name}")}
    return sorted((bundled | others) - {"__init__"})


def commands_with(repository: Path, *extension: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(repository), *extension], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    commands: dict[str, str] = json.loads(done.stdout)
    return commands


def test_the_table_of_permissions_is_what_the_extensions_declare(demonstration: Path) -> None:
    """Extensions are found by their source, because loading each of some eighty takes a process."""
    known = MercurialProvider(demonstration).known_permissions()
    plain = commands_with(demonstration)
    assert not plain.keys() & known.keys()
    candidates = [name for name in installed() if name in COMMANDS_OF or _mentions_commands(name)]
    assert {name for name in candidates if name not in EXTERNAL} >= COMMANDS_OF.keys() - EXTERNAL
    seen: dict[str, str] = {}
    for extension in candidates:
        commands = commands_with(demonstration, extension)
        own = {name: permission for name, permission in commands.items() if name not in plain}
        assert own.keys() == COMMANDS_OF.get(extension, set()), extension
        assert own.items() <= known.items(), extension
        assert {name: commands[name] for name in plain} == plain, f"{extension} wraps a command and its permission"
        seen.update(own)
    if set(COMMANDS_OF) <= set(candidates):
        assert seen == dict(known)


def _mentions_commands(extension: str) -> bool:
    found = importlib.util.find_spec(f"hgext.{extension}") or importlib.util.find_spec(f"hgext3rd.{extension}")
    if found is None or found.origin is None:
        return False
    path = Path(found.origin)
    sources = path.parent.rglob("*.py") if path.name == "__init__.py" else [path]
    return any("wireprotov1server" in source.read_text("utf-8", "replace") for source in sources)


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serves a repository from a thread of this process."""
    running: list[tuple[WSGIServer, threading.Thread]] = []

    def start(path: Path, *config: str, **options: Any) -> str:
        app = WireApp(MercurialProvider(path, config=["web.push_ssl=no", "web.allow-push=*", *config]), **options)
        server = make_server("127.0.0.1", 0, app, handler_class=QuietHandler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def hg(*arguments: str | Path, code: int = 0) -> str:
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [*hg_command(), "--config", "ui.username=Ann", *map(str, arguments)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def commit(repository: Path, name: str, *config: str) -> str:
    (repository / name).write_text(name)
    hg("-R", repository, *config, "commit", "-q", "-A", "-m", name)
    return hg("-R", repository, "log", "-r", ".", "-T", "{node}")


def test_topic_clones_with_the_extension_on_both_sides(tmp_path: Path, serve: Callable[..., str]) -> None:
    pytest.importorskip("hgext3rd.topic")
    topic = ("--config", "extensions.topic=")
    repository = tmp_path / "repo"
    hg("init", repository)
    (repository / ".hg" / "hgrc").write_text("[extensions]\ntopic=\n[phases]\npublish=no\n")
    commit(repository, "base")
    hg("-R", repository, "topic", "subject")
    commit(repository, "on-topic")
    url = serve(repository)
    hg(*topic, "clone", "-q", url, tmp_path / "clone")
    log = ("log", "-T", "{desc} {topic}\\n")
    assert hg("-R", tmp_path / "clone", *topic, *log) == hg("-R", repository, *log)
    hg("clone", "-q", url, tmp_path / "plain")


def test_pull_of_hidden_changesets(tmp_path: Path, serve: Callable[..., str]) -> None:
    evolution = ("--config", "experimental.evolution=all")
    repository = tmp_path / "repo"
    hg("init", repository)
    commit(repository, "base")
    hidden = commit(repository, "hidden")
    hg("-R", repository, "update", "-q", ".^")
    hg("-R", repository, *evolution, "debugobsolete", hidden)
    settings = ("experimental.evolution=all", "experimental.server.allow-hidden-access=*")
    for number, config in enumerate((settings, settings[:1])):
        url = serve(repository, *config)
        clone = tmp_path / f"clone{number}"
        hg(*evolution, "clone", "-q", "-U", url, clone)
        pull = ("-R", clone, *evolution, "pull", "-q", "--remote-hidden", "-r", hidden)
        hg(*pull, code=0 if config is settings else 255)
