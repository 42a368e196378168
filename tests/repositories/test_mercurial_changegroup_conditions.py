"""Each way out of the generator: Mercurial makes the changegroup, the bytes are the same, the reason is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

import changegroup_program
from changegroup_program import compare
from mercurial import changegroup, extensions, filelog, localrepo, match, revlog, vfs
from mercurial.revlogutils import flagutil

from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.changegroups import conditions
from hgwire_wsgi.repositories.mercurial.changegroups.conditions import CONDITIONS, home_of, reason_against

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

Made = tuple[str, str, dict[str, int]]

OWN: Made = ("hgwire", "", {})


def hg_(*arguments: str | Path) -> str:
    command = [*hg_command(), "--config", "ui.username=test", *map(str, arguments)]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make(path: Path, *config: str) -> Path:
    """A repository with three changesets, a folder, and a long file that changes little."""
    settings = [word for item in config for word in ("--config", item)]
    hg_("init", *settings, path)
    (path / "folder").mkdir()
    for number in range(3):
        (path / "a").write_text(f"{number}\n" + "".join(f"line {line}\n" for line in range(200)))
        (path / "folder" / f"b{number}").write_text(f"{number}\n")
        hg_("-R", path, *settings, "commit", "-q", "-A", "-d", f"{number} 0", "-m", f"change {number}")
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("plain") / "repo")


def in_process(path: Path, **arguments: Any) -> list[Made]:
    """Compare the generators in a process of their own."""
    program = changegroup_program.__file__
    command = [sys.executable, program, str(path), json.dumps(arguments)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return [tuple(made) for made in json.loads(done.stdout)]


def mercurials(reason: str) -> Made:
    return ("mercurial", reason, {})


# In order


def test_nothing_speaks_against_an_ordinary_repository(plain: Path, demonstration: Path) -> None:
    for path in (plain, demonstration):
        assert compare(path) == compare(path, "02") == compare(path, "03") == [OWN]
    first = hg_("-R", plain, "log", "-r", "0", "-T", "{node}")
    assert compare(plain, requests=[{"common": first}, {"heads": first}]) == [OWN, OWN]


def test_nor_against_any_format_that_the_generator_reads(tmp_path: Path) -> None:
    formats = (
        ("format.usestore=no", "format.revlog-compression=none"),
        ("format.usefncache=no", "format.usegeneraldelta=no", "format.sparse-revlog=no"),
        (
            *("format.use-persistent-nodemap=yes", "format.use-dirstate-v2=yes", "format.use-internal-phase=yes"),
            *("format.bookmarks-in-store=yes", "format.revlog-compression=zlib"),
        ),
    )
    # Mercurial's implementations in Python have to be asked for.
    allowed = [f"storage.{name}.slow-path=allow" for name in ("revlog.persistent-nodemap", "dirstate-v2")]
    for number, config in enumerate(formats):
        path = make(tmp_path / str(number), *allowed, *config)
        assert compare(path, config=allowed) == [OWN], config


def test_a_share(plain: Path, tmp_path: Path) -> None:
    hg_("--config", "extensions.share=", "share", "-q", "-U", plain, tmp_path / "share")
    assert compare(tmp_path / "share") == [OWN]


def test_the_table_has_no_reason_twice() -> None:
    reasons = [condition.reason for condition in CONDITIONS]
    assert len(set(reasons)) == len(reasons)
    assert all(reason and reason == reason.strip(".") for reason in reasons)


# Repositories


def test_tree_manifests(tmp_path: Path) -> None:
    path = make(tmp_path / "repo", "experimental.treemanifest=yes")
    assert compare(path, "03") == [mercurials("tree manifests")]


def test_side_data(tmp_path: Path) -> None:
    path = make(tmp_path / "repo", "format.exp-use-copies-side-data-changeset=yes")
    assert compare(path, "03") == [mercurials("side data")]


def test_a_requirement_of_the_future(tmp_path: Path) -> None:
    extension = tmp_path / "future.py"
    extension.write_text(
        "from mercurial import localrepo\n"
        "def uisetup(ui):\n"
        "    localrepo.featuresetupfuncs.add(lambda ui, supported: supported.add(b'exp-from-the-future'))\n"
    )
    path = make(tmp_path / "repo")
    with (path / ".hg" / "requires").open("a") as file:
        file.write("exp-from-the-future\n")
    made = in_process(path, config=[f"extensions.future={extension}"])
    assert made == [mercurials("unknown requirement")]


def test_a_bundle_file(plain: Path, tmp_path: Path) -> None:
    hg_("-R", plain, "bundle", "-q", "--all", tmp_path / "bundle.hg")
    # Mercurial leaves its files open.
    assert in_process(tmp_path / "bundle.hg") == [mercurials("unknown kind of repository")]


def test_a_censored_revision(tmp_path: Path) -> None:
    path = make(tmp_path / "repo")
    hg_("-R", path, "update", "-q", "null")
    hg_("-R", path, "--config", "extensions.censor=", "censor", "-r", "1", "--no-check-heads", path / "a")
    assert compare(path, "03") == [("hgwire", "", {"flags or damage": 1})]


def test_large_files_of_lfs(tmp_path: Path) -> None:
    path = make(tmp_path / "repo", "extensions.lfs=", "lfs.track=size('>1kB')")
    (path / ".hg" / "hgrc").write_text("[extensions]\nlfs=\n")
    assert b"lfs" in (path / ".hg" / "requires").read_bytes() + (path / ".hg/store/requires").read_bytes()
    assert in_process(path, versions="03") == [("hgwire", "", {"flags or damage": 1})]


NARROW = "extensions.narrow="


@pytest.fixture(scope="module")
def narrow(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of one folder."""
    path = tmp_path_factory.mktemp("narrow") / "clone"
    options = ("--config", NARROW)
    hg_(*options, "clone", "-q", "--narrow", "--include", "path:folder", plain, path)
    return path


def test_a_narrow_clone(narrow: Path) -> None:
    assert in_process(narrow, versions="03", config=[NARROW]) == [mercurials("narrow repository")]


def test_a_narrow_client(plain: Path) -> None:
    request = {"narrow": "1", "includepats": "path:folder"}
    made = in_process(plain, versions="03", config=[NARROW], requests=[request, {}])
    assert made == [mercurials("a choice of files"), OWN]
    ellipses = [NARROW, "experimental.narrowservebrokenellipses=yes"]
    made = in_process(plain, versions="03", config=ellipses, requests=[{**request, "depth": "1"}])
    assert made[0][0] == "mercurial"


# Requests


def test_a_client_without_bundle2(plain: Path) -> None:
    assert compare(plain, "") == compare(plain, "01") == [OWN]


@pytest.fixture
def packer(plain: Path) -> Iterator[Any]:
    """Mercurial's generator for a repository of the provider."""
    with MercurialProvider(plain).lease("") as repository:
        yield changegroup.getbundler(b"02", repository.local)  # type: ignore[attr-defined]  # of MercurialRepository


def test_an_experimental_version(packer: Any) -> None:
    packer.version = b"05"
    assert reason_against(packer, True) == "changegroup version"


def test_what_mercurial_itself_asks_for(packer: Any) -> None:
    assert reason_against(packer, True) == ""
    assert reason_against(packer, False) == "the changelog is not wanted"
    local = packer._repo
    never = match.never()
    assert reason_against(changegroup.getbundler(b"02", local, oldmatcher=match.always()), True) == "a choice of files"
    assert reason_against(changegroup.getbundler(b"02", local, matcher=never), True) == "a choice of files"
    for option in ({"ellipses": True}, {"shallow": True}):
        assert reason_against(changegroup.getbundler(b"03", local, **option), True) == "ellipses"


def test_a_transaction(packer: Any) -> None:
    local = packer._repo.unfiltered()
    with local.lock(), local.transaction(b"test"):
        assert reason_against(packer, True) == "transaction"
    assert reason_against(packer, True) == ""


def test_the_transaction_of_a_hook(tmp_path: Path) -> None:
    """It splits a revlog, which is then found under another name."""
    path = make(tmp_path / "repo")
    (path / "a").write_bytes(os.urandom(300_000))
    program = f'"{sys.executable}" "{changegroup_program.__file__}" "{path}" "{{}}" > "{tmp_path / "made"}"'
    settings = ("--config", f"hooks.pretxncommit={program}")
    hg_("-R", path, *settings, "commit", "-m", "long")
    assert [tuple(made) for made in json.loads((tmp_path / "made").read_text())] == [mercurials("transaction")]


# Settings


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("devel.bundle.delta=p1", "setting in the section devel"),
        ("devel.bundle.delta=full", "setting in the section devel"),
        ("devel.bundle.delta=prev", "setting in the section devel"),
        ("debug.bundling-stats=yes", "setting in the section debug"),
        ("ui.verbose=yes", "verbose output"),
        ("ui.debug=yes", "verbose output"),
    ],
)
def test_a_setting_that_changes_or_observes_bundles(plain: Path, setting: str, reason: str) -> None:
    assert compare(plain, config=[setting]) == [mercurials(reason)]


# Extensions


def test_remotefilelog(plain: Path) -> None:
    made = in_process(plain, config=["extensions.remotefilelog=", "remotefilelog.server=yes"])
    assert made in ([mercurials("replaced generator")], [mercurials("replaced functions")])


WRAPPERS = {
    "a helper": ("changegroup", "'deltagroup'", "replaced functions"),
    "the generator": ("changegroup.cgpacker", "'generate'", "replaced generator"),
    "a part of the generator": ("changegroup.cgpacker", "'generatefiles'", "replaced functions"),
    "a revlog": ("revlog.revlog", "'revdiff'", "replaced functions"),
    "what a class inherits": ("changelog.changelog", "'rawdata'", "replaced functions"),
    "a file": ("filelog.filelog", "'emitrevisions'", "replaced functions"),
    "how files are read": ("vfs.abstractvfs", "'tryread'", "replaced functions"),
    "how files are opened": ("vfs.vfs", "'__call__'", "replaced functions"),
    "how an index is read": ("revlog", "'parse_index_v1'", "replaced functions"),
    "how data are decompressed": ("revlog.revlog", "'decompress'", "replaced functions"),
    "how a revlog is opened": ("revlog.revlog", "'__init__'", "replaced functions"),
    "how a file of the store is found": ("store._fncachevfs", "'join'", "replaced functions"),
    "the class of files": ("filelog", "'filelog'", "replaced functions"),
}


@pytest.mark.parametrize(("owner", "name", "reason"), WRAPPERS.values(), ids=list(WRAPPERS))
def test_an_extension_that_wraps(plain: Path, tmp_path: Path, owner: str, name: str, reason: str) -> None:
    extension = tmp_path / "wrapper.py"
    extension.write_text(
        "from mercurial import changegroup, changelog, extensions, filelog, revlog, store, vfs\n"
        "def extsetup(ui):\n"
        f"    if {name} != 'filelog':\n"
        f"        extensions.wrapfunction({owner}, {name}, lambda orig, *args, **kwargs: orig(*args, **kwargs))\n"
        "    else:\n"
        "        class filelog_(filelog.filelog):\n"
        "            pass\n"
        "        filelog.filelog = filelog_\n"
    )
    assert in_process(plain, config=[f"extensions.wrapper={extension}"]) == [mercurials(reason)]
    if reason == "replaced generator" or name == "'revdiff'":
        # Another part of the host may have loaded it before this package.
        assert in_process(plain, first=str(extension)) == [mercurials(reason)]


def test_an_extension_with_classes_of_its_own(plain: Path, tmp_path: Path) -> None:
    """It may put them under the objects of one repository, which changes no function."""
    extension = tmp_path / "classes.py"
    extension.write_text(
        "def reposetup(ui, repo):\n"
        "    class other(repo.__class__):\n"
        "        def file(self, *args, **kwargs):\n"
        "            return super().file(*args, **kwargs)\n"
        "    if ui.configbool(b'classes', b'repo'):\n"
        "        repo.__class__ = other\n"
        "    if ui.configbool(b'classes', b'store'):\n"
        "        repo.store.__class__ = type('store', (type(repo.store),), {})\n"
        "    if ui.configbool(b'classes', b'changelog'):\n"
        "        changelog = repo.unfiltered().changelog\n"
        "        changelog.__class__ = type('changelog', (type(changelog),), {})\n"
    )
    loaded = f"extensions.classes={extension}"
    reasons = {
        "repo": "unknown kind of repository",
        "store": "unknown kind of store",
        "changelog": "replaced revlogs",
    }
    for name, reason in reasons.items():
        made = in_process(plain, config=[loaded, f"classes.{name}=yes"])
        assert made == [mercurials(reason)], name
    assert in_process(plain, config=[loaded]) == [OWN]


def test_extensions_that_do_not_matter(plain: Path) -> None:
    names = ["fastannotate", "lfs", "narrow", "rebase", "mq", *(["evolve", "topic"] if _has_evolve() else [])]
    assert in_process(plain, config=[f"extensions.{name}=" for name in names]) == [OWN]


def test_largefiles(plain: Path, tmp_path: Path) -> None:
    """From Mercurial 7.2 it puts a class with its own ``file`` under each repository, which changes no revision."""
    assert in_process(plain, config=["extensions.largefiles="]) == [OWN]
    path = make(tmp_path / "repo", "extensions.largefiles=")
    (path / "large").write_bytes(bytes(range(256)) * 100)
    hg_("-R", path, "--config", "extensions.largefiles=", "add", "-q", "--large", path / "large")
    hg_("-R", path, "--config", "extensions.largefiles=", "commit", "-m", "large")
    # A head on which a delta has to be computed.
    hg_("-R", path, "--config", "extensions.largefiles=", "update", "-q", "0")
    (path / "a").write_text("".join(f"line {line}\n" for line in range(150)))
    hg_("-R", path, "--config", "extensions.largefiles=", "commit", "-m", "head")
    first, head = (hg_("-R", path, "log", "-r", rev, "-T", "{node}") for rev in ("0", "tip"))
    heads = hg_("-R", path, "log", "-r", "heads(all())", "-T", "{node} ").strip()
    requests = [{"heads": heads}, {"heads": head}, {"common": first, "heads": head}]
    assert in_process(path, config=["extensions.largefiles="], requests=requests) == [OWN] * 3


def _has_evolve() -> bool:
    try:
        import hgext3rd.evolve  # noqa: F401
    except ImportError:
        return False
    return True


def test_replaced_objects(packer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, each for a moment."""
    local = packer._repo.unfiltered()
    with monkeypatch.context() as patch:
        patch.setitem(flagutil.flagprocessors, flagutil.REVIDX_EXTSTORED, (None, None, None))
        assert reason_against(packer, True) == "flags of an extension"
    with monkeypatch.context() as patch:
        patch.setattr(revlog.revlog, "revdiff", lambda *args: b"")
        assert reason_against(packer, True) == "replaced functions"
    with monkeypatch.context() as patch:
        patch.setattr(filelog, "filelog", type("filelog", (filelog.filelog,), {}))
        assert reason_against(packer, True) == "replaced functions"
    with monkeypatch.context() as patch:
        patch.setattr(local.svfs, "vfs", type("vfs", (vfs.vfs,), {})(local.svfs.join(b"")))
        assert reason_against(packer, True) == "unknown kind of store"
    with monkeypatch.context() as patch:
        patch.setattr(packer, "__class__", type("Packer", (type(packer),), {}))
        assert reason_against(packer, True) == "replaced generator"
    for name in ("changelog", "file", "manifestlog"):
        with monkeypatch.context() as patch:
            patch.setattr(local, "__class__", type("other", (type(local),), {name: lambda self: None}))
            assert reason_against(packer, True) == "unknown kind of repository"
    with monkeypatch.context() as patch:
        patch.setattr(local, "requirements", {*local.requirements, b"from-the-future"})
        assert reason_against(packer, True) == "unknown requirement"
    assert reason_against(packer, True) == ""


def test_where_a_function_comes_from() -> None:
    def wrapper(orig: Any, *args: Any) -> Any:
        return orig(*args)

    here = globals()
    assert home_of(wrapper) is here and home_of(property(wrapper)) is here
    assert home_of(staticmethod(wrapper)) is here and home_of(classmethod(wrapper)) is here
    assert home_of(revlog.revlog.revdiff) is vars(revlog)
    assert home_of(localrepo.localrepository.narrowmatch) is vars(localrepo)
    assert home_of(len) is None and home_of(None) is None
    holder = type("holder", (), {"method": lambda self: 1})
    extensions.wrapfunction(holder, "method", wrapper)
    assert home_of(vars(holder)["method"]) not in (here, vars(revlog))


def test_every_listed_function_exists_in_some_version() -> None:
    """A misspelled name would protect nothing."""
    newer_or_older = {"candelta", "_emit_revisions", "read_delta_parents", "readdelta", "readfast"}
    newer_or_older |= {"_builddeltaheader", "_init", "file", "filelog_radix_for_reading", "raw_comp_chunk", "rev_diff"}
    for module, kind, names in conditions._FUNCTIONS:
        owner = getattr(module, kind) if kind else module
        if names is not conditions._READING:
            own = set(names) - {*conditions._READING, *newer_or_older}
            # A cached property cannot be read from its class.
            assert not {name for name in own if name not in vars(owner) and not hasattr(owner, name)}, kind
    expected = set(conditions._READING) - newer_or_older
    assert not {name for name in expected if not hasattr(revlog.revlog, name)}
