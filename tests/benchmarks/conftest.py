"""``benchmarks/gpu.py``'s parts are no package of the project: its folder is put on the path here."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "benchmarks", ROOT / "tests" / "kernels"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
