"""extract: the piece of each document that answers best, as transformers' heads for questions and for sequences say."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest
import torch
import transformers
from carrel import LLM, AsyncLLM
from carrel.errors import (
    ContextLengthError,
    EngineClosedError,
    InvalidParamsError,
    RequestError,
    StepError,
    UnsupportedTaskError,
)
from carrel.extraction import best_span
from safetensors.torch import load_file, save_file
from small_engine import SMALL
from tiny_models import copy_in_int8_rows

QUESTION = "一个读者可以借几本书? How many books?"
DOCUMENTS = [
    "The house stands on the hill, and the river runs below it.",
    "图书馆的阅览室里有一张小书桌,读者可以安静地看书。山上的房子旁边有一条河。",
    "books",
    "Naïve café: Ünïcödé 😀🎉 façade,  five   books for\tfour weeks.\n" * 3,
    "答案:可以借五本书,期限四个星期。Five books, said the librarian.",
]
NAMES = ["bert-spans", "xlmr-spans"]


@pytest.fixture(scope="module")
def engines(tiny_models):
    """One engine with both rerankers, and one without spans."""
    with LLM(
        str(tiny_models("bert-spans")),
        reranker_model=str(tiny_models("xlmr-spans")),
        embedding_model=str(tiny_models("bert-mean")),
        **SMALL,
    ) as llm:
        yield llm


def theirs(folder, question: str, documents: list[str]):
    """For each document (logit, start logits, end logits, offsets) of transformers, of the document's tokens alone."""
    sequence = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    answers = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, num_labels=2).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for document in documents:
        cut = {"truncation": "only_second", "max_length": 512, "return_offsets_mapping": True}
        encoded = tokenizer(question, document, return_tensors="pt", **cut)
        offsets, mine = encoded.pop("offset_mapping")[0].tolist(), [s == 1 for s in encoded.sequence_ids(0)]
        with torch.inference_mode():
            out, logit = answers(**encoded), float(sequence(**encoded).logits[0, 0])
        start, end = out.start_logits[0].numpy(), out.end_logits[0].numpy()
        yield logit, start[mine], end[mine], [tuple(o) for o, own in zip(offsets, mine, strict=True) if own]


def slow_best(start, end, longest: int) -> tuple[int, int]:
    spans = [(i, j) for i in range(len(start)) for j in range(i, min(i + longest, len(start)))]
    return max(spans, key=lambda span: start[span[0]] + end[span[1]])


@pytest.mark.parametrize("longest", [1, 4, 40])
@pytest.mark.parametrize("name", NAMES)
def test_spans_and_relevance_are_those_of_transformers(engines, tiny_models, name, longest):
    documents = [*DOCUMENTS, DOCUMENTS[1] * 40]  # the last is cut
    folder = tiny_models(name)
    output = engines.extract(QUESTION, documents, model=str(folder), max_span_tokens=longest)
    assert [result.index for result in output.results] == list(range(len(documents)))
    expected = theirs(folder, QUESTION, documents)
    for document, result, (logit, start, end, offsets) in zip(documents, output.results, expected, strict=True):
        first, last = slow_best(start, end, longest)
        assert result.score == pytest.approx(start[first] + end[last], abs=1e-5)
        assert result.raw_score == pytest.approx(logit, abs=1e-5)
        piece = document[offsets[first][0] : offsets[last][1]]
        assert result.text == piece.strip()
        assert document[result.start : result.end] == result.text
        assert result.start == offsets[first][0] + len(piece) - len(piece.lstrip())


@pytest.mark.parametrize("name", NAMES)
def test_relevance_is_that_of_a_ranking(engines, tiny_models, name):
    found = engines.extract(QUESTION, DOCUMENTS, model=str(tiny_models(name)))
    ranking = engines.rerank(QUESTION, DOCUMENTS, model=str(tiny_models(name)))
    scores = {result.index: result for result in ranking.results}
    for result in found.results:
        assert result.relevance_score == pytest.approx(scores[result.index].relevance_score, abs=1e-6)
        assert result.raw_score == pytest.approx(scores[result.index].raw_score, abs=1e-6)
    assert (found.model, found.num_tokens) == (ranking.model, ranking.num_tokens)


def test_batched_is_alone_and_beside_other_work(engines):
    together = engines.extract(QUESTION, DOCUMENTS).results

    async def mixed():
        async with AsyncLLM(host=engines.host) as llm:
            beside = asyncio.gather(llm.rerank(QUESTION, DOCUMENTS), llm.embed(DOCUMENTS))
            alone = await asyncio.gather(*(llm.extract(QUESTION, [text]) for text in DOCUMENTS))
            await beside
            return [output.results[0] for output in alone]

    for one, other in zip(asyncio.run(mixed()), together, strict=True):
        assert (one.start, one.end, one.text) == (other.start, other.end, other.text)
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.relevance_score == pytest.approx(other.relevance_score, abs=1e-6)


def test_a_text_in_int8_rows(tiny_models, tmp_path):
    outputs = []
    for folder in copy_in_int8_rows(tiny_models("bert-spans"), tmp_path):
        with LLM(str(folder), **SMALL) as llm:
            assert llm.host.get(None, "rerank").has_spans
            outputs.append(llm.extract(QUESTION, DOCUMENTS).results)
    assert outputs[0] == outputs[1]


def test_documents_without_tokens(engines):
    empty, blank, full = engines.extract(QUESTION, ["", " \n", "books"]).results
    assert (empty.start, empty.end, empty.text, empty.score) == (0, 0, "", float("-inf"))
    assert (blank.text, blank.score) == ("", float("-inf"))
    assert (full.text, full.start, full.end) == ("books", 0, 5)
    assert 0 <= empty.relevance_score <= 1


def test_what_was_cut_off_is_not_read(engines):
    whole = DOCUMENTS[1]
    for result in (
        engines.extract(QUESTION, [whole], max_tokens_per_doc=3).results[0],
        engines.extract(QUESTION, [whole], truncate_prompt_tokens=40).results[0],
    ):
        assert result.end < len(whole)
    with pytest.raises(ContextLengthError, match="cut the document"):
        engines.extract(QUESTION, [whole * 50], truncate_prompt_tokens=None)
    with pytest.raises(RequestError, match="leaves no room for a document"):
        engines.extract(QUESTION * 50, [whole])


def test_without_a_name_the_reranker_that_can_is_asked(tiny_models):
    plain, able = str(tiny_models("bert-reranker")), str(tiny_models("bert-spans"))
    with LLM(plain, reranker_model=able, **SMALL) as llm:
        assert llm.host.get(None, "rerank").key == plain
        assert llm.extract(QUESTION, DOCUMENTS).model == able
        with pytest.raises(UnsupportedTaskError, match=r"is a model for rerank, not for extract\. Hosted: "):
            llm.extract(QUESTION, DOCUMENTS, model=plain)
        assert not llm.host.find(plain).has_spans


def test_nobody_can(llm):
    """Chat and embedding alone."""
    with pytest.raises(UnsupportedTaskError, match="No model for extract is hosted"):
        llm.extract(QUESTION, DOCUMENTS)


@pytest.mark.parametrize(
    ("documents", "options", "error", "param"),
    [
        ([], {}, RequestError, "documents"),
        ("one text", {}, RequestError, "documents"),
        (["a", 3], {}, RequestError, "documents"),
        (["a"], {"max_span_tokens": 0}, InvalidParamsError, "max_span_tokens"),
        (["a"], {"max_tokens_per_doc": 0}, InvalidParamsError, "max_tokens_per_doc"),
        (["a"], {"truncate_prompt_tokens": -2}, InvalidParamsError, "truncate_prompt_tokens"),
    ],
)
def test_wrong_calls(engines, documents, options, error, param):
    with pytest.raises(error) as caught:
        engines.extract(QUESTION, documents, **options)
    assert caught.value.param == param


def test_a_logit_that_is_not_finite_fails_what_asked_for_it(tiny_models, tmp_path):
    """The head for spans is broken; scores are not."""
    folder = shutil.copytree(tiny_models("bert-spans"), tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["qa_outputs.bias"][1] = torch.nan
    save_file(weights, folder / "model.safetensors")
    with LLM(str(folder), **SMALL) as llm:
        with pytest.raises(StepError, match="not finite"):
            llm.extract(QUESTION, DOCUMENTS)
        assert len(llm.rerank(QUESTION, DOCUMENTS).results) == len(DOCUMENTS)


async def test_a_cancelled_call_leaves_nothing_behind(engines):
    async with AsyncLLM(host=engines.host) as llm:
        task = asyncio.create_task(llm.extract(QUESTION, DOCUMENTS * 30))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len((await llm.extract(QUESTION, DOCUMENTS)).results) == len(DOCUMENTS)
    with pytest.raises(EngineClosedError):
        await llm.extract(QUESTION, DOCUMENTS)


@pytest.mark.parametrize("longest", [1, 3, 40, 1000])
def test_the_best_span_is_the_best_of_all(longest):
    random = np.random.default_rng(longest)
    for length in (1, 2, 5, 60):
        start, end = random.normal(size=(2, length)).astype(np.float32)
        first, last, score = best_span(start, end, longest)
        assert (first, last) == slow_best(start, end, longest)
        assert score == pytest.approx(float(start[first]) + float(end[last]))
