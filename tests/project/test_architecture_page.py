"""docs/architecture.md names files, classes and methods: each of them exists."""

from __future__ import annotations

import re

import pytest
from checkout import ROOT, package_files

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in package_files()}
FILES = sorted(set(re.findall(r"[\w/]+\.py\b", PAGE)))
METHODS = sorted(set(re.findall(r"\b([A-Z]\w+)\.(_?[a-z]\w+)\b", PAGE)))
CLASSES = sorted(set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b|\b(?:Async)?LLM\b", PAGE)))
NOT_OURS = {"LangChain", "LlamaIndex"}


def class_body(name: str) -> str:
    """Source from ``class name`` on; empty if there is no such class."""
    pattern = re.compile(rf"^class {name}\b.*?(?=^class |\Z)", re.MULTILINE | re.DOTALL)
    return "".join(match[0] for text in SOURCES.values() for match in pattern.finditer(text))


def test_the_page_names_much() -> None:
    assert len(FILES) > 20
    assert len(METHODS) > 15


@pytest.mark.parametrize("name", FILES)
def test_file_exists(name: str) -> None:
    assert any(path.endswith(f"/{name}") for path in SOURCES)


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in NOT_OURS])
def test_class_exists(name: str) -> None:
    assert class_body(name)


@pytest.mark.parametrize(("owner", "method"), METHODS, ids=".".join)
def test_method_exists(owner: str, method: str) -> None:
    """On the class itself; where it inherits, somewhere in the rooms."""
    body = class_body(owner)
    defined = re.compile(rf"\bdef {method}\b|\bself\.{method}\b")
    assert defined.search(body) or any(defined.search(text) for text in SOURCES.values())
