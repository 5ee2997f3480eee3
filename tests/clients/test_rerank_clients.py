"""Everybody's reranker, pointed at ``/rerank``: Jina's, Cohere's, SiliconFlow's and TEI's dialects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from reading_room import API_KEY, RERANK

QUERY = "还书的期限是多久?"
DOCUMENTS = ["借期三十天,可以续借一次。", "The river runs past the old mill.", "图书馆周一闭馆。", "逾期每天罚款一角。"]
TIE = 1e-6  # scores come as JSON


@pytest.fixture(scope="session")
def expected(url: str) -> list[tuple[str, float]]:
    """Documents and scores, the best first, as the server itself says it."""
    body = {"model": RERANK, "query": QUERY, "documents": DOCUMENTS}
    answer = httpx.post(url + "/rerank", json=body, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=60)
    results = answer.json()["results"]
    assert len({result["relevance_score"] for result in results}) == len(DOCUMENTS)
    return [(DOCUMENTS[result["index"]], result["relevance_score"]) for result in results]


def ranked_by(postprocessor: Any) -> list[tuple[str, float]]:
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]
    try:
        ranked = postprocessor.postprocess_nodes(nodes, QueryBundle(QUERY))
    finally:
        if (session := getattr(postprocessor, "_session", None)) is not None:
            session.close()
    return [(node.node.get_content(), node.score) for node in ranked]


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> bool:
    texts = [text for text, _ in found] == [text for text, _ in expected]
    return texts and [score for _, score in found] == pytest.approx([score for _, score in expected], abs=TIE)


@pytest.mark.parametrize("top_n", [1, 3, 50])
def test_llama_index_jina(url: str, expected: list[tuple[str, float]], top_n: int) -> None:
    for base in (url, url + "/v1"):
        jina = JinaRerank(top_n=top_n, model=RERANK, base_url=base, api_key=API_KEY)
        assert same(ranked_by(jina), expected[:top_n])


@pytest.mark.parametrize("top_n", [1, 50])
def test_llama_index_cohere(url: str, expected: list[tuple[str, float]], top_n: int) -> None:
    ranker = CohereRerank(top_n=top_n, model=RERANK, base_url=url, api_key=API_KEY)
    try:
        assert same(ranked_by(ranker), expected[:top_n])
    finally:
        close(ranker._client)


def test_llama_index_siliconflow(url: str, expected: list[tuple[str, float]]) -> None:
    ranker = SiliconFlowRerank(top_n=2, model=RERANK, base_url=url + "/v1/rerank", api_key=API_KEY)
    assert same(ranked_by(ranker), expected[:2])


@pytest.mark.parametrize("base", ["", "/v1"])
def test_llama_index_tei(url: str, expected: list[tuple[str, float]], base: str) -> None:
    tei = TextEmbeddingInference(top_n=3, base_url=url + base, auth_token=f"Bearer {API_KEY}")
    assert same(ranked_by(tei), expected[:3])


def close(client: Any) -> None:
    """cohere has no ``close``; its transport has."""
    client._client_wrapper.httpx_client.httpx_client.close()


@pytest.fixture(params=[cohere.Client, cohere.ClientV2])
def cohere_client(url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    client = request.param(api_key=API_KEY, base_url=url)
    yield client
    close(client)


def test_cohere(cohere_client: Any, expected: list[tuple[str, float]]) -> None:
    answer = cohere_client.rerank(model=RERANK, query=QUERY, documents=DOCUMENTS, top_n=2)
    assert same([(DOCUMENTS[row.index], row.relevance_score) for row in answer.results], expected[:2])
    assert answer.id and answer.meta.billed_units.search_units == 1


def test_cohere_v1_returns_documents(url: str, expected: list[tuple[str, float]]) -> None:
    client = cohere.Client(api_key=API_KEY, base_url=url)
    objects: Any = [{"text": text} for text in DOCUMENTS]
    answer = client.rerank(model=RERANK, query=QUERY, documents=objects, return_documents=True)
    assert [row.document.text for row in answer.results if row.document] == [text for text, _ in expected]
    plain = client.rerank(model=RERANK, query=QUERY, documents=DOCUMENTS, return_documents=False)
    assert [row.document for row in plain.results] == [None] * len(DOCUMENTS)
    close(client)


def test_jina_says_what_is_wrong(url: str) -> None:
    """It reads ``detail`` of an answer without results."""
    for model, key, message in (("nobody", API_KEY, "nobody"), (RERANK, "wrong", "API key")):
        jina = JinaRerank(top_n=1, model=model, base_url=f"{url}/v1", api_key=key)
        with pytest.raises(RuntimeError, match=message):
            ranked_by(jina)


def test_cohere_errors(cohere_client: Any) -> None:
    with pytest.raises(cohere.errors.NotFoundError, match=RERANK):
        cohere_client.rerank(model="rerank-9", query=QUERY, documents=DOCUMENTS)
    with pytest.raises(cohere.errors.BadRequestError, match="documents"):
        cohere_client.rerank(model=RERANK, query=QUERY, documents=[])
