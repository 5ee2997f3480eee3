"""The HTTP way in: what goes wrong on the way, what is sent again, what a user is told. Real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from adapter_helpers import API_KEY
from carrel_client import ServerError, ServerRefusedError, ServerUnreachableError
from langchain_carrel import CarrelEmbeddings, CarrelRerank, ChatCarrel

Answer = tuple[int, bytes]
BUSY: Answer = (503, b'{"error": {"message": "the queue is full", "code": 503}}')
ANSWER = {
    "model": "tiny",
    "choices": [{"message": {"content": "五本。"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
GOOD: Answer = (200, json.dumps(ANSWER).encode())


@contextmanager
def server_that_answers(*answers: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Gives these answers in turn, then the last one for ever; the list holds the bodies that came."""
    left, bodies = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, content = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
        server.shutdown()
        thread.join()


async def test_a_busy_server_is_asked_again() -> None:
    with server_that_answers(BUSY, GOOD, BUSY, GOOD) as (url, bodies):
        async with ChatCarrel(base_url=url, model="tiny", max_retries=1) as chat:
            assert chat.invoke("几本书?").text == "五本。"
            assert (await chat.ainvoke("几本书?")).text == "五本。"
    assert len(bodies) == 4


async def test_a_server_that_stays_busy_is_told_with_its_words() -> None:
    with server_that_answers(BUSY) as (url, bodies):
        async with ChatCarrel(base_url=url, model="tiny", max_retries=1) as chat:
            with pytest.raises(ServerError, match="the queue is full") as caught:
                chat.invoke("几本书?")
            with pytest.raises(ServerError, match="the queue is full"):
                await chat.ainvoke("几本书?")
    assert caught.value.status == 503
    assert len(bodies) == 4


def test_a_wrong_request_is_not_sent_again() -> None:
    refusal = (400, b'{"error": {"message": "prompt is empty", "code": "empty"}}')
    with server_that_answers(refusal) as (url, bodies), ChatCarrel(base_url=url, model="tiny") as chat:
        with pytest.raises(ServerRefusedError, match="prompt is empty") as caught:
            chat.invoke("")
        assert (caught.value.status, caught.value.code) == (400, "empty")
        assert isinstance(caught.value, ValueError)
    assert len(bodies) == 1


@pytest.mark.parametrize("answer", [(500, b"<html>proxy</html>"), (200, b"not json"), (500, b"[]")])
def test_an_answer_that_is_not_carrels_is_shown(answer: Answer) -> None:
    with (
        server_that_answers(answer) as (url, _),
        ChatCarrel(base_url=url, model="tiny") as chat,
        pytest.raises(ServerError, match="The server answered status"),
    ):
        chat.invoke("你好")


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    half = b'data: {"model": "m", "choices": [{"delta": {"content": "\xe4\xba\x94"}, "finish_reason": null}]}\n\n'
    with server_that_answers((200, half)) as (url, bodies):
        async with ChatCarrel(base_url=url, model="tiny") as chat:
            with pytest.raises(ServerUnreachableError, match="broke the answer off"):
                list(chat.stream("几本书?"))
            with pytest.raises(ServerUnreachableError, match="broke the answer off"):
                [chunk async for chunk in chat.astream("几本书?")]
    assert bodies[0]["stream_options"] == {"include_usage": True}


async def test_a_stream_that_is_refused_has_the_servers_words() -> None:
    with server_that_answers(BUSY) as (url, _):
        async with ChatCarrel(base_url=url, model="tiny") as chat:
            with pytest.raises(ServerError, match="the queue is full"):
                list(chat.stream("几本书?"))
            with pytest.raises(ServerError, match="the queue is full"):
                [chunk async for chunk in chat.astream("几本书?")]


async def test_nobody_there_says_what_to_do() -> None:
    async with ChatCarrel(base_url="http://127.0.0.1:1", model="tiny", max_retries=0) as chat:
        with pytest.raises(ServerUnreachableError, match="is `carrel serve` running there"):
            chat.invoke("你好")
        with pytest.raises(ServerUnreachableError, match="is `carrel serve` running there"):
            await chat.ainvoke("你好")


def test_only_what_was_set_is_sent() -> None:
    with server_that_answers(GOOD) as (url, bodies), ChatCarrel(base_url=url, model="tiny", temperature=0) as chat:
        chat.invoke("几本书?", stop=["。"], chat_template_kwargs={"enable_thinking": False})
    assert bodies[0] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "几本书?"}],
        "temperature": 0.0,
        "stop": ["。"],
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_plain_float_vectors_are_read_and_put_in_order() -> None:
    rows = [{"index": 1, "embedding": [0.5, 1.0]}, {"index": 0, "embedding": [0.25, 0.0]}]
    answer = (200, json.dumps({"data": rows}).encode())
    with server_that_answers(answer) as (url, _), CarrelEmbeddings(base_url=url, model="tiny") as embeddings:
        assert embeddings.embed_documents(["甲", "乙"]) == [[0.25, 0.0], [0.5, 1.0]]


async def test_many_texts_go_in_several_requests() -> None:
    """A server takes 2048 texts at once: OpenAI's, and carrel's own unless it is told otherwise."""

    def vectors(count: int, offset: float) -> Answer:
        rows = [{"index": index, "embedding": [offset + index]} for index in range(count)]
        return 200, json.dumps({"data": rows}).encode()

    texts = [f"第{number}段" for number in range(2050)]
    first, last = vectors(2048, 0.0), vectors(2, 2048.0)
    with server_that_answers(first, last, first, last) as (url, bodies):
        async with CarrelEmbeddings(base_url=url, model="tiny") as embeddings:
            assert embeddings.embed_documents(texts) == [[float(number)] for number in range(2050)]
            assert await embeddings.aembed_documents(texts) == [[float(number)] for number in range(2050)]
    assert [body["input"] for body in bodies] == [texts[:2048], texts[2048:]] * 2


# Against carrel's own server


@pytest.mark.parametrize("url_of", ["{}", "{}/", "{}/v1", "{}/v1/"])
def test_the_base_url_may_end_as_it_likes(server_url: str, url_of: str) -> None:
    with ChatCarrel(base_url=url_of.format(server_url), api_key=API_KEY, max_tokens=2) as chat:
        assert chat.invoke("你好").usage_metadata is not None


@pytest.mark.parametrize("adapter", [ChatCarrel, CarrelEmbeddings, CarrelRerank])
def test_a_wrong_key_is_told(server_url: str, adapter: type[Any]) -> None:
    with adapter(base_url=server_url, api_key="wrong") as made, pytest.raises(ServerRefusedError) as caught:
        made.model_info() if adapter is ChatCarrel else made._connection.open().info(made.task, None)
    assert caught.value.status == 401


def test_a_wrong_name_lists_the_right_ones(server_url: str) -> None:
    with ChatCarrel(base_url=server_url, api_key=API_KEY, model="no-such-model") as chat:
        with pytest.raises(ServerRefusedError, match="qwen2") as caught:
            chat.invoke("你好")
        assert caught.value.status == 404


def test_one_adapter_serves_many_event_loops(server_url: str) -> None:
    chat = ChatCarrel(base_url=server_url, api_key=API_KEY, max_tokens=2, temperature=0)

    async def ask() -> str:
        return (await chat.ainvoke("你好")).text

    assert asyncio.run(ask()) == asyncio.run(ask())
    chat.close()
