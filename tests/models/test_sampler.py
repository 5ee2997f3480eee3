"""The sampler against straightforward twins, one row at a time, and against the distribution it should have."""

import math

import pytest
import torch
from carrel.request import Request
from carrel.worker.filters import FIRST_WIDTH, filter_probs
from carrel.worker.noise import uniform
from carrel.worker.sampler import sample
from driving import chat_request

VOCAB = 50


def logits_of(rows, *, seed=0, vocab_size=VOCAB, scale=3.0):
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def request(prompt=(1, 2, 3), output=(), *, seed=0, **params) -> Request:
    made = chat_request(list(prompt), seed=seed, **{"temperature": 1.0, **params})
    made.output_token_ids = list(output)
    return made


def naive_filter(row, top_k, top_p, min_p):
    """The definitions, literally, for one row: the set of tokens that stay."""
    probs = row.softmax(-1)
    keep = {i for i in range(len(row)) if probs[i] >= min_p * probs.max()}
    order = sorted(keep, key=lambda i: -row[i])
    if top_k:
        order = order[:top_k]
    total = sum(float(probs[i]) for i in order)
    chosen, mass = [], 0.0
    for i in order:
        chosen.append(i)
        mass += float(probs[i]) / total
        if mass >= top_p:
            break
    return set(chosen)


CASES = [(0, 1.0, 0.0), (1, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.5, 0.0), (0, 0.05, 0.0), (0, 1.0, 0.2), (7, 0.8, 0.05)]
CASES += [(60, 0.95, 0.0), (3, 0.3, 0.9)]


def test_filters_match_their_definitions_with_each_row_its_own():
    logits = logits_of(len(CASES))
    probs = logits.softmax(-1)
    top_k, top_p, min_p = (list(values) for values in zip(*CASES, strict=True))
    out = filter_probs(probs.clone(), top_k=top_k, top_p=top_p, min_p=min_p)
    for row, case in enumerate(CASES):
        kept = set(out[row].nonzero().flatten().tolist())
        assert kept == naive_filter(logits[row], *case), case
        assert torch.equal(out[row][list(kept)], probs[row][list(kept)])


@pytest.mark.parametrize("scale", [0.1, 5.0], ids=["flat", "peaked"])
def test_a_nucleus_is_found_in_a_large_vocabulary(scale):
    """Among the first few hundred if the distribution is peaked, by a full sort if it is flat."""
    probs = logits_of(2, vocab_size=4 * FIRST_WIDTH, scale=scale).softmax(-1)
    kept = (filter_probs(probs.clone(), top_k=[0, 0], top_p=[0.9, 0.5], min_p=[0.0, 0.0]) > 0).sum(-1)
    for row, top_p in enumerate((0.9, 0.5)):
        sums = probs[row].sort(descending=True).values.double().cumsum(0)
        assert int(kept[row]) == int((sums < top_p * sums[-1]).sum()) + 1
    assert (kept > FIRST_WIDTH).any() == (scale == 0.1)


def test_the_best_token_always_stays():
    probs = torch.full((1, 8), 1 / 8)
    out = filter_probs(probs, top_k=[0], top_p=[1e-6], min_p=[1.0])
    assert (out > 0).sum() == 1


def test_greedy_rows_are_argmax_beside_sampled_ones():
    logits = logits_of(3)
    sampled = sample(logits, [request(temperature=0.0), request(seed=1), request(temperature=0.0)])
    assert sampled.token_ids[0] == int(logits[0].argmax())
    assert sampled.token_ids[2] == int(logits[2].argmax())


@pytest.mark.parametrize("params", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.1}])
def test_samples_have_the_distribution_they_should(params):
    """20,000 draws of ten tokens with running seeds: every frequency within five standard deviations."""
    draws, vocab_size = 20_000, 10
    logits = logits_of(1, vocab_size=vocab_size, scale=1.0)
    row = logits[0] / params.get("temperature", 1.0)
    kept = naive_filter(row, params.get("top_k", 0), params.get("top_p", 1.0), params.get("min_p", 0.0))
    allowed = torch.tensor([index in kept for index in range(vocab_size)])
    expected = row.masked_fill(~allowed, -math.inf).softmax(-1)
    sampled = sample(logits.expand(draws, -1), [request(seed=seed, **params) for seed in range(draws)])
    frequency = torch.bincount(torch.tensor(sampled.token_ids), minlength=vocab_size) / draws
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((frequency - expected).abs() <= 5 * deviation).all()
    assert frequency[~allowed].sum() == 0


def test_positions_of_one_seed_are_independent():
    draws = 20_000
    logits = torch.zeros(draws, 4)
    requests = [request(prompt=[1] * (1 + position % 500), seed=position // 500) for position in range(draws)]
    tokens = torch.tensor(sample(logits, requests).token_ids)
    pairs = torch.bincount(tokens[:-1] * 4 + tokens[1:], minlength=16) / (draws - 1)
    assert (pairs - 1 / 16).abs().max() < 5 * math.sqrt(1 / 16 / draws)


def test_random_numbers_are_uniform_in_seeds_and_in_positions():
    for numbers in ([uniform(seed, 5) for seed in range(20_000)], [uniform(5, row) for row in range(20_000)]):
        counts = torch.histc(torch.tensor(numbers), bins=20, min=0, max=1)
        assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)
        assert min(numbers) >= 0.0
        assert max(numbers) < 1.0


def test_any_integer_is_a_seed():
    assert len({uniform(seed, 0) for seed in (-(2**63), -1, 0, 1, 2**63 - 1, 2**63 + 1)}) == 6


def test_random_numbers_never_change():
    """A fixed seed must give the same text in later versions: this number is a promise."""
    assert uniform(42, 7) == 0.19535155971618223


def test_equal_logits_cannot_trade_places():
    """Half precision makes many ties; whichever other limits are in the batch, a request draws the same token."""
    logits = torch.zeros(2, 3 * FIRST_WIDTH)
    alone = [sample(logits[:1], [request(seed=seed, top_p=0.9999)]).token_ids[0] for seed in range(50)]
    beside = [sample(logits, [request(seed=seed, top_p=0.9999), request(top_k=5)]).token_ids[0] for seed in range(50)]
    assert alone == beside
    assert len(set(alone)) > 40


def naive_penalties(row, prompt, output, presence=0.0, frequency=0.0, repetition=1.0):
    row = row.clone()
    for token in set(prompt) | set(output):
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in set(output):
        row[token] -= presence + frequency * output.count(token)
    return row


@pytest.mark.parametrize(
    "params",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -2.0},
        {"repetition_penalty": 5.0},
        {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    ],
)
def test_penalties_match_their_definitions(params):
    """Greedy, over many rows, so that the argmax shows the penalised logits."""
    logits = logits_of(40, scale=1.0)
    prompts = [torch.randint(VOCAB, (20,)).tolist() for _ in range(40)]
    outputs = [torch.randint(VOCAB, (row,)).tolist() for row in range(40)]
    rows = [request(p, o, temperature=0.0, **params) for p, o in zip(prompts, outputs, strict=True)]
    short = {key.removesuffix("_penalty"): value for key, value in params.items()}
    expected = [
        int(naive_penalties(row, p, o, **short).argmax()) for row, p, o in zip(logits, prompts, outputs, strict=True)
    ]
    assert sample(logits, rows).token_ids == expected
    assert expected != logits.argmax(-1).tolist(), "the penalties must change something here"


def test_tokens_outside_of_the_vocabulary_are_not_penalised():
    sample(logits_of(1), [request([1, 2, VOCAB + 5], [3], repetition_penalty=2.0, presence_penalty=1.0)])


@pytest.mark.parametrize("repetition_penalty", [1e-45, 1e-20, 1e20, 1e38])
def test_extreme_values_still_give_a_token(repetition_penalty):
    logits = logits_of(2, scale=1e4)
    extreme = {"repetition_penalty": repetition_penalty, "temperature": 1e-12, "top_p": 1e-9, "min_p": 1.0}
    for token in sample(logits, [request(**extreme), request(**extreme | {"temperature": 0.0})]).token_ids:
        assert 0 <= token < VOCAB


def test_nothing_ends_the_text_before_min_tokens():
    logits = logits_of(1)
    best, second, third = logits[0].topk(3).indices.tolist()
    made = request(temperature=0.0, min_tokens=2, stop_token_ids=[second])
    made.eos_token_ids = frozenset({best, 10_000})
    assert sample(logits, [made]).token_ids == [third]
    made.output_token_ids = [5, 5]
    assert sample(logits, [made]).token_ids == [best]


def test_logprobs_are_of_the_raw_distribution_with_ranks():
    logits = logits_of(3)
    before = logits.clone()
    sampled = sample(
        logits,
        [request(seed=5, temperature=0.3, logprobs=4), request(), request(temperature=0.0, logprobs=0)],
    )
    assert torch.equal(logits, before), "logits belong to the caller"
    first, none, last = sampled.logprobs
    assert none is None
    expected = logits.log_softmax(-1)
    top = expected[0].topk(4)
    assert first.token_ids == [sampled.token_ids[0], *top.indices.tolist()]
    assert first.logprobs[1:] == pytest.approx(top.values.tolist())
    assert first.logprobs[0] == pytest.approx(float(expected[0, sampled.token_ids[0]]))
    assert first.ranks == [1 + int((expected[0] > first.logprobs[0]).sum()), 1, 2, 3, 4]
    assert last.token_ids == [int(logits[2].argmax())]
    assert last.ranks == [1]


def test_a_sampled_token_beyond_the_best_has_its_true_rank():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    ranks = {}
    for seed in range(200):
        out = sample(logits, [request(seed=seed, logprobs=1)])
        ranks[out.token_ids[0]] = out.logprobs[0].ranks[0]
    assert ranks == {0: 4, 1: 3, 2: 2, 3: 1}
