"""prompt_logprobs through the whole engine: the same numbers whatever happens to the request."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from carrel import LLM, AsyncLLM, RequestOutputKind, SamplingParams
from carrel.errors import InvalidParamsError
from small_engine import SMALL

PROMPT = [5 + i * 7 % 500 for i in range(90)]
TEXT = "一个读者可以借几本书?答案在图书馆里。"
ASKED = SamplingParams(temperature=0.0, max_tokens=3, prompt_logprobs=2, ignore_eos=True)


@contextmanager
def opened(folder, **options: object) -> Iterator[LLM]:
    with LLM(str(folder), **{**SMALL, **options}) as llm:
        yield llm
        assert llm.host.stats().num_open == 0


def own(output) -> list:
    """Of each prompt token but the first: its own entry, which stands first."""
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    positions = list(zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True))
    assert all(next(iter(position)) == token_id for token_id, position in positions)
    return [position[token_id] for token_id, position in positions]


def same(output, other) -> None:
    """But for the rounding of other batches, which may move a rank among hundreds by one."""
    assert [entry.logprob for entry in own(output)] == pytest.approx([entry.logprob for entry in own(other)], abs=1e-4)
    assert [entry.rank for entry in own(output)] == pytest.approx([entry.rank for entry in own(other)], abs=3)
    for position, its in zip(output.prompt_logprobs[1:], other.prompt_logprobs[1:], strict=True):
        best, expected = (sorted(entry.logprob for entry in entries.values())[-1] for entries in (position, its))
        assert best == pytest.approx(expected, abs=1e-4)
    assert output.outputs[0].token_ids == other.outputs[0].token_ids


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_whole_chunked_cached_and_preempted_are_the_same(tiny_models, name):
    folder = tiny_models(name)
    with opened(folder) as llm:
        whole = llm.generate(PROMPT, ASKED, use_tqdm=False)[0]
        again = llm.generate(PROMPT, ASKED, use_tqdm=False)[0]  # its prefix lies in the cache now
        assert again.num_cached_tokens == 0
        plain = llm.generate(PROMPT, SamplingParams(max_tokens=1), use_tqdm=False)[0]
        assert plain.num_cached_tokens == 80  # what it computed is there for others
        assert plain.prompt_logprobs is None
    same(again, whole)
    with opened(folder, max_num_batched_tokens=16) as llm:
        same(llm.generate(PROMPT, ASKED, use_tqdm=False)[0], whole)


def test_a_request_that_gives_way_starts_where_its_numbers_end(tiny_models):
    """Long answers in a small cache: somebody is always preempted, in its prompt or behind it."""
    prompts = [PROMPT[i:] for i in range(6)]
    params = SamplingParams(temperature=0.0, max_tokens=60, prompt_logprobs=1, ignore_eos=True)
    with opened(tiny_models("qwen2")) as llm:
        expected = llm.generate(prompts, params, use_tqdm=False)
        blocks = llm.host.memory_plan.caches[next(iter(llm.host.models))]
    tight = {"kv_cache_memory_bytes": 20 * blocks.bytes_per_block, "max_num_batched_tokens": 24}
    with opened(tiny_models("qwen2"), max_model_len=200, **tight) as llm:
        found = llm.generate(prompts, params, use_tqdm=False)
        assert llm.host.stats().num_preemptions > 0
    for output, other in zip(found, expected, strict=True):
        same(output, other)


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_of_several_completions_one_computes_them(tiny_models, enable_prefix_caching):
    with opened(tiny_models("qwen2"), enable_prefix_caching=enable_prefix_caching) as llm:
        one = llm.generate(TEXT, ASKED, use_tqdm=False)[0]
        params = SamplingParams(n=3, temperature=0.0, max_tokens=3, prompt_logprobs=2, ignore_eos=True)
        three = llm.generate(TEXT, params, use_tqdm=False)[0]
    same(three, one)
    assert len(three.outputs) == 3


def test_a_prompt_of_one_token_has_none_to_tell(llm):
    output = llm.generate([7], ASKED, use_tqdm=False)[0]
    assert output.prompt_logprobs == [None]
    assert llm.generate([7, 8], SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)[0].prompt_logprobs[1]


@pytest.mark.parametrize("kind", list(RequestOutputKind))
def test_a_stream_shows_them(llm, kind):
    params = SamplingParams(max_tokens=4, prompt_logprobs=0, ignore_eos=True, output_kind=kind)

    async def outputs():
        return [output async for output in AsyncLLM(host=llm.host).generate(TEXT, params)]

    shown = [output.prompt_logprobs is not None for output in asyncio.run(outputs())]
    assert shown[0]
    assert all(shown[1:]) if kind is not RequestOutputKind.DELTA else not any(shown[1:])


def test_callers_see_at_most_twenty(llm):
    with pytest.raises(InvalidParamsError, match="prompt_logprobs must be between 0 and 20"):
        SamplingParams(prompt_logprobs=21)
    position = llm.generate(TEXT, SamplingParams(max_tokens=1, prompt_logprobs=20), use_tqdm=False)[0].prompt_logprobs[
        1
    ]
    assert len(position) in (20, 21)


def test_the_text_of_half_a_character_is_a_replacement_character_and_its_bytes_are_known(llm):
    tokenizer = llm.get_tokenizer()
    ids = tokenizer.encode("😀")
    assert len(ids) > 1
    output = llm.generate(ids, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)[0]
    shown = [position[token_id] for token_id, position in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]
    assert all("\ufffd" in entry.decoded_token for entry in shown)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == "😀"
