"""Generation through the face: transformers' tokens, and the same tokens however the work is cut and mixed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from carrel import LLM, SamplingParams
from carrel.outputs import RequestOutput
from small_engine import SMALL
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "The house stands on the hill",
    "图书馆的阅览室里",
    "一个读者可以借几本书?",
    "def answer(question): return",
    "山上的房子😀",
    "A" * 90,
]
GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
SEEDED = SamplingParams(temperature=1.0, top_p=0.9, seed=7, max_tokens=24, ignore_eos=True)


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("name", ["qwen2", "llama", "mistral", "qwen3"])
def test_greedy_text_is_that_of_transformers(tiny_models, name):
    folder = tiny_models(name)
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with LLM(str(folder), **SMALL) as llm:
        outputs = llm.generate(PROMPTS, replace(GREEDY, ignore_eos=False), use_tqdm=False)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        expected = whole[0, ids.shape[1] :].tolist()
        assert output.prompt == prompt
        assert output.prompt_token_ids == ids[0].tolist()
        assert output.outputs[0].token_ids == expected
        assert output.outputs[0].text == tokenizer.decode(expected, skip_special_tokens=True)
        assert output.outputs[0].finish_reason in ("stop", "length")
        assert output.finished


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize(
    "options",
    [
        {"enable_prefix_caching": False},
        {"max_num_batched_tokens": 7},  # prompts in many chunks
        {"max_num_seqs": 2},
        {"block_size": 4},
        {"max_model_len": 128, "kv_cache_memory_bytes": 9 * 16 * 3 * 2 * 2 * 16 * 4},  # nine blocks: preemption
    ],
    ids=["no-prefix-cache", "chunked", "two-at-a-time", "small-blocks", "preempted"],
)
def test_however_the_work_is_cut_the_tokens_are_the_same(llm, tiny_models, params, options):
    expected = [llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].token_ids for prompt in PROMPTS]
    assert tokens(llm.generate(PROMPTS, params, use_tqdm=False)) == expected  # batched, and with a warm prefix cache
    with LLM(str(tiny_models("qwen2")), **(SMALL | options)) as other:
        assert tokens(other.generate(PROMPTS * 2, params, use_tqdm=False)) == expected * 2
        stats = other.host.stats()
    if "kv_cache_memory_bytes" in options:
        assert stats.num_preemptions > 0
    if options.get("enable_prefix_caching", True) is False:
        assert stats.prefix_cache_hits == 0


def test_the_prefix_cache_is_used_and_reported(tiny_models):
    with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
        prompt = "图书馆的阅览室里有一张小书桌," * 4
        first = llm.generate(prompt, GREEDY, use_tqdm=False)[0]
        second = llm.generate(prompt, GREEDY, use_tqdm=False)[0]
        assert first.num_cached_tokens == 0
        assert second.num_cached_tokens >= len(second.prompt_token_ids) - 16 - 1
        assert second.outputs[0].token_ids == first.outputs[0].token_ids
        assert 0 < llm.host.stats().prefix_cache_hit_rate < 1


def test_neighbours_that_leave_change_nothing(llm):
    expected = tokens(llm.generate(PROMPTS, SEEDED, use_tqdm=False))
    leaving = [llm.stream(prompt, replace(SEEDED, seed=99, max_tokens=200)) for prompt in PROMPTS]
    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(llm.generate, PROMPTS, SEEDED, use_tqdm=False)
        for stream in leaving:
            next(stream)
            stream.close()
        assert tokens(staying.result()) == expected
    assert llm.host.loop.stats().num_open == 0


def test_seeds(llm):
    free = SamplingParams(max_tokens=12, ignore_eos=True)
    assert len({tuple(ids) for ids in tokens(llm.generate(["你好"] * 8, free, use_tqdm=False))}) > 4
    same = [replace(free, seed=3)] * 4
    assert len({tuple(ids) for ids in tokens(llm.generate(["你好"] * 4, same, use_tqdm=False))}) == 1


def test_unseeded_requests_differ_between_each_other_but_not_between_runs(tiny_models):
    def run(seed: int) -> list[list[int]]:
        with LLM(str(tiny_models("qwen2")), seed=seed, **SMALL) as llm:
            return tokens(llm.generate(PROMPTS, SamplingParams(ignore_eos=True), use_tqdm=False))

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_n_completions_of_one_prompt(llm):
    params = SamplingParams(n=3, seed=11, max_tokens=8, ignore_eos=True)
    output = llm.generate("你好", params, use_tqdm=False)[0]
    assert [child.index for child in output.outputs] == [0, 1, 2]
    assert len({tuple(child.token_ids) for child in output.outputs}) == 3
    alone = [
        llm.generate("你好", replace(params, n=1, seed=11 + i), use_tqdm=False)[0].outputs[0].token_ids
        for i in range(3)
    ]
    assert [child.token_ids for child in output.outputs] == alone


def test_prompts_as_token_ids(llm):
    ids = llm.get_tokenizer().encode("图书馆")
    by_text = llm.generate("图书馆", GREEDY, use_tqdm=False)[0]
    for prompt in (ids, {"prompt_token_ids": ids}, [ids], [{"prompt_token_ids": ids}]):
        output = llm.generate(prompt, GREEDY, use_tqdm=False)[0]
        assert output.prompt is None
        assert output.prompt_token_ids == ids
        assert output.outputs[0].text == by_text.outputs[0].text


def test_prompts_in_the_long_form(llm):
    short, long = (
        llm.generate("图书馆", GREEDY, use_tqdm=False),
        llm.generate({"prompt": "图书馆"}, GREEDY, use_tqdm=False),
    )
    assert short[0].outputs == long[0].outputs
    assert long[0].prompt == "图书馆"


def test_parameters_for_each_prompt(llm):
    params = [replace(GREEDY, max_tokens=2), replace(GREEDY, max_tokens=5)]
    assert [len(ids) for ids in tokens(llm.generate(["a", "b"], params, use_tqdm=False))] == [2, 5]


def test_chat_renders_the_template_and_adds_no_token(llm):
    messages = [{"role": "system", "content": "你是图书管理员。"}, {"role": "user", "content": "几本书?"}]
    output = llm.chat(messages, GREEDY, use_tqdm=False)[0]
    text = (
        "<|im_start|>system\n你是图书管理员。<|im_end|>\n<|im_start|>user\n几本书?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert output.prompt == text
    assert output.prompt_token_ids == llm.get_tokenizer().encode(text, add_special_tokens=False)
    both = llm.chat([messages, messages[1:]], GREEDY, use_tqdm=False)
    assert both[0].outputs[0].token_ids == output.outputs[0].token_ids
    assert len(both) == 2
    own = llm.chat(messages, GREEDY, chat_template="{{ messages[-1].content }}", use_tqdm=False)[0]
    assert own.prompt == "几本书?"


def test_max_tokens_none_is_the_rest_of_the_context(tiny_models):
    with LLM(str(tiny_models("qwen2")), max_model_len=40, **SMALL) as llm:
        params = SamplingParams(max_tokens=None, ignore_eos=True)
        output = llm.generate([5, 6, 7, 8], params, use_tqdm=False)[0]
        assert len(output.outputs[0].token_ids) == 36
        assert output.outputs[0].finish_reason == "length"


def test_metrics_are_counted(tiny_models):
    with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
        output = llm.generate("图书馆", replace(GREEDY, n=1, max_tokens=5), use_tqdm=False)[0]
        times, stats = output.metrics, llm.host.stats()
        assert times.arrival_time <= times.first_scheduled_time <= times.first_token_time <= times.finished_time
        assert stats.prompt_tokens == len(output.prompt_token_ids)
        assert stats.generation_tokens == 5
        assert stats.time_to_first_token.count == stats.request_latency.count == 1
        assert list(stats.requests.values()) == [1]
        assert stats.num_open == stats.num_running == stats.num_waiting == 0
