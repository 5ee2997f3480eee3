"""Compile every kernel of carrel for three GPUs on a machine without one, and check what came out.

    python scripts/compile_kernels.py                      # all of engine/carrel/kernels
    python scripts/compile_kernels.py --module silu_mul --capability 90

Reads ``COMPILE_CASES`` of every module in ``carrel.kernels`` and compiles each case for sm_80, sm_90 and sm_100 with
the Triton of this Python (its wheel brings ptxas). Fails when a kernel spills registers or keeps an array on the stack,
when it wants more shared memory than one block may have, and when a case with ``needs_mma`` holds no matrix
instruction. Results are kept in the temporary directory under a key of source, case and Triton version. Knows nothing
about values or speed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import pkgutil
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ENGINE = Path(__file__).resolve().parent.parent / "engine"
CAPABILITIES = (80, 90, 100)
SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes that one block may have (CUDA C guide, 10.x)
TENSOR_MEMORY_LIMIT = 512  # columns, sm_100
STACK_LIMIT = 64  # bytes; ptxas reserves a few without a spill, an array on the stack takes more
CACHE_FORMAT = 2  # of Result
Task = tuple[str, int, int]  # module, index of the case, capability
MATRIX_INSTRUCTIONS = ("tcgen05.mma", "wgmma.mma_async", "mma.sync")


@dataclass(frozen=True)
class Result:
    """What the compiler said about one case on one GPU."""

    module: str
    case: str
    capability: int
    registers: int = 0
    spilled_bytes: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    tensor_memory: int = 0
    matrix_instruction: str = ""
    seconds: float = 0.0
    error: str = ""

    def problems(self, needs_mma: bool) -> list[str]:
        """What is wrong with it, one sentence each."""
        limit = SHARED_LIMITS[self.capability]
        checks = {
            self.error: self.error != "",
            f"spills {self.spilled_bytes} bytes": self.spilled_bytes > 0,
            f"a stack of {self.stack_bytes} bytes": self.stack_bytes > STACK_LIMIT and not self.spilled_bytes,
            f"shared memory {self.shared_bytes} > {limit} bytes": self.shared_bytes > limit,
            f"tensor memory {self.tensor_memory} > {TENSOR_MEMORY_LIMIT} columns": self.tensor_memory
            > TENSOR_MEMORY_LIMIT,
            "no matrix instruction": needs_mma and not self.matrix_instruction and not self.error,
        }
        return [problem for problem, found in checks.items() if found]


def triton_environment() -> None:
    """Kernels import as compiled ones, from this checkout, and leave nothing in the user's cache."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns when nobody chose
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # a cached kernel has no ptxas log
    if str(ENGINE) not in sys.path:
        sys.path.insert(0, str(ENGINE))


def kernel_modules() -> list[str]:
    """Names of the modules in ``carrel.kernels``, found without importing them."""
    return sorted(info.name for info in pkgutil.iter_modules([str(ENGINE / "carrel" / "kernels")]))


@functools.cache
def cases_of(module: str) -> list[Any]:
    """The module's cases; each of its functions called ``*_kernel`` (what a grid launches) has one."""
    from triton.runtime.jit import JITFunction

    loaded = importlib.import_module(f"carrel.kernels.{module}")
    cases = list(getattr(loaded, "COMPILE_CASES", []))
    own = {n for n, v in vars(loaded).items() if isinstance(v, JITFunction) and v.fn.__module__ == loaded.__name__}
    missing = {n for n in own if n.endswith("_kernel")} - {case.kernel.fn.__name__ for case in cases}
    assert not missing, f"{loaded.__name__} has no COMPILE_CASES of {sorted(missing)}"
    names = [case.name for case in cases]
    assert len(names) == len(set(names)), f"{loaded.__name__}: two cases of one name"
    return cases


def ast_source(case: Any) -> Any:
    """The case as Triton's compiler takes it: ``:16`` of a type becomes an attribute of its argument."""
    from triton.compiler import ASTSource

    names = case.kernel.arg_names
    unknown = [name for name in (*case.signature, *case.constexprs) if name not in names]
    missing = [name for name in names if name not in case.signature and name not in case.constexprs]
    assert not unknown and not missing, f"{case.name}: unknown arguments {unknown}, missing arguments {missing}"
    types = {name: case.signature.get(name, "constexpr") for name in names}
    attributes = {
        (index,): [["tt.divisibility", 16]] for index, kind in enumerate(types.values()) if kind.endswith(":16")
    }
    signature = {name: kind.removesuffix(":16") for name, kind in types.items()}
    return ASTSource(case.kernel, signature, constexprs=dict(case.constexprs), attrs=attributes)


def compile_case(module: str, case: Any, capability: int) -> Result:
    """Compile with the log of ptxas on, and read registers, spills and stack from it."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget

    knobs.nvidia.dump_ptxas_log = True
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as log:
        kernel = triton.compile(
            ast_source(case),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": case.num_warps, "num_stages": case.num_stages},
        )
    return Result(
        module,
        case.name,
        capability,
        registers=_largest(r"Used (\d+) registers", log.getvalue()),
        spilled_bytes=_largest(r"(\d+) bytes spill stores", log.getvalue()),
        stack_bytes=_largest(r"(\d+) bytes stack frame", log.getvalue()),
        shared_bytes=int(kernel.metadata.shared),
        tensor_memory=int(getattr(kernel.metadata, "tmem_size", 0) or 0),
        matrix_instruction=next((name for name in MATRIX_INSTRUCTIONS if name in kernel.asm["ptx"]), ""),
        seconds=round(time.perf_counter() - started, 2),
    )


def _largest(pattern: str, log: str) -> int:
    found = [int(number) for number in re.findall(pattern, log)]
    assert found, f"ptxas said nothing like {pattern!r}: {log!r}"
    return max(found)


def result_of(module: str, index: int, capability: int, cache: str) -> Result:
    """One task of a worker process: from the cache, or compiled now; a compiler error is a problem of the case."""
    triton_environment()
    case = cases_of(module)[index]
    path = Path(cache, f"{_key(case, capability)}.json") if cache else None
    if path is not None and path.exists():
        kept = json.loads(path.read_text())
        return Result(**{**kept, "module": module, "case": case.name})
    try:
        with tempfile.TemporaryDirectory(prefix="carrel-triton-") as folder:
            os.environ["TRITON_CACHE_DIR"] = folder
            result = compile_case(module, case, capability)
    except Exception as error:  # one kernel that does not compile must not hide the others
        return Result(module, case.name, capability, error="".join(traceback.format_exception_only(error)).strip())
    if path is not None:
        _write(path, json.dumps(asdict(result)))
    return result


def _key(case: Any, capability: int) -> str:
    import triton

    parts = (
        CACHE_FORMAT, triton.__version__, case.kernel.cache_key, capability,
        sorted(case.signature.items()), sorted(case.constexprs.items(), key=str), case.num_warps, case.num_stages,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def compile_all(tasks: Sequence[Task], cache: str, jobs: int) -> Iterator[Result]:
    """Results in the order of ``tasks``, from ``jobs`` processes that share nothing with this one."""
    if jobs == 1:
        yield from (result_of(*task, cache) for task in tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(result_of, *task, cache) for task in tasks]
        yield from (future.result() for future in futures)


def print_row(result: Result, problems: Sequence[str]) -> None:
    verdict = "; ".join(problems) or "ok"
    print(
        f"{result.module + ': ' + result.case:64} sm_{result.capability:<4} {result.registers:4} "
        f"{result.spilled_bytes:6} {result.shared_bytes:7} {result.matrix_instruction or '-':16} "
        f"{result.seconds:5.1f} {verdict}",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--module", action="append", help="only this module of carrel.kernels (may be repeated)")
    parser.add_argument("--case", default="", help="only cases whose name holds this text")
    parser.add_argument(
        "--capability", action="append", type=int, choices=CAPABILITIES, help="only this GPU generation"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir(), f"carrel-compiled-{os.getuid()}")))
    parser.add_argument("--no-cache", dest="cache", action="store_const", const="")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    triton_environment()
    import triton

    tasks, failed = [], 0
    for module in args.module or kernel_modules():
        try:
            indices = [index for index, case in enumerate(cases_of(module)) if args.case in case.name]
        except Exception as error:  # a module that does not import must not hide the others
            print(f"{module}: {''.join(traceback.format_exception_only(error)).strip()}")
            failed += 1
            continue
        tasks += [
            (module, index, sm)
            for index in indices
            for sm in args.capability or CAPABILITIES
            if sm >= cases_of(module)[index].min_capability
        ]
    print(f"Triton {triton.__version__}: {len(tasks)} compilations")
    print(f"{'kernel: case':64} {'GPU':7} regs spills  shared matrix              sec verdict")
    for (module, index, _), result in zip(tasks, compile_all(tasks, args.cache, args.jobs), strict=True):
        problems = result.problems(cases_of(module)[index].needs_mma)
        print_row(result, problems)
        failed += bool(problems)
    print(f"{failed} failed" if failed else "all passed")
    return 1 if failed or not tasks else 0


if __name__ == "__main__":
    sys.exit(main())
