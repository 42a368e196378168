"""Names of users beyond ASCII: settings and hooks see one user, in whatever form the host passes it; beside hgweb."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import encoding
from mercurial.hgweb import hgweb

from hgwire_wsgi import WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.commands import _Environ
from hgwire_wsgi.testing import WireTestApp

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:invalid escape sequence"
)

FORMS = {"WSGI": "Ã©m", "text": "ém"}
"""The user ``ém`` as WSGI passes him, and as a host passes him that knows only text."""

OTHERS = {"nobody": None, "WSGI": "Ã¨m", "text": "èm", "ASCII": "em"}
"""Users who are not ``ém``; without a user, nobody is."""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    hg(tmp_path, "init", str(tmp_path / "repo"))
    return tmp_path / "repo"


@pytest.fixture(autouse=True)
def same_encoding() -> Iterator[None]:
    """The encoding is a global variable of Mercurial."""
    before = encoding.encoding
    yield
    encoding.encoding = before


def configure(repo: Path, text: str, spelled: str = "utf-8") -> None:
    (repo / ".hg" / "hgrc").write_bytes(f"[web]\npush_ssl = no\n{text}".encode(spelled))


def ours(repo: Path, **options: Any) -> WireTestApp:
    return WireTestApp(WireApp(MercurialProvider(repo), **options))


def theirs(repo: Path) -> WireTestApp:
    return WireTestApp(hgweb(str(repo).encode()), lint=False)


def hg(repo: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", "from mercurial import dispatch; dispatch.run()", "--cwd", str(repo), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.strip()


def may_read(app: WireTestApp, user: str | None) -> bool:
    return app.wire("/", "heads", user=user).status == 200


def push(app: WireTestApp, user: str | None) -> Any:
    arguments = {"namespace": b"bookmarks", "key": b"mark", "old": b"", "new": b""}
    return app.wire("/", "pushkey", arguments, body=b"", user=user)


def may_push(app: WireTestApp, user: str | None) -> bool:
    return bool(push(app, user).status == 200)


RULES = [
    ("deny_read = ém", may_read, False),
    ("deny_read = eve, ém", may_read, False),
    ("allow_read = ém", may_read, True),
    ("allow_read = eve ém", may_read, True),
    ("allow_read = ém\ndeny_read = ém", may_read, False),
    ("allow-push = ém", may_push, True),
    ("allow_push = ém", may_push, True),
    ("allow-push = *\ndeny_push = ém", may_push, False),
    ("allow-push = ém\ndeny_push = eve", may_push, True),
]


@pytest.mark.parametrize(("rule", "asks", "allowed"), RULES)
def test_rules_name_users_in_either_form(repo: Path, rule: str, asks: Any, allowed: bool) -> None:
    configure(repo, rule + "\n")
    app = ours(repo)
    assert {form: asks(app, user) for form, user in FORMS.items()} == dict.fromkeys(FORMS, allowed)
    for user in OTHERS.values():
        # A rule that denies somebody denies those without a user, too.
        assert asks(app, user) is (user is not None and not allowed and "allow_read" not in rule)
    assert asks(theirs(repo), FORMS["WSGI"]) is allowed
    assert asks(theirs(repo), OTHERS["WSGI"]) is asks(app, OTHERS["WSGI"])


@pytest.mark.parametrize(("rule", "asks", "allowed"), RULES)
def test_rules_in_latin_1(repo: Path, rule: str, asks: Any, allowed: bool) -> None:
    """hgweb compares bytes, so there it depends on the client's encoding."""
    configure(repo, rule + "\n", "latin-1")
    app = ours(repo)
    assert {form: asks(app, user) for form, user in FORMS.items()} == dict.fromkeys(FORMS, allowed)
    assert asks(app, "em") is (not allowed and "allow_read" not in rule)
    assert asks(theirs(repo), FORMS["text"]) is allowed


@pytest.mark.parametrize(("rule", "asks", "allowed"), RULES)
def test_rules_in_a_declared_encoding(repo: Path, rule: str, asks: Any, allowed: bool) -> None:
    configure(repo, rule.replace("ém", "жук") + "\n", "cp1251")
    app = WireTestApp(WireApp(MercurialProvider(repo, config=["web.encoding=cp1251"])))
    utf_8, legacy = "жук".encode().decode("latin-1"), "жук".encode("cp1251").decode("latin-1")
    assert asks(app, "жук") is asks(app, utf_8) is allowed
    # The same bytes as in the rule may be another user in text.  Who could be denied is denied, nobody else is allowed.
    assert not asks(app, legacy)
    assert asks(app, "жар") is (not allowed and "allow_read" not in rule)


def test_an_encoding_that_does_not_exist(repo: Path) -> None:
    configure(repo, "deny_read = ém\n", "latin-1")
    app = WireTestApp(WireApp(MercurialProvider(repo)))
    encoding.encoding = b"nosuch"
    assert not may_read(app, "ém")


def test_a_star_is_everybody(repo: Path) -> None:
    configure(repo, "allow_read = *\nallow-push = *\n")
    for user in (*FORMS.values(), *OTHERS.values()):
        assert may_read(ours(repo), user) and may_push(ours(repo), user)


def test_an_extension_may_decide_who_is_a_member(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``scmutil.ismember`` exists to be replaced, for instance by one that knows groups; it gets bytes."""
    from mercurial import scmutil

    seen: list[Any] = []

    def in_group(ui: Any, user: bytes, members: list[bytes]) -> bool:
        seen.append((user, members))
        return b"@gruppe\xc3\xa9" in members and user == "ém".encode()

    monkeypatch.setattr(scmutil, "ismember", in_group)
    configure(repo, "allow-push = @gruppeé\n")
    assert all(may_push(ours(repo), user) for user in FORMS.values())
    assert not may_push(ours(repo), "eve")
    assert {user for user, _ in seen} == {"ém".encode(), b"eve"}


HOOK = """
def see(ui, repo, url, **kwargs):
    values = [url, ui.environ.get(b"REMOTE_USER"), ui.environ.get(b"HTTP_AUTHORIZATION"), ui.environ[b"PATH_INFO"]]
    ui.status(b"|".join(b"-" if value is None else value for value in values) + b"\\n")
    return True
"""


@pytest.mark.parametrize("user", [*FORMS.values(), "alice", None])
def test_hooks_get_bytes_in_utf_8(repo: Path, tmp_path: Path, user: str | None) -> None:
    (repo / "f").write_text("f")
    hg(repo, "commit", "-A", "-m", "first", "-u", "test")
    hg(repo, "bundle", "--all", "-t", "none-v1", str(tmp_path / "bundle"))
    (tmp_path / "see.py").write_text(HOOK)
    hooks = f"prechangegroup.a = echo $HG_URL\nprechangegroup.b = python:{tmp_path}/see.py:see\n"
    configure(repo, f"allow-push = *\n[hooks]\n{hooks}")
    body = (tmp_path / "bundle").read_bytes()

    def unbundle(app: WireTestApp) -> list[bytes]:
        reply = app.wire("/", "unbundle", {"heads": b"force".hex().encode()}, body=body, user=user)
        return reply.data.splitlines()

    name, quoted = {None: (b"-", b""), "alice": (b"alice", b"alice")}.get(user, ("ém".encode(), b"%C3%A9m"))
    url = b"remote:http::" + quoted
    seen = unbundle(ours(repo))
    assert url in seen and url + b"|" + name + b"|-|/" in seen
    if user != FORMS["text"]:
        # From a host that passes text, hgweb gets the name in Latin-1.
        assert unbundle(theirs(repo)) == seen


def test_hooks_get_no_credentials() -> None:
    environ = {"HTTP_AUTHORIZATION": "a", "HTTP_PROXY_AUTHORIZATION": "b", "HTTP_COOKIE": "c", "PATH_INFO": "/Ã©\xff"}
    seen = _Environ({**environ, "host.name": "Ж\ud800", "wsgi.multithread": True}, None)
    assert dict(seen) == {
        b"PATH_INFO": b"/\xc3\xa9\xff",
        b"host.name": "Ж".encode() + b"\\ud800",
        b"wsgi.multithread": True,
    }
    assert len(seen) == 3


def test_hidden_changesets_are_shown_to_users_in_either_form(repo: Path) -> None:
    (repo / "f").write_text("f")
    hg(repo, "commit", "-A", "-m", "hidden", "-u", "test")
    node = hg(repo, "log", "-r", ".", "-T", "{node}")
    hg(repo, "update", "null")
    hg(repo, "--config", "experimental.evolution=all", "debugobsolete", node)
    configure(repo, "[experimental]\nserver.allow-hidden-access = eve ém\nevolution = all\n")
    app = ours(repo)

    def sees(user: str | None) -> bool:
        return node.encode() in app.wire("/", "heads", {"access-hidden": b"1"}, user=user).data

    assert all(sees(user) for user in FORMS.values())
    assert not any(sees(user) for user in OTHERS.values())
