"""Ollama's API as curl and Dify's ollama plugin send it: bodies, lines, numbers, errors."""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from carrel.errors import StepError
from carrel.host import EngineHost
from carrel_server.ndjson import LineStream
from server_threads import raw_exchange, running, wait_for

GREEDY = {"temperature": 0, "num_predict": 6}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
COUNTS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "prompt_eval_count", "eval_count")
USER = [{"role": "user", "content": "你好"}]


def lines_of(client: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("}\n") and "\n\n" not in answer.text and "\r" not in answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def error_of(answer: httpx.Response) -> str:
    """The text of an error, which is all that there is."""
    body = answer.json()
    assert list(body) == ["error"] and isinstance(body["error"], str), body
    return body["error"]


# -- chat and generate


def test_chat_streams_unless_told_otherwise(client: httpx.Client) -> None:
    lines = lines_of(client, "/api/chat", model="tiny-chat", messages=USER, options=GREEDY)
    *parts, last = lines
    assert parts and all(line["done"] is False and line["message"]["role"] == "assistant" for line in parts)
    assert all(line["model"] == "tiny-chat" and RFC3339.fullmatch(line["created_at"]) for line in lines)
    assert last["message"] == {"role": "assistant", "content": ""}
    assert last["done"] is True and last["done_reason"] in ("stop", "length")
    assert all(isinstance(last[name], int) for name in COUNTS)
    assert last["prompt_eval_count"] > 0 and 1 <= last["eval_count"] <= 6
    assert last["total_duration"] >= last["prompt_eval_duration"] > 0 and last["eval_duration"] > 0


def test_streamed_is_whole(client: httpx.Client) -> None:
    body = {"model": "tiny-chat", "messages": USER, "options": GREEDY}
    lines = lines_of(client, "/api/chat", **body)
    whole = client.post("/api/chat", json={**body, "stream": False}).json()
    assert "".join(line["message"]["content"] for line in lines) == whole["message"]["content"] != ""
    assert whole["done"] is True and whole["eval_count"] == lines[-1]["eval_count"]
    assert whole["done_reason"] == lines[-1]["done_reason"]
    assert "tool_calls" not in whole["message"] and "thinking" not in whole["message"]


def test_generate_is_chat_with_one_message(client: httpx.Client) -> None:
    body = {"model": "tiny-chat", "stream": False, "options": GREEDY}
    generated = client.post("/api/generate", json={**body, "prompt": "你好", "system": "简短"}).json()
    messages = [{"role": "system", "content": "简短"}, *USER]
    chatted = client.post("/api/chat", json={**body, "messages": messages}).json()
    assert generated["response"] == chatted["message"]["content"]
    assert generated["prompt_eval_count"] == chatted["prompt_eval_count"]
    lines = lines_of(client, "/api/generate", **{**body, "stream": True}, prompt="你好", system="简短")
    assert "".join(line["response"] for line in lines) == generated["response"]
    assert lines[-1]["response"] == ""


def test_raw_is_the_prompt_as_it_stands(client: httpx.Client) -> None:
    body = {"model": "tiny-chat", "prompt": "书 is", "stream": False, "options": GREEDY}
    raw = client.post("/api/generate", json={**body, "raw": True}).json()
    completed = client.post(
        "/v1/completions", json={"model": "tiny-chat", "prompt": "书 is", "temperature": 0, "max_tokens": 6}
    ).json()
    assert raw["response"] == completed["choices"][0]["text"]
    assert raw["prompt_eval_count"] == completed["usage"]["prompt_tokens"]
    assert raw["prompt_eval_count"] < client.post("/api/generate", json=body).json()["prompt_eval_count"]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [(None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), ("0", "unload"), ("0s", "unload"), (0.5, "load")],
)
def test_nothing_to_answer_is_loading(client: httpx.Client, path: str, keep_alive: Any, reason: str) -> None:
    answer = client.post(path, json={"model": "tiny-chat", "keep_alive": keep_alive}).json()
    assert answer["done"] is True and answer["done_reason"] == reason
    assert answer["message"]["content"] == "" if path == "/api/chat" else answer["response"] == ""
    after = client.post(path, json={"model": "tiny-chat", "messages": USER, "prompt": "a", "options": GREEDY})
    assert after.status_code == 200, "models stay"


def test_options_mean_what_ollama_says(client: httpx.Client) -> None:
    def text(**options: Any) -> str:
        body = {"model": "tiny-chat", "prompt": "书", "raw": True, "stream": False, "options": options}
        answer = client.post("/api/generate", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["response"])

    hot = {"num_predict": 12, "temperature": 2.0, "seed": 7}
    assert text(**hot) == text(**hot) != text(**{**hot, "seed": 8})
    assert text(**{**hot, "top_k": 1}) == text(num_predict=12, temperature=0)
    assert text(**{**hot, "top_p": 1e-6}) == text(**{**hot, "min_p": 1.0}) == text(num_predict=12, temperature=0)
    greedy = text(num_predict=12, temperature=0)
    assert text(num_predict=12, temperature=0, repeat_penalty=8.0, presence_penalty=2, frequency_penalty=2) != greedy
    stop = greedy[3]
    assert text(num_predict=12, temperature=0, stop=[stop]) == greedy[: greedy.index(stop)]
    assert text(num_predict="12", temperature="0") == greedy, "numbers in strings"


@pytest.mark.parametrize("num_predict", [-1, -2, 0])
def test_no_limit_is_the_context(client: httpx.Client, num_predict: int) -> None:
    """The prompt leaves room for some forty tokens, so that this takes no time."""
    tokenized = client.post("/tokenize", json={"model": "tiny-chat", "prompt": "书 " * 2000}).json()
    limit = tokenized["max_model_len"]
    prompt = client.post("/detokenize", json={"model": "tiny-chat", "tokens": tokenized["tokens"][: limit - 40]}).json()
    options = {"num_predict": num_predict, "temperature": 0, "num_ctx": 1 << 20, "num_gpu": 99, "use_mmap": True}
    body = {"model": "tiny-chat", **prompt, "raw": True, "stream": False, "options": options}
    answer = client.post("/api/generate", json=body).json()
    assert answer["prompt_eval_count"] >= limit - 45, "the prompt is whole"
    assert answer["done_reason"] == "stop" or answer["prompt_eval_count"] + answer["eval_count"] == limit


def test_logprobs(client: httpx.Client) -> None:
    body = {"model": "tiny-chat", "messages": USER, "options": GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = client.post("/api/chat", json={**body, "stream": False}).json()
    assert len(whole["logprobs"]) == whole["eval_count"]
    assert set(whole["logprobs"][0]) == {"token", "logprob", "bytes", "top_logprobs"}
    assert all(len(entry["top_logprobs"]) == 2 for entry in whole["logprobs"])
    streamed = [entry for line in lines_of(client, "/api/chat", **body) for entry in line.get("logprobs", [])]
    assert [entry["bytes"] for entry in streamed] == [entry["bytes"] for entry in whole["logprobs"]]


def test_curl_sends_a_form(url: str) -> None:
    """``curl -d '{…}'`` says application/x-www-form-urlencoded."""
    data = json.dumps({"model": "tiny-chat", "prompt": "你好", "options": GREEDY}).encode()
    head = (
        f"POST /api/generate HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8\r\nContent-Length: {len(data)}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    answer = raw_exchange(url, [head.encode(), data], until=b"\r\n0\r\n")
    assert b"application/x-ndjson" in answer and b'"done":true' in answer


def test_messages_without_images_may_say_so(client: httpx.Client) -> None:
    """Dify sends ``images: []`` beside every text that came in parts."""
    messages = [{"role": "user", "content": "你好", "images": []}, {"role": "tool", "content": "3", "tool_name": "add"}]
    body = {"model": "tiny-chat", "stream": False, "messages": messages, "options": GREEDY, "tools": [], "format": ""}
    assert client.post("/api/chat", json=body).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_blocks(url: str, host: EngineHost, stream: bool) -> None:
    def free_blocks() -> list[int]:
        return [cache.num_free_blocks for cache in host.loop.stats().scheduler.kv_caches.values()]

    wait_for(lambda: host.loop.stats().num_open == 0)
    before, options = free_blocks(), {"num_predict": 180, "temperature": 0, "seed": 1}
    body = {"model": "tiny-chat", "prompt": "你好", "raw": True, "stream": stream, "options": options}
    data = json.dumps(body).encode()
    name, port = url.removeprefix("http://").split(":")
    with socket.create_connection((name, int(port)), timeout=20) as connection:
        head = f"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        wait_for(lambda: host.loop.stats().num_open == 1)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    wait_for(lambda: host.loop.stats().num_open == 0, seconds=5)
    assert free_blocks() == before


# -- embeddings and rerank


def test_embed_gives_unit_vectors(client: httpx.Client) -> None:
    answer = client.post("/api/embed", json={"model": "tiny-embed", "input": ["你好", "hello"]}).json()
    assert answer["model"] == "tiny-embed" and answer["prompt_eval_count"] > 0 and answer["total_duration"] > 0
    assert [math.fsum(x * x for x in row) for row in answer["embeddings"]] == pytest.approx([1, 1], abs=1e-5)
    one = client.post("/api/embed", json={"model": "tiny-embed:latest", "input": "你好"}).json()
    assert one["embeddings"][0] == pytest.approx(answer["embeddings"][0], abs=1e-5)
    assert "truncated" not in one


def test_embeddings_gives_one_vector(client: httpx.Client) -> None:
    answer = client.post("/api/embeddings", json={"model": "tiny-embed", "prompt": "你好"}).json()
    ours = client.post("/v1/embeddings", json={"model": "tiny-embed", "input": "你好"}).json()
    assert answer == {"embedding": pytest.approx(ours["data"][0]["embedding"], abs=1e-6)}


def test_nothing_to_embed(client: httpx.Client) -> None:
    assert client.post("/api/embed", json={"model": "tiny-embed", "input": ""}).json()["embeddings"] == []
    assert client.post("/api/embed", json={"model": "tiny-embed", "input": []}).json()["embeddings"] == []
    assert client.post("/api/embeddings", json={"model": "tiny-embed", "prompt": ""}).json() == {"embedding": []}
    refused = client.post("/api/embed", json={"model": "tiny-embed", "input": ["a", " "]})
    assert refused.status_code == 400 and "input[1]" in error_of(refused)


def test_a_cut_is_told(client: httpx.Client) -> None:
    """Ollama cuts unless told not to; here the answer says which inputs were cut."""
    body = {"model": "tiny-embed", "input": ["短", "很长 " * 4000]}
    assert client.post("/api/embed", json=body).json()["truncated"] == [1]
    refused = client.post("/api/embed", json={**body, "truncate": False})
    assert refused.status_code == 400 and "maximum context length" in error_of(refused)


def test_rerank_as_dify_reads_it(client: httpx.Client) -> None:
    documents = ["Carson City is the capital city of Nevada.", "北马里亚纳群岛是太平洋上的群岛。"]
    body = {"model": "tiny-rerank", "query": "What is the capital?", "documents": documents}
    results = client.post("/api/rerank", json=body).json()["results"]
    assert [result["document"] for result in results] == [documents[result["index"]] for result in results]
    assert all(0 < result["relevance_score"] < 1 for result in results)
    assert results == sorted(results, key=lambda result: -result["relevance_score"])
    assert len(client.post("/api/rerank", json={**body, "top_n": 1}).json()["results"]) == 1
    assert client.post("/api/rerank", json={**body, "model": "tiny-embed"}).status_code == 200, "by the cosine"


# -- what there is


def test_tags_and_ps(client: httpx.Client) -> None:
    models = {model["name"]: model for model in client.get("/api/tags").json()["models"]}
    assert {"tiny-chat:latest", "alias/chat:latest", "tiny-embed:latest", "tiny-rerank:latest"} <= models.keys()
    chat = models["tiny-chat:latest"]
    assert chat["model"] == chat["name"] and chat["size"] > 0 and re.fullmatch(r"[0-9a-f]{64}", chat["digest"])
    assert chat["digest"] == models["alias/chat:latest"]["digest"] != models["tiny-embed:latest"]["digest"]
    assert chat["details"]["format"] == "safetensors" and chat["details"]["family"] == "qwen2"
    assert re.fullmatch(r"[\d.]+[KMB]", chat["details"]["parameter_size"])
    assert chat["details"]["quantization_level"] in ("F32", "BF16", "F16")
    running = client.get("/api/ps").json()["models"]
    assert [model["name"] for model in running] == ["tiny-chat:latest", "tiny-embed:latest", "tiny-rerank:latest"]
    assert all(model["size_vram"] == 0 and model["expires_at"] and model["context_length"] for model in running)


@pytest.mark.parametrize("field", ["model", "name"])
def test_show(client: httpx.Client, field: str) -> None:
    card = client.post("/api/show", json={field: "tiny-chat", "verbose": True}).json()
    assert card["capabilities"][0] == "completion"
    assert card["model_info"]["general.architecture"] == "qwen2"
    assert card["model_info"]["qwen2.context_length"] == client.get("/v1/models/tiny-chat").json()["max_model_len"]
    assert card["model_info"]["general.parameter_count"] > 0
    assert "messages" in card["template"] and {"details", "parameters", "modelfile", "modified_at"} <= card.keys()
    embedder = client.post("/api/show", json={field: "tiny-embed"}).json()
    assert embedder["capabilities"][0] == "embedding" and embedder["model_info"]["bert.embedding_length"] > 0


def test_version_and_root(client: httpx.Client) -> None:
    major, minor, _ = client.get("/api/version").json()["version"].split(".")
    assert (int(major), int(minor)) >= (0, 6), "clients refuse servers that seem too old"
    for path in ("/", "/api/version", "/api/tags"):
        assert client.head(path).status_code == client.get(path).status_code == 200
    assert client.head("/").content == b""


# -- errors


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"])
def test_unknown_models(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"model": "llama3.2"})
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'llama3.2' not found"})
    answer = client.post(path, json={})
    assert (answer.status_code, answer.json()) == (400, {"error": "model is required"})


@pytest.mark.parametrize(
    ("path", "fields", "word"),
    [
        ("/api/chat", {"messages": "hi"}, "messages"),
        ("/api/chat", {"messages": USER, "options": {"temperature": -1}}, "temperature"),
        ("/api/chat", {"messages": USER, "options": {"num_predict": -3}}, "num_predict"),
        ("/api/chat", {"messages": USER, "options": {"mirostat": 2}}, "mirostat"),
        ("/api/chat", {"messages": USER, "options": {"temperature": "warm"}}, "options"),
        ("/api/chat", {"messages": USER, "format": "xml"}, "format"),
        ("/api/chat", {"messages": USER, "format": {"type": "nothing"}}, "format: "),
        ("/api/chat", {"messages": USER, "think": "a lot"}, "think"),
        ("/api/chat", {"messages": USER, "think": True}, "does not support thinking"),
        ("/api/chat", {"messages": USER, "keep_alive": "soon"}, "keep_alive"),
        ("/api/chat", {"messages": USER, "keep_alive": "1" * 50_000 + "x"}, "keep_alive"),  # at once
        ("/api/chat", {"messages": [{"role": "user", "content": "a", "images": ["iVBO"]}]}, "images"),
        ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [{"x": 1}]}]}, "tool call"),
        ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": 5}]}, "tool_calls must be a list"),
        ("/api/chat", {"messages": [{"role": "user", "content": "很长 " * 9000}]}, "maximum context length"),
        ("/api/chat", {"model": "tiny-embed", "messages": USER}, "embedding"),
        ("/api/chat", {"messages": USER, "options": {"stop": ["a"] * 65}}, "--max-stop-strings"),
        ("/api/generate", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/api/generate", {"prompt": "a", "images": ["iVBO"]}, "images"),
        ("/api/generate", {"prompt": "a", "context": [1, 2]}, "context"),
        ("/api/generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {"prompt": "a", "raw": True, "system": "b"}, "raw"),
        ("/api/embed", {"model": "tiny-chat", "input": "a"}, "chat"),
        ("/api/embed", {"model": "tiny-embed", "input": [1, 2]}, "input"),
        ("/api/embed", {"model": "tiny-embed", "input": ["a"] * 2049}, "--max-inputs"),
        ("/api/rerank", {"model": "tiny-rerank", "query": "a", "documents": []}, "documents"),
        ("/api/chat", {"messages": USER, "logprobs": True, "top_logprobs": 21}, "logprobs"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_wrong_requests(client: httpx.Client, path: str, fields: dict[str, Any], word: str, stream: bool) -> None:
    answer = client.post(path, json={"model": "tiny-chat", "stream": stream, **fields})
    assert answer.status_code == 400
    assert word in error_of(answer)


def test_other_errors_have_ollamas_shape(client: httpx.Client, key_url: str) -> None:
    broken = client.post("/api/chat", content=b"{nope")
    assert broken.status_code == 400 and "JSON" in error_of(broken)
    missing = client.post("/api/pull", json={"model": "llama3.2"})
    assert missing.status_code == 404 and "/api/chat" in error_of(missing)
    wrong = client.get("/api/chat")
    assert wrong.status_code == 405 and "POST" in error_of(wrong)
    assert "message" in client.post("/v1/chat/completions", json={}).json()["error"], "OpenAI's elsewhere"
    for path in ("/api/tags", "/api/version", "/"):
        refused = httpx.get(key_url + path)
        assert refused.status_code == 401
    assert isinstance(httpx.get(key_url + "/api/tags").json()["error"], str)
    headers = {"Authorization": "Bearer first-key"}
    assert httpx.get(key_url + "/api/tags", headers=headers).status_code == 200


def test_names_that_say_more(client: httpx.Client) -> None:
    """Where clients can set nothing but a name."""
    for name in ("tiny-chat:nothink", "tiny-chat:nothink:latest", "tiny-chat:latest"):
        answer = client.post("/api/chat", json={"model": name, "messages": USER, "stream": False, "options": GREEDY})
        assert answer.status_code == 200 and answer.json()["model"] == name
    for name in ("tiny-embed:query", "tiny-embed:document:latest"):
        assert client.post("/api/embed", json={"model": name, "input": "你好"}).json()["embeddings"]
    assert client.post("/api/embed", json={"model": "tiny-embed:7b", "input": "a"}).status_code == 404


def test_an_error_in_the_middle_of_a_stream_is_a_line() -> None:
    class Source:
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    async def events() -> AsyncGenerator[dict[str, Any], None]:
        yield {"response": "书", "done": False}
        raise StepError("the model failed on this batch")

    source = Source()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await LineStream(events(), source)(scope, receive, send)

    with running(app) as address:
        first, second = httpx.get(address).text.splitlines()
    assert json.loads(first)["response"] == "书"
    assert list(json.loads(second)) == ["error"] and isinstance(json.loads(second)["error"], str)
    assert source.closed


def test_posting_to_the_root_lists_the_routes(client: httpx.Client) -> None:
    answer = client.post("/", json={})
    assert answer.status_code == 404 and "/api/chat" in answer.json()["error"]["message"]
