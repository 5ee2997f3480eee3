"""TritonAttention under the interpreter = TorchAttention: any mix of work, then whole models."""

import os
import random

import numpy
import pytest
import torch
from carrel.layers.attention import LayerCache, TorchAttention
from carrel.layers.attention_metadata import AttentionMetadata
from carrel.layers.attention_plan import AttentionPlan, SequenceSpan

pytest.importorskip("triton", reason="Triton has no wheel for this platform")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs under the interpreter")

CPU = torch.device("cpu")
BLOCK = 8
HEAD_DIM = 16


def triton_attention(num_sms: int = 4):
    from carrel.layers.triton_attention import TritonAttention

    return TritonAttention(num_sms)


def batch(lengths, *, cached=True, causal=True, num_heads=4, num_kv_heads=2, seed=0):
    """(query, key, value, cache, plan) of sequences with (query_len, seq_len) each, in their order."""
    generator = torch.Generator().manual_seed(seed)
    free = random.Random(seed).sample(range(100), 100)
    cache = LayerCache(num_kv_heads, 100, BLOCK, HEAD_DIM, torch.float32, CPU) if cached else None
    spans, rows, start = [], [], 0
    for query_len, seq_len in lengths:
        table = [free.pop() for _ in range(-(-seq_len // BLOCK))] if cached else []
        spans.append(SequenceSpan(start, query_len, seq_len, table))
        start += query_len
        key, value = (torch.randn(seq_len, num_kv_heads, HEAD_DIM, generator=generator) for _ in range(2))
        if cache is not None:
            slots = torch.tensor([table[i // BLOCK] * BLOCK + i % BLOCK for i in range(seq_len)])
            cache.store(key, value, slots, None)
        rows.append((key[seq_len - query_len :], value[seq_len - query_len :]))
    key, value = (torch.cat(side) for side in zip(*rows, strict=True))
    query = torch.randn(start, num_heads, HEAD_DIM, generator=generator)
    return query, key, value, cache, AttentionPlan(spans, causal=causal, block_size=BLOCK, device=CPU)


def check(query, key, value, cache, plan, *, window=None):
    got = triton_attention().forward(query, key, value, cache, plan, window)
    expected = TorchAttention().forward(query, key, value, cache, plan, window)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)


DECODES = [(1, 1), (1, 7), (1, 8), (1, 9), (1, 300)]
CHUNKS = [(3, 11), (4, 8), (1, 31), (2, 19), (40, 140)]
PROMPTS = [(5, 5), (1, 1), (33, 33), (100, 100)]


@pytest.mark.parametrize("window", [None, 1, 5, 20])
@pytest.mark.parametrize(
    "lengths",
    [DECODES, PROMPTS, CHUNKS, DECODES + PROMPTS, DECODES + CHUNKS + PROMPTS, CHUNKS + DECODES, PROMPTS + DECODES],
    ids=["decodes", "prompts", "chunks", "decodes+prompts", "mixed", "decodes last", "decodes behind prompts"],
)
def test_any_mix_of_work(lengths, window):
    check(*batch(lengths), window=window)


@pytest.mark.parametrize("causal", [True, False])
def test_without_a_cache(causal):
    check(*batch([(1, 1), (5, 5), (40, 40)], cached=False, causal=causal))


def test_padding_of_a_captured_graph_gives_zeros():
    """Bounds are those of the largest step; sequences of no length fill the batch up."""
    query, key, value, cache, plan = batch(DECODES)
    expected = TorchAttention().forward(query, key, value, cache, plan, None)
    seen, padding = plan.metadata, 3
    tables = torch.zeros(len(DECODES) + padding, seen.block_tables.shape[1] + 40, dtype=torch.int32)
    tables[: len(DECODES), : seen.block_tables.shape[1]] = seen.block_tables
    plan.packed = AttentionMetadata(
        cu_seqlens_q=torch.arange(len(DECODES) + padding + 1, dtype=torch.int32),
        seq_lens=torch.cat([seen.seq_lens, torch.zeros(padding, dtype=torch.int32)]),
        block_tables=tables,
        num_seqs=len(DECODES) + padding,
        num_decodes=len(DECODES) + padding,
        max_query_len=1,
        max_seq_len=4096,
        is_fresh=True,
    )
    query = torch.cat([query, torch.full((padding, *query.shape[1:]), 3.0)])
    got = triton_attention(num_sms=32).forward(query, key, value, cache, plan, None)
    torch.testing.assert_close(got[: len(DECODES)], expected, atol=2e-6, rtol=2e-6)
    assert not got[len(DECODES) :].any()


class Clock:
    """Says how long each run took, in turn."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def __call__(self, run) -> float:
        run()
        return self.times.pop(0)


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    from carrel.layers import torch_varlen

    monkeypatch.setattr(torch_varlen, "_LENGTHS", (40, 7))


def tried(theirs, *times):
    from carrel.kernels.reference_attention import varlen_attention
    from carrel.layers.torch_varlen import TorchVarlen

    def twin(query, key, value, cu_seqlens, max_seq_len, causal):
        scale = query.shape[2] ** -0.5
        return varlen_attention(query, key, value, cu_seqlens, max_seq_len=max_seq_len, scale=scale, causal=causal)

    return TorchVarlen(CPU, theirs or twin, twin, Clock(*times))


def offered(kernel, dtype=torch.float16, window=None):
    rows = torch.zeros(3, 2, HEAD_DIM, dtype=dtype)
    return kernel.serves(rows, rows, False, window)


def test_torchs_kernel_is_taken_where_it_is_faster():
    assert offered(tried(None, 1.0, 2.0))
    assert not offered(tried(None, 1.0, 1.0))
    kernel = tried(None, 1.0, 2.0)
    assert offered(kernel)
    assert offered(kernel)  # decided once: the clock has no third time


def test_torchs_kernel_is_not_taken_where_it_cannot_serve():
    assert not offered(tried(None, 1.0, 2.0), window=4)
    assert not offered(tried(None, 1.0, 2.0), dtype=torch.float32)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, NotImplementedError])
def test_a_trial_that_fails_is_a_no(error):
    def broken(*arguments):
        raise error("not on this GPU")

    assert not offered(tried(broken, 1.0, 2.0))


def test_a_wrong_result_is_a_no():
    assert not offered(tried(lambda query, *rest: torch.zeros_like(query), 1.0, 2.0))
    assert not offered(tried(lambda query, *rest: torch.full_like(query, torch.nan), 1.0, 2.0))


def test_torchs_release_on_a_cpu_is_a_no():
    """The real function is called, and says that it wants a GPU."""
    from carrel.layers.torch_varlen import torch_varlen

    kernel = torch_varlen(CPU, lambda query, *rest: query)
    assert kernel is None or not offered(kernel)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral"])
def test_a_decoder_generates_the_same(tiny_models, name):
    """Prompts, chunks and decodes through all of the model's layers."""
    from driving import Driver, chat_request, open_runner, random_ids

    found = []
    for backend in (None, triton_attention()):
        runner = open_runner(tiny_models(name), dtype="float32")
        for module in runner.model.modules():
            if backend is not None and hasattr(module, "backend"):
                module.backend = backend
        driver = Driver(runner)
        first, second = chat_request(random_ids(19, seed=1), "a"), chat_request(random_ids(40, seed=2), "b")
        driver.step((first, 19), (second, 25))
        driver.step((first, 1), (second, 15))
        driver.generate([first, second], 4)
        found.append((first.output_token_ids, second.output_token_ids))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last"])
def test_an_embedder_embeds_the_same(tiny_models, name):
    from driving import open_runner, pooling_item, random_ids

    found = []
    for backend in (None, triton_attention()):
        runner = open_runner(tiny_models(name), dtype="float32")
        for module in runner.model.modules():
            if backend is not None and hasattr(module, "backend"):
                module.backend = backend
        found.append(runner.execute([pooling_item(random_ids(n, vocab_size=40, seed=n)) for n in (3, 17, 40)]))
    for got, expected in zip(*found, strict=True):
        numpy.testing.assert_allclose(got.pooled, expected.pooled, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", pytest.param("qwen2-window", marks=pytest.mark.slow)])
def test_the_gpu_runner_over_kernels_alone_generates_the_same(tiny_models, name):
    """Every kernel of a step, static padded decodes, chunks behind a prefix: as on a GPU, but for the capture."""
    from carrel.layers.ops import ops_for
    from carrel.worker.step_limits import StepLimits
    from driving import NUM_BLOCKS, Driver, chat_request, open_runner, random_ids
    from packed_ops import as_on_a_gpu

    found = []
    for kernels in (False, True):
        runner = open_runner(tiny_models(name), dtype="float32")
        if kernels:
            runner.caches = []
            runner = as_on_a_gpu(runner, ops_for("cpu", "triton"))
            runner.allocate_kv_cache(NUM_BLOCKS)
            runner.prepare(StepLimits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=96), capture=_run_again)
            assert runner.graphs.sizes
        driver = Driver(runner)
        a, b, c = (chat_request(random_ids(n, seed=n), f"r{n}") for n in (30, 41, 17))
        driver.step((a, 30))
        driver.step((a, 1), (b, 16))
        driver.step((a, 1), (c, 17), (b, 24))
        driver.step((a, 1), (c, 1), (b, 1))  # three, padded to four
        driver.step((a, 1), (b, 1))
        found.append([request.output_token_ids for request in (a, b, c)])
    assert found[0] == found[1]


def _run_again(body):
    """In place of a capture: the static body itself for each replay."""
    body()
    return body
