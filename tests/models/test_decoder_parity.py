"""Every decoder family against transformers in fp32: logits, through the paged cache, and greedy continuations."""

import pytest
import torch
from driving import Driver, chat_request, open_runner, random_ids
from transformers import AutoModelForCausalLM

FAMILIES = ["llama", "llama-llama3", "llama-yarn", "llama-linear", "qwen2", "qwen2-untied", "qwen2-window", "qwen3"]
FAMILIES += ["mistral"]
CHUNKS = {"whole": [70], "chunked": [13, 1, 30, 26], "decoded": [40] + [1] * 30}


@pytest.fixture(scope="module")
def reference(tiny_models):
    """transformers' logits for 70 random tokens, and its model, by family."""
    made = {}

    def get(name):
        if name not in made:
            model = AutoModelForCausalLM.from_pretrained(tiny_models(name), dtype=torch.float32).eval()
            with torch.inference_mode():
                logits = model(torch.tensor([random_ids(70)])).logits[0]
            made[name] = (model, logits)
        return made[name]

    return get


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_match_transformers(tiny_models, reference, name, chunks):
    driver = Driver(open_runner(tiny_models(name)))
    request = chat_request(random_ids(70))
    logits = torch.cat([driver.logits(request, count) for count in chunks])
    expected = reference(name)[1]
    assert logits.abs().max() > 0.5, "logits near zero would prove nothing"
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_continuations_match_transformers(tiny_models, reference, name):
    driver = Driver(open_runner(tiny_models(name)))
    prompts = [random_ids(count, seed=count) for count in (1, 9, 33)]
    ours = driver.generate([chat_request(ids, str(index)) for index, ids in enumerate(prompts)], 24)
    model = reference(name)[0]
    for ids, mine in zip(prompts, ours, strict=True):
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=24,
            min_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert mine == out[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", ["qwen2-window", "mistral"])
def test_the_window_matters_at_this_length(tiny_models, reference, name):
    """Guards the tests above: without the window, the logits differ."""
    runner = open_runner(tiny_models(name))
    for layer in runner.model.layers:
        layer.self_attn.window = None
    logits = Driver(runner).logits(chat_request(random_ids(70)), 70)
    assert (logits - reference(name)[1]).abs().max() > 1e-2
