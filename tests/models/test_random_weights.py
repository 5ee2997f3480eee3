"""``load_format="dummy"``: a model of random weights from config.json alone, and an engine without a tokenizer."""

import json

import pytest
import torch
from carrel.config import EngineConfig, ModelSpec
from carrel.errors import UnsupportedModelError, UnsupportedTaskError, WeightsError
from carrel.host import EngineHost
from carrel.models.config import ModelConfig
from carrel.worker.loader import load_runner
from driving import Driver, chat_request, dense_parameters, open_runner, random_ids

NAMES = ["qwen2", "qwen3", "bert-mean", "bert-reranker", "xlmr-reranker"]


@pytest.fixture
def bare(tiny_models, tmp_path):
    """``bare("qwen2")``: a folder with that model's JSON files and nothing else."""

    def copy(name):
        for path in tiny_models(name).rglob("*.json"):
            if not path.name.startswith(("tokenizer", "special", "vocab")):
                target = tmp_path / path.relative_to(tiny_models(name))
                target.parent.mkdir(exist_ok=True, parents=True)
                target.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        return tmp_path

    return copy


def load(folder, **options):
    config = ModelConfig.from_folder(folder)
    return load_runner(folder, config, device="cpu", dtype="float32", block_size=8, **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_model(name, bare, tiny_models):
    runner = load(bare(name), load_format="dummy")
    real = open_runner(tiny_models(name), dtype="float32")
    shapes = [{key: weight.shape for key, weight in dense_parameters(each.model).items()} for each in (runner, real)]
    assert shapes[0] == shapes[1]
    assert runner.weights_bytes == real.weights_bytes
    assert all(weight.isfinite().all() and weight.std() > 0 for weight in dense_parameters(runner.model).values())


def test_the_same_model_each_time_and_it_generates(bare):
    runners = [load(bare("qwen2"), load_format="dummy") for _ in range(2)]
    for runner in runners:
        runner.allocate_kv_cache(200)
    made = [Driver(runner).generate([chat_request(random_ids(20))], 12)[0] for runner in runners]
    assert made[0] == made[1]
    assert len(set(made[0])) > 1


def test_without_it_weights_are_asked_for(bare):
    with pytest.raises(WeightsError, match="no weights"):
        load(bare("qwen2"))


def test_an_engine_of_token_ids(bare):
    options = {"device": "cpu", "kv_cache_memory_bytes": 1 << 20, "load_format": "dummy"}
    with EngineHost([ModelSpec(name=str(bare("qwen2")))], EngineConfig(skip_tokenizer_init=True, **options)) as host:
        model = host.get(None, "chat")
        assert model.chat_template is None
        with pytest.raises(UnsupportedTaskError, match="skip_tokenizer_init"):
            _ = model.tokenizer
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        EngineHost([ModelSpec(name=str(bare("qwen2")))], EngineConfig(**options))


def test_dtype_of_the_config(bare):
    folder = bare("qwen2")
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    raw.pop("torch_dtype", None)
    raw["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    config = ModelConfig.from_folder(folder)
    runner = load_runner(folder, config, device="cpu", dtype="auto", block_size=8, load_format="dummy")
    assert runner.dtype is torch.float32
