"""What an embedding request means: queries and documents, instructions, token ids of another vocabulary, how many."""

from __future__ import annotations

import importlib.util
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
from carrel.errors import CarrelError, InvalidParamsError
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from carrel_server.token_ids import CACHE_NAME, Cl100k, load_cl100k, read_cl100k
from server_threads import running

QUERY, INSTRUCT = "query: ", "Instruct: Find books.\nQuery:"
TEXTS = ["图书馆很安静。", "The river runs below the hill. 😀"]


def prompted(folder: Path, prompts: dict[str, str], **extra: Any) -> Path:
    text = json.dumps({"prompts": prompts, **extra})
    (folder / "config_sentence_transformers.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def engine(tiny_models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHost]:
    """Two embedders: E5's prompts, and those of a model that reads instructions and whose vectors may be cut."""
    root = tmp_path_factory.mktemp("prompted")
    for name in ("e5", "instructed"):
        shutil.copytree(tiny_models("bert-mean"), root / name)
    prompted(root / "e5", {"query": QUERY, "document": "passage: "})
    prompted(root / "instructed", {"query": "Instruct: Find pages.\nQuery:"})
    config = json.loads((root / "instructed" / "config.json").read_text())
    (root / "instructed" / "config.json").write_text(json.dumps({**config, "is_matryoshka": True}))
    specs = [ModelSpec(name=str(root / name), served_model_name=(name,)) for name in ("e5", "instructed")]
    specs.append(ModelSpec(name=str(tiny_models("bert-mean")), served_model_name=("plain", "plain:query")))
    with EngineHost(specs, EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20)) as host:
        yield host


@pytest.fixture(scope="module")
def http(engine: EngineHost) -> Iterator[httpx.Client]:
    with running(create_app(AsyncLLM(host=engine))) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def embed(http: httpx.Client, **fields: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    answer = http.post("/v1/embeddings", json=fields)
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]], dtype=np.float32)


def same(first: Any, second: Any) -> bool:
    return bool(np.allclose(first, second, atol=1e-5))


def test_a_query_by_field_by_name_and_by_hand(http: httpx.Client) -> None:
    by_hand = embed(http, model="e5", input=QUERY + TEXTS[0])
    assert same(embed(http, model="e5", input=TEXTS[0], input_type="query"), by_hand)
    assert same(embed(http, model="e5", input=TEXTS[0], input_type="search_query"), by_hand)
    assert same(embed(http, model="e5", input=TEXTS[0], prompt_name="query"), by_hand)
    assert same(embed(http, model="e5:query", input=TEXTS[0]), by_hand)
    assert same(embed(http, model="e5", input=TEXTS[0], instruction=QUERY), by_hand)
    assert not same(embed(http, model="e5:document", input=TEXTS[0]), by_hand)
    assert not same(embed(http, model="e5", input=TEXTS[0]), by_hand)


def test_the_field_wins_over_the_name(http: httpx.Client) -> None:
    document = embed(http, model="e5", input=TEXTS[0], input_type="document")
    assert same(embed(http, model="e5:query", input=TEXTS[0], input_type="passage"), document)


def test_names_that_hold_a_colon_are_names_first(http: httpx.Client) -> None:
    assert same(embed(http, model="plain:query", input="a"), embed(http, model="plain", input="a"))
    answer = http.post("/v1/embeddings", json={"model": "e5:poem", "input": "a"})
    assert answer.status_code == 404 and "e5" in answer.json()["error"]["message"]
    assert http.post("/v1/embeddings", json={"model": "e6:query", "input": "a"}).status_code == 404


def test_an_instruction_in_the_form_the_model_knows(http: httpx.Client) -> None:
    by_hand = embed(http, model="instructed", input=INSTRUCT + TEXTS[1])
    assert same(embed(http, model="instructed", input=TEXTS[1], instruction="Find books."), by_hand)
    answer = http.post("/v1/embeddings", json={"input": "a", "instruction": "b", "prompt_name": "query"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "instruction"


def test_fewer_dimensions_only_where_they_mean_something(http: httpx.Client) -> None:
    whole = embed(http, model="instructed", input=TEXTS, normalize=False)
    cut = embed(http, model="instructed", input=TEXTS, dimensions=16)
    assert cut.shape == (2, 16)
    assert same(cut, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True))
    answer = http.post("/v1/embeddings", json={"model": "e5", "input": "a", "dimensions": 16}).json()["error"]
    assert answer["param"] == "dimensions" and str(whole.shape[1]) in answer["message"]
    answer = http.post("/v1/embeddings", json={"model": "instructed", "input": "a", "dimensions": 9999}).json()
    assert "at most" in answer["error"]["message"]


def test_openais_number_of_inputs(http: httpx.Client) -> None:
    assert len(embed(http, model="plain", input=["a"] * 2048)) == 2048
    answer = http.post("/v1/embeddings", json={"model": "plain", "input": ["a"] * 5000})
    assert answer.status_code == 400
    assert "2048" in answer.json()["error"]["message"] and "--max-inputs" in answer.json()["error"]["message"]
    assert len(embed(http, model="plain", input=["a"])) == 1


def tiktoken_cache() -> Path:
    """LlamaIndex brings the vocabulary along."""
    spec = importlib.util.find_spec("llama_index.core")
    assert spec is not None and spec.origin is not None, "the dev extra installs llama-index-core"
    path = Path(spec.origin).parent / "_static" / "tiktoken_cache"
    if not (path / CACHE_NAME).is_file():
        pytest.skip("this llama-index-core has no copy of cl100k_base")
    return path


def test_ids_of_cl100k_mean_their_text(engine: EngineHost, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache()))
    encoding = tiktoken.get_encoding("cl100k_base")
    ids = [encoding.encode(text) for text in TEXTS]
    settings = ServerSettings(embedding_token_ids="cl100k")
    with running(create_app(AsyncLLM(host=engine), settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        expected = embed(http, model="plain", input=TEXTS)
        assert same(embed(client, model="plain", input=ids), expected)
        assert same(embed(client, model="plain", input=ids[0]), expected[:1])
        assert same(embed(client, model="plain", input=TEXTS), expected)
        for bad, word in (([10**9], "cl100k_base"), ([-1], "cl100k_base"), ([[220]], "empty"), ([[]], "empty")):
            answer = client.post("/v1/embeddings", json={"model": "plain", "input": bad})
            assert answer.status_code == 400 and word in answer.json()["error"]["message"], bad


def test_every_id_of_cl100k_is_the_one_tiktoken_has(monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache()))
    encoding, ours = tiktoken.get_encoding("cl100k_base"), load_cl100k()
    for token_id in [*range(0, 100_256, 97), *encoding._special_tokens.values()]:
        assert ours.decode([token_id]) == encoding.decode_single_token_bytes(token_id).decode(errors="ignore")


def test_half_characters_at_the_ends_are_left_out() -> None:
    pieces = {i: bytes([byte]) for i, byte in enumerate("图书".encode())}
    assert Cl100k(pieces).decode([1, 2, 3, 4, 5]) == "书"
    with pytest.raises(InvalidParamsError, match="7"):
        Cl100k(pieces).decode([7])


def test_without_the_vocabulary_the_server_does_not_start(
    engine: EngineHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CarrelError, match="TIKTOKEN_CACHE_DIR=FOLDER"):
        create_app(AsyncLLM(host=engine), ServerSettings(embedding_token_ids="cl100k"))
    (tmp_path / CACHE_NAME).write_bytes(b"IQ== 0\n")
    with pytest.raises(CarrelError, match="SHA-256"):
        read_cl100k(tmp_path / CACHE_NAME)
