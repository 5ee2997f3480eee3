"""What a caller may say about a prompt: how long it may be, and whether special tokens are put around it."""

from dataclasses import replace

import pytest
from carrel import LLM, SamplingParams
from carrel.errors import ContextLengthError, InvalidParamsError
from small_engine import SMALL

SHORT = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
TEXT = "图书馆的阅览室里有一张小书桌。" * 40


@pytest.mark.parametrize("prompt", [TEXT, [5 + i % 400 for i in range(500)]], ids=["text", "token ids"])
@pytest.mark.parametrize("cut", [1, 7, 60, 10_000])
def test_the_last_tokens_are_kept_when_the_request_says_so(llm, prompt, cut):
    whole = llm.generate(prompt, SHORT, use_tqdm=False)[0]
    output = llm.generate(prompt, replace(SHORT, truncate_prompt_tokens=cut), use_tqdm=False)[0]
    assert output.prompt_token_ids == whole.prompt_token_ids[-cut:]
    assert output.truncated == (cut < len(whole.prompt_token_ids))
    assert not whole.truncated
    expected = llm.generate(whole.prompt_token_ids[-cut:], SHORT, use_tqdm=False)[0]
    assert output.outputs[0].token_ids == expected.outputs[0].token_ids


def test_minus_one_is_what_max_tokens_leaves_of_the_context(tiny_models):
    with LLM(str(tiny_models("qwen2")), max_model_len=64, **SMALL) as llm:
        with pytest.raises(ContextLengthError):  # nothing is cut unless the request says so
            llm.generate(TEXT, SHORT, use_tqdm=False)
        output = llm.generate(TEXT, replace(SHORT, truncate_prompt_tokens=-1), use_tqdm=False)[0]
        assert len(output.prompt_token_ids) == 59
        assert len(output.outputs[0].token_ids) == 5
        assert output.truncated
        open_end = replace(SHORT, max_tokens=None, truncate_prompt_tokens=-1)
        assert len(llm.generate(TEXT, open_end, use_tqdm=False)[0].outputs[0].token_ids) == 1
        with pytest.raises(ContextLengthError, match="maximum context length is 64"):
            llm.generate(TEXT, replace(SHORT, max_tokens=64, truncate_prompt_tokens=-1), use_tqdm=False)
        with pytest.raises(ContextLengthError):
            llm.generate(TEXT, replace(SHORT, truncate_prompt_tokens=62), use_tqdm=False)


@pytest.mark.parametrize("cut", [0, -2])
def test_other_lengths_are_refused(cut):
    with pytest.raises(InvalidParamsError, match="truncate_prompt_tokens must be -1 or at least 1"):
        SamplingParams(truncate_prompt_tokens=cut)


def test_a_text_without_special_tokens(tiny_models):
    with LLM(str(tiny_models("llama")), **SMALL) as llm:
        begin = llm.get_tokenizer().bos_token_id
        plain, bare = llm.generate(["你好", {"prompt": "你好", "add_special_tokens": False}], SHORT, use_tqdm=False)
        assert plain.prompt_token_ids == [begin, *bare.prompt_token_ids]
        assert bare.prompt == "你好"
        both = llm.generate({"prompt": "你好", "add_special_tokens": True}, SHORT, use_tqdm=False)[0]
        assert both.prompt_token_ids == plain.prompt_token_ids
