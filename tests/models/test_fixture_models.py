"""Every variant of the script is a model that carrel reads."""

import pytest
from carrel.models.config import ModelConfig
from carrel.worker.loader import load_runner

DECODERS = ["llama", "llama-llama3", "llama-yarn", "llama-linear", "qwen2", "qwen2-untied", "qwen2-sharded"]
DECODERS += ["qwen2-bf16", "qwen2-fp16", "qwen2-window", "qwen3", "mistral"]
EMBEDDERS = ["bert-mean", "bert-cls", "bert-mean-max", "bert-bf16", "roberta-dense", "xlmr-prompts", "xlmr-weighted"]
EMBEDDERS += ["qwen3-last"]
RERANKERS = ["bert-reranker", "bert-classifier", "roberta-reranker", "xlmr-reranker", "bert-spans", "xlmr-spans"]
TASKS = [(name, "chat") for name in DECODERS] + [(name, "embedding") for name in EMBEDDERS]
TASKS += [(name, "rerank") for name in RERANKERS]


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_every_variant_loads_with_its_task(tiny_models, name, task):
    config = ModelConfig.from_folder(tiny_models(name))
    assert config.task == task
    runner = load_runner(config.folder, config, device="cpu", dtype="auto", block_size=16)
    assert runner.weights_bytes > 0
    assert (runner.kv_bytes_per_block > 0) == (task == "chat")
    runner.close()


def test_the_list_above_is_complete(tiny_models):
    assert sorted(tiny_models.script.VARIANTS) == sorted(name for name, _ in TASKS)
