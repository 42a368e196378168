"""Each torture script with small numbers.  The full sizes are in ``README.rst``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gunicorn", reason="needs the extra hgwire-wsgi[serve]")
pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

HERE = Path(__file__).resolve().parent

SIZES = {
    "endurance.py": ["--requests", "3000", "--transfers", "10"],
    "flipped_bits.py": ["--flips", "4", "--truncations", "2"],
    "full_disk.py": ["--pushes", "3"],
    "grammar.py": ["--requests", "1500"],
    "kills.py": ["--push-kills", "2", "--clone-kills", "2", "--pushers", "2"],
    "signals.py": ["--clones", "4", "--pushes", "2"],
    "slow_scenes.py": ["--seconds", "2"],
    "vanished.py": ["--clones", "100"],
}
"""Script: its options here."""

SCRIPTS = sorted(path.name for path in HERE.glob("*.py") if path.read_text().startswith("#!"))


@pytest.mark.parametrize("script", sorted(SIZES))
def test_a_promise_holds(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *SIZES[script]], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "skipped:" in done.stdout:
        pytest.skip(done.stdout.partition("skipped:")[2].strip())


def test_every_script_is_described_and_run() -> None:
    described = re.findall(r"^``(\w+\.py)``", (HERE / "README.rst").read_text(), re.MULTILINE)
    assert sorted(described) == sorted(SIZES)
    # Its scenes need a server, which slow_scenes.py starts.
    assert set(SCRIPTS) - {"slow_clients.py"} == set(SIZES)
