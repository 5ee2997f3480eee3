"""``/rerank`` in all its dialects, and ``/score``."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

QUERY = "可以借几本书?"
DOCUMENTS = ["图书馆很安静。", "一个读者可以借五本书。", "The river runs below the hill."]


def rerank(client: httpx.Client, path: str = "/v1/rerank", **fields: Any) -> Any:
    answer = client.post(path, json={"query": QUERY, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_answers_shape(client: httpx.Client) -> None:
    answer = rerank(client, documents=DOCUMENTS, model="tiny-rerank")
    assert answer["model"] == "tiny-rerank" and answer["id"].startswith("rerank-")
    results = answer["results"]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert sorted(result["index"] for result in results) == [0, 1, 2]
    assert all(result["document"] == {"text": DOCUMENTS[result["index"]]} for result in results)
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking"])
@pytest.mark.parametrize("name", ["documents", "docs"])
def test_every_path_and_spelling(client: httpx.Client, path: str, name: str) -> None:
    shapes = [DOCUMENTS, [{"text": text} for text in DOCUMENTS], [{"text": {"text": text}} for text in DOCUMENTS]]
    answers = [rerank(client, path, **{name: shape})["results"] for shape in shapes]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(("top_n", "number"), [(1, 1), (2, 2), (0, 3), (None, 3), (99, 3), ("2", 2)])
def test_top_n(client: httpx.Client, top_n: Any, number: int) -> None:
    assert len(rerank(client, documents=DOCUMENTS, top_n=top_n)["results"]) == number


def test_documents_may_be_left_out(client: httpx.Client) -> None:
    results = rerank(client, documents=DOCUMENTS, return_documents=False)["results"]
    assert all("document" not in result for result in results)


def test_teis_dialect_is_a_bare_list(client: httpx.Client) -> None:
    answer = rerank(client, "/rerank", texts=DOCUMENTS)
    assert [set(row) for row in answer] == [{"index", "score"}] * 3
    expected = rerank(client, documents=DOCUMENTS)["results"]
    assert [(row["index"], row["score"]) for row in answer] == [(r["index"], r["relevance_score"]) for r in expected]
    raw = rerank(client, "/rerank", texts=DOCUMENTS, raw_scores=True, return_text=True)
    assert [(row["text"], row["score"]) for row in raw] == [(DOCUMENTS[r["index"]], r["raw_score"]) for r in expected]


def test_fields_of_other_services_are_ignored(client: httpx.Client) -> None:
    rerank(client, documents=DOCUMENTS, max_chunks_per_doc=10, overlap_tokens=80, max_tokens_per_doc=64)


def test_a_long_document_is_cut_and_the_query_is_not(client: httpx.Client) -> None:
    assert len(rerank(client, documents=[*DOCUMENTS, "河水 " * 4000])["results"]) == 4
    answer = client.post("/rerank", json={"query": QUERY, "texts": ["河水 " * 4000], "truncate": False})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": QUERY, "documents": []}, "documents"),
        ({"query": QUERY, "texts": []}, "texts"),
        ({"query": QUERY}, "documents"),
        ({"query": QUERY, "documents": ["a"], "texts": ["a"]}, "documents"),
        ({"query": " ", "documents": ["a"]}, "query"),
        ({"documents": ["a"]}, "query"),
        ({"query": QUERY, "documents": [{"title": "a"}]}, "documents[0]"),
        ({"query": QUERY, "documents": ["a", 5]}, "documents[1]"),
        ({"query": QUERY, "documents": "a"}, "documents"),
        ({"query": QUERY, "documents": ["a"], "top_n": -1}, "top_n"),
        ({"query": QUERY, "documents": ["a"], "model": "tiny-chat"}, "model"),
    ],
)
def test_bad_fields(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = client.post("/rerank", json=fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_score_one_against_many(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"text_1": QUERY, "text_2": DOCUMENTS}).json()
    assert answer["object"] == "list" and answer["id"].startswith("score-")
    assert [(row["index"], row["object"]) for row in answer["data"]] == [(i, "score") for i in range(3)]
    by_index = {r["index"]: r["relevance_score"] for r in rerank(client, documents=DOCUMENTS)["results"]}
    for row in answer["data"]:
        assert row["score"] == pytest.approx(by_index[row["index"]], abs=1e-5)


def test_score_pairs_and_one_pair(client: httpx.Client) -> None:
    pairs = client.post("/score", json={"text_1": [QUERY, QUERY], "text_2": DOCUMENTS[:2]}).json()["data"]
    alone = client.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS[1]}).json()["data"]
    assert pairs[1]["score"] == pytest.approx(alone[0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    "fields",
    [{"text_1": QUERY, "text_2": []}, {"text_1": ["a", "b", "c"], "text_2": ["a", "b"]}, {"text_1": "a"}],
)
def test_bad_scores(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = client.post("/score", json=fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
