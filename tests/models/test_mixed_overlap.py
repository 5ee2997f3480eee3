"""Chat and embedder of a GPU in one overlapped engine: requests that come one by one get the plain runners' answers."""

from collections.abc import Mapping

import numpy as np
import pytest
from carrel.worker.cuda_runner import CudaChatRunner
from carrel.worker.device_sampler import DeviceSampler, torch_kernels
from carrel.worker.model_runner import ModelRunner
from driving import open_runner
from mixed_work import LIMITS, NUM_BLOCKS, run, work
from packed_ops import PackedOps, as_on_a_gpu


def record(body):
    body()
    return body


@pytest.fixture(scope="module", params=["host", "device"])
def runners(request, tiny_models) -> Mapping[str, Mapping[str, ModelRunner]]:
    """The plain runners, and those of a GPU, sampling on the host and on the device."""

    def opened() -> dict[str, ModelRunner]:
        return {
            "model": open_runner(tiny_models("qwen3"), dtype="float32", num_blocks=NUM_BLOCKS),
            "embedder": open_runner(tiny_models("bert-mean"), dtype="float32"),
        }

    on_gpu = {key: as_on_a_gpu(runner, PackedOps()) for key, runner in opened().items()}
    chat = on_gpu["model"]
    assert isinstance(chat, CudaChatRunner)
    chat.allocate_kv_cache(NUM_BLOCKS)
    if request.param == "device":
        chat.sampler = DeviceSampler(chat.stream, LIMITS.max_num_seqs, torch_kernels())
    chat.prepare(LIMITS, capture=record)
    return {"plain": opened(), "gpu": on_gpu}


@pytest.mark.parametrize("seed", range(6))
def test_overlapped_steps_answer_like_the_plain_runners(runners, seed):
    expected = run(runners["plain"], work(seed), overlap=False)
    for overlap in (False, True):
        outputs = run(runners["gpu"], work(seed), overlap=overlap)
        assert outputs.keys() == expected.keys()
        for request_id, output in outputs.items():
            assert output.error is None
            assert output.new_token_ids == expected[request_id].new_token_ids
            assert output.finish_reason == expected[request_id].finish_reason
            if output.pooled is not None:
                np.testing.assert_allclose(output.pooled, expected[request_id].pooled, atol=2e-5)
