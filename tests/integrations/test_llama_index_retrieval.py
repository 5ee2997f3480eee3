"""CarrelEmbedding, CarrelRerank and a whole LlamaIndex query against a real engine, in process and over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from carrel import LLM, PoolingParams
from carrel.errors import InvalidParamsError
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.carrel import CarrelEmbedding
from llama_index.llms.carrel import Carrel
from llama_index.postprocessor.carrel import CarrelRerank

TEXTS = ["山上的房子旁边有一条河。", "The river runs below the house.", "读者可以借五本书。", "问题和答案。"]
QUERY = "可以借几本书?"


def cosine(a: Any, b: Any) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


async def test_vectors_are_the_engines(way_in: dict[str, Any], llm: LLM) -> None:
    texts = llm.embed(TEXTS, PoolingParams(input_type="document"), use_tqdm=False)
    query = llm.embed(QUERY, PoolingParams(input_type="query"), use_tqdm=False)[0].outputs.embedding
    async with CarrelEmbedding(embed_batch_size=3, **way_in) as embedding:
        for vectors in (embedding.get_text_embedding_batch(TEXTS), await embedding.aget_text_embedding_batch(TEXTS)):
            assert min(cosine(a, b.outputs.embedding) for a, b in zip(vectors, texts, strict=True)) > 1 - 1e-5
        assert cosine(embedding.get_text_embedding(TEXTS[0]), texts[0].outputs.embedding) > 1 - 1e-5
        assert cosine(await embedding.aget_text_embedding(TEXTS[0]), texts[0].outputs.embedding) > 1 - 1e-5
        assert cosine(embedding.get_query_embedding(QUERY), query) > 1 - 1e-5
        assert cosine(await embedding.aget_query_embedding(QUERY), query) > 1 - 1e-5
        assert cosine(embedding.get_text_embedding(QUERY), query) < 1 - 1e-4, "the query prompt makes a difference"


def test_model_name_is_taken_for_model() -> None:
    for embedding in (CarrelEmbedding(model_name="a"), CarrelEmbedding(model="a")):
        assert (embedding.model, embedding.model_name) == ("a", "a")
        assert CarrelEmbedding.from_dict(embedding.to_dict()).model == "a"


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.1) for i, text in enumerate(TEXTS)]


async def test_the_best_nodes_come_first_as_copies(way_in: dict[str, Any], llm: LLM) -> None:
    given = nodes()
    expected = llm.rerank(QUERY, TEXTS, top_n=2).results
    async with CarrelRerank(top_n=2, keep_retrieval_score=True, **way_in) as rerank:
        sync = rerank.postprocess_nodes(given, query_str=QUERY)
        for best in (sync, await rerank.apostprocess_nodes(given, query_str=QUERY)):
            assert [node.node.node_id for node in best] == [str(result.index) for result in expected]
            np.testing.assert_allclose([n.score or 0 for n in best], [r.relevance_score for r in expected], atol=1e-5)
            assert [node.node.metadata for node in best] == [{"retrieval_score": 0.1}] * 2
    assert given == nodes(), "the nodes that were given must not change"


async def test_a_ranking_needs_a_query_and_takes_no_nodes(llm: LLM) -> None:
    rerank = CarrelRerank(llm=llm)
    with pytest.raises(InvalidParamsError, match="pass query_str="):
        rerank.postprocess_nodes(nodes())
    assert rerank.postprocess_nodes([], query_str=QUERY) == []
    assert await rerank.apostprocess_nodes([], query_str=QUERY) == []


async def test_a_whole_query_runs(way_in: dict[str, Any]) -> None:
    """Split, embed, retrieve, rerank, answer, streamed too: LlamaIndex's own pipeline over the three adapters."""
    async with (
        Carrel(max_tokens=8, temperature=0, ignore_eos=True, **way_in) as llm,
        CarrelEmbedding(**way_in) as embedding,
        CarrelRerank(top_n=2, **way_in) as rerank,
    ):
        splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0, tokenizer=llm.tokenize)
        documents = [Document(text=text) for text in TEXTS]
        index = VectorStoreIndex.from_documents(documents, embed_model=embedding, transformations=[splitter])
        options: dict[str, Any] = {"llm": llm, "node_postprocessors": [rerank], "similarity_top_k": 4}
        answer = index.as_query_engine(**options).query(QUERY)
        assert str(answer)
        assert len(answer.source_nodes) == 2
        streamed: Any = index.as_query_engine(streaming=True, **options).query(QUERY)
        assert "".join(streamed.response_gen) == str(answer)
        assert str(await index.as_query_engine(use_async=True, **options).aquery(QUERY)) == str(answer)
