"""The GPU's embedders and rerankers on a CPU: packed and sorted inputs give what the plain runners give."""

import numpy as np
import pytest
from carrel.worker.cuda_pooling import CudaPooling
from carrel.worker.step_limits import StepLimits
from driving import open_runner, pooling_item, random_ids
from packed_ops import PackedOps, as_on_a_gpu

LENGTHS = [7, 1, 30, 2, 7, 61, 13]
EMBEDDERS = ["bert-mean", "bert-cls", "bert-mean-max", "roberta-dense", "xlmr-weighted", "qwen3-last"]
RERANKERS = ["bert-reranker", "bert-classifier", "xlmr-reranker", "bert-spans"]


def open_cuda_runner(folder) -> CudaPooling:
    runner = as_on_a_gpu(open_runner(folder, dtype="float32"), PackedOps())
    assert isinstance(runner, CudaPooling)
    return runner


def inputs(**params: object):
    ids = [random_ids(length, vocab_size=100, seed=length) for length in LENGTHS]
    return [pooling_item(row, [0] * (len(row) // 2) + [1] * (len(row) - len(row) // 2), **params) for row in ids]


@pytest.mark.parametrize("name", EMBEDDERS + RERANKERS)
def test_packed_steps_equal_the_plain_runner(tiny_models, name):
    expected = open_runner(tiny_models(name), dtype="float32").execute(inputs())
    runner = open_cuda_runner(tiny_models(name))
    for repeat in range(3):  # into the same buffers
        for got, plain in zip(runner.submit(inputs()).wait(), expected, strict=True):
            np.testing.assert_allclose(got.pooled, plain.pooled, atol=2e-5, err_msg=f"{repeat}")


@pytest.mark.parametrize("open_one", [open_runner, open_cuda_runner])
def test_some_of_a_step_want_spans(tiny_models, open_one):
    """Each gets its own tokens' logits, whatever stands beside it; the others get their score alone."""
    runner, items = open_one(tiny_models("bert-spans")), inputs()
    for item in items[::2]:
        item.request.wants_spans = True
    together = runner.execute(items)
    for index, (item, result) in enumerate(zip(items, together, strict=True)):
        assert result.pooled.shape == (1 + 2 * len(item.request.prompt_token_ids) * (index % 2 == 0),)
        np.testing.assert_allclose(result.pooled, runner.execute([item])[0].pooled, atol=2e-5)
        item.request.wants_spans = False
        np.testing.assert_allclose(result.pooled[:1], runner.execute([item])[0].pooled, atol=2e-5)


def test_two_steps_in_flight_keep_their_results_apart(tiny_models):
    runner = open_cuda_runner(tiny_models("bert-mean"))
    runner.prepare(StepLimits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64))
    first, second = runner.submit(inputs()[:3]), runner.submit(inputs()[3:])
    assert first.runs_ahead
    assert second.runs_ahead
    results = first.wait() + second.wait()
    expected = open_runner(tiny_models("bert-mean"), dtype="float32").execute(inputs())
    for got, plain in zip(results, expected, strict=True):
        np.testing.assert_allclose(got.pooled, plain.pooled, atol=2e-5)


def test_different_wishes_in_one_step(tiny_models):
    runner = open_cuda_runner(tiny_models("bert-mean"))
    items = [inputs(dimensions=8)[0], inputs(normalize=False)[2], inputs(dimensions=999)[3], inputs()[5]]
    small, raw, wrong, usual = runner.execute(items)
    assert small.pooled.shape == (8,)
    assert abs(np.linalg.norm(usual.pooled) - 1) < 1e-5 < abs(np.linalg.norm(raw.pooled) - 1)
    assert wrong.pooled is None
    assert "dimensions must be at most" in str(wrong.error)


def test_warming_up_leaves_no_trace(tiny_models):
    runner = open_cuda_runner(tiny_models("qwen3-last"))
    runner.warm_up(StepLimits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64))
    expected = open_runner(tiny_models("qwen3-last"), dtype="float32").execute(inputs())
    for got, plain in zip(runner.execute(inputs()), expected, strict=True):
        np.testing.assert_allclose(got.pooled, plain.pooled, atol=2e-5)


def test_a_closed_runner_holds_nothing(tiny_models):
    runner = open_cuda_runner(tiny_models("bert-mean"))
    runner.execute(inputs())
    runner.close()
    runner.close()
    assert runner.weights_bytes >= 0
