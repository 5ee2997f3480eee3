"""From the files of a model folder to a :class:`~carrel.models.config.ModelConfig`. Decides the task.

Of a reranker's weights the names are read, too: config.json does not say whether there is a head for spans.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carrel.config import Task
from carrel.errors import UnsupportedModelError
from carrel.models.config import JsonObject, ModelConfig, read_config_json, read_json
from carrel.models.decoder_config import decoder_fields
from carrel.models.encoder_config import encoder_fields
from carrel.models.pooling_config import PoolingConfig, read_pooling
from carrel.models.registry import family_of
from carrel.models.weight_facts import has_tensor

HEAD = "ForSequenceClassification"
SPAN_WEIGHT = "qa_outputs.weight"


def read_model_config(folder: Path) -> ModelConfig:
    raw = read_config_json(folder)
    try:
        return _read(folder, raw)
    except KeyError as error:
        raise UnsupportedModelError(f"{folder} has a config that lacks {error}; download the model again.") from error


def _read(folder: Path, raw: JsonObject) -> ModelConfig:
    architecture = _architecture(folder, raw)
    family = family_of(architecture)
    _refuse_quantised(folder, raw)
    generation = read_json(folder / "generation_config.json")
    task, pooling = _task(folder, raw, architecture, is_decoder=family.is_decoder)
    labels = _labels(raw) if task == "rerank" else ()
    fields = decoder_fields(raw, family) if family.is_decoder else encoder_fields(raw, family)
    return ModelConfig(
        folder=folder,
        architecture=architecture,
        model_type=str(raw.get("model_type", family.name)),
        task=task,
        dtype=_dtype(raw),
        pooling=pooling,
        labels=labels,
        has_spans=len(labels) == 1 and has_tensor(folder, SPAN_WEIGHT),
        problem_type=raw.get("problem_type"),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", family.ties_by_default)),
        eos_token_ids=frozenset(_ids(raw.get("eos_token_id")) + _ids(generation.get("eos_token_id"))),
        bos_token_id=raw.get("bos_token_id"),
        generation=generation,
        **fields,
    )


def _architecture(folder: Path, raw: JsonObject) -> str:
    names = raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise UnsupportedModelError(
            f'{folder / "config.json"} names no architecture; add it, e.g. "architectures": ["Qwen2ForCausalLM"].'
        )
    return names[0]


def _refuse_quantised(folder: Path, raw: JsonObject) -> None:
    quantisation = raw.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
        raise UnsupportedModelError(
            f"{folder} holds quantised weights (quant_method {method!r}), which carrel cannot load yet; "
            "use the model's bf16, fp16 or fp32 checkpoint."
        )


def _task(folder: Path, raw: JsonObject, architecture: str, *, is_decoder: bool) -> tuple[Task, PoolingConfig | None]:
    if architecture.endswith(HEAD):
        if is_decoder:
            raise UnsupportedModelError(f"{architecture} is not supported yet; encoders with such a head are.")
        return "rerank", None
    if (folder / "modules.json").is_file() or not architecture.endswith("ForCausalLM"):
        return "embedding", read_pooling(folder, raw)
    return "chat", None


def _labels(raw: JsonObject) -> tuple[str, ...]:
    labels = raw.get("id2label")
    if isinstance(labels, dict) and labels:
        return tuple(str(labels[key]) for key in sorted(labels, key=int))
    return tuple(f"LABEL_{index}" for index in range(int(raw.get("num_labels", 2))))  # transformers' default


def _dtype(raw: JsonObject) -> str | None:
    name = raw.get("dtype", raw.get("torch_dtype"))
    return None if name is None else str(name).removeprefix("torch.")


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)
