"""Where the checkout's files are. Knows the layout of the repository, and nothing of what is in the files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("engine", "server", "rag", "integrations")
CODE_FOLDERS = (*SOURCE_ROOTS, "tests", "examples", "scripts", "benchmarks", "training")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".json", ".jsonl", ".ipynb", ".yml", ".yaml", ".cfg", ".ini", ".sh", ""}


def package_files() -> list[Path]:
    """The modules that go into the wheel."""
    return sorted(path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py"))


def code_files() -> list[Path]:
    """Every Python file of the project."""
    return sorted(path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py"))


def text_files() -> list[Path]:
    """What a reader opens: code, prose, configuration. Not the documents of the demo, not data."""
    tops = [path for path in ROOT.iterdir() if path.is_file()]
    inner = [path for folder in (*CODE_FOLDERS, "docs", "notebooks", ".ci") for path in (ROOT / folder).rglob("*")]
    found = [path for path in tops + inner if path.is_file() and path.suffix in TEXT_SUFFIXES]
    return sorted(path for path in found if not {"__pycache__", "documents", "data"} & set(path.parts))


def module_name(path: Path) -> str:
    """``engine/carrel/errors.py`` → ``carrel.errors``."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
