"""Two ranks, a thread each, over gloo: slices, logits, and the answers of one rank in whatever steps there are."""

import os
from pathlib import Path

import overlap_workload as workload
import pytest
import torch
from carrel.errors import InvalidParamsError, WeightsError
from carrel.models.config import ModelConfig
from carrel.models.sharding import share_of
from carrel.worker.executor import DeviceExecutor
from carrel.worker.lead_runner import load_lead_runner, rank_devices
from carrel.worker.loader import load_chat_runner
from carrel.worker.step_limits import StepLimits
from driving import BLOCK_SIZE, NUM_BLOCKS, Driver, chat_request, dense_parameters, random_ids
from thread_team import ThreadTeam, lead_as_on_a_gpu, two_groups

OPTIONS = {"dtype": "float32", "block_size": BLOCK_SIZE}
LIMITS = StepLimits(workload.MAX_NUM_SEQS, workload.MAX_NUM_BATCHED_TOKENS, workload.MAX_MODEL_LEN)


@pytest.fixture
def team():
    team = ThreadTeam()
    yield team
    team.close()


def alone(folder, **options):
    return load_chat_runner(folder, ModelConfig.from_folder(folder), device="cpu", **(OPTIONS | options))


def keep_logits(runner, monkeypatch):
    seen, logits = [], runner.model.logits

    def kept(hidden):
        seen.append(logits(hidden))
        return seen[-1]

    monkeypatch.setattr(runner.model, "logits", kept)
    return seen


def generate(runner):
    """Chunks, whole prompts and decodes in common steps."""
    driver = Driver(runner)
    first, second = chat_request(random_ids(30), "a"), chat_request(random_ids(11, seed=1), "b")
    driver.step((first, 13))
    driver.step((first, 17), (second, 11))
    driver.generate([first, second], 9)
    return [first.output_token_ids, second.output_token_ids]


@pytest.mark.parametrize("name", ["qwen2", "qwen2-untied", "llama", "llama-linear", "qwen3", "mistral"])
def test_logits_and_tokens_are_those_of_one_rank(tiny_models, team, monkeypatch, name):
    folder = tiny_models(name)
    one, two = alone(folder), load_lead_runner(team, folder, ModelConfig.from_folder(folder), OPTIONS)
    for runner in (one, two):
        runner.allocate_kv_cache(NUM_BLOCKS)
    expected, found = keep_logits(one, monkeypatch), keep_logits(two, monkeypatch)
    assert generate(two) == generate(one)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_each_rank_holds_its_slices_alone(tiny_models, team):
    folder = tiny_models("llama-linear")  # with biases of every kind
    one, two = alone(folder), load_lead_runner(team, folder, ModelConfig.from_folder(folder), OPTIONS)
    ranks = [two.model, team.follower.runners[0].model]
    whole = dense_parameters(one.model)
    parts = [dense_parameters(model) for model in ranks]
    heads, kv = 64, 32  # outputs of all heads, of all KV heads
    for rank, part in enumerate(parts):
        qkv, rows = whole["layers.0.self_attn.qkv_proj.weight"], part["layers.0.self_attn.qkv_proj.weight"]
        query, key, value = qkv.split([heads, kv, kv])
        torch.testing.assert_close(rows, torch.cat([t.chunk(2)[rank] for t in (query, key, value)]))
        gate, up = whole["layers.1.gate_up_proj.bias"].chunk(2)
        expected = torch.cat([gate.chunk(2)[rank], up.chunk(2)[rank]])
        torch.testing.assert_close(part["layers.1.gate_up_proj.bias"], expected)
        down = whole["layers.2.down_proj.weight"].chunk(2, dim=1)[rank]
        torch.testing.assert_close(part["layers.2.down_proj.weight"], down)
        torch.testing.assert_close(part["norm.weight"], whole["norm.weight"])
        assert bool(part["layers.0.self_attn.o_proj.bias"].any()) == (rank == 0)  # once in the sum
    for name in ("embed_tokens.weight", "lm_head.weight"):
        rows = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(rows[: len(whole[name])], whole[name])
    assert two.kv_bytes_per_block * 2 == one.kv_bytes_per_block
    assert 0.49 < two.weights_bytes / one.weights_bytes < 0.52


@pytest.mark.parametrize("params", [workload.PLAIN, workload.PENALISED], ids=["plain", "penalised"])
@pytest.mark.parametrize("capture", [None, lambda body: body], ids=["eager", "static"])
def test_overlapped_steps_of_the_gpu_runner_on_two_ranks(tiny_models, team, params, capture):
    """Preemption, prefix cache, tokens that only the device knows: rank 1 hears of all of it."""
    options = OPTIONS | {"block_size": workload.BLOCK_SIZE}
    plain = alone(tiny_models("qwen3"), **options)
    lead = lead_as_on_a_gpu(team, tiny_models("qwen3"), options, capture)
    for runner in (plain, lead):
        runner.allocate_kv_cache(workload.NUM_BLOCKS)
        runner.prepare(LIMITS)
    executor = DeviceExecutor({"chat": lead})
    assert executor.is_asynchronous
    assert bool(team.follower.runners[0].captured_sizes) == (capture is not None)
    expected, _ = workload.answers(DeviceExecutor({"chat": plain}), params, overlap=False)
    found, stats = workload.answers(executor, params, overlap=True)
    assert stats.num_preemptions > 0
    for name, (tokens, end, logprobs) in expected.items():
        assert found[name][:2] == (tokens, end)
        assert found[name][2] == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_slices_are_near_the_dense_whole(tiny_models, team, monkeypatch, quantization):
    """Near, not equal: a slice has scales of its own."""
    folder, options = tiny_models("qwen2"), OPTIONS | {"quantization": quantization}
    one, two = alone(folder), load_lead_runner(team, folder, ModelConfig.from_folder(folder), options)
    assert two.weights_bytes < 0.3 * one.weights_bytes
    for runner in (one, two):
        runner.allocate_kv_cache(NUM_BLOCKS)
    expected, found = keep_logits(one, monkeypatch), keep_logits(two, monkeypatch)
    for runner in (one, two):
        Driver(runner).step((chat_request(random_ids(30)), 30))
    assert torch.cosine_similarity(found[0], expected[0]).min() > (0.99 if quantization == "int8" else 0.9)


def test_random_weights_are_slices_of_their_own_and_common_norms(tiny_models, team):
    folder, options = tiny_models("llama-linear"), OPTIONS | {"load_format": "dummy"}
    lead = load_lead_runner(team, folder, ModelConfig.from_folder(folder), options)
    first, second = (dense_parameters(model) for model in (lead.model, team.follower.runners[0].model))
    assert torch.equal(first["layers.0.input_layernorm.weight"], second["layers.0.input_layernorm.weight"])
    assert not torch.equal(first["layers.0.self_attn.qkv_proj.weight"], second["layers.0.self_attn.qkv_proj.weight"])
    assert not second["layers.0.down_proj.bias"].any()


@pytest.mark.parametrize(("size", "what"), [(4, "2 KV heads"), (3, "2 KV heads")])
def test_a_model_that_cannot_be_shared_out_is_refused(tiny_models, size, what):
    with pytest.raises(InvalidParamsError, match=rf"tensor_parallel_size={size} does not divide the {what}") as raised:
        share_of(ModelConfig.from_folder(tiny_models("qwen2")), size)
    assert raised.value.param == "tensor_parallel_size"
    assert str(raised.value).count(".") == 1


def test_the_weights_must_be_those_of_the_config(tiny_models, team):
    folder = tiny_models("qwen2")
    config = ModelConfig.from_folder(folder)
    wrong = ModelConfig(**{**vars(config), "vocab_size": config.vocab_size + 1})
    with pytest.raises(WeightsError, match="embed_tokens"):
        load_chat_runner(folder, wrong, device="cpu", group=team.group, **OPTIONS)


def test_nobody_else_is_let_in():
    """What listens for the other ranks does so on the loopback interface alone."""
    before = listening()
    groups = two_groups()
    opened = listening() - before
    assert opened
    assert {address.split(":")[0] for address in opened} <= {"0100007F"}  # 127.0.0.1
    assert [group.rank for group in groups] == [0, 1]


def listening() -> set[str]:
    """Addresses of this process's listening sockets, as Linux writes them."""
    inodes = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes}


def test_where_the_ranks_compute(monkeypatch):
    assert rank_devices("cpu", 3) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert rank_devices("cuda", 2) == ["cuda:0", "cuda:1"]
    assert rank_devices("cuda:2", 2) == ["cuda:2", "cuda:3"]
    with pytest.raises(InvalidParamsError, match="needs 4 GPUs from cuda:1 on, and torch finds 4 in all"):
        rank_devices("cuda:1", 4)
