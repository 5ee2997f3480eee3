"""What the run runs on: device, versions, cores. Knows no model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from gpu_suite.section import Context

PACKAGES = ("torch", "triton", "transformers", "safetensors", "numpy")


def describe(context: Context) -> None:
    import torch

    device = context.options.device
    facts: dict[str, object] = {name: _version(name) for name in PACKAGES}
    facts |= {"python": platform.python_version(), "cores": os.cpu_count(), "cpu": _cpu_name()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        facts |= {
            "device": properties.name,
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    else:
        facts["device"] = f"cpu, {torch.get_num_threads()} threads"
    context.facts(**facts)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    return path.read_text(encoding="utf-8").splitlines()[0] if path.is_file() else None


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
