from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hgwire_wsgi import WireApp, WireMiddleware
from hgwire_wsgi.cache.settings import CacheSettings
from hgwire_wsgi.cli import CommandLineError
from hgwire_wsgi.cli.options import Served, add_options, read_options
from hgwire_wsgi.testing import WireTestApp


def read(*arguments: str | Path, may_be_empty: bool = False) -> Served:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", type=Path)
    add_options(parser)
    return read_options(parser.parse_args([str(each) for each in arguments]), may_be_empty=may_be_empty)


def test_configuration_and_cache(demonstration: Path) -> None:
    given = ("--allow-push", "--config", "web.style=gitweb", "--cache-dir", "/c", "--cache-size", "2K")
    served = read(demonstration, *given)
    assert list(served.config) == ["web.allow-push=*", "web.push_ssl=no", "web.style=gitweb"]
    assert served.cache == CacheSettings(folder=Path("/c"), disk=2048)


def test_the_default_cache_is_that_of_the_package(demonstration: Path) -> None:
    assert read(demonstration).cache == CacheSettings()


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("123", 123), ("7k", 7168), ("500M", 524288000), ("2G", 2 << 30), ("1T", 1 << 40)]
)
def test_sizes(text: str, size: int, demonstration: Path) -> None:
    assert read(demonstration, "--cache-size", text).cache.disk == size


def test_what_is_not_a_size(demonstration: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(demonstration, "--cache-size", "1.5G")


def test_what_is_not_a_setting(demonstration: Path) -> None:
    with pytest.raises(CommandLineError, match=r"--config takes SECTION\.NAME=VALUE, not 'push_ssl'"):
        read(demonstration, "--config", "push_ssl")


def test_the_repositories_of_a_path(demonstration: Path) -> None:
    assert read(demonstration).repositories == {"": demonstration}
    assert read(demonstration.parent).repositories == {demonstration.name: demonstration}


def test_the_repositories_of_several_paths(demonstration: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf" / "two" / ".hg").mkdir(parents=True)
    (tmp_path / "shelf" / "other").mkdir()
    assert read(demonstration, tmp_path / "shelf").repositories == {
        demonstration.name: demonstration,
        "shelf/two": tmp_path / "shelf" / "two",
    }


def test_paths_that_cannot_be_served(tmp_path: Path, demonstration: Path) -> None:
    with pytest.raises(CommandLineError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(CommandLineError, match=f"would both be served at /{demonstration.name}"):
        read(demonstration, demonstration)


def test_an_empty_folder(tmp_path: Path, demonstration: Path) -> None:
    with pytest.raises(CommandLineError, match=r"contains no repository$"):
        read(tmp_path)
    with pytest.raises(
        CommandLineError, match=r"contains no repository; only a folder that is served alone may be empty"
    ):
        read(tmp_path, demonstration, may_be_empty=True)
    served = read(tmp_path, may_be_empty=True)
    assert (served.root, served.repositories) == (str(tmp_path), {})


def test_the_application(demonstration: Path) -> None:
    assert read(demonstration).app(challenge="Digest").provider.locate("/") == ("", "")


def test_configuration_that_mercurial_rejects(demonstration: Path) -> None:
    with pytest.raises(CommandLineError, match="httppostargs is not a boolean") as caught:
        read(demonstration, "--config", "experimental.httppostargs=perhaps").app()
    assert caught.value.code == 1


def test_an_hgweb_config(demonstration: Path, tmp_path: Path) -> None:
    file = tmp_path / "hgweb.config"
    file.write_text(f"[paths]\né = {demonstration}\nmissing = {tmp_path}/missing\n[web]\nhidden = yes\n")
    served = read(file)
    assert (served.root, served.is_config_file) == (str(file), True)
    assert served.repositories == {"é": demonstration}
    assert served.app().provider.locate("/Ã©/x") == ("Ã©", "x")
    with pytest.raises(CommandLineError, match=r"hgweb\.config: an hgweb\.config is served alone"):
        read(file, demonstration)
    file.write_text(" nonsense\n")
    with pytest.raises(CommandLineError, match=r"hgweb\.config:1: "):
        read(file).app()


def test_a_bundle_file_is_a_repository(demonstration: Path, tmp_path: Path, hg: Callable[..., str]) -> None:
    bundle = tmp_path / "x.hg"
    hg("-R", demonstration, "bundle", "--all", bundle)
    assert read(bundle).repositories == {"": bundle}
    assert read(bundle, demonstration).repositories == {"x.hg": bundle, demonstration.name: demonstration}


# hgweb leaves the files of its templates to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pages_are_behind_it_if_they_are_wanted(demonstration: Path) -> None:
    served = read(demonstration)
    assert isinstance(served.wsgi(), WireApp)
    middleware = attrs.evolve(served, pages=True).wsgi(challenge="Digest")
    assert isinstance(middleware, WireMiddleware)
    assert "greeting.py" in WireTestApp(middleware, lint=False).get("/file/default/").text
    del middleware
    gc.collect()
