"""The public names: what ``__all__`` says is there, and what is there is said."""

from __future__ import annotations

import importlib
import inspect

import pytest

PACKAGES = ["carrel", "carrel_rag", "carrel_server", "langchain_carrel"]
ADAPTERS = ["llama_index.llms.carrel", "llama_index.embeddings.carrel", "llama_index.postprocessor.carrel"]
ENGINE_NAMES = {
    "LLM",
    "AsyncLLM",
    "SamplingParams",
    "PoolingParams",
    "RequestOutput",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "ScoringRequestOutput",
    "RerankOutput",
    "CarrelError",
    "__version__",
}


@pytest.mark.parametrize("package", PACKAGES + ADAPTERS)
def test_all_names_exist_and_are_documented(package: str) -> None:
    module = importlib.import_module(package)
    names = list(module.__all__)
    assert len(names) == len(set(names))
    for name in names:
        member = getattr(module, name)
        if inspect.isclass(member) or inspect.isfunction(member):
            assert inspect.getdoc(member), f"{package}.{name} has no docstring"


def test_the_engine_exports_what_the_readme_uses() -> None:
    import carrel

    assert set(carrel.__all__) >= ENGINE_NAMES
    assert set(carrel.__all__) <= set(dir(carrel))


def test_an_unknown_name_is_an_attribute_error() -> None:
    import carrel

    with pytest.raises(AttributeError, match="NoSuchThing"):
        carrel.NoSuchThing  # noqa: B018


def test_version_is_one_fact() -> None:
    from importlib.metadata import version

    import carrel

    assert carrel.__version__ == version("carrel")
