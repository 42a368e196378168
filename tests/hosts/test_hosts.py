from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hgwire_wsgi import hosts

FOREIGN = {"flask": "werkzeug", "pyramid": "pyramid", "paste": "mercurial", "uwsgi": "signal", "allocator": "ctypes"}
"""Modules, and the package that each of them may import; the last two need none."""


def test_every_module_is_listed() -> None:
    found = {path.stem for path in Path(hosts.__file__).parent.glob("*.py")} - {"__init__"}
    assert found == set(FOREIGN)


@pytest.mark.parametrize("adapter", FOREIGN)
def test_adapters_are_importable_without_each_others_frameworks(adapter: str) -> None:
    pytest.importorskip(FOREIGN[adapter])
    others = sorted({"flask", "werkzeug", "pyramid", "paste", "mercurial"} - {FOREIGN[adapter]})
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({others!r}))\n"  # None in sys.modules makes an import fail.
        f"import hgwire_wsgi.hosts.{adapter}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(hosts.__file__).parents[2])


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("/hg", "/hg"), ("/hg/", "/hg"), ("/a/b", "/a/b"), ("/dépôts", "/d\xc3\xa9p\xc3\xb4ts")],
)
def test_a_mount_point_is_spelled_as_path_info_is(prefix: str, expected: str) -> None:
    assert hosts.mount_point(prefix) == expected


@pytest.mark.parametrize("prefix", ["", "/", "//", "hg", "hg/"])
def test_what_is_no_prefix_is_refused_with_a_hint(prefix: str) -> None:
    with pytest.raises(ValueError, match="WireMiddleware"):
        hosts.mount_point(prefix)
