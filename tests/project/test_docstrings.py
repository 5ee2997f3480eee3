"""The examples in docstrings run, and say what they say they say."""

from __future__ import annotations

import doctest
import importlib

import pytest
from checkout import module_name, package_files

MODULES = sorted(module_name(path) for path in package_files() if ">>> " in path.read_text(encoding="utf-8"))


def test_some_docstrings_have_examples() -> None:
    assert {"carrel.params", "carrel_rag.schema"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0, "the report is above"
