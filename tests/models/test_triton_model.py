"""Whole models through the Triton kernels, under Triton's interpreter, against torch's operators."""

import os

import numpy as np
import pytest
import torch
from carrel.worker.cuda_pooling import CudaPooling
from carrel.worker.cuda_runner import CudaChatRunner
from carrel.worker.step_limits import StepLimits
from driving import NUM_BLOCKS, Driver, chat_request, open_runner, pooling_item, random_ids
from packed_ops import as_on_a_gpu

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels for a GPU are not for a CPU")


def triton_ops():
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    from carrel.layers.triton_attention import TritonAttention
    from carrel.layers.triton_ops import TritonOps

    return TritonOps(TritonAttention(num_sms=4))


def replay(body):
    """In place of a capture: the static body itself, run again for each replay."""
    return body


def logits_of_a_life(runner, monkeypatch):
    """Whole prompts, a chunk behind a cached one, prefill beside decode, decode alone with padding."""
    seen: list[torch.Tensor] = []
    logits = runner.model.logits

    def kept(hidden):
        seen.append(logits(hidden))
        return seen[-1]

    monkeypatch.setattr(runner.model, "logits", kept)
    driver = Driver(runner)
    a, b, c, d = (chat_request(random_ids(count, seed=count), f"r{count}") for count in (9, 14, 5, 30))
    driver.step((a, 9), (b, 14))
    driver.step((d, 11))
    driver.step((a, 1), (b, 1), (d, 19), (c, 5))
    driver.step((a, 1), (c, 1), (d, 1))
    driver.step((c, 1))
    assert [request.num_output_tokens for request in (a, b, c, d)] == [3, 2, 3, 2]
    return torch.cat(seen)


@pytest.mark.parametrize("name", ["qwen3", "mistral", "qwen2"])
def test_a_decoder_of_kernels_is_a_decoder_of_torch(tiny_models, monkeypatch, name):
    plain = open_runner(tiny_models(name), dtype="float32")
    expected = logits_of_a_life(plain, monkeypatch)
    runner = as_on_a_gpu(open_runner(tiny_models(name), dtype="float32"), triton_ops())
    assert isinstance(runner, CudaChatRunner)
    runner.allocate_kv_cache(NUM_BLOCKS)
    for cache in runner.caches:  # what no step wrote must not be read, or only masked
        cache.keys.fill_(torch.nan)
        cache.values.fill_(torch.nan)
    runner.prepare(StepLimits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64), capture=replay)
    torch.testing.assert_close(logits_of_a_life(runner, monkeypatch), expected, atol=1e-4, rtol=1e-4)


def test_a_chat_of_kernels_says_what_a_chat_of_torch_says(tiny_models):
    """Sampling too, and the tokens of a step stay on the device for the next one."""
    from carrel.worker.device_sampler import DeviceSampler, triton_kernels

    limits = StepLimits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64)
    runner = as_on_a_gpu(open_runner(tiny_models("qwen2"), dtype="float32"), triton_ops())
    assert isinstance(runner, CudaChatRunner)
    runner.allocate_kv_cache(NUM_BLOCKS)
    runner.sampler = DeviceSampler(runner.stream, limits.max_num_seqs, triton_kernels())
    runner.prepare(limits, capture=replay)
    answers = []
    for each in (open_runner(tiny_models("qwen2"), dtype="float32"), runner):
        requests = [
            chat_request(random_ids(6), "greedy"),
            chat_request(random_ids(4), "warm", seed=1, temperature=1.0),
            chat_request(random_ids(5), "filtered", seed=2, temperature=0.9, top_p=0.8, top_k=50),
        ]
        answers.append(Driver(each).generate(requests, 4))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ["bert-mean", "xlmr-reranker", "qwen3-last"])
def test_an_encoder_of_kernels_is_an_encoder_of_torch(tiny_models, name):
    items = [pooling_item(random_ids(length, vocab_size=100, seed=length)) for length in (7, 1, 20)]
    expected = open_runner(tiny_models(name), dtype="float32").execute(items)
    runner = as_on_a_gpu(open_runner(tiny_models(name), dtype="float32"), triton_ops())
    assert isinstance(runner, CudaPooling)
    for got, plain in zip(runner.execute(items), expected, strict=True):
        np.testing.assert_allclose(got.pooled, plain.pooled, atol=2e-5)
