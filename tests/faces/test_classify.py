"""classify and encode: transformers' probabilities, raw vectors and logits."""

import asyncio
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from carrel import LLM, AsyncLLM, PoolingParams
from carrel.classification import probabilities
from carrel.errors import ContextLengthError, InvalidParamsError, UnsupportedTaskError
from small_engine import SMALL

TEXTS = ["一个读者可以借几本书?", "The house stands on the hill.", "山上的房子😀", "a"]
LABELS = {"0": "好评", "1": "中评", "2": "差评"}


@pytest.fixture(scope="module")
def folder(tiny_models, tmp_path_factory):
    """A classifier whose labels have names."""
    folder = tmp_path_factory.mktemp("labels") / "classifier"
    shutil.copytree(tiny_models("bert-classifier"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": LABELS, "label2id": {name: int(key) for key, name in LABELS.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def classifier(folder, tiny_models):
    reranker, embedder = str(tiny_models("bert-reranker")), str(tiny_models("bert-mean"))
    with LLM(reranker, embedding_model=embedder, reranker_model=str(folder), **SMALL) as llm:
        yield llm


def theirs(folder) -> np.ndarray:
    """[len(TEXTS), num_labels] logits"""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return np.stack([model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in TEXTS])


def test_the_probabilities_are_those_of_transformers(classifier, folder):
    hosted = classifier.host.get(None, "classify")
    assert hosted.labels == ("好评", "中评", "差评")
    outputs = classifier.classify(TEXTS, use_tqdm=False)
    expected = torch.tensor(theirs(folder)).softmax(dim=-1).numpy()
    np.testing.assert_allclose([output.outputs.probs for output in outputs], expected, atol=1e-5)
    assert all(output.outputs.num_classes == 3 and output.finished for output in outputs)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert [output.prompt_token_ids for output in outputs] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_a_reranker_has_one_label_whose_probability_is_its_sigmoid(classifier, tiny_models):
    name = str(tiny_models("bert-reranker"))
    outputs = classifier.classify(TEXTS, model=name, use_tqdm=False)
    expected = torch.tensor(theirs(tiny_models("bert-reranker"))).sigmoid().numpy()
    np.testing.assert_allclose([output.outputs.probs for output in outputs], expected, atol=1e-5)


def test_ranking_is_left_to_rerankers(classifier, tiny_models):
    assert classifier.host.get(None, "rerank").key == str(tiny_models("bert-reranker"))
    assert len(classifier.rerank("书", TEXTS).results) == len(TEXTS)


@pytest.mark.parametrize(
    ("problem", "logits", "expected"),
    [
        (None, [0.0, np.log(3.0)], [0.25, 0.75]),
        ("single_label_classification", [900.0, -900.0], [1.0, 0.0]),
        ("multi_label_classification", [0.0, 900.0, -900.0], [0.5, 1.0, 0.0]),
        ("regression", [-2.5], [-2.5]),
        (None, [0.0], [0.5]),
    ],
)
def test_what_the_head_was_trained_for(problem, logits, expected):
    assert probabilities(np.array(logits, dtype=np.float32), problem) == pytest.approx(expected, abs=1e-6)


def test_encode_gives_raw_vectors_and_logits(classifier, folder, tiny_models):
    embedder = str(tiny_models("bert-mean"))
    raw = classifier.encode(TEXTS, model=embedder, use_tqdm=False)
    embedded = classifier.embed(TEXTS, PoolingParams(normalize=False), use_tqdm=False)
    unit = classifier.encode(TEXTS, PoolingParams(normalize=True), model=embedder, use_tqdm=False)
    for ours, expected, normed in zip(raw, embedded, unit, strict=True):
        np.testing.assert_allclose(ours.outputs.data, expected.outputs.embedding, atol=1e-6)
        assert np.linalg.norm(ours.outputs.data) != pytest.approx(1.0, abs=1e-2)
        assert np.linalg.norm(normed.outputs.data) == pytest.approx(1.0, abs=1e-5)
    logits = classifier.encode(TEXTS, model=str(folder), use_tqdm=False)
    np.testing.assert_allclose([output.outputs.data for output in logits], theirs(folder), atol=1e-5)


def test_coroutines_get_the_same(classifier, folder):
    shared = AsyncLLM(host=classifier.host)

    async def both():
        return await shared.classify(TEXTS), await shared.encode(TEXTS, model=str(folder), request_id="mine")

    classified, encoded = asyncio.run(both())
    expected = [output.outputs.probs for output in classifier.classify(TEXTS, use_tqdm=False)]
    np.testing.assert_allclose([output.outputs.probs for output in classified], expected, atol=1e-6)
    assert [output.request_id for output in encoded] == [f"mine-{i}" for i in range(4)]


def test_long_inputs_are_cut_only_when_that_is_asked_for(classifier):
    long = TEXTS[1] * 300
    with pytest.raises(ContextLengthError, match=r"Input 1: .*maximum context length"):
        classifier.classify(["a", long], use_tqdm=False)
    (output,) = classifier.classify(long, PoolingParams(truncate_prompt_tokens=-1), use_tqdm=False)
    assert output.truncated
    assert len(output.prompt_token_ids) == 512


def test_who_cannot_is_refused(classifier, llm):
    with pytest.raises(InvalidParamsError, match="gives logits, not vectors, so dimensions says nothing") as raised:
        classifier.classify(TEXTS, PoolingParams(dimensions=2), use_tqdm=False)
    assert raised.value.param == "dimensions"
    embedder = llm.host.get(None, "embedding").key
    with pytest.raises(UnsupportedTaskError, match="is a model for embedding, not for classify"):
        llm.classify(TEXTS, model=embedder, use_tqdm=False)
    with pytest.raises(UnsupportedTaskError, match="is a model for chat, not for pooling"):
        llm.encode(TEXTS, model=llm.host.get(None, "chat").key, use_tqdm=False)
