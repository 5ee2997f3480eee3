"""Log probabilities of prompts: those of transformers' logits, whole or in chunks, on one rank or on two."""

import pytest
import torch
import transformers
from carrel.models.config import ModelConfig
from carrel.step import ScheduledRequest, TokenLogprobs
from carrel.worker import prompt_logprobs
from carrel.worker.largest_step import chat_steps
from carrel.worker.lead_runner import load_lead_runner
from carrel.worker.step_limits import StepLimits
from driving import BLOCK_SIZE, NUM_BLOCKS, Driver, chat_request, open_runner, random_ids
from test_cuda_runner import open_cuda_runner
from thread_team import ThreadTeam, lead_as_on_a_gpu

OPTIONS = {"dtype": "float32", "block_size": BLOCK_SIZE}
OPENERS = {"plain": lambda folder: open_runner(folder, dtype="float32"), "as on a GPU": open_cuda_runner}


def expected(folder, ids: list[int]) -> torch.Tensor:
    """[len(ids) - 1, vocab_size] of transformers: what each token says about the next one."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1)


def check(found: list[TokenLogprobs], logprobs: torch.Tensor, ids: list[int], num_top: int) -> None:
    assert len(found) == len(ids) - 1
    for position, row, token_id in zip(found, logprobs, ids[1:], strict=True):
        assert position.token_ids[0] == token_id
        assert len(position.token_ids) == len(position.logprobs) == len(position.ranks) == 1 + num_top
        assert position.logprobs == pytest.approx(row[position.token_ids].tolist(), abs=1e-4)
        assert position.ranks[1:] == list(range(1, num_top + 1))
        assert position.logprobs[1:] == pytest.approx(row.topk(num_top).values.tolist(), abs=1e-4)
        higher, near = (row > row[token_id] + 1e-4).sum(), (row > row[token_id] - 1e-4).sum()
        assert int(higher) + 1 <= position.ranks[0] <= int(near)


def collected(driver: Driver, request, *counts: int) -> list[TokenLogprobs]:
    """Of a prompt computed in chunks, beside another request that asks for nothing."""
    found: list[TokenLogprobs] = []
    for index, count in enumerate(counts):
        other = chat_request(random_ids(5, seed=index), f"other{index}")
        results = driver.step((other, 5), (request, count))
        assert results[0].prompt_logprobs is None
        found += results[1].prompt_logprobs or []
    return found


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", ["qwen2", "llama", "mistral"])
def test_they_are_those_of_transformers(tiny_models, name, opener):
    ids = random_ids(40)
    logprobs = expected(tiny_models(name), ids)
    driver = Driver(OPENERS[opener](tiny_models(name)))
    for index, counts in enumerate([(40,), (1, 23, 15, 1), (39, 1)]):
        for num_top in (0, 3):
            request = chat_request(ids, f"r{index}{num_top}", prompt_logprobs=num_top)
            check(collected(driver, request, *counts), logprobs, ids, num_top)
            assert len(request.output_token_ids) == 1


def test_logits_are_made_for_a_few_rows_at_a_time(tiny_models, monkeypatch):
    monkeypatch.setattr(prompt_logprobs, "PROMPT_ROWS", 7)
    ids = random_ids(40)
    runner = open_runner(tiny_models("qwen2"), dtype="float32")
    logits, rows = runner.model.logits, []

    def counted(hidden):
        rows.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(runner.model, "logits", counted)
    request = chat_request(ids, prompt_logprobs=2)
    check(Driver(runner).step((request, 40))[0].prompt_logprobs, expected(tiny_models("qwen2"), ids), ids, 2)
    assert rows == [7, 7, 7, 7, 7, 4, 1]


def test_a_prompt_that_asks_changes_no_token(tiny_models):
    texts = []
    for asked in (None, 4):
        runner = open_cuda_runner(tiny_models("qwen3"))
        requests = [
            chat_request(random_ids(9 + i), f"r{i}", seed=i, temperature=0.9, prompt_logprobs=asked) for i in range(3)
        ]
        texts.append(Driver(runner).generate(requests, 6))
    assert texts[0] == texts[1]


def test_logits_that_are_not_finite_fail_their_request(tiny_models, monkeypatch):
    runner = open_runner(tiny_models("qwen2"), dtype="float32")
    logits = runner.model.logits
    monkeypatch.setattr(runner.model, "logits", lambda x: logits(x) * torch.nan if len(x) > 2 else logits(x))
    asking, other = chat_request(random_ids(9), "a", prompt_logprobs=0), chat_request(random_ids(8), "b")
    results = Driver(runner).step((asking, 9), (other, 8))
    assert [result.error is not None for result in results] == [True, False]


def test_a_token_that_is_almost_certain():
    logits = torch.tensor([[0.0, 90.0, 0.0]], dtype=torch.bfloat16)
    chosen, ranks, top, ids = prompt_logprobs.token_logprobs(logits, torch.tensor([0]), 5)
    assert chosen.tolist() == [-90.0]
    assert ranks.tolist() == [2]
    assert top.tolist() == [[0.0, -90.0, -90.0]]
    assert ids[0, 0] == 1


@pytest.mark.parametrize("opener", ["plain", "as on a GPU"])
def test_two_ranks_make_the_same_products(tiny_models, opener):
    """Chunks, a request that does not ask, decodes in between: rank 1 keeps step, or this hangs."""
    folder, ids = tiny_models("llama"), random_ids(30)
    team = ThreadTeam()
    try:
        if opener == "plain":
            lead = load_lead_runner(team, folder, ModelConfig.from_folder(folder), OPTIONS)
        else:
            lead = lead_as_on_a_gpu(team, folder, OPTIONS, None)
        lead.allocate_kv_cache(NUM_BLOCKS)
        lead.prepare(StepLimits(max_num_seqs=9, max_num_batched_tokens=200, max_model_len=160))
        driver = Driver(lead)
        request = chat_request(ids, "a", prompt_logprobs=2)
        check(collected(driver, request, 1, 17, 12), expected(folder, ids), ids, 2)
        alone = chat_request(ids, "b")
        assert Driver(open_runner(folder, dtype="float32")).generate([alone], 5) == driver.generate([request], 5)
    finally:
        team.close()


def test_the_memory_plan_counts_them():
    for items in chat_steps(StepLimits(8, 64, 48), BLOCK_SIZE):
        assert all(isinstance(item, ScheduledRequest) for item in items)
        assert [item.num_prompt_logits for item in items] == [item.num_tokens - 1 for item in items]
