"""Ids and texts are those of transformers; nothing is cut or padded unless asked; any thread may call."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import small_tokenizers
from carrel.errors import RequestError, UnsupportedModelError, WeightsError
from carrel.tokenizer import Tokenizer
from transformers import AutoTokenizer

SAMPLES = [
    "Hello, world!  It doesn't matter.",
    "你好，世界！检索增强生成。",
    "emoji 🎉👩‍💻 é à <|im_start|>user\n",
    "",
    " leading and trailing ",
    "don ' t . we 've , seen ? it !",
]


@pytest.mark.parametrize("kind", small_tokenizers.KINDS)
@pytest.mark.parametrize("text", SAMPLES)
def test_ids_and_texts_are_those_of_transformers(tokenizer_folders, tokenizers, kind, text):
    theirs = AutoTokenizer.from_pretrained(tokenizer_folders[kind])
    ours = tokenizers[kind]
    for special in (True, False):
        ids = theirs(text, add_special_tokens=special)["input_ids"]
        assert ours.encode(text, add_special_tokens=special) == ids
        assert ours.encode_batch([text], add_special_tokens=special) == [ids]
        assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(ids, skip_special_tokens=special)


def test_released_tokenizers_agree_with_transformers(real_tokenizer_folders):
    for folder in real_tokenizer_folders.values():
        theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.from_folder(folder)
        for text in SAMPLES:
            if text.startswith(" ") and type(theirs).__name__ == "LlamaTokenizer":
                continue  # transformers 5 rebuilds it and loses the leading space; the file and SentencePiece keep it
            ids = theirs(text)["input_ids"]
            assert ours.encode(text) == ids, folder.name
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), folder.name
            pair = theirs(text, "文档 document")
            assert ours.encode_pair(text, "文档 document")[0] == pair["input_ids"], folder.name


@pytest.mark.parametrize("bos", [True, False, None])
@pytest.mark.parametrize("fast_file", [True, False])
def test_bos_and_eos_are_added_where_transformers_adds_them(tmp_path, bos, fast_file):
    """tokenizer.json decides; only without it the flags of the config do."""
    flags = {} if bos is None else {"add_bos_token": bos, "add_eos_token": not bos}
    folder = small_tokenizers.save("byte_fallback", tmp_path, **flags)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if not fast_file:
        state = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(state["vocab"]))
        merges = "\n".join(" ".join(pair) for pair in state["merges"])
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
        (folder / "tokenizer_config.json").write_text(
            json.dumps(small_tokenizers.KINDS["byte_fallback"][1] | flags | {"tokenizer_class": "LlamaTokenizer"})
        )
    ids = AutoTokenizer.from_pretrained(folder)("你好 hi")["input_ids"]
    assert Tokenizer.from_folder(folder).encode("你好 hi") == ids


def test_limits_baked_into_the_file_do_not_cut_or_pad(tmp_path):
    folder = small_tokenizers.save("word_piece", tmp_path)
    tokenizer = small_tokenizers.word_piece()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = Tokenizer.from_folder(folder).encode("the quick brown fox")
    assert len(ids) > 4
    assert 0 not in ids


def test_cutting_keeps_the_special_tokens_and_the_whole_query(tokenizers):
    tokenizer = tokenizers["word_piece"]
    whole = tokenizer.encode("the quick brown fox jumps over")
    cut = tokenizer.encode("the quick brown fox jumps over", max_length=5)
    assert cut == [*whole[:4], whole[-1]]
    query = tokenizer.encode("the fox", add_special_tokens=False)
    ids, types = tokenizer.encode_pair("the fox", "the lazy dog jumps over the quick fox", max_length=len(query) + 5)
    assert len(ids) == len(query) + 5
    assert ids[: len(query) + 2] == [2, *query, 3]
    assert types == [0] * (len(query) + 2) + [1, 1, 1]


def test_a_query_that_leaves_no_room_is_refused(tokenizers):
    with pytest.raises(RequestError, match="no room for a document"):
        tokenizers["word_piece"].encode_pair("the quick brown fox " * 5, "dog", max_length=12)


def test_half_a_surrogate_pair_is_a_clear_error(tokenizers):
    with pytest.raises(RequestError, match="not valid Unicode"):
        tokenizers["byte_level"].encode("bad \ud83c text")
    with pytest.raises(RequestError, match="must be a string, got int"):
        tokenizers["byte_level"].encode_batch(["fine", 3])


def test_added_tokens_of_the_config_are_special(tmp_path):
    added = {"404": {"content": "<|工具|>", "special": True}, "405": {"content": "<plain>", "special": False}}
    folder = small_tokenizers.save("byte_level", tmp_path, added_tokens_decoder=added)
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.from_folder(folder)
    ids = theirs("a<|工具|>b<plain>")["input_ids"]
    assert ours.encode("a<|工具|>b<plain>") == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "ab<plain>"
    assert ours.token_to_id("<|工具|>") in ours.special_ids


def test_token_bytes_join_to_the_text(tokenizers):
    text = "你好 🎉 café"
    for kind in ("byte_level", "byte_fallback"):
        ids = tokenizers[kind].encode(text, add_special_tokens=False)
        assert b"".join(map(tokenizers[kind].token_bytes, ids)).decode().strip() == text


def test_many_threads_share_one_tokenizer(tokenizers):
    tokenizer = tokenizers["byte_level"]
    texts = [f"{i} 号文档 about foxes" * 20 for i in range(64)]
    expected = [tokenizer.encode(text) for text in texts]
    with ThreadPoolExecutor(16) as pool:
        cut = list(pool.map(lambda text: tokenizer.encode(text, max_length=7), texts))
        assert list(pool.map(tokenizer.encode, texts)) == expected
    assert cut == [ids[:7] for ids in expected]


@pytest.mark.parametrize("kind", small_tokenizers.KINDS)
def test_long_texts_are_read_as_short_ones_are(tokenizers, kind):
    """They take another way through the backend."""
    tokenizer, text = tokenizers[kind], "馆藏 The quick brown fox. \n" * 200
    ids = tokenizer.encode(text)
    assert ids == list(tokenizer.backend.encode(text).ids)
    assert tokenizer.decode_raw(ids) == tokenizer.backend.decode(ids)
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.encode(text + "\ud800")


def test_a_long_text_does_not_stop_other_threads(tokenizers):
    """An event loop among them: a prompt of a megabyte must not hold its streams up."""
    tokenizer, text = tokenizers["byte_level"], "馆藏 The quick brown fox. " * 20_000
    seconds: list[float] = []

    def encode() -> None:
        time.sleep(0.05)  # until the other thread watches
        start = time.thread_time()
        tokenizer.encode(text)
        seconds.append(time.thread_time() - start)

    thread, naps = threading.Thread(target=encode), 0
    thread.start()
    while thread.is_alive():
        time.sleep(0.005)
        naps += 1
    assert naps > 20 + seconds[0] / 0.05, "it slept and woke while the other one worked"


def test_a_folder_without_a_tokenizer(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_a_damaged_tokenizer(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(WeightsError, match="damaged"):
        Tokenizer.from_folder(tmp_path)
