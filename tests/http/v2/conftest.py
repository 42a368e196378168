"""One test runs version 2 over the other revision of the tests of frames."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "framing"))
