"""Embedders against sentence-transformers' encode, cross-encoders against its CrossEncoder: fp32, same token ids."""

import numpy as np
import pytest
import torch
from carrel.errors import InvalidParamsError
from carrel.models.config import ModelConfig
from driving import open_runner, pooling_item
from sentence_transformers import CrossEncoder, SentenceTransformer
from starter_files import minilm_folder
from transformers import AutoTokenizer

EMBEDDERS = ["bert-mean", "bert-cls", "bert-mean-max", "roberta-dense", "xlmr-prompts", "xlmr-weighted", "qwen3-last"]
RERANKERS = ["bert-reranker", "roberta-reranker", "xlmr-reranker", "bert-classifier"]
TEXTS = [
    "A carrel is a small desk in a library.",
    "图书馆的阅览室里有一张小书桌,读者可以安静地看书。",
    "books",
    "naïve café 😀 " * 20,
    "How many books can a reader borrow?",
    "山上的房子旁边有一条河",
]


def encode(runner, folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = runner.config.max_model_len
    ids = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    return runner.execute([pooling_item(row) for row in ids])


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def assert_same_vectors(ours, theirs):
    vectors = np.stack([result.pooled for result in ours])
    assert vectors.dtype == np.float32
    assert vectors.shape == theirs.shape
    assert cosine(vectors, theirs).min() > 1 - 1e-5
    np.testing.assert_allclose(vectors, theirs, atol=1e-4)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings_match_sentence_transformers(tiny_models, name):
    folder = tiny_models(name)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    runner = open_runner(folder)
    assert runner.config.embedding_dim == theirs.shape[1]
    assert_same_vectors(encode(runner, folder, TEXTS), theirs)


def test_real_minilm_matches_sentence_transformers():
    folder = minilm_folder()
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert_same_vectors(encode(open_runner(folder), folder, TEXTS), theirs)


def test_prompts_are_read_and_do_what_sentence_transformers_does(tiny_models):
    folder = tiny_models("xlmr-prompts")
    runner = open_runner(folder)
    prompt = runner.config.pooling.prompts["query"]
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt_name="query")
    assert_same_vectors(encode(runner, folder, [prompt + text for text in TEXTS]), theirs)


@pytest.mark.parametrize("name", ["bert-mean", "roberta-dense", "xlmr-prompts"])
def test_folders_written_by_todays_sentence_transformers(tiny_models, tmp_path, name):
    """Newer versions spell modules.json and 1_Pooling/config.json in another way."""
    model = SentenceTransformer(str(tiny_models(name)), device="cpu")
    model.save(str(tmp_path / "saved"))
    old, new = ModelConfig.from_folder(tiny_models(name)), ModelConfig.from_folder(tmp_path / "saved")
    assert new.pooling.modes == old.pooling.modes
    assert new.pooling.prompts == model.prompts
    runner = open_runner(tmp_path / "saved")
    assert_same_vectors(encode(runner, tmp_path / "saved", TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("name", RERANKERS)
def test_scores_match_cross_encoder(tiny_models, name):
    folder = tiny_models(name)
    pairs = [("几本书?", text) for text in TEXTS] + [("who reads in peace", text) for text in TEXTS]
    model = CrossEncoder(str(folder), device="cpu")
    theirs = model.predict(pairs, activation_fn=torch.nn.Identity()).reshape(len(pairs), -1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer(query, text, truncation=True, max_length=512) for query, text in pairs]
    runner = open_runner(folder)
    results = runner.execute([pooling_item(row["input_ids"], row.get("token_type_ids")) for row in encoded])
    ours = np.stack([result.pooled for result in results])
    assert runner.config.num_labels == ours.shape[1]
    assert np.ptp(theirs, axis=0).min() > 1e-3, "equal scores would prove nothing"
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["bert-mean", "xlmr-prompts", "qwen3-last"])
def test_batched_is_alone(tiny_models, name):
    folder = tiny_models(name)
    runner = open_runner(folder)
    together = [result.pooled for result in encode(runner, folder, TEXTS)]
    alone = [encode(runner, folder, [text])[0].pooled for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_one_batch_may_hold_different_wishes(tiny_models):
    runner = open_runner(tiny_models("bert-mean"))
    wishes = [{}, {"dimensions": 8}, {"normalize": False}, {"dimensions": 8, "normalize": False}, {}]
    items = [pooling_item([2, 50 + index, 60, 3], None, **wish) for index, wish in enumerate(wishes)]
    for item, result in zip(items, runner.execute(items), strict=True):
        np.testing.assert_allclose(result.pooled, runner.execute([item])[0].pooled, atol=1e-6)


def test_segments_of_a_pair_do_not_matter_to_roberta(tiny_models):
    runner = open_runner(tiny_models("roberta-reranker"))
    plain, segmented = runner.execute([pooling_item([0, 9, 2, 2, 8, 2], types) for types in (None, [0, 0, 0, 1, 1, 1])])
    np.testing.assert_allclose(plain.pooled, segmented.pooled, atol=1e-6)


def test_dimensions_cut_first_and_normalise_after(tiny_models):
    runner = open_runner(tiny_models("bert-mean"))
    whole, cut, raw = (
        runner.execute([pooling_item([2, 50, 60, 3], None, **params)])[0].pooled
        for params in ({}, {"dimensions": 8}, {"dimensions": 8, "normalize": False})
    )
    assert cut.shape == (8,)
    np.testing.assert_allclose(np.linalg.norm(cut), 1.0, atol=1e-6)
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), cut, atol=1e-6)


def test_too_many_dimensions_fail_that_request_alone(tiny_models):
    runner = open_runner(tiny_models("bert-mean"))
    bad, good = runner.execute([pooling_item([2, 50, 3], None, dimensions=49), pooling_item([2, 50, 3])])
    assert isinstance(bad.error, InvalidParamsError)
    assert bad.error.param == "dimensions"
    assert good.pooled.shape == (48,)


@pytest.mark.parametrize("name", ["bert-mean", "bert-reranker"])
def test_a_vector_that_is_not_finite_fails_its_own_request(tiny_models, name):
    runner = open_runner(tiny_models(name))
    with torch.inference_mode():
        runner.model.embeddings.word.weight[77] = torch.nan
    bad, good = runner.execute([pooling_item([2, 77, 3]), pooling_item([2, 50, 3])])
    assert "not finite" in str(bad.error)
    assert bad.pooled is None
    assert np.isfinite(good.pooled).all()


def test_bf16_stays_close_to_fp32(tiny_models):
    folder = tiny_models("bert-bf16")
    exact, close = (encode(open_runner(folder, dtype=dtype), folder, TEXTS) for dtype in ("float32", "bfloat16"))
    for a, b in zip(exact, close, strict=True):
        assert cosine(a.pooled, b.pooled) > 0.999
