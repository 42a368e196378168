"""What the test suite promises about itself: marks, and nothing skipped where everything is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

PASSES = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
SKIPPED = {
    "import": 'pytest.importorskip("mercurial.nosuch")',
    "program": 'pytest.skip("not installed here: uwsgi")',
    "optional": 'pytest.skip("nginx is not installed")',
}


@pytest.mark.parametrize(
    ("kind", "required", "fails"),
    [
        ("import", "1", True),
        ("import", "", False),
        ("program", "1", True),
        ("program", "", False),
        ("optional", "1", False),
    ],
)
@pytest.mark.parametrize("place", ["module", "test"])
def test_what_the_extras_install_is_required(place: str, kind: str, required: str, fails: bool, tmp_path: Path) -> None:
    if place == "test":
        statement = f"def test_skipped():\n    {SKIPPED[kind]}"
    else:
        statement = SKIPPED[kind].replace('pytest.skip("', 'pytest.skip(allow_module_level=True, reason="')
    (tmp_path / "test_it.py").write_text(f"import pytest\n{statement}\ndef test_passes(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "HGWIRE_REQUIRE_LIVE": required, "PYTHONPATH": os.pathsep.join(map(str, [HERE, *sys.path]))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED} if fails else PASSES
    assert done.returncode in expected, done.stdout + done.stderr
