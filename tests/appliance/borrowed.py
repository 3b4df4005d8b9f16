"""Importing this first makes the modules of tests/realclient importable."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "realclient"))
