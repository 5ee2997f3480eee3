"""best_of: more sequences than are returned, over one computed prompt."""

import asyncio
from dataclasses import replace

import pytest
from carrel import LLM, AsyncLLM, RequestOutputKind, SamplingParams
from carrel.errors import InvalidParamsError
from small_engine import SMALL

PROMPT = "图书馆的阅览室里有一张小书桌,读者可以安静地看书。" * 3
PARAMS = SamplingParams(n=2, best_of=6, seed=5, max_tokens=12)


def all_six(llm, params=PARAMS):
    """The sequences among which the best are chosen: child i samples with seed + i."""
    seeds = [replace(params, n=1, best_of=None, seed=params.seed + i, logprobs=0) for i in range(6)]
    return [llm.generate(PROMPT, each, use_tqdm=False)[0].outputs[0] for each in seeds]


def mean(output) -> float:
    return output.cumulative_logprob / len(output.token_ids)


def test_those_with_the_highest_log_probability_per_token_are_returned(llm):
    (output,) = llm.generate(PROMPT, PARAMS, use_tqdm=False)
    every = all_six(llm)
    best = sorted(every, key=mean, reverse=True)[:2]
    assert [each.index for each in output.outputs] == [0, 1]
    assert [each.token_ids for each in output.outputs] == [each.token_ids for each in best]
    assert [each.text for each in output.outputs] == [each.text for each in best]
    assert output.num_generated_tokens == sum(len(each.token_ids) for each in every)
    assert all(each.logprobs is None and each.cumulative_logprob is None for each in output.outputs)


def test_log_probabilities_are_shown_when_asked_for(llm):
    (output,) = llm.generate(PROMPT, replace(PARAMS, logprobs=1), use_tqdm=False)
    assert mean(output.outputs[0]) >= mean(output.outputs[1])
    for each in output.outputs:
        own = [position[token].logprob for position, token in zip(each.logprobs, each.token_ids, strict=True)]
        assert sum(own) == pytest.approx(each.cumulative_logprob, abs=1e-4)


def test_sequences_of_other_lengths_are_compared_by_their_mean(llm):
    stop = all_six(llm)[0].text[3:5]
    params = replace(PARAMS, n=6, best_of=6, stop=stop)
    assert not params.ranks_sequences
    every = llm.generate(PROMPT, replace(params, logprobs=0), use_tqdm=False)[0].outputs
    assert len({len(each.token_ids) for each in every}) > 1
    (output,) = llm.generate(PROMPT, replace(params, n=3), use_tqdm=False)
    best = sorted(every, key=mean, reverse=True)[:3]
    assert [each.text for each in output.outputs] == [each.text for each in best]


def test_the_prompt_is_computed_once(tiny_models):
    with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
        (output,) = llm.generate(PROMPT, PARAMS, use_tqdm=False)
        cache = next(iter(llm.host.loop.stats().scheduler.kv_caches.values()))
        length, block = len(output.prompt_token_ids), llm.host.config.block_size
        assert cache.num_queried_tokens - cache.num_hit_tokens <= length + 5 * block
        assert llm.host.stats().prompt_tokens == length
        assert llm.host.stats().generation_tokens == output.num_generated_tokens
        assert cache.num_free_blocks == cache.num_blocks


@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE])
def test_it_cannot_be_streamed(llm, kind):
    params = replace(PARAMS, output_kind=kind)
    with pytest.raises(InvalidParamsError, match=r"n=2 of best_of=6 .* cannot be streamed") as raised:
        next(llm.stream(PROMPT, params))
    assert raised.value.param == "best_of"
    assert str(raised.value).count(". ") == 0
    same = replace(params, n=6)  # nothing is ranked, so nothing is waited for
    assert len(list(llm.stream(PROMPT, same))) > 1

    async def final():
        at_end = replace(params, output_kind=RequestOutputKind.FINAL_ONLY)
        return [output async for output in AsyncLLM(host=llm.host).generate(PROMPT, at_end)]

    assert [len(output.outputs) for output in asyncio.run(final())] == [2]


def test_the_count_of_generated_tokens_grows_in_a_stream(llm):
    params = SamplingParams(n=2, seed=1, max_tokens=9, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
    counts = [output.num_generated_tokens for output in llm.stream(PROMPT, params)]
    assert counts == sorted(counts)
    assert counts[-1] == 18


@pytest.mark.parametrize("best_of", [1, 129])
def test_best_of_is_between_n_and_128(best_of):
    with pytest.raises(InvalidParamsError, match="best_of must be between n=2 and 128"):
        SamplingParams(n=2, best_of=best_of)
