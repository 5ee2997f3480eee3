"""Stop strings end a text where it should end, and log probabilities are those of transformers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from carrel import SamplingParams
from carrel.params import RequestOutputKind
from transformers import AutoModelForCausalLM

FREE = SamplingParams(temperature=1.0, seed=4, max_tokens=40, ignore_eos=True)
PROMPT = "图书馆的阅览室里有一张小书桌"


@pytest.fixture(scope="module")
def free_run(llm):
    """What the model says when nothing stops it."""
    return llm.generate(PROMPT, FREE, use_tqdm=False)[0].outputs[0]


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("start", [3, 10, 17])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_string_anywhere(llm, free_run, start, length, include):
    stop = free_run.text[start : start + length]
    params = replace(FREE, stop=["不会出现的", stop], include_stop_str_in_output=include)
    output = llm.generate(PROMPT, params, use_tqdm=False)[0].outputs[0]
    end = free_run.text.index(stop)
    assert output.text == free_run.text[: end + len(stop) if include else end]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    assert output.token_ids == free_run.token_ids[: len(output.token_ids)]
    assert llm.host.loop.stats().num_open == 0 or len(output.token_ids) < 40


def test_streams_never_show_a_part_of_a_stop_string(llm, free_run):
    stop = free_run.text[12:17]
    params = replace(FREE, stop=stop, output_kind=RequestOutputKind.DELTA)
    pieces = [output.outputs[0].text for output in llm.stream(PROMPT, params)]
    assert "".join(pieces) == free_run.text[: free_run.text.index(stop)]


def test_a_stop_string_ends_one_child_and_not_its_siblings(llm):
    params = SamplingParams(n=4, seed=2, max_tokens=30, ignore_eos=True)
    free = llm.generate(PROMPT, params, use_tqdm=False)[0].outputs
    stop = free[0].text[5:8]
    stopped = llm.generate(PROMPT, replace(params, stop=stop), use_tqdm=False)[0]
    assert stopped.finished
    for before, after in zip(free, stopped.outputs, strict=True):
        assert after.finish_reason == ("stop" if stop in before.text else "length")
        assert after.text == before.text.split(stop)[0]


def test_the_end_token_is_counted_but_not_shown(llm, free_run):
    end, stop_id = next(
        (i, token_id)
        for i, token_id in enumerate(free_run.token_ids)
        if i > 4 and token_id not in free_run.token_ids[:i]
    )
    tokenizer = llm.get_tokenizer()
    hidden = llm.generate(PROMPT, replace(FREE, stop_token_ids=[stop_id]), use_tqdm=False)[0].outputs[0]
    assert hidden.token_ids == free_run.token_ids[: end + 1]
    assert hidden.text == tokenizer.decode(free_run.token_ids[:end])
    assert (hidden.finish_reason, hidden.stop_reason) == ("stop", stop_id)
    params = replace(FREE, stop_token_ids=[stop_id], include_stop_str_in_output=True)
    shown = llm.generate(PROMPT, params, use_tqdm=False)[0].outputs[0]
    assert shown.text == tokenizer.decode(free_run.token_ids[: end + 1])


def test_min_tokens_goes_before_stop_strings(llm, free_run):
    params = replace(FREE, stop=list(dict.fromkeys(free_run.text)), min_tokens=9)
    output = llm.generate(PROMPT, params, use_tqdm=False)[0].outputs[0]
    assert len(output.token_ids) >= 9
    assert output.finish_reason == "stop"


def test_deltas_join_to_the_whole_text_and_cumulative_outputs_grow(llm, free_run):
    whole = free_run.text
    deltas = list(llm.stream(PROMPT, replace(FREE, output_kind=RequestOutputKind.DELTA)))
    assert "".join(output.outputs[0].text for output in deltas) == whole
    assert [token_id for output in deltas for token_id in output.outputs[0].token_ids] == free_run.token_ids
    assert all(output.outputs[0].text for output in deltas[:-1])
    assert [output.finished for output in deltas] == [False] * (len(deltas) - 1) + [True]
    texts = [output.outputs[0].text for output in llm.stream(PROMPT, FREE)]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert texts[-1] == whole
    assert len(list(llm.stream(PROMPT, replace(FREE, output_kind=RequestOutputKind.FINAL_ONLY)))) == 1


def test_logprobs_are_those_of_transformers(llm, tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models("qwen2"))
    params = replace(FREE, max_tokens=6, logprobs=4)
    output = llm.generate(PROMPT, params, use_tqdm=False)[0]
    child, ids = output.outputs[0], output.prompt_token_ids + output.outputs[0].token_ids
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, len(output.prompt_token_ids) - 1 : -1].log_softmax(-1)
    total = 0.0
    for token_id, position, row in zip(child.token_ids, child.logprobs, expected, strict=True):
        assert next(iter(position)) == token_id  # the sampled one stands first
        best = row.topk(4)
        assert set(position) == {token_id, *best.indices.tolist()}
        for other, logprob in position.items():
            assert logprob.logprob == pytest.approx(row[other].item(), abs=1e-4)
            assert logprob.rank == int((row > row[other]).sum()) + 1
            assert logprob.decoded_token == llm.get_tokenizer().token_bytes(other).decode("utf-8", "replace")
        total += row[token_id].item()
    assert child.cumulative_logprob == pytest.approx(total, abs=1e-3)
    deltas = list(llm.stream(PROMPT, replace(params, output_kind=RequestOutputKind.DELTA)))
    assert [position for output in deltas for position in output.outputs[0].logprobs] == child.logprobs


def test_no_logprobs_unless_asked(llm, free_run):
    assert free_run.logprobs is None
    assert free_run.cumulative_logprob is None
    only_sampled = llm.generate(PROMPT, replace(FREE, logprobs=0), use_tqdm=False)[0].outputs[0]
    assert [list(position) for position in only_sampled.logprobs] == [[token] for token in only_sampled.token_ids]


def test_special_tokens_are_shown_only_on_demand(llm):
    end = llm.get_tokenizer().token_to_id("<|im_end|>")
    prompt = {"prompt_token_ids": [end, end, 30]}
    tokens = llm.generate(prompt, replace(FREE, max_tokens=64), use_tqdm=False)[0].outputs[0].token_ids
    shown = llm.generate(prompt, replace(FREE, max_tokens=64, skip_special_tokens=False), use_tqdm=False)[0]
    assert shown.outputs[0].text == llm.get_tokenizer().decode(tokens, skip_special_tokens=False)
