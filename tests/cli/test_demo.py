from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hgwire_wsgi.cli import CommandLineError, demo

HG = Callable[..., str]


def test_it_has_one_of_everything(demonstration: Path, hg: HG) -> None:
    def log(revset: str, template: str) -> list[str]:
        return hg("-R", demonstration, "log", "-r", revset, "-T", template + "\n").split()

    assert set(log("all()", "{branch}")) == {"default", "stable", "farewell"}
    assert log("merge()", "{branch}") == ["default"]
    assert {"1.0", "1.0.1"} <= set(log("tag()", "{tags}"))
    assert log("bookmark()", "{bookmarks}") == ["review", "next"]
    assert len(log("heads(all())", "{rev}")) == 2
    assert log("file('path:greeting.py') and not merge()", "{file_copies}") == ["greeting.py", "(hello.py)"]
    manifest = hg("-R", demonstration, "manifest", "-v", "-r", "next").splitlines()
    flags = {line.split()[-1]: line.split()[:-1] for line in manifest}
    assert flags["greet.sh"] == ["755", "*"]
    assert flags.keys() == {".hgtags", "README.txt", "greet.sh", "greeting.py", "logo.png"}
    assert (
        hg("-R", demonstration, "files", "-r", "next", "--cwd", demonstration, "set:binary()")
        .split()[-1]
        .endswith("logo.png")
    )


def test_the_merge_carries_the_fix_through_the_rename(demonstration: Path, hg: HG) -> None:
    assert "name or 'you'" in hg("-R", demonstration, "cat", "-r", "next", "path:greeting.py")


def test_it_is_sound_and_its_working_directory_is_empty(demonstration: Path, hg: HG) -> None:
    hg("-R", demonstration, "verify", "-q")
    assert [path.name for path in demonstration.iterdir()] == [".hg"]
    assert hg("-R", demonstration, "status") == ""


def test_it_is_the_same_every_time(demonstration: Path, tmp_path: Path, hg: HG) -> None:
    demo.make_demonstration(tmp_path / "again")
    nodes = [hg("-R", root, "log", "-T", "{node} {bookmarks}\n") for root in (demonstration, tmp_path / "again")]
    assert nodes[0] == nodes[1]
    assert len(nodes[0].splitlines()) == 11


def test_no_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hg: HG) -> None:
    (tmp_path / "hgrc").write_text("[hooks]\nprecommit = false\n[ui]\nusername = somebody else\n")
    monkeypatch.setenv("HGRCPATH", str(tmp_path / "hgrc"))
    monkeypatch.setenv("HGUSER", "somebody else")
    demo.make_demonstration(tmp_path / "demo")
    authors = set(hg("-R", tmp_path / "demo", "log", "-T", "{author}\n").splitlines())
    assert authors == {"Demo <demo@example.com>"}


def test_the_hg_beside_the_interpreter_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert demo.hg_command() == [str(tmp_path / "python"), "-m", "mercurial"]
    (tmp_path / "hg").touch(0o755)
    assert demo.hg_command() == [str(tmp_path / "hg")]


def test_the_history_can_be_made_without_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demonstration: Path, hg: HG
) -> None:
    monkeypatch.setattr(demo, "hg_command", lambda: [sys.executable, "-m", "mercurial"])
    demo.make_demonstration(tmp_path / "demo")
    tips = [hg("-R", root, "id", "-r", "tip") for root in (demonstration, tmp_path / "demo")]
    assert tips[0] == tips[1]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/nonexistent/hg"], "cannot run /nonexistent/hg: No such file or directory"),
        ([sys.executable, "-c", ""], "the installed hg did not start; try it with: hg version"),
    ],
)
def test_an_hg_that_does_not_run(
    command: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "hg_command", lambda: command)
    with pytest.raises(CommandLineError) as caught:
        demo.make_demonstration(tmp_path / "demo")
    assert (str(caught.value), caught.value.code) == (message, 1)


def test_an_hg_that_fails(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / ".hg").mkdir()
    with pytest.raises(CommandLineError, match=r"hg init .*demo failed: abort: repository .*demo already exists"):
        demo.make_demonstration(tmp_path / "demo")
