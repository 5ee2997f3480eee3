"""The pieces joined are the whole; no piece ends inside a character; no text of the prompt comes out."""

from __future__ import annotations

import time

import pytest
import small_tokenizers
from carrel.detokenizer import make_detokenizer
from carrel.tokenizer import Tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXT = "你好，世界！🎉👩‍💻 don't stop, café! 检索增强生成 <思考> done."
RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def pieces(tokenizer: Tokenizer, token_ids, prompt=(), **options) -> list[str]:
    detokenizer = make_detokenizer(tokenizer, prompt, **options)
    return [detokenizer.push([token_id]) for token_id in token_ids] + [detokenizer.flush()]


@pytest.mark.parametrize("kind", small_tokenizers.KINDS)
@pytest.mark.parametrize("skip", [True, False])
@RELAXED
@given(data=st.data())
def test_pieces_of_random_tokens_join_to_the_whole(tokenizers, kind, skip, data):
    tokenizer = tokenizers[kind]
    # One more than the vocabulary: models have more rows than their tokenizers have tokens.
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size), max_size=40))
    whole = tokenizer.decode(token_ids, skip_special_tokens=skip)
    assert "".join(pieces(tokenizer, token_ids, skip_special_tokens=skip)) == whole


@pytest.mark.parametrize("kind", small_tokenizers.KINDS)
def test_special_tokens_can_be_kept_one_by_one(tokenizers, kind):
    tokenizer = tokenizers[kind]
    first, second = sorted(tokenizer.special_ids)[:2]
    body = tokenizer.encode("你好 world", add_special_tokens=False)
    shown = "".join(pieces(tokenizer, [first, *body, second, *body], kept_special_ids=frozenset({second})))
    assert tokenizer.id_to_token(second) in shown
    assert tokenizer.id_to_token(first) not in shown


@pytest.mark.parametrize("kind", small_tokenizers.KINDS)
@RELAXED
@given(text=st.text(max_size=30), cuts=st.data())
def test_pieces_of_any_text_never_break_a_character(tokenizers, kind, text, cuts):
    tokenizer = tokenizers[kind]
    token_ids = tokenizer.encode(text)
    whole = tokenizer.decode(token_ids)
    assert "".join(pieces(tokenizer, token_ids)) == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in pieces(tokenizer, token_ids))
    detokenizer, out, rest = make_detokenizer(tokenizer), "", token_ids
    while rest:  # several tokens at once
        size = cuts.draw(st.integers(1, 5))
        out, rest = out + detokenizer.push(rest[:size]), rest[size:]
    assert out + detokenizer.flush() == whole


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("text", ["Hello world and more", "你好，世界", "a🎉b", TEXT])
def test_the_output_goes_on_where_the_prompt_stops(tokenizers, kind, text):
    """Wherever they are cut, even inside a character, the output completes the prompt and repeats nothing."""
    tokenizer = tokenizers[kind]
    token_ids = tokenizer.encode(text)
    for cut in range(1, len(token_ids)):
        prompt, output = token_ids[:cut], token_ids[cut:]
        plain = [token_id for token_id in prompt if token_id not in tokenizer.special_ids]
        shown = b"".join(map(tokenizer.token_bytes, plain)).decode(errors="ignore").lstrip(" ")
        assert shown + "".join(pieces(tokenizer, output, prompt)) == text, cut


def test_a_character_that_the_prompt_began_and_nobody_finishes_leaves_no_trace(tokenizers):
    for kind in ("byte_level", "byte_fallback"):
        tokenizer = tokenizers[kind]
        begun = tokenizer.encode("龘", add_special_tokens=False)
        begun = begun[:-1]
        assert tokenizer.decode(begun).strip().strip("\ufffd") == ""
        assert "".join(pieces(tokenizer, tokenizer.encode("dog", add_special_tokens=False), begun)).strip() == "dog"


def test_unfinished_bytes_come_out_only_at_the_end(tokenizers):
    for kind in ("byte_level", "byte_fallback"):
        tokenizer = tokenizers[kind]
        token_ids = tokenizer.encode("x龘", add_special_tokens=False)[:-1]
        out = pieces(tokenizer, token_ids)
        assert "\ufffd" not in "".join(out[:-1])
        assert out[-1].startswith("\ufffd")


def test_the_time_per_token_does_not_grow(tokenizers):
    for kind, tokenizer in tokenizers.items():
        token_ids = tokenizer.encode(TEXT, add_special_tokens=False) * 200
        started = time.perf_counter()
        pieces(tokenizer, token_ids)
        assert (time.perf_counter() - started) / len(token_ids) < 300e-6, kind  # a step of the engine takes longer


def test_released_tokenizers(real_tokenizer_folders):
    for name, folder in real_tokenizer_folders.items():
        tokenizer = Tokenizer.from_folder(folder)
        token_ids = tokenizer.encode(TEXT)
        out = pieces(tokenizer, token_ids)
        assert "".join(out) == tokenizer.decode(token_ids), name
        spread = [(i * 7919) % tokenizer.vocab_size for i in range(3000)]
        assert "".join(pieces(tokenizer, spread)) == tokenizer.decode(spread), name
