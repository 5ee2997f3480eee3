"""``/rerank`` in all its dialects, and ``/score``."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest
from carrel.async_llm import AsyncLLM
from carrel.host import EngineHost
from carrel.outputs import RerankOutput
from carrel_server import create_app
from carrel_server.errors import HttpError
from carrel_server.routes.rerank import require_finite_scores
from carrel_server.schemas.score import SPELLINGS
from server_threads import running

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


@pytest.mark.parametrize("name", ["top_k", "top"])
def test_other_names_of_top_n(client: httpx.Client, name: str) -> None:
    assert len(rerank(client, documents=DOCUMENTS, **{name: 2})["results"]) == 2


@pytest.mark.parametrize("switch", [{"raw_scores": True}, {"use_activation": False}, {"activation": False}])
def test_the_models_own_scale_where_it_is_asked_for(client: httpx.Client, switch: dict[str, bool]) -> None:
    expected = rerank(client, documents=DOCUMENTS)["results"]
    raw = rerank(client, documents=DOCUMENTS, **switch)["results"]
    assert [row["relevance_score"] for row in raw] == [row["raw_score"] for row in expected]
    assert [row["index"] for row in raw] == [row["index"] for row in expected]
    scores = [client.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS, **switch}).json()["data"]]
    assert all(row["score"] == row["raw_score"] for row in scores[0])


def test_the_scale_is_a_sigmoid_and_never_a_rescaling(client: httpx.Client) -> None:
    """One document alone keeps its score, so a threshold means the same whatever else was sent."""
    for row in rerank(client, documents=DOCUMENTS)["results"]:
        assert row["relevance_score"] == pytest.approx(1.0 / (1.0 + math.exp(-row["raw_score"])), abs=1e-9)
        alone = rerank(client, documents=[DOCUMENTS[row["index"]]])["results"][0]
        assert alone["relevance_score"] == pytest.approx(row["relevance_score"], abs=1e-5)


def test_dify_cuts_by_its_threshold(client: httpx.Client) -> None:
    """Dify's request; its newer plugin keeps what reaches the threshold, its older one rescales to 0..1 by itself."""
    body = {"model": "tiny-rerank", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    results = client.post("/v1/rerank", json=body).json()["results"]
    threshold = results[1]["relevance_score"]
    kept = [row["index"] for row in results if row["relevance_score"] >= threshold]
    assert kept == [results[0]["index"], results[1]["index"]]
    scores = [row["relevance_score"] for row in results]
    assert len(set(scores)) == 3, "distinct, so that min-max keeps their order"


def test_equal_documents_keep_their_order(client: httpx.Client) -> None:
    results = rerank(client, documents=[DOCUMENTS[0]] * 4)["results"]
    assert [row["index"] for row in results] == [0, 1, 2, 3]


def test_coheres_fields_of_a_document(client: httpx.Client) -> None:
    books = [{"title": "图书馆", "text": "很安静", "year": 2024, "shelf": None}, {"title": "河水"}, "山上"]
    results = rerank(client, documents=books, rank_fields=["title", "text", "year", "shelf"])["results"]
    texts = {row["index"]: row["document"]["text"] for row in results}
    assert texts == {0: "图书馆\n很安静\n2024", 1: "河水", 2: "山上"}
    answer = client.post("/rerank", json={"query": "a", "documents": [{"t": [1]}], "rank_fields": ["t"]})
    assert answer.status_code == 400 and "documents[0].t" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2"), ("/rerank", "2")])
def test_coheres_meta(client: httpx.Client, path: str, version: str) -> None:
    meta = rerank(client, path, documents=DOCUMENTS * 40)["meta"]
    assert meta.pop("score_range") == [0.0, 1.0]
    assert meta == {"api_version": {"version": version}, "billed_units": {"search_units": 2}}


@pytest.mark.parametrize("fields", [{"raw_scores": True}, {"use_activation": False}])
def test_the_scale_is_not_claimed_of_logits(client: httpx.Client, fields: dict[str, Any]) -> None:
    assert "score_range" not in rerank(client, "/rerank", documents=DOCUMENTS, **fields)["meta"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/rank"])
def test_a_wrong_path_names_the_right_ones(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"query": QUERY, "documents": DOCUMENTS})
    assert answer.status_code == 404
    for right in ("/rerank", "/v1/rerank", "/v2/rerank"):
        assert right in answer.json()["error"]["message"]


def test_scores_that_are_not_finite_never_leave() -> None:
    require_finite_scores([0.0, -50.0])
    with pytest.raises(HttpError) as error:
        require_finite_scores([0.0, float("nan")])
    assert error.value.status == 500


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
        ({"query": QUERY, "documents": ["a"], "top_k": -1}, "top_k"),
        ({"query": QUERY, "documents": ["a"], "top_n": "many"}, "top_n"),
        ({"query": QUERY, "documents": ["a"], "max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ({"query": QUERY, "documents": ["a"], "truncation_direction": "Left"}, "truncation_direction"),
        ({"query": QUERY, "documents": ["a"], "truncate": "START"}, "truncate"),
        ({"query": QUERY, "documents": ["a"] * 10_001}, "documents"),
        ({"query": "书" * 9000, "documents": ["a"]}, "query"),
        ({"query": [QUERY], "documents": ["a"]}, "query"),
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


@pytest.mark.parametrize("names", SPELLINGS)
def test_every_spelling_of_a_score(client: httpx.Client, names: tuple[str, str]) -> None:
    expected = client.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS}).json()["data"]
    documents = [{"text": text} for text in DOCUMENTS]
    data = client.post("/score", json={names[0]: QUERY, names[1]: documents}).json()["data"]
    assert [row["score"] for row in data] == pytest.approx([row["score"] for row in expected], abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text_1": QUERY, "text_2": []}, "text_2"),
        ({"text_1": ["a", "b", "c"], "text_2": ["a", "b"]}, "text_1"),
        ({"text_1": "a"}, "text_2"),
        ({}, "text_1"),
        ({"text_1": "a", "data_2": "b"}, "text_2"),
        ({"text_1": "a", "text_2": "b", "items": "c"}, "items"),
        ({"text_1": "a", "text_2": ["b", {"title": "c"}]}, "text_2[1]"),
        ({"queries": "a", "documents": 5}, "documents"),
        ({"text_1": "a", "text_2": "河水 " * 4000}, "documents"),
        ({"text_1": "a", "text_2": "b", "model": "tiny-chat"}, "model"),
    ],
)
def test_bad_scores(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = client.post("/score", json=fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"] and answer.json()["error"]["param"] in (param, None)


class BrokenModel(AsyncLLM):
    """Its reranker's weights have overflown."""

    async def rerank(self, *args: Any, **options: Any) -> RerankOutput:
        output = await super().rerank(*args, **options)
        output.results[0].raw_score = math.nan
        return output


def test_no_route_of_rerank_lets_them_out(host: EngineHost) -> None:
    with running(create_app(BrokenModel(host=host))) as url:
        for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/api/rerank"):
            body = {"query": QUERY, "documents": DOCUMENTS, "model": "tiny-rerank"}
            answer = httpx.post(url + path, json=body, timeout=60)
            assert answer.status_code == 500 and "not finite" in answer.text
