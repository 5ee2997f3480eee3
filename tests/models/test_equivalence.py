"""Each fast path against its slow twin: batched = alone, prefix-cached = not, chunked = whole, sharded = single."""

import pytest
import torch
from carrel.step import ModelBatch
from carrel.worker.executor import DeviceExecutor
from driving import BLOCK_SIZE, Driver, chat_request, open_runner, random_ids

FAMILIES = ["llama", "qwen2-window", "qwen3", "mistral"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_batched_is_alone(tiny_models, name, temperature):
    """Prompts of many lengths, prefill and decode of different requests in one step; also when sampled with a seed."""
    runner = open_runner(tiny_models(name))
    prompts = [random_ids(count, seed=count) for count in (1, 3, 8, 9, 30, 61)]

    def requests():
        return [chat_request(ids, str(index), seed=index, temperature=temperature) for index, ids in enumerate(prompts)]

    alone = [Driver(runner).generate([request], 20)[0] for request in requests()]
    driver, together = Driver(runner), requests()
    for index, request in enumerate(together):  # one more joins at each step, while the others decode
        driver.step(*[(other, 1) for other in together[:index]], (request, request.num_tokens))
    assert driver.generate(together, 20) == alone


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cached_prefix_changes_nothing(tiny_models, name):
    """The second request borrows the first one's blocks, as the prefix cache does, and computes the rest alone."""
    driver = Driver(open_runner(tiny_models(name)))
    prefix, tail = random_ids(5 * BLOCK_SIZE), random_ids(13, seed=2)
    first, second, fresh = (chat_request(prefix + tail, name) for name in ("first", "second", "fresh"))
    driver.step((first, len(first.prompt_token_ids)))
    driver.tables["second"] = driver.tables["first"][:5]
    second.num_computed_tokens = 5 * BLOCK_SIZE
    cached = driver.logits(second, 13)
    whole = driver.logits(fresh, second.num_tokens)[-13:]
    torch.testing.assert_close(cached, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", [None, 3])
def test_preemption_changes_nothing(tiny_models, name, seed):
    """All blocks are lost after ten tokens; prompt and output are computed again, in chunks, and sampling goes on."""
    params = {"temperature": 0.0 if seed is None else 1.0, "seed": seed or 0}
    calm, preempted = chat_request(random_ids(21), "calm", **params), chat_request(random_ids(21), "hit", **params)
    driver = Driver(open_runner(tiny_models(name)))
    driver.generate([calm], 20)
    driver.generate([preempted], 10)
    preempted.num_computed_tokens = 0
    driver.tables["hit"] = []
    driver.step((preempted, 17))
    driver.step((preempted, 5))
    assert driver.generate([preempted], 20) == [calm.output_token_ids]


def test_decoding_in_bf16_is_close_to_fp32(tiny_models):
    exact, close = (open_runner(tiny_models("qwen2-bf16"), dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert close.weights_bytes * 2 == exact.weights_bytes
    logits = [Driver(runner).logits(chat_request(random_ids(40)), 40).to(torch.float32) for runner in (exact, close)]
    assert torch.nn.functional.cosine_similarity(*logits).min() > 0.999


def test_fp16_weights_load_and_compute_in_what_the_cpu_does_well(tiny_models):
    single, half = open_runner(tiny_models("qwen2")), open_runner(tiny_models("qwen2-fp16"), dtype="float32")
    logits = [Driver(runner).logits(chat_request(random_ids(40)), 40) for runner in (single, half)]
    torch.testing.assert_close(*logits, rtol=0, atol=0.02)
    assert open_runner(tiny_models("qwen2-fp16")).dtype in (torch.bfloat16, torch.float32)


def test_sharded_is_single(tiny_models):
    single, sharded = open_runner(tiny_models("qwen2")), open_runner(tiny_models("qwen2-sharded"))
    logits = [Driver(runner).logits(chat_request(random_ids(40)), 40) for runner in (single, sharded)]
    assert torch.equal(*logits)


def test_neighbours_without_a_finite_number_change_nothing(tiny_models):
    """A request whose logits are not finite fails alone, and the blocks it leaves behind do no harm."""
    runner = open_runner(tiny_models("qwen2-untied"))
    good = chat_request(random_ids(20), "good")
    expected = Driver(runner).generate([good], 12)
    with torch.inference_mode():
        runner.model.embed_tokens.weight[600] = torch.nan
    driver = Driver(runner)
    bad, again = chat_request([*random_ids(20), 600], "bad"), chat_request(random_ids(20), "again")
    failed, fine = driver.step((bad, 21), (again, 20))
    assert "not finite" in str(failed.error)
    assert fine.error is None
    driver.free += driver.tables["again"] + driver.tables["bad"]  # the bad blocks are used again first
    reuse = chat_request(random_ids(20), "reuse")
    assert driver.generate([reuse], 12) == expected


def test_the_executor_sends_each_batch_to_its_model(tiny_models):
    runners = {name: open_runner(tiny_models(name)) for name in ("qwen2", "llama")}
    executor = DeviceExecutor(runners)
    for name, runner in runners.items():
        requests = [chat_request(random_ids(9, seed=index), str(index)) for index in range(3)]
        driver = Driver(runner)
        items = [driver.schedule(request, 9) for request in requests]
        ours = [result.token_ids for result in executor.execute(ModelBatch(name, items))]
        assert ours == [result.token_ids for result in runner.execute(items)]
        assert all(len(ids) == 1 for ids in ours)
    executor.release(["0"])
    executor.close()
    executor.close()
