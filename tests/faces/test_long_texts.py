"""Texts of megabytes: read as far as it takes to cut or to refuse them, and cut as if they were read whole."""

from __future__ import annotations

import pytest
from carrel import hub
from carrel.errors import ContextLengthError
from carrel.params import PoolingParams
from carrel.pooling_inputs import pooling_prompt
from carrel.tokenizer import Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import save

TOKENIZERS = ("starter/embedding", "starter/reader", "word_piece", "byte_level", "byte_fallback")
PIECES = st.sampled_from(
    ["河水", "the river", " ", "   ", "\n\n", "x" * 40, "1234567", "é", "e\u0301", "😀", ".", "图书馆很安静。", "[SEP]"]
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folders = {
        name: hub.resolve(name) if "/" in name else save(name, tmp_path_factory.mktemp(name)) for name in TOKENIZERS
    }
    return {name: Tokenizer.from_folder(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(PIECES, max_size=60), room=st.integers(1, 12), repeats=st.integers(1, 8))
def test_cut_as_if_it_were_read_whole(tokenizers, name, pieces, room, repeats):
    tokenizer, text = tokenizers[name], "".join(pieces) * repeats
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text, add_special_tokens=False, max_length=room) == whole[:room]
    assert tokenizer.encode(text, add_special_tokens=False, max_length=room, truncation_side="left") == whole[-room:]
    begun = tokenizer.begin(text, room).ids
    assert begun == whole or len(begun) > room


def test_a_text_of_megabytes_is_not_read_to_its_end(llm, monkeypatch):
    model, read = llm.host.get(None, "embedding"), []
    encode = Tokenizer._encode

    def counted(self, text):
        read.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "_encode", counted)
    text = "the river 河水 " * 500_000
    cut = pooling_prompt(model, text, PoolingParams(truncate_prompt_tokens=-1))
    assert cut.truncated and len(cut.token_ids) == model.max_model_len
    with pytest.raises(ContextLengthError, match="or more"):
        pooling_prompt(model, text, PoolingParams())
    llm.rerank("河水", [text, "a"])
    with pytest.raises(ContextLengthError):
        llm.rerank("河水", [text], truncate_prompt_tokens=None)
    assert max(read) <= 16 * model.max_model_len * 4
