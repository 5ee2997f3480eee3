"""What importing costs and what it may load. Each check runs in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import carrel_rag
import pytest


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in ``sys.modules`` after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_import_carrel_loads_no_torch() -> None:
    heavy = {"torch", "transformers", "numpy.testing", "fastapi", "faiss", "langchain_core", "llama_index"}
    assert loaded_after("import carrel") & heavy == set()


def test_naming_parameters_loads_no_torch() -> None:
    assert "torch" not in loaded_after("from carrel import SamplingParams, PoolingParams, CarrelError")


@pytest.mark.parametrize("module", ["scheduler", "kv_cache", "block_pool", "core", "loop", "request", "step"])
def test_scheduling_loads_no_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import carrel.{module}")


def test_the_rag_package_loads_no_server_and_no_framework() -> None:
    assert loaded_after("import carrel_rag") & {"fastapi", "langchain_core", "llama_index", "torch"} == set()


def test_the_rag_package_loads_neither_its_index_nor_its_readers_of_documents() -> None:
    statement = "import carrel_rag.prompts\nfrom carrel_rag import Document, Answer, KnowledgeBaseError"
    assert loaded_after(statement) & {"faiss", "docx", "pypdfium2", "torch", "llguidance"} == set()


def test_every_public_name_of_the_rag_package_is_there() -> None:
    loaded_after("import carrel_rag\nassert all(getattr(carrel_rag, name) for name in carrel_rag.__all__)")
    assert "RAGPipeline" in dir(carrel_rag)
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        getattr(carrel_rag, "Pipe" + "line")


def test_the_command_line_starts_without_torch() -> None:
    assert "torch" not in loaded_after("import carrel_server.cli")
