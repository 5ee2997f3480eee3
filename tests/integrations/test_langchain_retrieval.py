"""CarrelEmbeddings and CarrelRerank against a real engine, in process and over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from carrel import LLM, PoolingParams
from carrel.errors import InvalidParamsError, RequestError
from carrel_client import ServerRefusedError
from langchain_carrel import CarrelEmbeddings, CarrelRerank
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

TEXTS = ["山上的房子旁边有一条河。", "The river runs below the house.", "读者可以借五本书。", "🎉"]
QUERY = "可以借几本书?"


def engine_vectors(llm: LLM, texts: list[str], input_type: Any) -> np.ndarray:
    outputs = llm.embed(texts, PoolingParams(input_type=input_type), use_tqdm=False)
    return np.stack([output.outputs.embedding for output in outputs])


async def test_vectors_are_the_engines(way_in: dict[str, Any], llm: LLM) -> None:
    async with CarrelEmbeddings(**way_in) as embeddings:
        documents = np.array(embeddings.embed_documents(TEXTS))
        np.testing.assert_allclose(documents, engine_vectors(llm, TEXTS, "document"), atol=1e-5)
        np.testing.assert_allclose(await embeddings.aembed_documents(TEXTS), documents, atol=1e-5)
        query = embeddings.embed_query(QUERY)
        np.testing.assert_allclose(query, engine_vectors(llm, [QUERY], "query")[0], atol=1e-5)
        np.testing.assert_allclose(await embeddings.aembed_query(QUERY), query, atol=1e-5)


def test_a_query_is_embedded_with_the_models_query_prompt(way_in: dict[str, Any]) -> None:
    with CarrelEmbeddings(**way_in) as embeddings:
        as_document, as_query = embeddings.embed_documents([QUERY])[0], embeddings.embed_query(QUERY)
    assert np.abs(np.subtract(as_document, as_query)).max() > 1e-3


async def test_no_texts_are_no_vectors(way_in: dict[str, Any]) -> None:
    async with CarrelEmbeddings(**way_in) as embeddings:
        assert embeddings.embed_documents([]) == await embeddings.aembed_documents([]) == []


async def test_blank_texts_keep_their_places_and_a_blank_query_is_refused(way_in: dict[str, Any]) -> None:
    async with CarrelEmbeddings(**way_in) as embeddings:
        sparse = embeddings.embed_documents(["", "书", " \n", "河"])
        dense = embeddings.embed_documents(["书", "河"])
        np.testing.assert_allclose([sparse[1], sparse[3]], dense, atol=1e-5)
        assert np.isfinite(sparse).all()
        with pytest.raises(InvalidParamsError, match="query is blank"):
            embeddings.embed_query("  ")
        with pytest.raises(InvalidParamsError, match="query is blank"):
            await embeddings.aembed_query("")


def test_many_texts_keep_their_places(way_in: dict[str, Any]) -> None:
    texts = [f"第{number}段:" + "书" * (number % 50) for number in range(300)]
    with CarrelEmbeddings(**way_in) as embeddings:
        together = np.array(embeddings.embed_documents(texts))
        for index in (0, 149, 299):
            np.testing.assert_allclose(together[index], embeddings.embed_documents([texts[index]])[0], atol=1e-5)


def test_a_text_too_long_is_refused_or_cut(way_in: dict[str, Any]) -> None:
    with pytest.raises((RequestError, ServerRefusedError), match="token"), CarrelEmbeddings(**way_in) as embeddings:
        embeddings.embed_documents(["短", "读者可以借五本书。" * 400])
    with CarrelEmbeddings(truncate=True, **way_in) as embeddings:
        assert len(embeddings.embed_documents(["短", "读者可以借五本书。" * 400])) == 2


def test_a_vector_store_finds_the_document(way_in: dict[str, Any]) -> None:
    with CarrelEmbeddings(**way_in) as embeddings:
        store = InMemoryVectorStore(embeddings)
        store.add_documents([Document(text, metadata={"place": place}) for place, text in enumerate(TEXTS)])
        assert len(store.similarity_search(QUERY, k=3)) == 3


# Rerank


def documents() -> list[Document]:
    return [Document(text, id=str(place), metadata={"place": place}) for place, text in enumerate(TEXTS)]


async def test_the_best_documents_come_first_as_copies(way_in: dict[str, Any], llm: LLM) -> None:
    given = documents()
    expected = llm.rerank(QUERY, TEXTS, top_n=2).results
    async with CarrelRerank(top_n=2, **way_in) as rerank:
        for best in (rerank.compress_documents(given, QUERY), await rerank.acompress_documents(given, QUERY)):
            assert [document.metadata["place"] for document in best] == [result.index for result in expected]
            assert [document.id for document in best] == [str(result.index) for result in expected]
            scores = [document.metadata["relevance_score"] for document in best]
            np.testing.assert_allclose(scores, [result.relevance_score for result in expected], atol=1e-5)
    assert given == documents(), "the documents that were given must not change"


def test_top_n_none_keeps_all(way_in: dict[str, Any]) -> None:
    with CarrelRerank(top_n=None, **way_in) as rerank:
        scores = [d.metadata["relevance_score"] for d in rerank.compress_documents(documents(), QUERY)]
    assert len(scores) == len(TEXTS)
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)


async def test_no_documents_stay_no_documents(way_in: dict[str, Any]) -> None:
    async with CarrelRerank(**way_in) as rerank:
        assert rerank.compress_documents([], QUERY) == await rerank.acompress_documents([], QUERY) == []


def test_it_works_in_a_compression_retriever(way_in: dict[str, Any]) -> None:
    reason = "the compression retriever is in the langchain-classic package, which is not installed"
    retrievers = pytest.importorskip("langchain_classic.retrievers", reason=reason)
    with CarrelEmbeddings(**way_in) as embeddings, CarrelRerank(top_n=1, **way_in) as rerank:
        store = InMemoryVectorStore(embeddings)
        store.add_documents(documents())
        retriever = retrievers.ContextualCompressionRetriever(
            base_compressor=rerank, base_retriever=store.as_retriever()
        )
        assert len(retriever.invoke(QUERY)) == 1
