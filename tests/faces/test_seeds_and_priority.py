"""A seed gives its text whatever else the engine does; who is more urgent goes first."""

import asyncio
from dataclasses import replace

import pytest
from carrel import LLM, AsyncLLM, SamplingParams
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_engine import SMALL

# Nine blocks: several requests at once make each other give way.
TIGHT = {"max_model_len": 128, "kv_cache_memory_bytes": 9 * 16 * 3 * 2 * 2 * 16 * 4}
ENGINES = {
    "in chunks": {"max_num_batched_tokens": 7},
    "preempted": TIGHT,
    "no prefix cache": {"enable_prefix_caching": False},
}

prompts = st.lists(st.integers(5, 599), min_size=1, max_size=24)
params = st.builds(
    SamplingParams,
    seed=st.integers(0, 2**63),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.8, 1.0]),
    top_k=st.sampled_from([0, 12]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    max_tokens=st.just(36),
    ignore_eos=st.just(True),
)


@pytest.fixture(scope="module")
def engines(tiny_models):
    opened = {name: LLM(str(tiny_models("qwen2")), **{**SMALL, **options}) for name, options in ENGINES.items()}
    yield opened
    assert opened["preempted"].host.stats().num_preemptions > 0
    for llm in opened.values():
        llm.close()


def tokens(outputs) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(prompts, params), min_size=5, max_size=8))
def test_seed_and_prompt_are_all_that_a_text_depends_on(llm, engines, asked):
    texts, wishes = [list(prompt) for prompt, _ in asked], [wish for _, wish in asked]
    alone = [tokens(llm.generate(prompt, wish, use_tqdm=False))[0] for prompt, wish in asked]
    assert tokens(llm.generate(texts, wishes, use_tqdm=False)) == alone
    beside = [replace(wish, prompt_logprobs=2, logprobs=1) for wish in wishes]
    assert tokens(llm.generate(texts, beside, use_tqdm=False)) == alone
    for other in engines.values():
        assert tokens(other.generate(texts, wishes, use_tqdm=False)) == alone
        assert tokens(other.generate(texts, beside, use_tqdm=False)) == alone


def test_each_of_several_completions_has_a_seed_of_its_own(llm):
    wish = SamplingParams(seed=11, max_tokens=8, ignore_eos=True)
    three = llm.generate("图书馆", replace(wish, n=3), use_tqdm=False)[0].outputs
    single = [llm.generate("图书馆", replace(wish, seed=11 + i), use_tqdm=False)[0].outputs[0] for i in range(3)]
    assert [each.token_ids for each in three] == [each.token_ids for each in single]
    assert len({tuple(each.token_ids) for each in three}) == 3


def test_without_a_seed_two_requests_differ(llm):
    free = SamplingParams(max_tokens=12, ignore_eos=True)
    assert len({tuple(ids) for ids in tokens(llm.generate(["图书馆"] * 4, free, use_tqdm=False))}) == 4


def test_who_is_more_urgent_overtakes_in_the_queue(tiny_models):
    """One seat: what waits for it leaves the queue by priority, then in the order of arrival."""
    ended: list[str] = []

    async def ask(llm: AsyncLLM, name: str, priority: int, max_tokens: int) -> None:
        wish = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        async for _ in llm.generate("图书馆", wish, request_id=name, priority=priority):
            pass
        ended.append(name)

    async def all_of_them() -> None:
        async with AsyncLLM(str(tiny_models("qwen2")), **{**SMALL, "max_num_seqs": 1}) as llm:
            asked = [("first", 0), ("usual", 0), ("usual too", 0), ("unhurried", 5), ("urgent", -3)]
            tasks = []
            for name, priority in asked:
                tasks.append(asyncio.create_task(ask(llm, name, priority, 200 if name == "first" else 4)))
                while llm.host.loop.stats().num_open < len(tasks):
                    await asyncio.sleep(0.001)
            await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    assert ended == ["first", "urgent", "usual", "usual too", "unhurried"]
