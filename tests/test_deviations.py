"""The table of deviations: the page shows it, every line is true, and none is dead."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import test_vectors_negotiation as v1
from deviations import DEVIATIONS, OTHERS, V1_RULES, expected_for, render
from vector_files import COPIES
from wire_model import Recorded

from hgwire_wsgi import WireApp
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "deviations.rst"

HISTORY = v1.history("v1.json", COPIES)[0]
NODE = sorted(v1.changesets("v1.json", COPIES))[-1].hex()
UNKNOWN = "11" * 20
OPEN = "[web]\npush_ssl = false\nallow-push = *\n"
CLOSED = "[web]\npush_ssl = false\n"
POSTED = "[experimental]\nhttppostargs = true\n"
FORCE = "/?cmd=unbundle&heads=666f726365"
PUSHKEY = f"/?cmd=pushkey&namespace=bookmarks&key=new&old=&new={NODE}"
MERCURIAL = ("Content-Type", "application/mercurial-0.1")
HTML = "text/html; charset=utf-8"
WIRE = "application/mercurial-0.1"


@attrs.frozen
class Example:
    """A request for which hgweb and this project differ.

    Attributes:
        rule: the rule that decides it.
        target: path and query.
        status: what hgweb 7.2 answers; 500 stands for an exception.
        content_type: what hgweb 7.2 answers.
        headers: besides ``Host``.
        body: if there is any, the method is ``POST``.
        hgrc: the settings of the repository.
        method: of HTTP.
        says: text of our answer.
    """

    rule: str
    target: str
    status: int = 500
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    hgrc: str = ""
    method: str = "GET"
    says: str = ""

    def asked(self) -> Recorded:
        headers = [("Host", "localhost"), *self.headers]
        if self.body is not None:
            headers.append(("Content-Length", str(len(self.body))))
        compressed = "78" if "getbundle" in self.target and self.status == 200 else None
        reasons = {401: "push not authorized", 403: "ssl required", 405: "push requires POST request"}
        answer = {
            "status": self.status,
            "status_line": f"HTTP/1.1 {self.status} {reasons.get(self.status, '')}",
            "content_type": self.content_type,
            "engine_level_bytes_hex": compressed,
            "decoded_sha256": hashlib.sha256(HISTORY).hexdigest(),
        }
        method = self.method if self.body is None else "POST"
        return Recorded(method, self.target, headers, self.body or b"", answer, self.hgrc == POSTED)


def batch(cmds: str) -> str:
    return f"/?cmd=batch&cmds={cmds}"


def arguments(encoded: str) -> tuple[tuple[str, str], ...]:
    return (("X-HgArg-1", encoded),)


def posted(length: str) -> tuple[tuple[str, str], ...]:
    return (("X-HgArgs-Post", length), MERCURIAL)


EXAMPLES = (
    Example("one-command", f"/?cmd=heads&cmd=known&nodes={NODE}", 200, WIRE),
    Example("one-command", "/?cmd=heads&cmd=heads", 200, WIRE),
    Example("pages", "/", 200, HTML),
    Example("pages", "/?cmd=", 200, HTML),
    Example("pages", "/?style=gitweb", 200, HTML),
    Example("pages", "/?cmd=nonsense", 400, HTML),
    Example("pages", "/?cmd=changelog", 200, HTML),
    Example("typed-refusals", PUSHKEY, 405),
    Example("typed-refusals", batch(f"heads+%3Bpushkey+namespace%3Dbookmarks%2Ckey%3Da%2Cold%3D%2Cnew%3D{NODE}"), 405),
    Example("typed-refusals", FORCE, 403, headers=(MERCURIAL,), body=b"HG10UN"),
    Example("typed-refusals", PUSHKEY, 401, headers=(MERCURIAL,), body=b"", hgrc=CLOSED),
    Example("posted-arguments-not-offered", "/?cmd=lookup", 200, WIRE, posted("7"), b"key=tip"),
    Example("posted-arguments-not-offered", "/?cmd=lookup&key=null", 200, WIRE, posted("7"), b"key=tip"),
    *(
        Example("posted-arguments-length", "/?cmd=lookup", status, kind, posted(length), b"key=tip&x=y", POSTED)
        for length, status, kind in (
            ("+11", 200, WIRE),
            ("-1", 200, WIRE),
            ("1_1", 200, WIRE),
            ("12", 200, WIRE),
            ("abc", 500, None),
            ("", 500, None),
            ("1.0", 500, None),
        )
    ),
    Example("command-among-arguments", "/?cmd=lookup", 200, WIRE, arguments("cmd=heads&key=tip")),
    Example("command-among-arguments", "/?cmd=lookup", 200, WIRE, posted("17"), b"cmd=heads&key=tip", POSTED),
    Example("unescaped-comma", "/?cmd=lookup", 200, WIRE, arguments("key=a,b")),
    Example("unescaped-comma", "/?cmd=known", 500, None, (*arguments("nodes="), *arguments("nodes="))),
    Example("foreign-push", PUSHKEY, 200, WIRE, (("Content-Type", "text/plain"),), b"", OPEN),
    Example("foreign-push", PUSHKEY, 200, WIRE, (("Content-Type", "multipart/form-data; boundary=x"),), b"", OPEN),
    *(Example("malformed-batch", batch(cmds)) for cmds in ("", "heads", "heads+%3B", "known+nodes", "known+a%3Db%3Dc")),
    Example("nested-batch", batch("batch+cmds%3Dheads+"), 200, WIRE),
    Example("nested-batch", batch("heads+%3Bbatch+cmds%3Dheads+%3Asheads+"), 200, WIRE),
    Example("nested-batch", "/?cmd=batch", 200, WIRE, arguments("cmds=batch+cmds%3Dheads+")),
    Example("unknown-command-in-batch", batch("nonsense+")),
    Example("unknown-command-in-batch", batch("heads+%3Bsummary+")),
    Example("stream-in-batch", batch("getbundle+")),
    Example("stream-in-batch", batch(f"heads+%3Bchangegroup+roots%3D{'00' * 20}")),
    Example("stream-in-batch", batch("stream_out+")),
    Example("missing-argument", "/?cmd=batch", says="batch"),
    Example("missing-argument", "/?cmd=known"),
    Example("missing-argument", "/?cmd=listkeys&name=bookmarks"),
    Example("missing-argument", batch("heads+%3Blookup+"), says="lookup"),
    Example("missing-argument", "/?cmd=lookup", headers=(("X-HgArg-2", "key=tip"),)),
    *(
        Example("malformed-nodes", target)
        for target in (
            "/?cmd=known&nodes=xyz",
            f"/?cmd=known&nodes={NODE}++{NODE}",
            f"/?cmd=known&nodes={NODE[:39]}",
            "/?cmd=between&pairs=xyz-abc",
            f"/?cmd=between&pairs={NODE}",
            "/?cmd=branches&nodes=-",
            "/?cmd=changegroup&roots=%C3%A9",
            f"/?cmd=changegroupsubset&bases={NODE}&heads=zz",
            "/?cmd=getbundle&common=abc",
            batch("known+nodes%3Dxyz"),
        )
    ),
    Example("malformed-nodes", "/?cmd=unbundle&heads=zz", headers=(MERCURIAL,), body=b"HG10UN", hgrc=OPEN),
    *(
        Example("unknown-nodes", target)
        for target in (
            f"/?cmd=getbundle&heads={UNKNOWN}",
            f"/?cmd=changegroup&roots={UNKNOWN}",
            f"/?cmd=changegroupsubset&bases={NODE}&heads={UNKNOWN}",
            f"/?cmd=branches&nodes={UNKNOWN}",
            f"/?cmd=between&pairs={UNKNOWN}-{'00' * 20}",
        )
    ),
    Example("long-nodes", f"/?cmd=known&nodes={'ab' * 32}+{NODE}"),
    Example("missing-inline-bundle", "/?cmd=get_cached_bundle_inline&path=none.hg"),
    Example("bytes-in-arguments", "/?cmd=lookup&key=%C3%A9", says="0 unknown revision 'é'"),
    Example("bytes-in-arguments", "/?cmd=debugwireargs&one=%FF&two=b"),
    Example("bytes-in-arguments", "/?cmd=lookup", headers=arguments("key=%E2%82%AC"), says="'€'"),
    Example("bytes-in-arguments", batch("lookup+key%3D%C3%A9"), says="'é'"),
    Example("bytes-in-arguments", "/?cmd=listkeys&namespace=%C3%A9"),
    Example("only-0.2", "/?cmd=getbundle", 200, WIRE, (("X-HgProto-1", "0.2 comp=snappy"),)),
    Example("only-0.2", "/?cmd=getbundle", 200, WIRE, (("X-HgProto-1", "0.2 co"), ("X-HgProto-2", "mp=none"))),
    Example("garbage-bundle", FORCE, 200, WIRE, (MERCURIAL,), b"this is not a bundle", OPEN),
    Example("garbage-bundle", FORCE, 200, WIRE, (MERCURIAL,), b"HG10XX" + bytes(100), OPEN),
    Example("garbage-bundle", FORCE, 200, WIRE, (MERCURIAL,), b"", OPEN),
    Example("garbage-bundle", FORCE, 500, None, (MERCURIAL,), b"HG20" + bytes(8), OPEN),
    Example("head", "/?cmd=heads", 200, WIRE, method="HEAD"),
)


@pytest.mark.parametrize("example", [pytest.param(each, id=f"{each.rule}: {each.target}") for each in EXAMPLES])
def test_explicit_requests(example: Example) -> None:
    asked = example.asked()
    asked.known = v1.changesets("v1.json", COPIES)
    found = expected_for(V1_RULES, asked)
    assert found is not None and found[0].name == example.rule
    v1.replay(asked, "v1.json", example.hgrc, COPIES)
    answer = v1.send(v1.application("v1.json", example.hgrc, asked, COPIES), asked)
    assert example.says.encode() in answer.body


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Repositories with the recorded history on disk, by their settings."""
    pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")
    from hgwire_wsgi.cli.demo import clean_environment, hg_command

    root = tmp_path_factory.mktemp("served")
    (root / "history.hg").write_bytes(b"HG10UN" + HISTORY)

    def make(hgrc: str) -> Path:
        path = root / hashlib.sha256(hgrc.encode()).hexdigest()[:8]
        if not path.exists():
            for command in (["init", path], ["-R", path, "unbundle", "-q", root / "history.hg"]):
                subprocess.run([*hg_command(), *map(os.fspath, command)], check=True, env=clean_environment())
            (path / ".hg" / "hgrc").write_text(hgrc)
        return path

    return make


# hgweb leaves the files of its templates to the garbage collector.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("example", [pytest.param(each, id=f"{each.rule}: {each.target}") for each in EXAMPLES])
def test_what_the_table_says_of_hgweb(example: Example, served: Any) -> None:
    from mercurial import hgweb, util

    if not util.version().startswith(b"7.2"):
        pytest.skip("the table speaks of Mercurial 7.2")
    if example.rule == "bytes-in-arguments" and sys.version_info >= (3, 13):
        pytest.skip("on Python 3.13 and later, urllib.parse accepts such arguments, and so does hgweb")
    app = hgweb.hgweb(os.fsencode(served(example.hgrc)))
    asked = example.asked()
    path, _, query = asked.target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": asked.method, "SCRIPT_NAME": "", "PATH_INFO": path}
    v1.setup_testing_defaults(environ)
    environ.update({"QUERY_STRING": query, "wsgi.input": io.BytesIO(asked.body)})
    for name in {name for name, _ in asked.headers}:
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = asked.header(name)
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        started.append((int(status[:3]), dict(headers).get("Content-Type")))

    try:
        b"".join(app(environ, start_response))
    except Exception:
        started.append((500, None))
    status, content_type = started[-1]
    assert (status, (content_type or "").lower() or None) == (example.status, example.content_type)


def test_received_media_types() -> None:
    """The deviation ``0.2rx``."""
    answer = v1.get(WireApp(MemoryProvider({"": MemoryRepository()})), "/?cmd=capabilities")
    assert v1.RECEIVED[1] in answer.body.split(b" ")


def test_a_path_below_a_repository() -> None:
    app = WireApp(MemoryProvider({"": MemoryRepository()}))
    assert v1.get(app, "/foo/bar").status.startswith("404 ")
    answer = v1.get(app, "/foo/bar?cmd=heads")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == ("404 Not Found", WIRE, b"0\nNot Found\n")


@pytest.mark.parametrize(
    "setting",
    [
        "compressionengines = zstd, zstd",
        "compressionengines = nonsense",
        "compressionengines = nonsense, zlib",
        "zstdlevel = abc",
        "zliblevel = 42",
        "maxhttpheaderlen = long",
    ],
)
def test_broken_settings(setting: str, served: Any, caplog: pytest.LogCaptureFixture) -> None:
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    app = WireApp(MercurialProvider(served(f"[server]\n{setting}\n")))
    assert b"compression=" in v1.get(app, "/?cmd=capabilities").body
    for protocol in ("0.1", "0.2", "0.1 0.2 comp=zstd,zlib,none"):
        answer = v1.get(app, "/?cmd=getbundle", ("X-HgProto-1", protocol))
        assert answer.status == "200 Script output follows"
        assert v1.decoded(answer, True)[1].startswith(b"\0\0\0")
    assert setting.partition(" ")[0] in caplog.text


def test_a_locked_repository(served: Any) -> None:
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    path = served(f"{OPEN}[ui]\ntimeout = 0\n")
    # A lock taken on another host is never broken.
    lock = path / ".hg" / "store" / "lock"
    lock.symlink_to("another-host:1")
    asked = Recorded("POST", PUSHKEY, [MERCURIAL, ("Content-Length", "0")])
    app = WireApp(MercurialProvider(path))
    answer = v1.send(app, asked)
    assert answer.status.startswith("503 ") and b"locked" in answer.body
    lock.unlink()
    assert v1.send(app, asked).body == b"1\n"


# The table itself


def test_the_page_shows_the_table() -> None:
    """``python tests/deviations.py`` writes it."""
    assert PAGE.read_text().endswith(render())


def test_every_line_says_something() -> None:
    lines = [each for deviations in DEVIATIONS.values() for each in deviations]
    assert len({each.name for each in lines}) == len(lines)
    for each in lines:
        assert all((each.asked, each.reference, each.ours, each.reason))
        assert (each.rule is None) is bool(each.tests)


def test_every_rule_of_version_1_has_a_request() -> None:
    assert {each.name for each in V1_RULES} == {example.rule for example in EXAMPLES}


def functions(path: Path) -> Iterator[str]:
    """The tests in a module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef))


def test_named_tests_exist() -> None:
    for deviation in OTHERS:
        for test in deviation.tests:
            path, _, name = test.partition("::")
            assert name in set(functions(ROOT / path)), test


def applied(cases: Any, name: str, hgrc: Mapping[str, str]) -> Iterator[str]:
    for case in cases:
        asked = v1.recorded(case, name, hgrc.get(case.get("server", ""), ""), COPIES)
        asked.known = v1.changesets(name, COPIES)
        if (found := expected_for(V1_RULES, asked)) is not None:
            yield found[0].name


def test_rules_that_vectors_show() -> None:
    """Most of the rules of version 1 are met by the vectors that came with the project too."""
    args = v1.load("v1_args.json", COPIES)
    met = set(applied(v1.load("v1.json", COPIES)["cases"], "v1.json", {}))
    met |= set(applied(args["cases"], "v1_args.json", args["servers"]))
    assert {each.name for each in V1_RULES} - met == {
        "command-among-arguments",
        "unescaped-comma",
        "foreign-push",
        "nested-batch",
        "garbage-bundle",
        "head",
        "long-nodes",
        "missing-inline-bundle",
    }
