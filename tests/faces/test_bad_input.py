"""Each wrong input gives one clear error that says what to do, at once, and the engine goes on."""

from __future__ import annotations

import json
import shutil

import pytest
from carrel import LLM, PoolingParams, SamplingParams
from carrel.errors import (
    ChatTemplateError,
    ContextLengthError,
    InvalidParamsError,
    ModelNotFoundError,
    RequestError,
    UnsupportedModelError,
    UnsupportedTaskError,
    WeightsError,
)
from safetensors.torch import load_file, save_file
from small_engine import SMALL


@pytest.fixture
def copy(tiny_models, tmp_path):
    """A model folder to damage."""
    return shutil.copytree(tiny_models("qwen2"), tmp_path / "model")


# Models.


def test_unknown_model_names():
    with pytest.raises(ModelNotFoundError, match=r"no model 'nobody/nothing'.*HF_HUB_OFFLINE.*starter/reader"):
        LLM("nobody/nothing")
    with pytest.raises(ModelNotFoundError, match="Did you mean 'starter/reader'"):
        LLM("starter/raeder")
    with pytest.raises(ModelNotFoundError, match=r"no folder '\./nowhere'.*path of a model folder"):
        LLM("./nowhere")


def test_a_file_instead_of_a_folder(copy):
    with pytest.raises(UnsupportedModelError, match="is a file"):
        LLM(str(copy / "model.safetensors"))


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="safetensors"):
        LLM(str(copy), **SMALL)


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        LLM(str(tmp_path))


def test_pickled_weights_are_never_read(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickle"):
        LLM(str(copy), **SMALL)


def test_weights_that_do_not_fit(copy):
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(WeightsError, match="norm"):
        LLM(str(copy), **SMALL)


def test_an_unsupported_architecture(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(UnsupportedModelError, match=r"MambaForCausalLM.*Qwen2ForCausalLM"):
        LLM(str(copy), **SMALL)


def test_a_chat_model_for_embeddings(tiny_models):
    with pytest.raises(UnsupportedModelError, match="is a chat model by its files"):
        LLM(embedding_model=str(tiny_models("qwen2")), **SMALL)


def test_the_same_name_twice(tiny_models):
    folder = str(tiny_models("bert-mean"))
    with pytest.raises(InvalidParamsError, match="Several models are named"):
        LLM(embedding_model=folder, reranker_model=folder, **SMALL)


def test_more_context_than_the_model_has(tiny_models):
    with pytest.raises(InvalidParamsError, match="max_model_len=9999 is more than the 2048 tokens"):
        LLM(str(tiny_models("qwen2")), max_model_len=9999, **SMALL)


def test_options_that_do_not_exist(llm):
    with pytest.raises(TypeError, match="tensor_parallel"):
        LLM("starter/reader", tensor_parallel=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="top_k"):
        llm.generate("a", top_k=5)
    with pytest.raises(UnsupportedModelError, match="trust_remote_code"):
        LLM("starter/reader", trust_remote_code=True)
    with pytest.raises(InvalidParamsError, match="chat_template needs a model"):
        LLM(chat_template="{{ messages }}")


# Requests.


def test_models_that_are_not_hosted(llm):
    with pytest.raises(ModelNotFoundError, match=r"no model 'gpt-4' here. Hosted: .*qwen2 \(chat\).*\(rerank\)"):
        llm.generate("a", model="gpt-4")
    with pytest.raises(UnsupportedTaskError, match="is a model for chat, not for embedding"):
        llm.embed("a", model="qwen2")
    with pytest.raises(UnsupportedTaskError, match="is a model for embedding, not for chat"):
        llm.generate("a", model="bert-mean")


def test_no_model_for_a_task(tiny_models):
    with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
        with pytest.raises(UnsupportedTaskError, match="No model for embedding is hosted"):
            llm.embed("a")
        with pytest.raises(UnsupportedTaskError, match="No model for rerank is hosted"):
            llm.rerank("a", ["b"])


def test_a_prompt_longer_than_the_context(llm):
    with pytest.raises(ContextLengthError, match=r"maximum context length is 2048 tokens.*2048 tokens") as caught:
        llm.generate([[5] * 2048], SamplingParams(max_tokens=None))
    assert (caught.value.num_tokens, caught.value.max_model_len) == (2048, 2048)
    with pytest.raises(ContextLengthError, match=r"maximum context length is 2048 tokens.*2050.*2000.*50") as caught:
        llm.generate([[5] * 2000], SamplingParams(max_tokens=50))
    assert caught.value.param == "max_tokens"
    with pytest.raises(ContextLengthError):
        llm.chat([{"role": "user", "content": "图书馆" * 2000}])


@pytest.mark.parametrize("prompt", ["", [], [[]], {"prompt_token_ids": []}])
def test_empty_prompts(llm, prompt):
    with pytest.raises(RequestError, match="empty"):
        llm.generate(prompt)


@pytest.mark.parametrize(
    "prompt", [[-1], [1.5], [True], [10**9], [None], 7, {"text": "a"}, [{"prompt": 5}], [object()]]
)
def test_prompts_that_are_none(llm, prompt):
    with pytest.raises(RequestError):
        llm.generate(prompt)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": 99}, "logprobs"),
    ],
)
def test_parameters_out_of_range(params, name):
    with pytest.raises(InvalidParamsError) as caught:
        SamplingParams(**params)
    assert caught.value.param == name
    assert name in str(caught.value)


def test_more_tokens_at_least_than_there_is_room_for(llm):
    with pytest.raises(InvalidParamsError, match="min_tokens must be at most 48"):
        llm.generate([[5] * 2000], SamplingParams(max_tokens=None, min_tokens=100))


def test_parameters_that_do_not_match_the_prompts(llm):
    with pytest.raises(RequestError, match="3 prompts and 2 sampling_params"):
        llm.generate(["a", "b", "c"], [SamplingParams(), SamplingParams()])


def test_rerank_and_score_without_texts(llm):
    with pytest.raises(RequestError, match="at least one document"):
        llm.rerank("书", [])
    with pytest.raises(RequestError, match="not one string"):
        llm.rerank("书", "一本书")
    with pytest.raises(InvalidParamsError, match="top_n must be at least 1"):
        llm.rerank("书", ["a"], top_n=-1)
    with pytest.raises(InvalidParamsError, match="max_tokens_per_doc"):
        llm.rerank("书", ["a"], max_tokens_per_doc=0)
    with pytest.raises(RequestError, match="nothing to score"):
        llm.score("书", [])
    with pytest.raises(RequestError, match="1 with n texts or n with n, not 2 with 3"):
        llm.score(["a", "b"], ["c", "d", "e"])
    with pytest.raises(RequestError, match="give strings"):
        llm.rerank("书", ["a", 5])


def test_an_empty_list_of_inputs(llm):
    with pytest.raises(RequestError, match="the list is empty"):
        llm.embed([])
    with pytest.raises(InvalidParamsError, match="truncate_prompt_tokens"):
        llm.embed("a", PoolingParams(truncate_prompt_tokens=0))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must not be empty"),
        ([{"content": "a"}], r"messages\[0\] must be an object with a role"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content must be a string"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "'image_url'; only text"),
        ([{"role": "assistant", "tool_calls": [{}]}], "without a function name"),
    ],
)
def test_messages_that_are_none(llm, messages, message):
    with pytest.raises(RequestError, match=message):
        llm.chat(messages)


def test_template_arguments_that_are_set_elsewhere(llm):
    with pytest.raises(InvalidParamsError, match="must not hold messages, tools"):
        llm.chat([{"role": "user", "content": "a"}], chat_template_kwargs={"tools": [], "messages": [], "x": 1})


def test_messages_that_the_template_refuses(tiny_models):
    with LLM(str(tiny_models("mistral")), **SMALL) as llm:
        with pytest.raises(ChatTemplateError, match="roles must alternate"):
            llm.chat([{"role": "assistant", "content": "a"}])
        assert llm.chat([{"role": "user", "content": "你好"}], use_tqdm=False)


def test_a_chat_model_without_a_template(copy):
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        path = copy / name
        if path.exists():
            content = path.read_text()
            path.unlink()
            if name.endswith(".json"):
                path.write_text(json.dumps({k: v for k, v in json.loads(content).items() if k != "chat_template"}))
    with LLM(str(copy), **SMALL) as llm:
        with pytest.raises(ChatTemplateError, match="--chat-template"):
            llm.chat([{"role": "user", "content": "a"}])
        assert llm.generate("a", use_tqdm=False)
    with pytest.raises(ChatTemplateError, match=r"not valid Jinja.*--chat-template"):
        LLM(str(copy), chat_template="{% for %}", **SMALL)


def test_a_request_that_the_cache_can_never_hold(tiny_models):
    with LLM(str(tiny_models("qwen2")), max_num_seqs=4, kv_cache_memory_bytes=1 << 20) as llm:
        limit = llm.host.get(None, "chat").max_model_len
        assert limit < 2048  # the smaller of what the model and the cache can hold
        with pytest.raises(ContextLengthError, match=f"maximum context length is {limit} tokens"):
            llm.generate([[5] * limit], use_tqdm=False)


def test_megabytes_are_refused_before_they_are_tokenized(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llm.get_tokenizer()), "encode", lambda *_, **__: pytest.fail("tokenized"))
    for call in (llm.generate, lambda text: llm.chat([{"role": "user", "content": text}])):
        with pytest.raises(ContextLengthError, match=r"maximum context length.* characters"):
            call("很长的一句话。" * 500_000)
