"""Carrel as a LlamaIndex LLM against a real engine, in process and over HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapter_helpers import API_KEY, await_until, in_flight, wait_until
from carrel import LLM, AsyncLLM
from carrel.errors import ModelNotFoundError
from carrel_client import ServerRefusedError
from carrel_server.app import create_app
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import LLM as LlamaIndexLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.carrel import Carrel
from server_threads import running
from tiny_models import TinyModels

QUESTION = "一个读者可以借几本书?"
MESSAGES = [ChatMessage("简短回答。", role=MessageRole.SYSTEM), ChatMessage(QUESTION)]


def carrel(way_in: dict[str, Any], **options: Any) -> Carrel:
    return Carrel(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **way_in, **options})


def check_stream(responses: list[ChatResponse] | list[CompletionResponse], whole: str) -> None:
    """The message is all so far, the delta what is new, and counts come once, at the end."""
    text = ""
    for response in responses:
        assert response.delta is not None
        text += response.delta
        so_far = response.message.content if isinstance(response, ChatResponse) else response.text
        assert (so_far or "") == text
    assert text == whole
    assert [response.raw is not None for response in responses] == [False] * (len(responses) - 1) + [True]
    assert responses[-1].delta == ""
    assert responses[-1].raw is not None
    assert responses[-1].raw["usage"]["completion_tokens"] == 12


async def test_chat_in_four_ways(way_in: dict[str, Any]) -> None:
    async with carrel(way_in) as llm:
        whole = llm.chat(MESSAGES)
        assert whole.message.role == MessageRole.ASSISTANT
        assert whole.message.content
        assert whole.delta is None
        assert (await llm.achat(MESSAGES)).message.content == whole.message.content
        check_stream(list(llm.stream_chat(MESSAGES)), whole.message.content)
        check_stream([r async for r in await llm.astream_chat(MESSAGES)], whole.message.content)


@pytest.mark.parametrize("formatted", [False, True])
async def test_complete_in_four_ways(way_in: dict[str, Any], formatted: bool) -> None:
    async with carrel(way_in) as llm:
        whole = llm.complete(QUESTION, formatted=formatted)
        assert whole.text
        assert (await llm.acomplete(QUESTION, formatted=formatted)).text == whole.text
        check_stream(list(llm.stream_complete(QUESTION, formatted=formatted)), whole.text)
        check_stream([r async for r in await llm.astream_complete(QUESTION, formatted=formatted)], whole.text)


def test_a_completion_is_a_user_message_and_a_formatted_one_goes_as_it_is(way_in: dict[str, Any], llm: LLM) -> None:
    with carrel(way_in) as model:
        chat = model.chat([ChatMessage(QUESTION)])
        assert model.complete(QUESTION).raw == chat.raw
        prompt = llm.host.get(None, "chat").chat_template.render([{"role": "user", "content": QUESTION}])  # type: ignore[union-attr]
        assert model.complete(prompt, formatted=True).text == chat.message.content


def test_a_model_without_a_chat_template_gets_text(tiny_models: TinyModels, tmp_path: Path) -> None:
    """In process and over HTTP alike: LlamaIndex writes the conversation out."""
    folder = shutil.copytree(tiny_models("qwen2"), tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with (
        LLM(str(folder)) as base,
        running(create_app(AsyncLLM(host=base.host))) as url,
        carrel({"llm": base}) as near,
        carrel({"base_url": url}) as far,
    ):
        assert not near.metadata.is_chat_model and not far.metadata.is_chat_model
        assert far.chat(MESSAGES).message.content == near.chat(MESSAGES).message.content
        assert far.complete(QUESTION).text == near.complete(QUESTION).text


def test_counts_reach_llama_indexs_token_counter(way_in: dict[str, Any]) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    with carrel(way_in, callback_manager=CallbackManager([counter])) as llm:
        usage = llm.chat(MESSAGES).raw["usage"]
    assert counter.total_llm_token_count == usage["total_tokens"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]


def test_metadata_is_the_models(way_in: dict[str, Any], llm: LLM) -> None:
    with carrel(way_in) as model:
        metadata = model.metadata
        assert metadata.context_window == llm.host.get(None, "chat").max_model_len
        assert metadata.num_output == 12
        assert metadata.is_chat_model
        assert not metadata.is_function_calling_model
        assert metadata.model_name in llm.host.get(None, "chat").names
        assert isinstance(model, LlamaIndexLLM)
    with carrel(way_in, max_tokens=None) as model:
        assert 0 < model.metadata.num_output <= model.metadata.context_window // 4


def test_a_prompt_template_runs(way_in: dict[str, Any]) -> None:
    with carrel(way_in) as llm:
        assert llm.predict(PromptTemplate("回答:{question}"), question=QUESTION)
        assert "".join(llm.stream(PromptTemplate("回答:{question}"), question=QUESTION))


def test_tokenize_is_the_models_own(way_in: dict[str, Any], llm: LLM) -> None:
    with carrel(way_in) as model:
        assert model.tokenize(QUESTION) == llm.get_tokenizer().encode(QUESTION, add_special_tokens=False)


async def test_cancelling_and_leaving_abort_in_the_engine(way_in: dict[str, Any], llm: LLM) -> None:
    async with carrel(way_in, max_tokens=1900) as model:
        before = llm.host.stats().num_steps
        task = asyncio.create_task(model.acomplete("一直说下去"))
        await await_until(lambda: in_flight(llm) > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await await_until(lambda: in_flight(llm) == 0)
        stream = model.stream_complete("一直说下去")
        next(stream)
        stream.close()
        wait_until(lambda: in_flight(llm) == 0)
        assert llm.host.stats().num_steps - before < 2 * 1900


def test_unknown_options_are_refused(llm: LLM) -> None:
    model = carrel({"llm": llm})
    with pytest.raises(ValueError, match="Unknown option num_beams"):
        model.complete(QUESTION, num_beams=2)


# Over HTTP alone


def test_from_server_reads_what_the_server_has(server_url: str, llm: LLM, model_folders: dict[str, str]) -> None:
    with Carrel.from_server(server_url, api_key=API_KEY, max_tokens=4, temperature=0) as model:
        hosted = llm.host.get(None, "chat")
        assert model.model in hosted.names
        assert model.context_window == hosted.max_model_len
        assert model.complete(QUESTION).raw["model"] in hosted.names
    name = Path(model_folders["chat"]).name
    with Carrel.from_server(server_url, api_key=API_KEY, model=name) as model:
        assert model.model == name


def test_from_server_names_the_models_when_one_is_missing(server_url: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no chat model 'no-such-model'; it has: .*qwen2"):
        Carrel.from_server(server_url, api_key=API_KEY, model="no-such-model")
    with pytest.raises(ServerRefusedError) as caught:
        Carrel.from_server(server_url, api_key="wrong")
    assert caught.value.status == 401


def test_a_text_completion_over_http_needs_a_limit(server_url: str) -> None:
    with (
        pytest.raises(ValueError, match="set max_tokens"),
        Carrel(base_url=server_url, api_key=API_KEY) as model,
    ):
        model.complete(QUESTION, formatted=True)
