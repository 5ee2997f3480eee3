"""Drives compiled grammars without a model: what they let through, and random texts that they make."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from carrel.grammar import Grammar
from carrel.structured_output import GrammarCompiler, response_lark
from carrel.structured_params import StructuredOutputsParams
from carrel.tokenizer import Tokenizer
from carrel.tokenizer_files import TokenizerFiles
from small_tokenizers import KINDS

PADDING = 37  # ids of the model that the tokenizer does not have


class Walker:
    """A compiler over one small tokenizer, and the texts of its grammars."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size + PADDING
        ids = [tokenizer.token_to_id(end) for end in ends]
        self.ends = [token for token in ids if token is not None]
        self.compiler = GrammarCompiler(tokenizer, self.vocab_size, self.ends)
        pieces = [(tokenizer.token_bytes(token), token) for token in range(tokenizer.vocab_size)]
        self._pieces = {piece: token for piece, token in pieces if piece and token not in tokenizer.special_ids}

    def form(self, **form: Any) -> Grammar:
        return self.compiler.compile(response_lark(StructuredOutputsParams(**form)))

    def encode(self, text: str, *, longest: int = 8) -> list[int]:
        """Tokens that write exactly this text, each as long as can be; no special ones."""
        found, rest = list[int](), text.encode()
        while rest:
            size = next(size for size in range(longest, 0, -1) if rest[:size] in self._pieces)
            found.append(self._pieces[rest[:size]])
            rest = rest[size:]
        return found

    def allowed(self, grammar: Grammar, token_ids: Sequence[int] = ()) -> list[int]:
        """Tokens that may follow."""
        matcher = grammar.matcher()
        matcher.consume(token_ids)
        return self._ids(matcher)

    def accepts(self, grammar: Grammar, text: str | Sequence[int]) -> bool:
        """Whether the text may be written, and may end there by every end."""
        token_ids = self.encode(text) if isinstance(text, str) else text
        matcher = grammar.matcher()
        for token in token_ids:
            if token not in self._ids(matcher):
                return False
            matcher.consume([token])
        return set(self.ends) <= set(self._ids(matcher))

    def write(self, grammar: Grammar, seed: int, *, most: int = 400) -> str | None:
        """A random text that has ended; None if it was still going on after ``most`` tokens."""
        numbers, matcher = random.Random(seed), grammar.matcher()
        written: list[int] = []
        for _ in range(most):
            allowed = self._ids(matcher)
            ends = set(self.ends) & set(allowed)
            assert not ends or ends == set(self.ends), "all ends are allowed, or none"
            token = min(ends) if ends and numbers.random() < 0.5 else numbers.choice(allowed)
            if token in self.ends:
                return b"".join(map(self.tokenizer.token_bytes, written)).decode()
            written.append(token)
            matcher.consume([token])
        return None

    def _ids(self, matcher: Any) -> list[int]:
        mask = np.zeros(-(-self.vocab_size // 32), dtype=np.int32)
        matcher.fill_bitmask(mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        assert not bits[self.vocab_size - PADDING :].any(), "rows that pad the embedding are no tokens"
        return [int(token) for token in np.flatnonzero(bits)]


@cache
def walker(kind: str = "byte_level") -> Walker:
    make, config = KINDS[kind]
    special: Mapping[str, Any] = {key: value for key, value in config.items() if key.endswith("_token")}
    ends = {"byte_level": ["<|im_end|>", "<|endoftext|>"], "byte_fallback": ["</s>"]}[kind]
    return Walker(Tokenizer(TokenizerFiles(backend=make(), special_tokens=dict(special))), ends)
