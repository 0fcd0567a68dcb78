"""Makes `tools/` importable, as `python -m curriculum.write` finds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
