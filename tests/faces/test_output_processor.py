"""However the engine cuts its news into steps, the caller sees the same completions."""

from __future__ import annotations

from carrel.output_processor import OutputProcessor
from carrel.params import RequestOutputKind, SamplingParams
from carrel.request import Request
from carrel.step import EngineOutput, TokenLogprobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXT = "一个读者可以借几本书?🎉 The house stands on the hill, 检索、重排和生成。"
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def processor(tokenizer, params: SamplingParams, prompt=(5, 6)) -> OutputProcessor:
    requests = [
        Request(request_id=f"{i}", model="m", prompt_token_ids=list(prompt), sampling_params=params)
        for i in range(params.n)
    ]
    return OutputProcessor("parent", "prompt", requests, params, tokenizer)


def logprobs_of(token_ids) -> list[TokenLogprobs]:
    return [TokenLogprobs([token_id, 3, token_id], [-0.5, -0.1, -0.5], [2, 1, 2]) for token_id in token_ids]


def run(tokenizer, token_ids, sizes, params, end="length"):
    """Feed in steps of these sizes; what was shown at each step, and what was to be aborted."""
    ours, shown, aborted, place = processor(tokenizer, params), [], [], 0
    while place < len(token_ids):
        step = token_ids[place : place + next(sizes)]
        place += len(step)
        reason = end if place == len(token_ids) else None
        logprobs = logprobs_of(step) if params.logprobs is not None else None
        aborted += ours.feed([EngineOutput("0", step, logprobs, finish_reason=reason)])
        if (output := ours.take()) is not None:
            shown.append(output)
    return shown, aborted


def ones():
    while True:
        yield 1


@RELAXED
@given(data=st.data())
def test_steps_of_any_size_give_the_same_completion(tokenizers, data):
    tokenizer = tokenizers[data.draw(st.sampled_from(sorted(tokenizers)))]
    token_ids = tokenizer.encode(TEXT, add_special_tokens=False)
    text = tokenizer.decode(token_ids)
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : start + data.draw(st.integers(1, 6))]
    params = SamplingParams(
        stop=data.draw(st.sampled_from([None, stop, [stop, "没有"]])),
        include_stop_str_in_output=data.draw(st.booleans()),
        logprobs=data.draw(st.sampled_from([None, 1])),
        min_tokens=data.draw(st.integers(0, 3)),
    )
    expected, aborted = run(tokenizer, token_ids, ones(), params)
    sizes = iter(lambda: data.draw(st.integers(1, 7)), 0)
    got, also_aborted = run(tokenizer, token_ids, sizes, params)
    assert got[-1].outputs == expected[-1].outputs
    if expected[-1].outputs[0].finish_reason == "stop":
        assert len(aborted) <= 1
        assert len(also_aborted) <= 1
    else:
        assert aborted == also_aborted == []
        assert got[-1].outputs[0].text.lstrip(" ") == text  # after a prompt a first word keeps its space


@RELAXED
@given(data=st.data())
def test_deltas_join_to_the_final_output(tokenizers, data):
    tokenizer = tokenizers["byte_level"]
    token_ids = tokenizer.encode(TEXT)
    sizes = [data.draw(st.integers(1, 4)) for _ in token_ids]
    params = {"logprobs": 1, "stop": data.draw(st.sampled_from([None, "on the", "。"]))}
    final, _ = run(
        tokenizer, token_ids, iter(sizes), SamplingParams(**params, output_kind=RequestOutputKind.FINAL_ONLY)
    )
    deltas, _ = run(tokenizer, token_ids, iter(sizes), SamplingParams(**params, output_kind=RequestOutputKind.DELTA))
    (whole,), parts = final[0].outputs, [output.outputs[0] for output in deltas]
    assert len(final) == 1
    assert "".join(part.text for part in parts) == whole.text
    assert [token_id for part in parts for token_id in part.token_ids] == whole.token_ids
    assert [position for part in parts for position in part.logprobs] == whole.logprobs
    assert parts[-1].finish_reason == whole.finish_reason
    assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].cumulative_logprob == whole.cumulative_logprob


def test_news_after_a_stop_string_is_dropped(tokenizers):
    tokenizer = tokenizers["byte_level"]
    ours = processor(tokenizer, SamplingParams(stop="读者"))
    token_ids = tokenizer.encode(TEXT)
    assert ours.feed([EngineOutput("0", token_ids)]) == ["0"]
    assert ours.feed([EngineOutput("0", token_ids, finish_reason="length")]) == []
    output = ours.take()
    assert (output.outputs[0].text, output.outputs[0].finish_reason) == ("一个", "stop")
    assert output.finished
    assert ours.take() is None


def test_a_stop_string_that_the_last_step_completes_aborts_nothing(tokenizers):
    tokenizer = tokenizers["byte_level"]
    ours = processor(tokenizer, SamplingParams(stop="读者"))
    assert ours.feed([EngineOutput("0", tokenizer.encode("一个读者"), finish_reason="length")]) == []
    assert ours.take().outputs[0].stop_reason == "读者"


def test_held_text_comes_out_at_the_end_whatever_the_end_is(tokenizers):
    tokenizer = tokenizers["byte_level"]
    half = tokenizer.encode("书", add_special_tokens=False)[:-1]
    for reason in ("length", "abort"):
        ours = processor(tokenizer, SamplingParams(stop="读者"))
        ours.feed([EngineOutput("0", tokenizer.encode("一个读"))])
        assert ours.take().outputs[0].text == "一个"
        ours.feed([EngineOutput("0", half, finish_reason=reason)])
        output = ours.take().outputs[0]
        assert output.text.startswith("一个读")
        assert output.finish_reason == reason


def test_children_are_shown_together_and_each_end_once(tokenizers):
    tokenizer = tokenizers["byte_level"]
    ours = processor(tokenizer, SamplingParams(n=2, output_kind=RequestOutputKind.DELTA))
    ours.feed([EngineOutput("0", tokenizer.encode("甲")), EngineOutput("1", tokenizer.encode("乙"))])
    assert [child.text for child in ours.take().outputs] == ["甲", "乙"]
    ours.feed([EngineOutput("1", tokenizer.encode("丙"), finish_reason="length")])
    output = ours.take()
    assert [(child.index, child.text, child.finished) for child in output.outputs] == [(1, "丙", True)]
    assert not output.finished
    ours.feed([EngineOutput("0", tokenizer.encode("丁"), finish_reason="length")])
    output = ours.take()
    assert [(child.index, child.text) for child in output.outputs] == [(0, "丁")]
    assert output.finished
    assert output.prompt == "prompt"


def test_logprobs_name_each_token_once(tokenizers):
    tokenizer = tokenizers["byte_level"]
    ours = processor(tokenizer, SamplingParams(logprobs=1))
    token_ids = tokenizer.encode("甲")
    ours.feed([EngineOutput("0", token_ids, logprobs_of(token_ids), finish_reason="length")])
    child = ours.take().outputs[0]
    assert [list(position) for position in child.logprobs] == [[token_id, 3] for token_id in token_ids]
    assert child.cumulative_logprob == -0.5 * len(token_ids)
