"""Weights stored in int8 rows compute as the same numbers in float32 do: whole, in slices and quantised."""

import json
import os
from pathlib import Path

import pytest
import torch
from carrel.config import EngineConfig, ModelSpec
from carrel.errors import WeightsError
from carrel.layers.parallel import Alone, Split
from carrel.models.config import ModelConfig
from carrel.models.weight_facts import read_weight_facts
from carrel.models.weights import Checkpoint
from carrel.preview import plan_together, preview_model
from carrel.worker.loader import load_chat_runner
from driving import BLOCK_SIZE, NUM_BLOCKS, Driver, chat_request, open_runner, pooling_item, random_ids
from safetensors.torch import load_file, save_file
from tiny_models import ROOT, copy_in_int8_rows, load_script

WEIGHT = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def twins(tiny_models, tmp_path_factory):
    """``twins(name)``: the folders of one model in int8 rows and of the same numbers in float32."""
    made = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in made:
            made[name] = copy_in_int8_rows(tiny_models(name), tmp_path_factory.mktemp(name))
        return made[name]

    return make


def change(folder: Path, edit) -> Path:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)
    return folder


@pytest.fixture
def broken(tiny_models, tmp_path):
    """``broken(edit)``: the folder of a chat model in int8 rows whose tensors ``edit`` has changed."""
    return lambda edit, name="qwen2": change(copy_in_int8_rows(tiny_models(name), tmp_path)[0], edit)


@pytest.mark.parametrize("name", ["qwen2", "qwen2-untied", "qwen2-bf16", "llama", "qwen3"])
def test_a_decoder_computes_as_with_the_same_numbers_in_float32(twins, name):
    stored, plain = (Driver(open_runner(folder)).logits(chat_request(random_ids(30)), 30) for folder in twins(name))
    assert torch.equal(stored, plain)


@pytest.mark.parametrize("name", ["bert-mean", "xlmr-weighted", "bert-reranker", "roberta-reranker"])
def test_an_encoder_and_its_head_do_too(twins, name):
    stored, plain = (
        open_runner(folder).execute([pooling_item(random_ids(20, vocab_size=100))])[0] for folder in twins(name)
    )
    assert (stored.pooled == plain.pooled).all()


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_they_are_quantised_like_others(twins, quantization):
    logits, sizes = [], []
    for folder in twins("qwen2"):
        config = ModelConfig.from_folder(folder)
        options = {"device": "cpu", "dtype": "auto", "block_size": BLOCK_SIZE}
        runner = load_chat_runner(folder, config, quantization=quantization, **options)
        runner.allocate_kv_cache(NUM_BLOCKS)
        logits.append(Driver(runner).logits(chat_request(random_ids(30)), 30))
        sizes.append(runner.weights_bytes)
    assert torch.equal(*logits)
    assert sizes[0] == sizes[1] < open_runner(twins("qwen2")[0]).weights_bytes


@pytest.mark.parametrize(
    ("kind", "size"), [("rows", 2), ("rows", 4), ("columns", 2), ("vocabulary", 2), ("vocabulary", 7), ("first", 2)]
)
def test_each_rank_has_its_slice(twins, kind, size):
    """The parts of all ranks together are the whole; the vocabulary does not divide by seven."""
    name = {"vocabulary": "embed_tokens.weight"}.get(kind, "layers.0.mlp.down_proj.weight")
    int8, plain = (Checkpoint(folder, "model.") for folder in twins("qwen2"))
    whole = plain.load(name)
    split = Split(kind, len(whole) if kind == "vocabulary" else None)
    parts = [int8.load(name, split, Alone(rank, size)) for rank in range(size)]
    for rank, part in enumerate(parts):
        assert torch.equal(part, plain.load(name, split, Alone(rank, size)))
    if kind != "first":
        assert torch.equal(torch.cat(parts, dim=int(kind == "columns"))[: len(whole)], whole)


def test_the_dtype_is_that_of_the_scales(twins, tmp_path):
    stored, _ = twins("qwen2-bf16")
    assert Checkpoint(stored, "model.").dtype() == "float32"
    assert ModelConfig.from_folder(stored).dtype == "bfloat16", "config.json has the last word"


def test_facts_count_weights_and_no_scales(twins, tiny_models):
    stored, plain = twins("qwen2")
    facts = read_weight_facts(stored)
    assert facts.num_parameters == read_weight_facts(plain).num_parameters == open_runner(plain).num_weights
    assert facts.dtypes == ("I8", "F32")
    assert facts.num_bytes == (stored / "model.safetensors").stat().st_size < read_weight_facts(plain).num_bytes / 2


def test_a_preview_plans_what_loading_takes(twins):
    plans = []
    for folder in twins("qwen2"):
        config = EngineConfig(device="cpu", kv_cache_memory_bytes=8 << 20)
        preview = preview_model(ModelSpec(name=str(folder)), config)
        assert preview is not None
        plans.append(plan_together([preview], config))
    assert plans[0].weights_bytes == plans[1].weights_bytes == open_runner(twins("qwen2")[0]).weights_bytes


def test_weight_and_scale_may_lie_in_different_files(twins, tmp_path):
    stored, _ = twins("qwen2")
    tensors = load_file(stored / "model.safetensors")
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in stored.iterdir():
        if path.suffix != ".safetensors":
            os.link(path, folder / path.name)
    shards = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in tensors.items():
        shards["b.safetensors" if name.endswith(".scale") else "a.safetensors"][name] = tensor
    for shard, part in shards.items():
        save_file(part, folder / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found, expected = (Driver(open_runner(each)).logits(chat_request(random_ids(9)), 9) for each in (folder, stored))
    assert torch.equal(found, expected)
    assert read_weight_facts(folder).num_parameters == read_weight_facts(stored).num_parameters


def no_scale(tensors):
    del tensors[f"{WEIGHT}.scale"]


def short_scale(tensors):
    tensors[f"{WEIGHT}.scale"] = tensors[f"{WEIGHT}.scale"][:-1]


def deep_scale(tensors):
    tensors[f"{WEIGHT}.scale"] = tensors[f"{WEIGHT}.scale"][:, None].clone()


def half_scale(tensors):
    tensors[f"{WEIGHT}.scale"] = tensors[f"{WEIGHT}.scale"].half()


def float_weight(tensors):
    tensors[WEIGHT] = tensors[WEIGHT].float()


def int8_vector(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    tensors["model.norm.weight.scale"] = torch.ones(len(tensors["model.norm.weight"]))


def endless_scale(tensors):
    tensors[f"{WEIGHT}.scale"][3] = torch.inf


def no_weight(tensors):
    del tensors[WEIGHT]


def other_shape(tensors):
    tensors[WEIGHT] = tensors[WEIGHT][:-2].clone()
    tensors[f"{WEIGHT}.scale"] = tensors[f"{WEIGHT}.scale"][:-2].clone()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (no_scale, r"k_proj\.weight is int8 and has no .*k_proj\.weight\.scale"),
        (short_scale, r"k_proj\.weight, int8 \(32, 64\), .*k_proj\.weight\.scale is F32 \(31,\)"),
        (deep_scale, r"k_proj\.weight, int8 \(32, 64\), .* is F32 \(32, 1\)"),
        (half_scale, r"k_proj\.weight, int8 .* is F16 \(32,\)"),
        (float_weight, r"k_proj\.weight have scales"),
        (int8_vector, r"norm\.weight, int8 \(64,\), needs a matrix"),
        (endless_scale, r"k_proj\.weight\.scale holds numbers that are not finite"),
        (no_weight, r"lack layers\.1\.self_attn\.k_proj\.weight"),
        (other_shape, r"k_proj\.weight: \(30, 64\), expected|shapes|expected \(128, 64\)"),
    ],
)
def test_damaged_rows_are_named(broken, edit, message):
    folder = broken(edit)
    with pytest.raises(WeightsError, match=message):
        open_runner(folder)


@pytest.mark.parametrize("size", [0, 5, 4000])
def test_a_cut_off_file_is_damaged(broken, size):
    folder = broken(lambda tensors: None)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match="damaged"):
        open_runner(folder)


def test_scales_are_never_too_much(broken):
    """Also where the weight is one that the model does not use."""
    folder = broken(lambda tensors: None, "bert-reranker")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"], "_name_or_path": "gte-a"}))
    assert open_runner(folder).config.task == "embedding"


def test_the_writer_rounds_each_row_to_its_largest(tmp_path):
    writer = load_script(ROOT / "training" / "int8_rows.py")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=generator) * torch.logspace(-6, 6, 40)[:, None]
    weight[7] = 0.0
    writer.write_int8_rows({"a": weight, "b": weight[0].bfloat16()}, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "a": torch.int8,
        "a.scale": torch.float32,
        "b": torch.float32,
    }
    error = (writer.dequantize_rows(found["a"], found["a.scale"]) - weight).abs().amax(1)
    assert (error <= weight.abs().amax(1) / 253).all()
    for wrong in (torch.ones(2, 2, 2), torch.tensor([[1.0, torch.nan]]), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="cannot be stored"):
            writer.write_int8_rows({"a": wrong}, tmp_path / "model.safetensors")
