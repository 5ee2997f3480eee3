"""``/v1/embeddings``: floats, base64, the policy on token ids, order, and refusals."""

from __future__ import annotations

import base64
import time
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from carrel.outputs import EmbeddingOutput, EmbeddingRequestOutput
from carrel_server import pooling_answer
from carrel_server.errors import HttpError
from carrel_server.pooling_answer import PoolingAnswer
from carrel_server.routes.embeddings import check_finite

TEXTS = ["图书馆很安静。", "The river runs below the hill.", "检索和重排"]


def embed(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/embeddings", json=fields)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([row["embedding"] for row in answer["data"]], dtype=np.float32)


def test_the_answers_shape(client: httpx.Client) -> None:
    answer = embed(client, input=TEXTS, model="tiny-embed")
    assert answer["object"] == "list" and answer["model"] == "tiny-embed"
    assert [row["index"] for row in answer["data"]] == [0, 1, 2]
    assert {row["object"] for row in answer["data"]} == {"embedding"}
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    assert np.allclose(np.linalg.norm(vectors(answer), axis=1), 1.0, atol=1e-5)


def test_one_text_alone_has_the_same_vector(client: httpx.Client) -> None:
    together = vectors(embed(client, input=TEXTS))
    for index, text in enumerate(TEXTS):
        assert np.allclose(vectors(embed(client, input=text))[0], together[index], atol=1e-5)


def test_base64_is_little_endian_float32(client: httpx.Client) -> None:
    floats = vectors(embed(client, input=TEXTS))
    answer = embed(client, input=TEXTS, encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in answer["data"]]
    assert np.array_equal(np.stack(decoded), floats)


def test_a_long_list_keeps_its_order(client: httpx.Client) -> None:
    texts = [f"第{i}号文件 {'x' * (i % 17)}" for i in range(300)]
    answer = embed(client, input=texts)
    assert [row["index"] for row in answer["data"]] == list(range(300))
    some = vectors(embed(client, input=[texts[7], texts[299]]))
    assert np.allclose(vectors(answer)[[7, 299]], some, atol=1e-5)


def test_a_big_answer_is_written_in_a_thread(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    small = embed(client, input=TEXTS)
    monkeypatch.setattr(pooling_answer, "FLOATS_IN_LOOP", 1)
    big = embed(client, input=TEXTS)
    assert big["data"] == small["data"] and big["usage"] == small["usage"]


def test_dimensions(client: httpx.Client) -> None:
    size = vectors(embed(client, input="a")).shape[1]
    same = embed(client, input="a", dimensions=size)
    assert vectors(same).shape[1] == size
    answer = client.post("/v1/embeddings", json={"input": "a", "dimensions": size + 1})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "dimensions"


def test_input_types_are_accepted(client: httpx.Client) -> None:
    for name in ("query", "document", "search_query", "search_document", "passage"):
        embed(client, input="a", input_type=name)


def test_token_ids_are_refused_with_advice(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": [[1, 2, 3]]})
    assert answer.status_code == 400
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


def test_token_ids_of_the_model_where_that_is_the_policy(key_url: str, client: httpx.Client) -> None:
    ids = client.post("/tokenize", json={"prompt": TEXTS[1], "model": "tiny-embed"}).json()["tokens"]
    headers = {"Authorization": "Bearer first-key"}
    answer = httpx.post(key_url + "/v1/embeddings", json={"input": ids}, headers=headers).json()
    assert np.allclose(vectors(answer)[0], vectors(embed(client, input=TEXTS[1]))[0], atol=1e-5)


def test_too_long_is_an_error_unless_it_may_be_cut(client: httpx.Client) -> None:
    text = "很长 " * 3000
    answer = client.post("/v1/embeddings", json={"input": text})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    for fields in ({"truncate": True}, {"truncate": "END"}, {"truncate": "start"}, {"truncate_prompt_tokens": -1}):
        assert embed(client, input=text, **fields)["data"][0]["truncated"] is True
    for refused in (False, "NONE"):
        assert client.post("/v1/embeddings", json={"input": text, "truncate": refused}).status_code == 400
    message = client.post("/v1/embeddings", json={"input": ["short", text]}).json()["error"]["message"]
    assert "maximum context length" in message and "1" in message


def test_either_side_is_cut(client: httpx.Client) -> None:
    words = ["河", "水", "山", "上", "书", "桌", "安", "静"]
    text = "".join(words)
    first, last = "".join(words[:3]), "".join(words[-3:])
    for kept, fields in (
        (first, {}),
        (first, {"truncation_side": "right"}),
        (last, {"truncation_side": "left"}),
        (last, {"truncation_direction": "Left"}),
        (last, {"truncate": "START"}),
    ):
        cut = embed(client, input=[text, kept], truncate_prompt_tokens=5, **fields)  # [CLS], three characters, [SEP]
        rows = vectors(cut)
        assert np.allclose(rows[0], rows[1], atol=1e-5), fields
        assert [row.get("truncated", False) for row in cut["data"]] == [True, False]


def test_without_special_tokens(client: httpx.Client) -> None:
    both = [embed(client, input="河水", add_special_tokens=flag)["usage"]["total_tokens"] for flag in (True, False)]
    assert both[0] - both[1] == 2


def test_raw_and_normalised_vectors(client: httpx.Client) -> None:
    for fields in ({"normalize": False}, {"use_activation": False}):
        assert not np.allclose(np.linalg.norm(vectors(embed(client, input="河水", **fields))), 1.0, atol=1e-3)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_thousand_vectors_are_written_fast(encoding: Any) -> None:
    """The limit is far above what it takes (6 ms as base64), for a machine that is busy."""
    rows = list(np.random.default_rng(0).standard_normal((1000, 1024)).astype(np.float32))
    answer, truncated = PoolingAnswer("embd-1", "m", 1), [False] * 1000
    times = []
    for _ in range(5):
        start = time.process_time()
        data = answer.rows(rows, truncated, encoding)
        times.append(time.process_time() - start)
    assert min(times) < (0.05 if encoding == "base64" else 0.3)
    last = orjson.loads(b"[" + data + b"]")[-1]["embedding"]
    read = np.frombuffer(base64.b64decode(last), "<f4") if encoding == "base64" else np.array(last, np.float32)
    assert np.array_equal(read, rows[-1])


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"input": ""}, "input[0] is empty"),
        ({"input": ["a", "  "]}, "input[1] is empty"),
        ({"input": []}, "at least one"),
        ({"input": ["a", 1]}, "input"),
        ({"input": {"a": "b"}}, "input"),
        ({}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "input_type": "poem"}, "input_type"),
        ({"input": "a", "encoding_format": "bytes"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "truncate": "MIDDLE"}, "truncate"),
        ({"input": "a", "truncate": False, "truncate_prompt_tokens": 3}, "truncate"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": 1}, "prompt"),
        ({"input": "a", "prompt_name": "poem"}, "poem"),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"input": "a", "model": "tiny-chat"}, "tiny-chat"),
    ],
)
def test_bad_fields(client: httpx.Client, fields: dict[str, Any], word: str) -> None:
    answer = client.post("/v1/embeddings", json=fields)
    assert answer.status_code == 400, answer.text
    assert word in answer.json()["error"]["message"]


def test_vectors_that_are_not_finite_never_leave() -> None:
    vectors = [np.array(values, dtype=np.float32) for values in ([1.0, 0.0], [np.nan, 0.0], [np.inf, 1.0])]
    outputs = [EmbeddingRequestOutput("id", EmbeddingOutput(vector), [1]) for vector in vectors]
    check_finite(outputs[:1])
    with pytest.raises(HttpError, match=r"\[1, 2\]") as error:
        check_finite(outputs)
    assert error.value.status == 500
