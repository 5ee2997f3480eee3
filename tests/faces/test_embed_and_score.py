"""Vectors and scores through the face: in order, those of sentence-transformers, and rankings that keep every rule."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from carrel import LLM, PoolingParams
from carrel.errors import ContextLengthError, InvalidParamsError, RequestError, UnsupportedModelError
from carrel.matryoshka import is_matryoshka
from sentence_transformers import CrossEncoder, SentenceTransformer
from small_engine import SMALL

TEXTS = ["图书馆的阅览室", "The house stands on the hill", "", "一个读者可以借几本书?" * 9, "a", "😀"]


def vectors(outputs) -> np.ndarray:
    return np.stack([output.outputs.embedding for output in outputs])


def test_vectors_are_those_of_sentence_transformers_in_the_given_order(llm, tiny_models):
    theirs = SentenceTransformer(str(tiny_models("bert-mean")), device="cpu").encode(TEXTS)
    ours = vectors(llm.embed(TEXTS, use_tqdm=False))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    one = llm.embed(TEXTS[1], use_tqdm=False)
    assert len(one) == 1
    np.testing.assert_allclose(one[0].outputs.embedding, theirs[1], atol=1e-5)
    assert one[0].outputs.hidden_size == llm.host.get(None, "embedding").embedding_dim == theirs.shape[1]


def test_token_ids_are_embedded_as_they_are(llm):
    ids = llm.get_tokenizer(task="embedding").encode("图书馆")
    by_text, by_ids = llm.embed("图书馆", use_tqdm=False), llm.embed([ids], use_tqdm=False)
    np.testing.assert_array_equal(vectors(by_text), vectors(by_ids))


def test_dimensions_are_cut_and_normalised_again(llm, tiny_models, tmp_path):
    whole = vectors(llm.embed(TEXTS, use_tqdm=False))
    folder = shutil.copytree(tiny_models("bert-mean"), tmp_path / "matryoshka")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_matryoshka": True}))
    with LLM(str(folder), **SMALL) as trained:
        cut = vectors(trained.embed(TEXTS, PoolingParams(dimensions=8), use_tqdm=False))
        np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
        with pytest.raises(InvalidParamsError, match="at most"):
            trained.embed("a", PoolingParams(dimensions=9999), use_tqdm=False)


def test_models_that_were_not_trained_for_it_are_not_cut(llm):
    whole = vectors(llm.embed(TEXTS, use_tqdm=False))
    same = vectors(llm.embed(TEXTS, PoolingParams(dimensions=whole.shape[1]), use_tqdm=False))
    np.testing.assert_allclose(same, whole, atol=1e-6)
    for dimensions in (8, 9999):
        with pytest.raises(InvalidParamsError, match="not trained to be cut") as caught:
            llm.embed("a", PoolingParams(dimensions=dimensions), use_tqdm=False)
        assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("name", "expected"), [("Qwen/Qwen3-Embedding-0.6B", True), ("BAAI/bge-m3", False), ("starter/embedding", False)]
)
def test_known_matryoshka_models(tmp_path, name, expected):
    assert is_matryoshka(name, tmp_path) is expected


def test_long_inputs_are_refused_or_cut_and_the_cut_is_reported(llm):
    long = "图书馆" * 300
    limit = llm.host.get(None, "embedding").max_model_len
    with pytest.raises(
        ContextLengthError, match=rf"^Input 1: .*context length is {limit} tokens.*truncate_prompt_tokens"
    ):
        llm.embed(["fine", long], use_tqdm=False)
    whole, cut, short = llm.embed(["fine", long, long], PoolingParams(truncate_prompt_tokens=-1), use_tqdm=False)
    assert [output.truncated for output in (whole, cut, short)] == [False, True, True]
    assert len(cut.prompt_token_ids) == limit
    assert cut.prompt_token_ids[-1] == llm.get_tokenizer(task="embedding").token_to_id("[SEP]")
    ten = llm.embed(long, PoolingParams(truncate_prompt_tokens=10), use_tqdm=False)[0]
    assert len(ten.prompt_token_ids) == 10


def test_prompts_for_queries_and_documents(tiny_models):
    folder = str(tiny_models("xlmr-prompts"))
    theirs = SentenceTransformer(folder, device="cpu")
    with LLM(embedding_model=folder, **SMALL) as llm:
        for options, name in (
            ({"input_type": "query"}, "query"),
            ({"input_type": "document"}, "passage"),
            ({"prompt_name": "passage"}, "passage"),
        ):
            ours = llm.embed(["图书馆"], PoolingParams(**options), use_tqdm=False)[0].outputs.embedding
            np.testing.assert_allclose(ours, theirs.encode("图书馆", prompt_name=name), atol=1e-5)
        with pytest.raises(InvalidParamsError, match="no prompt named 'nope'; it has: query, passage"):
            llm.embed("a", PoolingParams(prompt_name="nope"), use_tqdm=False)


def test_more_inputs_than_are_in_flight_at_once(llm):
    texts = [f"第{i}本书" for i in range(2500)]
    got = vectors(llm.embed(texts, use_tqdm=False))
    for i in (0, 1023, 1024, 2499):
        np.testing.assert_allclose(got[i], llm.embed(texts[i], use_tqdm=False)[0].outputs.embedding, atol=1e-5)


@pytest.mark.parametrize("name", ["bert-reranker", "xlmr-reranker"])
def test_scores_are_those_of_sentence_transformers(tiny_models, name):
    folder = str(tiny_models(name))
    documents = ["一张小书桌", "Five books for four weeks", "山上的房子" * 5]
    theirs = CrossEncoder(folder, device="cpu").predict([("可以借几本书?", d) for d in documents])
    with LLM(folder, **SMALL) as llm:
        scored = [output.outputs for output in llm.score("可以借几本书?", documents, use_tqdm=False)]
        ranking = llm.rerank("可以借几本书?", documents)
        np.testing.assert_allclose([score.score for score in scored], theirs, atol=1e-5)
        for score in scored:
            assert score.score == pytest.approx(1 / (1 + math.exp(-score.raw_score)), abs=1e-12)
        assert [result.index for result in ranking.results] == list(np.argsort(-theirs, kind="stable"))
        assert [result.document for result in ranking.results] == [documents[r.index] for r in ranking.results]
        assert llm.host.get(None, "rerank").reranker_kind == "cross-encoder"
        pairs = llm.score(["a", "b"], ["c", "d"], use_tqdm=False)
        assert pairs[1].outputs.raw_score == pytest.approx(llm.score("b", "d", use_tqdm=False)[0].outputs.raw_score)


def test_equal_documents_keep_their_order_and_top_n_cuts(llm):
    documents = ["甲", "乙", "甲", "甲", "乙"]
    everything = llm.rerank("书", documents)
    for text in "甲乙":
        places = [result.index for result in everything.results if result.document == text]
        assert places == sorted(places)
    for top_n in (None, 0, 5, 99):
        assert llm.rerank("书", documents, top_n=top_n).results == everything.results
    assert llm.rerank("书", documents, top_n=2).results == everything.results[:2]
    assert everything.num_tokens > 0
    assert everything.model == llm.host.get(None, "rerank").key


def test_only_the_document_is_cut(llm):
    query, long = "可以借几本书?", "图书馆" * 400
    model = llm.host.get(None, "rerank")
    score = llm.score(query, long, truncate_prompt_tokens=-1, use_tqdm=False)[0]
    ids = model.tokenizer.encode(query)
    assert score.prompt_token_ids[: len(ids)] == ids
    assert len(score.prompt_token_ids) == model.max_model_len
    with pytest.raises(ContextLengthError, match="maximum context length"):
        llm.score(query, long, use_tqdm=False)
    with pytest.raises(RequestError, match="no room for a document"):
        llm.rerank(long, ["a"])
    short = llm.rerank(query, [long], max_tokens_per_doc=4)
    assert short.num_tokens == len(ids) + 4 + 1


def test_an_embedding_model_ranks_by_cosine(tiny_models):
    with LLM(embedding_model=str(tiny_models("bert-mean")), **SMALL) as llm:
        documents = ["图书馆", "The river runs below", "可以借几本书"]
        query, *rest = vectors(llm.embed(["可以借几本书", *documents], use_tqdm=False))
        cosines = [float(query @ vector) for vector in rest]
        ranking = llm.rerank("可以借几本书", documents)
        assert [result.index for result in ranking.results] == list(np.argsort([-cosine for cosine in cosines]))
        for result in ranking.results:
            assert result.raw_score == pytest.approx(cosines[result.index], abs=1e-5)
            assert result.relevance_score == pytest.approx(max(0.0, cosines[result.index]), abs=1e-5)
        assert ranking.results[0].raw_score == pytest.approx(1.0, abs=1e-6)
        assert llm.host.get(None, "rerank").reranker_kind == "bi-encoder"
        long = "图书馆" * 400
        with pytest.raises(ContextLengthError, match=r"the query has .* never cut") as refused:
            llm.rerank(long, documents)
        assert refused.value.param == "query"
        with pytest.raises(ContextLengthError, match=r"the document has .* truncate_prompt_tokens=-1") as refused:
            llm.rerank("可以借几本书", [*documents, long], truncate_prompt_tokens=None)
        assert refused.value.param == "documents"


def test_a_classifier_is_no_reranker(tiny_models):
    with (
        LLM(str(tiny_models("bert-classifier")), **SMALL) as llm,
        pytest.raises(UnsupportedModelError, match="3 scores for a pair; a reranker gives one"),
    ):
        llm.rerank("a", ["b"])
