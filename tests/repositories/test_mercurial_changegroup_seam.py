"""Where the generator is used, how it is switched off, and what observers get."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from fakes import Exchange, makers_are_done
from mercurial import changegroup, discovery, exchange
from mercurial.hg import repository as open_repository

from hgwire_wsgi import CacheSettings, ChangegroupMade, Limits, RequestClosed, WireApp
from hgwire_wsgi.cli import main
from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.repositories.finder import Found
from hgwire_wsgi.repositories.mercurial import HgwebConfigProvider, MercurialProvider
from hgwire_wsgi.repositories.mercurial.changegroups import generator, seam
from hgwire_wsgi.repositories.mercurial.provider import load_ui
from hgwire_wsgi.testing import WireTestApp

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

NEW = {"bundlecaps": "HG20,bundle2=" + quote("HG20\nchangegroup=01,02\nphases=heads", safe="")}
NULL = "00" * 20


def hg(*arguments: str | Path) -> str:
    command = [*hg_command(), "--config", "ui.username=test", *map(str, arguments)]
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout


@pytest.fixture
def repo(demonstration: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demonstration, tmp_path / "repo"))


class Host:
    """An application, and the changegroups that it made."""

    def __init__(self, provider: MercurialProvider, cache: CacheSettings | None = None) -> None:
        # Bundles shorter than a chunk are not stored.
        limits = Limits(chunk=256)
        self.made: list[ChangegroupMade] = []
        self.closed: list[RequestClosed] = []
        self.threads: list[int] = []
        cache = cache or CacheSettings(disk=0, memory=0)
        self.app = WireApp(provider, cache=cache, limits=limits, observers=[self.observe])
        self.client = WireTestApp(self.app)

    def observe(self, event: object) -> None:
        if isinstance(event, ChangegroupMade):
            self.made.append(event)
            self.threads.append(threading.get_ident())
        elif isinstance(event, RequestClosed):
            self.closed.append(event)

    def heads(self) -> str:
        return " ".join(self.client.wire("/", "heads").data.decode().split())

    def clone(self, **arguments: str) -> bytes:
        reply = self.client.wire("/", "getbundle", {"common": NULL, "heads": self.heads(), **NEW, **arguments})
        assert reply.status == 200
        return reply.data

    def taken(self) -> list[tuple[str, str]]:
        """The generators so far, with the reasons."""
        made, self.made = self.made, []
        return [(event.generator, event.reason) for event in made]


def size_of(repo: Path) -> int:
    return len(hg("-R", repo, "log", "-T", ".", "-r", "all()"))


# The switch


def test_it_is_on(repo: Path) -> None:
    host = Host(MercurialProvider(repo))
    host.clone()
    (event,) = host.made
    assert event == ChangegroupMade(
        request_id=host.closed[-1].request_id,
        repository="",
        generator="hgwire",
        reason="",
        version="02",
        changesets=size_of(repo),
    )


@pytest.mark.parametrize("value", ["mercurial", "hgwire"])
def test_the_ways_to_switch_it(repo: Path, tmp_path: Path, value: Any) -> None:
    expected = [("mercurial", "switched off") if value == "mercurial" else ("hgwire", "")]
    setting = f"hgwire.generator={value}"
    webconf = tmp_path / "hgweb.config"
    webconf.write_text(f"[paths]\n/ = {repo}\n[hgwire]\ngenerator = {value}\n")
    replies = set()
    for provider in (
        MercurialProvider(repo, generator=value),
        MercurialProvider(repo, config=[setting]),
        MercurialProvider({"": Found(str(repo), config=[setting])}),
        HgwebConfigProvider(str(webconf)),
        HgwebConfigProvider({"/": str(repo)}, generator=value),
    ):
        host = Host(provider)
        replies.add(host.clone())
        assert host.taken() == expected
    (repo / ".hg" / "hgrc").write_text(f"[hgwire]\ngenerator = {value}\n")
    host = Host(MercurialProvider(repo))
    replies.add(host.clone())
    assert host.taken() == expected
    assert len(replies) == 1


def test_the_argument_wins(repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[hgwire]\ngenerator = hgwire\n")
    host = Host(MercurialProvider(repo, generator="mercurial"))
    host.clone()
    assert host.taken() == [("mercurial", "switched off")]


def test_a_change_of_the_hgrc_counts_at_once(repo: Path) -> None:
    host = Host(MercurialProvider(repo))
    before = host.clone()
    (repo / ".hg" / "hgrc").write_text("[hgwire]\ngenerator = mercurial\n")
    assert host.clone() == before
    assert host.taken() == [("hgwire", ""), ("mercurial", "switched off")]


def test_a_bundle_of_one_generator_is_no_answer_for_the_other(repo: Path) -> None:
    """Anyone who switches a generator off must not get its bundles from the cache."""

    def token() -> bytes:
        with MercurialProvider(repo, **options).lease("") as repository:
            return repository.bundle_token("getbundle", {"heads": [bytes(20)]})

    options: dict[str, Any] = {}
    own = token()
    assert token() == own
    options = {"generator": "mercurial"}
    assert token() != own
    options = {}
    (repo / ".hg" / "hgrc").write_text("[hgwire]\ngenerator = mercurial\n")
    assert token() != own


@pytest.mark.parametrize(
    "options", [{"generator": "git"}, {"generator": ""}, {"config": ["hgwire.generator=Mercurial"]}]
)
def test_a_wrong_setting_of_the_server(repo: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"hgwire\.generator is hgwire or mercurial, not"):
        MercurialProvider(repo, **options)


def test_a_wrong_setting_of_a_repository(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    (repo / ".hg" / "hgrc").write_text("[hgwire]\ngenerator = mercural\n")
    host = Host(MercurialProvider(repo))
    with caplog.at_level(logging.ERROR, "hgwire_wsgi"):
        for _ in range(3):
            host.clone()
    assert host.taken() == [("mercurial", "invalid setting")] * 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert "hgwire.generator is hgwire or mercurial, not mercural; Mercurial's generator is used" in line


def test_reading_the_setting() -> None:
    assert seam.setting_of(load_ui([])) == "hgwire"
    assert seam.setting_of(load_ui(["hgwire.generator=mercurial"])) == "mercurial"


# Where it is used


def test_every_command_that_sends_changesets(repo: Path) -> None:
    host = Host(MercurialProvider(repo))
    first = hg("-R", repo, "log", "-r", "0", "-T", "{node}")
    host.clone(common=first)
    host.clone(heads=first)
    assert host.taken() == [("hgwire", "")] * 2
    reply = host.client.wire("/", "getbundle", {"common": NULL, "heads": host.heads()})
    assert reply.status == 200 and host.taken() == [("hgwire", "")]
    host.client.wire("/", "changegroup", {"roots": NULL})
    host.client.wire("/", "changegroupsubset", {"bases": NULL, "heads": host.heads()})
    assert [event.changesets for event in host.made] == [size_of(repo)] * 2
    assert host.taken() == [("hgwire", "")] * 2
    host.client.wire("/", "getbundle", {"common": host.heads(), "heads": host.heads(), "listkeys": "phases", **NEW})
    host.client.wire("/", "stream_out")
    assert host.made == []


def test_a_clone_after_a_push_comes_in_two_parts(repo: Path, tmp_path: Path) -> None:
    host = Host(MercurialProvider(repo), CacheSettings(folder=tmp_path / "cache"))
    clone = {**NEW, "common": NULL, "cg": "1", "phases": "1"}
    protocol = {"X-HgProto-1": "0.1 0.2 comp=none partial-pull"}

    def ask(**more: str) -> bytes:
        arguments = {**clone, "heads": host.heads(), **more}
        return host.client.wire("/", "getbundle", arguments, headers=protocol).data

    hg("-R", repo, "update", "-q", "tip")
    before = host.heads()
    whole = ask()
    makers_are_done()
    assert [event.changesets for event in host.made] == [size_of(repo)]
    (repo / "new").write_text("new")
    hg("-R", repo, "commit", "-q", "-A", "-m", "new")
    assert ask() == whole
    ask(common=before)
    makers_are_done()
    assert [event.changesets for event in host.made] == [size_of(repo) - 1, 1]
    assert host.taken() == [("hgwire", "")] * 2


def test_warming_uses_it(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    made: list[bytes] = []
    original = generator.generate

    def count(packer: Any, *arguments: Any) -> Any:
        made.append(packer.version)
        return original(packer, *arguments)

    monkeypatch.setattr(generator, "generate", count)
    assert main(["warm", str(repo), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert len(made) == 1


def test_other_repository_objects_of_the_process_are_left_alone(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(generator, "generate", fail)
    local = open_repository(load_ui([]), bytes(repo))
    outgoing = discovery.outgoing(local, [local.nullid], local.heads())
    stream = changegroup.makestream(local, outgoing, b"02", b"serve")
    assert b"".join(stream).endswith(bytes(4))


def test_hooks_run_as_mercurials(repo: Path, tmp_path: Path) -> None:
    output = tmp_path / "hooks"
    names = ("preoutgoing", "outgoing")
    config = [f"hooks.{name}=echo $HG_HOOKNAME $HG_SOURCE $HG_NODE >> {output}" for name in names]
    first = hg("-R", repo, "log", "-r", "0", "-T", "{node}")
    found = set()
    for value in seam.GENERATORS:
        output.unlink(missing_ok=True)
        host = Host(MercurialProvider(repo, config=[*config, f"hgwire.generator={value}"]))
        host.clone()
        found.add(output.read_text())
        host.clone(heads=NULL)
        assert output.read_text().count("\noutgoing") == 1
    assert found == {f"preoutgoing serve\noutgoing serve {first}\n"}


def test_nothing_to_send(repo: Path, tmp_path: Path) -> None:
    """Extensions ask for that; the hook does not run."""
    output = tmp_path / "hook"
    provider = MercurialProvider(repo, config=[f"hooks.outgoing=touch {output}"])
    with provider.lease("") as repository:
        local = repository.local  # type: ignore[attr-defined]  # of MercurialRepository
        outgoing = discovery.outgoing(local, local.heads(), local.heads())
        for version, expected in ((b"02", 12), (b"03", 16)):
            assert b"".join(changegroup.makestream(local, outgoing, version, b"serve")) == bytes(expected)
    assert not output.exists()


# Which changesets are sent


@attrs.frozen
class Sent:
    """The changesets to send, and those that the client has, with the type of the object that found them."""

    kind: type
    missing: list[bytes]
    common: list[int]

    @classmethod
    def of(cls, local: Any, heads: list[bytes], common: list[bytes]) -> Sent:
        outgoing = exchange._computeoutgoing(local, list(heads), list(common))
        missing = outgoing.missing
        return cls(
            type(outgoing), missing, [rev for rev in range(-1, len(local.unfiltered())) if rev in outgoing.common]
        )


def opened(repo: Path, *config: str) -> Any:
    local = open_repository(load_ui(list(config)), bytes(repo)).unfiltered()
    seam.enable(local, print)
    return local


def test_the_changesets_to_send_are_mercurials(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam, "_MANY", 1)
    hg("-R", repo, "phase", "--secret", "--force", "-r", "tip")
    local, by_mercurial = opened(repo), opened(repo, "hgwire.generator=mercurial")
    walked: list[list[bytes]] = []
    walk = discovery.outgoing._computecommonmissing

    def watch(self: Any) -> None:
        walked.append(self.commonheads)
        walk(self)

    for view in ("visible", "served"):
        ours, theirs = local.filtered(view.encode()), by_mercurial.filtered(view.encode())
        heads, nodes = ours.heads(), [ours.changelog.node(rev) for rev in ours.changelog]
        pairs = [(list(pair), heads) for pair in itertools.combinations([ours.nullid, *nodes], 2)]
        for common, wanted in [*(([node], heads) for node in nodes), *pairs, ([], []), (nodes, heads), ([], nodes[:1])]:
            found, expected = Sent.of(ours, wanted, common), Sent.of(theirs, wanted, common)
            assert found == attrs.evolve(expected, kind=seam._Outgoing)
            assert expected.kind is discovery.outgoing
        monkeypatch.setattr(seam, "has_usual_history", lambda local: True)
        monkeypatch.setattr(discovery.outgoing, "_computecommonmissing", watch)
        for common in ([], [nodes[0]]):
            assert len(Sent.of(ours, heads, common).missing) == len(nodes) - len(common)
        assert walked == []
        assert Sent.of(ours, nodes[:1], []).missing == nodes[:1]
        assert len(walked) == 1
        walked.clear()
        monkeypatch.undo()
        monkeypatch.setattr(seam, "_MANY", 1)


def test_mercurial_finds_few_changesets_itself(repo: Path) -> None:
    local = opened(repo)
    outgoing = exchange._computeoutgoing(local, [], [])
    assert type(outgoing) is seam._Outgoing and len(outgoing.missing) == len(local) < seam._MANY
    assert type(outgoing.common) is not set


def test_an_extension_may_find_the_changesets_to_send(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = opened(repo)
    with monkeypatch.context() as patched:
        patched.setattr(discovery.outgoing, "_computecommonmissing", lambda outgoing: None)
        assert type(exchange._computeoutgoing(local, [], [])) is discovery.outgoing

    class Other(discovery.outgoing):  # type: ignore[misc]  # Mercurial's classes have no types
        pass

    monkeypatch.setattr(discovery, "outgoing", Other)
    assert type(exchange._computeoutgoing(local, [], [])) is Other
    plain = open_repository(load_ui([]), bytes(repo))
    monkeypatch.undo()
    assert type(exchange._computeoutgoing(plain, [], [])) is discovery.outgoing


# Events


def test_a_bundle_for_the_cache(repo: Path, tmp_path: Path) -> None:
    """It is made in another thread; requests that find it, or wait for it, have no event."""
    host = Host(MercurialProvider(repo), CacheSettings(folder=tmp_path / "cache"))
    for _ in range(3):
        host.clone()
        makers_are_done()
    assert [event.cache for event in host.closed if event.commands == ("getbundle",)] == ["miss", "hit", "hit"]
    assert [event.request_id for event in host.made] == [host.closed[1].request_id]


def test_a_transfer_that_is_cut_has_no_event(tmp_path: Path) -> None:
    path = tmp_path / "large"
    hg("init", path)
    for number in range(3):
        (path / f"file{number}").write_bytes(os.urandom(400_000))
    hg("-R", path, "commit", "-q", "-A", "-m", "large")
    host = Host(MercurialProvider(path))
    query = f"cmd=getbundle&common={NULL}&heads={host.heads()}&bundlecaps={quote(NEW['bundlecaps'], safe='')}"
    for ask, expected in ((lambda each: next(iter(each.response)), 0), (lambda each: each.read(), 1)):
        exchange = Exchange(host.app, query, path="/")
        ask(exchange)
        exchange.close()
        assert len(host.made) == expected


def test_an_observer_that_fails(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: object) -> None:
        if isinstance(event, ChangegroupMade):
            raise RuntimeError("mine")

    app = WireApp(MercurialProvider(repo), cache=CacheSettings(disk=0, memory=0), observers=[fail])
    client = WireTestApp(app)
    heads = " ".join(client.wire("/", "heads").data.decode().split())
    with caplog.at_level(logging.ERROR, "hgwire_wsgi"):
        reply = client.wire("/", "getbundle", {"common": NULL, "heads": heads, **NEW})
    assert reply.status == 200 and reply.data.endswith(bytes(4))
    assert caplog.records[0].getMessage().startswith("an observer failed")


def test_without_observers(repo: Path) -> None:
    client = WireTestApp(WireApp(MercurialProvider(repo), cache=CacheSettings(disk=0, memory=0)))
    host = Host(MercurialProvider(repo))
    expected = host.clone()
    assert client.wire("/", "getbundle", {"common": NULL, "heads": host.heads(), **NEW}).data == expected


def test_what_is_left_to_mercurial_is_counted(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = generator.generate

    def generate(*arguments: Any) -> Any:
        report: Callable[[str], object] = arguments[-1]
        for reason in ("revlog format", "flags or damage", "flags or damage"):
            report(reason)
        return original(*arguments)

    monkeypatch.setattr(generator, "generate", generate)
    host = Host(MercurialProvider(repo))
    host.clone()
    (event,) = host.made
    assert event.aside == {"flags or damage": 2, "revlog format": 1}
    assert (event.generator, event.reason) == ("hgwire", "")
