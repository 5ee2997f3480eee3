"""Beam search: the sequences that a slow search over transformers' logits finds; shared blocks; a quick end."""

import asyncio
import itertools
import math

import pytest
import torch
import transformers
from carrel import LLM, AsyncLLM, BeamSearchParams
from carrel.errors import ContextLengthError, InvalidParamsError, UnsupportedTaskError
from small_engine import SMALL

PROMPTS = ["The house stands on", "一个读者可以借几本书?"]


class SlowModel:
    """transformers' log probabilities of the next token, one sequence at a time."""

    def __init__(self, folder) -> None:
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def __call__(self, ids) -> list[float]:
        with torch.inference_mode():
            return self._model(torch.tensor([list(ids)])).logits[0, -1].log_softmax(dim=-1).tolist()


def likely(logprobs: list[float], count: int) -> list[tuple[int, float]]:
    return sorted(enumerate(logprobs), key=lambda pair: pair[1], reverse=True)[:count]


def slow_search(model, prompt, params, eos) -> list[tuple[list[int], float]]:
    """The search as vLLM does it, to the last round: twice as many candidates for each beam as there are beams."""

    def score(beam):
        ids, logprob = beam
        return logprob / (len(ids) - (ids[-1] in eos)) ** params.length_penalty

    beams, ended = [(list(prompt), 0.0)], []
    for _ in range(params.max_tokens):
        grown = [([*ids, t], total + p) for ids, total in beams for t, p in likely(model(ids), 2 * params.beam_width)]
        stops = set() if params.ignore_eos else eos
        ended += [beam for beam in grown if beam[0][-1] in stops]
        beams = sorted((beam for beam in grown if beam[0][-1] not in stops), key=score, reverse=True)
        beams = beams[: params.beam_width]
    return sorted(ended + beams, key=score, reverse=True)[: params.beam_width]


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def pair(tiny_models, request):
    folder = tiny_models(request.param)
    with LLM(str(folder), **SMALL) as llm:
        yield llm, SlowModel(folder)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("beam_width", [1, 4])
def test_it_finds_what_a_slow_search_finds(pair, beam_width, length_penalty):
    llm, model = pair
    hosted = llm.host.get(None, "chat")
    params = BeamSearchParams(beam_width=beam_width, max_tokens=4, length_penalty=length_penalty)
    for prompt, output in zip(PROMPTS, llm.beam_search(PROMPTS, params), strict=True):
        ids = llm.get_tokenizer().encode(prompt)
        expected = slow_search(model, ids, params, hosted.eos_token_ids)
        assert len(output.sequences) == beam_width
        for sequence, (tokens, logprob) in zip(output.sequences, expected, strict=True):
            ended = tokens[-1] in hosted.eos_token_ids
            assert sequence.tokens == tokens[: len(tokens) - ended]
            assert sequence.cum_logprob == pytest.approx(logprob, abs=1e-3)
            assert sequence.finish_reason == ("stop" if ended else "length")
            assert sequence.text == llm.get_tokenizer().decode(sequence.tokens)
            own = [p[t].logprob for p, t in zip(sequence.logprobs, tokens[len(ids) :], strict=True)]
            assert sum(own) == pytest.approx(logprob, abs=1e-3)


def test_wide_beams_are_an_exhaustive_search(pair):
    """With as many beams as there are sequences nothing is lost: the best of all pairs of tokens."""
    llm, model = pair
    ids = llm.get_tokenizer().encode(PROMPTS[0])
    first = model(ids)
    totals = {(a, b): p + q for a, p in likely(first, 128) for b, q in enumerate(model([*ids, a]))}
    params = BeamSearchParams(beam_width=128, max_tokens=2, ignore_eos=True)
    (output,) = llm.beam_search(PROMPTS[0], params)
    best = max(totals, key=totals.__getitem__)
    assert output.sequences[0].tokens == [*ids, *best]
    found = [sequence.cum_logprob for sequence in output.sequences]
    assert found == pytest.approx(sorted(totals.values(), reverse=True)[:128], abs=1e-3)


def favour(monkeypatch, llm, rows) -> None:
    """Tokens after so many generated ones get these logits."""
    runner = llm.host._executor.runners[llm.host.get(None, "chat").runner_key]
    sampler = runner.sampler

    class Sampler:
        def sample(self, logits, items):
            replaced = torch.stack([rows(item.request.prompt_token_ids) for item in items])
            return sampler.sample(replaced.to(logits), items)

        runs_ahead, release = staticmethod(sampler.runs_ahead), staticmethod(sampler.release)

    monkeypatch.setattr(runner, "sampler", Sampler())


@pytest.mark.parametrize("include", [False, True])
def test_it_ends_when_nothing_better_can_come(tiny_models, monkeypatch, include):
    with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
        size, prompt = llm.host.get(None, "chat").config.vocab_size, [7, 8, 9]
        certain = {3: [10, 11], 4: [2, 12], 5: [2, 0]}  # by length; 2 and 0 end a sequence

        def rows(ids):
            row = torch.full((size,), -30.0)
            row[certain.get(len(ids), [2, 0])] = 5.0
            return row

        favour(monkeypatch, llm, rows)
        before = llm.host.stats().num_steps
        params = BeamSearchParams(beam_width=2, max_tokens=1000, length_penalty=0.0, include_stop_str_in_output=include)
        (output,) = llm.beam_search(prompt, params)
        assert llm.host.stats().num_steps - before < 10
        end = [2] if include else []
        assert sorted(sequence.tokens for sequence in output.sequences) == [[*prompt, 10, *end], [*prompt, 11, *end]]
        for sequence in output.sequences:
            assert (sequence.finish_reason, sequence.stop_reason) == ("stop", 2)
            assert sequence.cum_logprob == pytest.approx(2 * math.log(0.5), abs=1e-3)


def test_beams_share_their_blocks(tiny_models):
    with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
        ids = [5 + i * 7 % 500 for i in range(160)]
        llm.beam_search(ids, BeamSearchParams(beam_width=4, max_tokens=9, ignore_eos=True))
        cache = next(iter(llm.host.loop.stats().scheduler.kv_caches.values()))
        computed = cache.num_queried_tokens - cache.num_hit_tokens
        assert computed < len(ids) + 4 * 8 * (llm.host.config.block_size + 1)
        assert cache.num_free_blocks == cache.num_blocks
        stats = llm.host.stats()
        assert stats.num_open == 0
        assert stats.prompt_tokens == len(ids)
        assert stats.generation_tokens == 1 + 8 * 4


def test_for_coroutines_it_is_one_output_with_a_completion_for_each_beam(pair):
    llm, _ = pair
    params = BeamSearchParams(beam_width=3, max_tokens=5)

    async def search():
        return [output async for output in AsyncLLM(host=llm.host).beam_search(PROMPTS[1], params, request_id="b")]

    (output,) = asyncio.run(search())
    (expected,) = llm.beam_search(PROMPTS[1], params)
    assert (output.request_id, output.prompt, output.finished) == ("b", PROMPTS[1], True)
    assert output.num_generated_tokens == 1 + 4 * 3
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    for completion, sequence in zip(output.outputs, expected.sequences, strict=True):
        assert output.prompt_token_ids + completion.token_ids == sequence.tokens
        assert completion.cumulative_logprob == pytest.approx(sequence.cum_logprob, abs=1e-4)
        assert completion.text == llm.get_tokenizer().decode(completion.token_ids)
        assert [next(iter(position)) for position in completion.logprobs] == completion.token_ids


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": 129}, "beam_width"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 0.7}, "temperature"),
        ({"length_penalty": math.nan}, "length_penalty"),
    ],
)
def test_wrong_parameters_are_refused(options, param):
    with pytest.raises(InvalidParamsError) as raised:
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 4, **options})
    assert raised.value.param == param
    assert BeamSearchParams(beam_width=1, max_tokens=1, temperature=1.0)


def test_what_cannot_be_searched_is_refused(llm):
    params = BeamSearchParams(beam_width=2, max_tokens=5000)
    with pytest.raises(ContextLengthError, match="maximum context length"):
        llm.beam_search("你好", params)
    with pytest.raises(UnsupportedTaskError):
        llm.beam_search("你好", params, model=str(llm.host.get(None, "embedding").key))
    assert list(itertools.chain(llm.host.loop._open)) == []
