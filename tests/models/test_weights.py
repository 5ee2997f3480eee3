"""Loading weights: what is missing, too much, damaged or pickled is named, and nothing is ever unpickled."""

import json
import shutil

import pytest
import torch
from carrel.errors import WeightsError
from carrel.models.config import ModelConfig
from driving import Driver, chat_request, open_runner, random_ids
from safetensors.torch import load_file, save_file


@pytest.fixture
def copy(tiny_models, tmp_path):
    """A copy of a tiny model that the test may break."""
    return lambda name: shutil.copytree(tiny_models(name), tmp_path / name)


def edit(folder, change):
    """Rewrite model.safetensors after ``change(tensors)``."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_outlive_their_file(copy):
    folder = copy("bert-mean")
    runner = open_runner(folder)
    before = runner.model.embeddings.word.weight.clone()
    path = folder / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(runner.model.embeddings.word.weight, before)


def test_closing_twice_gives_the_weights_back_once(tiny_models):
    for name in ("qwen2", "roberta-dense", "bert-reranker"):
        runner = open_runner(tiny_models(name))
        runner.close()
        runner.close()
        assert all(weight.is_meta for weight in runner.model.parameters())
        assert runner.caches == []


def test_missing_tensors_are_named(copy):
    folder = copy("qwen2")
    edit(folder, lambda tensors: tensors.pop("model.layers.1.self_attn.k_proj.weight"))
    with pytest.raises(WeightsError, match=r"lack layers\.1\.self_attn\.k_proj\.weight"):
        open_runner(folder)


def test_unexpected_tensors_are_named(copy):
    folder = copy("bert-mean")
    edit(folder, lambda tensors: tensors.update({"encoder.layer.0.attention.lora.weight": torch.ones(2)}))
    with pytest.raises(WeightsError, match=r"encoder\.layer\.0\.attention\.lora\.weight"):
        open_runner(folder)


def test_more_layers_than_the_config_says_are_unexpected(copy):
    folder = copy("qwen2")
    edit_config(folder, num_hidden_layers=2, layer_types=None)
    with pytest.raises(WeightsError, match=r"layers\.2\..* and \d+ more"):
        open_runner(folder)


@pytest.mark.parametrize(
    ("field", "value", "tensor"),
    [
        ("intermediate_size", 161, "gate_proj"),
        ("num_key_value_heads", 4, "k_proj"),
        ("vocab_size", 700, "embed_tokens"),
    ],
)
def test_other_shapes_are_named_with_what_was_expected(copy, field, value, tensor):
    folder = copy("qwen2")
    edit_config(folder, **{field: value})
    with pytest.raises(WeightsError, match=rf"{tensor}.*expected \("):
        open_runner(folder)


def test_pickled_weights_are_refused_and_not_opened(copy):
    folder = copy("qwen2")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(WeightsError, match=r"never loaded.*save_pretrained"):
        open_runner(folder)


def test_pickled_dense_weights_are_refused_too(copy):
    folder = copy("roberta-dense")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="2_Dense has its weights only as pickle"):
        open_runner(folder)


def test_a_folder_without_weights_says_so(copy):
    folder = copy("qwen2")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="has no weights"):
        open_runner(folder)


def test_a_missing_shard_is_named(copy):
    folder = copy("qwen2-sharded")
    (folder / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"lacks the shards model-00002-of-00005\.safetensors"):
        open_runner(folder)


@pytest.mark.parametrize("size", [0, 5, 2000])
def test_a_cut_off_file_is_damaged(copy, size):
    folder = copy("qwen2")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match="damaged"):
        open_runner(folder)


def test_tied_is_untied_with_the_same_numbers(copy, tiny_models):
    """A checkpoint that stores its tied head as well, and one that says untied: the same logits."""
    untied = copy("qwen2")
    edit(untied, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    stored_twice = shutil.copytree(untied, untied.parent / "stored-twice")
    edit_config(untied, tie_word_embeddings=False)
    folders = (tiny_models("qwen2"), stored_twice, untied)
    runners = [open_runner(folder) for folder in folders]
    logits = [Driver(runner).logits(chat_request(random_ids(30)), 30) for runner in runners]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert runners[2].weights_bytes > runners[0].weights_bytes == runners[1].weights_bytes


def test_names_with_and_without_the_prefix_of_a_head_model(copy, tiny_models):
    """Embedders of decoders are saved with "model." or without; BERT with "bert." or without."""
    for name, prefix in (("qwen3-last", "model."), ("bert-mean", "bert.")):
        folder = copy(name)
        tensors = load_file(folder / "model.safetensors")
        save_file({prefix + key: tensor for key, tensor in tensors.items()}, folder / "model.safetensors")
        assert open_runner(folder).weights_bytes == open_runner(tiny_models(name)).weights_bytes


def test_old_names_of_layer_norms_are_understood(copy):
    def rename(tensors):
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)

    folder = copy("bert-mean")
    edit(folder, rename)
    open_runner(folder)


def test_leftover_heads_and_buffers_are_fine(copy):
    folder = copy("bert-mean")
    extra = {"embeddings.position_ids": torch.arange(512)[None], "cls.predictions.bias": torch.zeros(5)}
    edit(folder, lambda tensors: tensors.update(extra))
    edit_config(folder, architectures=["BertForMaskedLM"])
    assert ModelConfig.from_folder(folder).task == "embedding"
    open_runner(folder)


def test_the_dtype_of_the_weights_counts_if_the_config_says_nothing(copy):
    folder = copy("bert-bf16")
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("dtype", None)
    raw.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(raw))
    assert ModelConfig.from_folder(folder).dtype is None
    assert open_runner(folder).dtype == open_runner(copy("qwen2-bf16")).dtype
