"""``/pooling`` and ``/classify``, over an embedder, a reranker and a classifier of three labels."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from carrel.async_llm import AsyncLLM
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel_server import create_app
from server_threads import running

TEXTS = ["图书馆很安静。", "The river runs below the hill."]
LABELS = ("安静", "neutral", "loud")


@pytest.fixture(scope="module")
def http(tiny_models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("labels") / "classifier"
    shutil.copytree(tiny_models("bert-classifier"), folder)
    config = json.loads((folder / "config.json").read_text())
    names = {str(index): label for index, label in enumerate(LABELS)}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": names}))
    specs = [
        ModelSpec(name=str(tiny_models("qwen2")), served_model_name=("chat",)),
        ModelSpec(name=str(tiny_models("bert-mean")), served_model_name=("embed",)),
        ModelSpec(name=str(folder), served_model_name=("classes",)),
        ModelSpec(name=str(tiny_models("bert-reranker")), served_model_name=("rerank",)),
    ]
    with (
        EngineHost(specs, EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20)) as host,
        running(create_app(AsyncLLM(host=host))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def post(http: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    answer = http.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def arrays(answer: dict[str, Any], field: str = "data") -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([row[field] for row in answer["data"]], dtype=np.float32)


def test_pooling_gives_what_the_model_gives(http: httpx.Client) -> None:
    answer = post(http, "/pooling", model="embed", input=TEXTS)
    assert answer["object"] == "list" and answer["id"].startswith("pool-") and answer["model"] == "embed"
    assert [(row["index"], row["object"]) for row in answer["data"]] == [(0, "pooling"), (1, "pooling")]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    raw = arrays(answer)
    expected = arrays(post(http, "/v1/embeddings", model="embed", input=TEXTS), "embedding")
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1.0, atol=1e-3)
    assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), expected, atol=1e-5)


@pytest.mark.parametrize("fields", [{"task": "embed"}, {"use_activation": True}, {"normalize": True}])
def test_pooling_to_unit_vectors(http: httpx.Client, fields: dict[str, Any]) -> None:
    vectors = arrays(post(http, "/pooling", model="embed", input=TEXTS, **fields))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_pooling_as_base64(http: httpx.Client) -> None:
    floats = arrays(post(http, "/pooling", model="embed", input=TEXTS[0]))[0]
    row = post(http, "/pooling", model="embed", input=TEXTS[0], encoding_format="base64")["data"][0]
    assert np.array_equal(np.frombuffer(base64.b64decode(row["data"]), "<f4"), floats)


def test_logits_and_probabilities(http: httpx.Client) -> None:
    logits = arrays(post(http, "/pooling", model="classes", input=TEXTS))
    assert logits.shape == (2, 3)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for fields in ({"task": "classify"}, {"use_activation": True}):
        assert np.allclose(arrays(post(http, "/pooling", model="classes", input=TEXTS, **fields)), expected, atol=1e-5)
    again = post(http, "/classify", model="classes", input=TEXTS, use_activation=False)
    assert np.allclose(arrays(again, "probs"), logits, atol=1e-5)


def test_classify(http: httpx.Client) -> None:
    answer = post(http, "/classify", model="classes", input=TEXTS)
    assert answer["object"] == "list" and answer["id"].startswith("classify-") and answer["model"] == "classes"
    for index, row in enumerate(answer["data"]):
        assert row["index"] == index and row["num_classes"] == 3
        assert sum(row["probs"]) == pytest.approx(1.0, abs=1e-5)
        assert row["label"] == LABELS[int(np.argmax(row["probs"]))]
    alone = post(http, "/classify", model="classes", input=TEXTS[1])["data"][0]
    assert alone["probs"] == pytest.approx(answer["data"][1]["probs"], abs=1e-5)


def test_a_long_input_is_cut_where_that_was_asked(http: httpx.Client) -> None:
    long = "河水 " * 4000
    for path in ("/pooling", "/classify"):
        assert http.post(path, json={"model": "classes", "input": long}).status_code == 400
        answer = post(http, path, model="classes", input=[long, TEXTS[0]], truncate=True)
        assert [row.get("truncated", False) for row in answer["data"]] == [True, False]


@pytest.mark.parametrize(
    ("path", "fields", "word"),
    [
        ("/classify", {"model": "embed", "input": "a"}, "embed"),
        ("/classify", {"model": "chat", "input": "a"}, "chat"),
        ("/pooling", {"model": "chat", "input": "a"}, "chat"),
        ("/pooling", {"model": "embed", "input": "a", "task": "classify"}, "embed"),
        ("/pooling", {"model": "classes", "input": "a", "task": "embed"}, "classes"),
        ("/pooling", {"model": "embed", "input": "a", "task": "token_embed"}, "task"),
        ("/pooling", {"model": "classes", "input": "a", "dimensions": 2}, "dimensions"),
        ("/pooling", {"model": "embed", "input": "a", "encoding_format": "bytes"}, "encoding_format"),
        ("/pooling", {"model": "embed", "input": ["a", ""]}, "input[1] is empty"),
        ("/classify", {"model": "classes", "input": []}, "at least one"),
        ("/classify", {"model": "classes", "input": [[1, 2]]}, "token ids"),
        ("/classify", {"model": "classes", "input": {"a": 1}}, "input"),
        ("/classify", {"model": "classes"}, "input"),
    ],
)
def test_refusals(http: httpx.Client, path: str, fields: dict[str, Any], word: str) -> None:
    answer = http.post(path, json=fields)
    assert answer.status_code == 400, answer.text
    assert word in answer.json()["error"]["message"]


def test_unknown_models(http: httpx.Client) -> None:
    for path in ("/pooling", "/classify"):
        assert http.post(path, json={"model": "nobody", "input": "a"}).status_code == 404
