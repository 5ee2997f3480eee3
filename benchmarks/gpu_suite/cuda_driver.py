"""Whether there is a CUDA device at all, before a dozen processes find out that there is none. Loads no torch."""

from __future__ import annotations

import ctypes
import subprocess
import sys


def has_cuda() -> bool:
    """By the driver's own library; where that is not found, by torch in another process, which takes its time."""
    try:
        if ctypes.CDLL("libcuda.so.1").cuInit(0) == 0:
            return True
    except (OSError, AttributeError):
        pass
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], check=False, capture_output=True).returncode == 0
