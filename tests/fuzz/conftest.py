"""The fuzz targets run over the recorded vectors as well, which the tests of frames know how to read."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "framing"))
