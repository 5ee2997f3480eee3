"""Forms and token constraints through the whole engine: a scripted model that would break them, and random ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from carrel import LLM, AsyncLLM, SamplingParams
from carrel.config import ModelSpec
from carrel.errors import InvalidParamsError
from carrel.hosted_model import HostedModel
from carrel.inputs import TokenizedPrompt, generation_requests, tokenize_prompt
from carrel.jobs import GenerationJob
from carrel.outputs import CompletionOutput
from carrel.parsers.base import AnswerFormat, TextParser
from carrel.structured_params import StructuredOutputsParams
from carrel.sync_runner import run_jobs
from scripted import Script, scripted_folder, scripted_host
from small_engine import SMALL
from tiny_models import TinyModels

PERSON = {
    "type": "object",
    "properties": {"名字": {"type": "string", "maxLength": 6}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["名字", "n"],
    "additionalProperties": False,
}
FORMS: list[dict[str, Any]] = [
    {"json": PERSON},
    {"choice": ["是", "否", "not known"]},
    {"regex": r"\d{2,4}[-/](甲|乙)"},
    {"grammar": 'root ::= "(" root ")" | [a-c]+'},
    {"substrings_of": ["检索增强生成把文档检索和语言模型结合起来。", "The fox."]},
]


def form(**values: Any) -> StructuredOutputsParams:
    return StructuredOutputsParams(**values)


def has_form(output: CompletionOutput, values: dict[str, Any]) -> None:
    if output.finish_reason == "length":
        return
    if "json" in values:
        jsonschema.validate(json.loads(output.text), values["json"])
    elif "choice" in values:
        assert output.text in values["choice"]
    elif "substrings_of" in values:
        assert output.text and any(output.text in text for text in values["substrings_of"])
    else:
        assert output.text


@pytest.fixture(scope="module")
def folder(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scripted")
    return scripted_folder(tiny_models, path, special=["[/THINK]"], added=["<think>", "</think>"])


def scripted(folder: Path, script: Script) -> LLM:
    return LLM(host=scripted_host([ModelSpec(name=str(folder))], script))


def written(folder: Path, text: str, **params: Any) -> CompletionOutput:
    """What a model that would write ``text`` writes."""
    with scripted(folder, lambda _: text) as llm:
        values = {"temperature": 0.0, "max_tokens": 100, **params}
        return llm.generate("请回答。", SamplingParams(**values), use_tqdm=False)[0].outputs[0]


# -- a model that would do otherwise


def test_a_script_that_has_the_form_is_written_as_it_is(folder: Path) -> None:
    text = '{\n  "名字": "张三 [/THINK]",\n  "n": 7\n}'
    output = written(folder, text, structured_outputs=form(json={**PERSON, "properties": {"名字": {}, "n": {}}}))
    assert (output.text, output.finish_reason, output.stop_reason) == (text, "stop", None)


@pytest.mark.parametrize(
    "script", ['{"名字": 1, "x": []}', "好的，这是 JSON：{}", "", '{"名字": "很长很长很长很长的名字", "n": 1234567}']
)
def test_a_script_that_breaks_the_form_is_held_to_it(folder: Path, script: str) -> None:
    output = written(folder, script, structured_outputs=form(json=PERSON))
    assert output.finish_reason == "stop"
    jsonschema.validate(json.loads(output.text), PERSON)


def test_a_model_that_stops_too_early_or_goes_on_too_long(folder: Path) -> None:
    assert written(folder, "12", structured_outputs=form(regex=r"\d{2}-\d{2}")).text.startswith("12-")
    assert written(folder, "是的，因为", structured_outputs=form(choice=["是", "否"])).text == "是"
    assert written(folder, "增强生成模型", structured_outputs=form(substrings_of=["检索增强生成"])).text == "增强生成"


def answered(folder: Path, text: str, answer: AnswerFormat, **params: Any) -> CompletionOutput:
    with scripted(folder, lambda _: text) as llm:
        model = llm.host.get(None, "chat")
        values = SamplingParams(temperature=0.0, max_tokens=100, skip_special_tokens=False, **params)
        prompt = tokenize_prompt(model, "想一想。")
        job = GenerationJob(llm.host, model, prompt, values, request_id="r", answer=answer)
        return run_jobs(llm.host.loop, [job], lambda: None)[0].outputs[0]


@pytest.mark.parametrize("end", ["</think>", "[/THINK]", "</end>"])
def test_thoughts_are_free_and_the_answer_is_not(folder: Path, end: str) -> None:
    """The end may be an added token, a special one, or plain text."""
    answer = AnswerFormat(make_parser=TextParser, thought_end=end)
    output = answered(folder, f'我想 {{"a"\n{end}\n\n是的', answer, structured_outputs=form(choice=["是", "否"]))
    assert output.text == f'我想 {{"a"\n{end}\n\n是'
    maybe = AnswerFormat(make_parser=TextParser, thought_start="<think>", thought_end=end)
    assert answered(folder, "否定", maybe, structured_outputs=form(choice=["是", "否"])).text == "否"
    thinking = f"<think>嗯{end}否"
    assert answered(folder, thinking, maybe, structured_outputs=form(choice=["是", "否"])).text == thinking


def test_a_tool_grammar_holds_the_text_and_leaves_no_place_for_another_form(folder: Path) -> None:
    answer = AnswerFormat(make_parser=TextParser, tool_grammar='start: "call(" /[0-9]+/ ")"')
    assert answered(folder, "call(12) 好", answer).text == "call(12)"
    assert answered(folder, "call(x1)", answer).text.startswith("call(")
    with pytest.raises(InvalidParamsError, match="give one of them"):
        answered(folder, "call(12)", answer, structured_outputs=form(choice=["是"]))
    with pytest.raises(InvalidParamsError, match="ignore_eos"):
        answered(folder, "call(x1)", answer, ignore_eos=True)


def test_stop_conditions_under_a_form(folder: Path) -> None:
    array = form(json={"type": "array", "items": {"type": "integer"}})
    script = "[1, 2, 3, 4]"
    stopped = written(folder, script, structured_outputs=array, stop=", 3")
    assert (stopped.text, stopped.finish_reason, stopped.stop_reason) == ("[1, 2", "stop", ", 3")
    cut = written(folder, script, structured_outputs=array, max_tokens=3)
    assert cut.finish_reason == "length" and script.startswith(cut.text)
    plenty = written(folder, "[]", structured_outputs=array, min_tokens=6)
    assert len(plenty.token_ids) <= 3, "when the form is complete, only the end is left"
    grown = written(folder, "a", structured_outputs=form(regex="a+"), min_tokens=6)
    assert len(grown.token_ids) >= 6 and set(grown.text) == {"a"}


def test_stop_token_ids_under_a_form(folder: Path) -> None:
    with scripted(folder, lambda _: "ab12") as llm:
        stop = llm.get_tokenizer().token_to_id("1") or 0
        params = SamplingParams(temperature=0.0, stop_token_ids=[stop], structured_outputs=form(regex=r"[a-z]+\d+"))
        output = llm.generate("x", params, use_tqdm=False)[0].outputs[0]
    assert output.finish_reason == "stop" and output.stop_reason == stop


def test_log_probabilities_are_finite_and_the_models_own(folder: Path) -> None:
    """The script says "否定" with near certainty; what is drawn instead is very unlikely, and said to be so."""
    output = written(folder, "否定", structured_outputs=form(choice=["是"]), logprobs=2)
    assert output.logprobs is not None
    first = output.logprobs[0][output.token_ids[0]]
    assert math.isfinite(first.logprob) and first.logprob < -10 and first.rank > 1
    assert max(entry.logprob for entry in output.logprobs[0].values()) > -1


# -- tokens


def test_biases_and_lists_of_tokens(folder: Path) -> None:
    with scripted(folder, lambda _: "the fox") as llm:
        tokenizer = llm.get_tokenizer()

        def text(**params: Any) -> CompletionOutput:
            values = SamplingParams(temperature=0.0, max_tokens=8, **params)
            return llm.generate("x", values, use_tqdm=False)[0].outputs[0]

        plain = text()
        assert plain.text == "the fox"
        first, other = plain.token_ids[0], tokenizer.token_to_id("q")
        assert text(logit_bias={other: 100.0}).token_ids == [other] * 8
        assert text(logit_bias={first: -100.0}).token_ids[0] != first
        allowed = text(allowed_token_ids=[other, first])
        assert set(allowed.token_ids) == {other, first} and allowed.finish_reason == "length"
        ends = sorted(llm.host.get(None, "chat").eos_token_ids)
        assert text(allowed_token_ids=[first, *ends]).finish_reason == "stop"
        assert text(bad_words=["the fox"]).text != "the fox"
        assert "fox" not in text(bad_words=["fox"]).text
        assert text(bad_words=["the fox", "a", "b"], structured_outputs=form(choice=["the fox"])).text == "the fox"


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"logit_bias": {10**6: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(10_001), 1.0)}, "logit_bias"),
        ({"allowed_token_ids": [3, 10**6]}, "allowed_token_ids"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"bad_words": ["x"] * 2000}, "bad_words"),
        ({"structured_outputs": form(json="{")}, "structured_outputs"),
        ({"structured_outputs": form(choice=[f"{i}" * 9 for i in range(100_000)])}, "structured_outputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_model_cannot_do_is_refused(llm: LLM, params: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        llm.generate("x", SamplingParams(**params), use_tqdm=False)
    assert caught.value.param == name


def test_bad_words_also_behind_a_space(llm: LLM) -> None:
    model = llm.host.get(None, "chat")
    requests = _requests(model, SamplingParams(bad_words=["fox", "狐狸"], n=2))
    words = {model.tokenizer.decode(list(word)) for word in requests[0].bad_words_token_ids}
    assert words == {"fox", " fox", "狐狸", " 狐狸"}
    assert requests[0].bad_words_token_ids is requests[1].bad_words_token_ids


def test_children_share_a_grammar_and_a_model_a_compiler(llm: LLM) -> None:
    model = llm.host.get(None, "chat")
    first, second = _requests(model, SamplingParams(n=2, structured_outputs=form(choice=["是"])))
    assert first.grammar is second.grammar is not None
    assert model.grammar_compiler is model.grammar_compiler
    assert _requests(model, SamplingParams())[0].grammar is None


def _requests(model: HostedModel, params: SamplingParams) -> list[Any]:
    return generation_requests(model, TokenizedPrompt("x", [5, 6]), params, request_id="r", seed=0)


# -- random models


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def random_llm(request: pytest.FixtureRequest, tiny_models: TinyModels) -> Iterator[LLM]:
    with LLM(str(tiny_models(request.param)), **SMALL) as llm:
        yield llm


def test_random_models_write_only_what_has_the_form(random_llm: LLM) -> None:
    params = [SamplingParams(structured_outputs=form(**values), max_tokens=80, n=3, seed=1) for values in FORMS] * 2
    outputs = random_llm.generate(["你好"] * len(params), params, use_tqdm=False)
    ended = 0
    for output, values in zip(outputs, FORMS * 2, strict=True):
        for completion in output.outputs:
            has_form(completion, values)
            ended += completion.finish_reason == "stop"
    assert ended > len(params)


def mixture() -> list[SamplingParams]:
    shared: dict[str, Any] = {"temperature": 1.0, "max_tokens": 60}
    return [
        *(SamplingParams(structured_outputs=form(**values), seed=row, **shared) for row, values in enumerate(FORMS)),
        SamplingParams(seed=3, **shared),
        SamplingParams(seed=4, presence_penalty=1.0, min_tokens=9, **shared),
        SamplingParams(seed=5, logit_bias={40: 20.0, 41: 20.0}, **shared),
        SamplingParams(seed=6, allowed_token_ids=list(range(50, 200)), **shared),
        SamplingParams(seed=7, bad_words=["the", "的"], **shared),
        SamplingParams(structured_outputs=form(json_object=True), min_tokens=12, temperature=0.0, max_tokens=40),
    ]


def test_the_same_text_alone_in_a_batch_and_preempted(tiny_models: TinyModels) -> None:
    prompts = ["图书馆的阅览室里", "A" * 60] * 6
    params = mixture()
    with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
        alone = [
            llm.generate(p, s, use_tqdm=False)[0].outputs[0].token_ids for p, s in zip(prompts, params, strict=False)
        ]
        together = llm.generate(prompts[: len(params)], params, use_tqdm=False)
        assert [output.outputs[0].token_ids for output in together] == alone
    options = {"max_model_len": 128, "kv_cache_memory_bytes": 9 * 16 * 3 * 2 * 2 * 16 * 4}  # nine blocks
    with LLM(str(tiny_models("qwen2")), **(SMALL | options)) as small:
        pressed = small.generate(prompts[: len(params)] * 2, params * 2, use_tqdm=False)
        assert [output.outputs[0].token_ids for output in pressed] == alone * 2
        assert small.host.stats().num_preemptions > 0


async def test_streamed_is_whole(tiny_models: TinyModels) -> None:
    async with AsyncLLM(str(tiny_models("qwen2")), **SMALL) as llm:
        params = SamplingParams(structured_outputs=form(json=PERSON), max_tokens=60, seed=1)
        texts = [output.outputs[0].text async for output in llm.generate("你好", params)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    jsonschema.validate(json.loads(texts[-1]), PERSON)


def test_a_grammar_that_runs_over_its_limits_ends_its_request_alone(random_llm: LLM) -> None:
    bomb = form(grammar="start: A\nA: /(.*a.{14})*/ & /(.*b.{15})*/ & /(.*e.{16})*/ & /(.*o.{17})*/")
    free = SamplingParams(max_tokens=30, seed=2)
    expected = random_llm.generate("y", free, use_tqdm=False)[0].outputs[0].text
    with pytest.raises(InvalidParamsError, match="structured_outputs: lexer error"):
        random_llm.generate("x", SamplingParams(structured_outputs=bomb, max_tokens=1500, n=4, seed=1), use_tqdm=False)
    assert random_llm.generate("y", free, use_tqdm=False)[0].outputs[0].text == expected
