"""carrel: chat, embeddings and rerank from one engine in your process, on one GPU or a plain CPU.

Importing carrel imports no torch: each public name loads its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from carrel._version import __version__

if TYPE_CHECKING:
    from carrel.async_llm import AsyncLLM
    from carrel.beam_params import BeamSearchParams
    from carrel.config import EngineConfig, ModelSpec
    from carrel.errors import CarrelError
    from carrel.host import EngineHost
    from carrel.llm import LLM
    from carrel.outputs import (
        BeamSearchOutput,
        BeamSearchSequence,
        ClassificationRequestOutput,
        CompletionOutput,
        EmbeddingRequestOutput,
        ExtractionOutput,
        ExtractionResult,
        PoolingRequestOutput,
        RequestOutput,
        RerankOutput,
        RerankResult,
        ScoringRequestOutput,
    )
    from carrel.params import PoolingParams, RequestOutputKind, SamplingParams

_HOMES = {
    "AsyncLLM": "async_llm",
    "BeamSearchOutput": "outputs",
    "BeamSearchParams": "beam_params",
    "BeamSearchSequence": "outputs",
    "CarrelError": "errors",
    "ClassificationRequestOutput": "outputs",
    "CompletionOutput": "outputs",
    "EmbeddingRequestOutput": "outputs",
    "EngineConfig": "config",
    "EngineHost": "host",
    "ExtractionOutput": "outputs",
    "ExtractionResult": "outputs",
    "LLM": "llm",
    "ModelSpec": "config",
    "PoolingParams": "params",
    "PoolingRequestOutput": "outputs",
    "RequestOutput": "outputs",
    "RequestOutputKind": "params",
    "RerankOutput": "outputs",
    "RerankResult": "outputs",
    "SamplingParams": "params",
    "ScoringRequestOutput": "outputs",
}

__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "CarrelError",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineConfig",
    "EngineHost",
    "ExtractionOutput",
    "ExtractionResult",
    "ModelSpec",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestOutput",
    "RequestOutputKind",
    "RerankOutput",
    "RerankResult",
    "SamplingParams",
    "ScoringRequestOutput",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'carrel' has no attribute {name!r}")
    return getattr(importlib.import_module(f"carrel.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
