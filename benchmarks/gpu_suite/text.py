"""Texts for the text-in figures, and a small tokenizer trained on the fly.

Its speed is not exactly that of a large vocabulary's tokenizer, but no checkpoint is needed. Knows requests, no figure.
"""

from __future__ import annotations

import random
import time
from typing import Any

from carrel.host import EngineHost
from carrel.request import Request

from gpu_suite.engine_run import Run, run
from gpu_suite.workload import FIRST_ID, Requests

SYLLABLES = tuple(first + second for first in "bdgklmnrst" for second in "aeiou")
VOCABULARY = 500  # below the tiny models' vocabulary
WORDS = 5_000


def vocabulary(seed: int = 0) -> list[str]:
    """Words of two to four syllables."""
    generator = random.Random(seed)
    return ["".join(generator.choices(SYLLABLES, k=generator.randint(2, 4))) for _ in range(WORDS)]


def trained_tokenizer() -> Any:
    """A byte-level BPE over the words, or None where the package is missing."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        return None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = [f"<{index}>" for index in range(FIRST_ID)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator([" ".join(vocabulary())], trainer)
    return tokenizer


class TextInputs:
    """Texts, or pairs of a short and a long text, and the requests they become."""

    def __init__(self, tokenizer: Any, requests: Requests, *, pairs: bool) -> None:
        self._tokenizer, self._requests, self._pairs = tokenizer, requests, pairs
        self._random = random.Random(1)
        self._words = vocabulary()

    def texts(self, count: int, length: int) -> list[str] | list[tuple[str, str]]:
        """So many inputs of at least ``length`` tokens."""
        passages = [" ".join(self._random.choices(self._words, k=length)) for _ in range(count)]
        if not self._pairs:
            return passages
        return [(" ".join(self._random.choices(self._words, k=8)), passage) for passage in passages]

    def token_ids(self, texts: list[str] | list[tuple[str, str]], length: int) -> list[list[int]]:
        """Cut to ``length`` tokens, by the tokenizer on all cores."""
        self._tokenizer.enable_truncation(length, strategy="only_second" if self._pairs else "longest_first")
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]

    def requests(self, texts: list[str] | list[tuple[str, str]], length: int) -> list[Request]:
        return [self._requests.pooling(length, prompt=ids) for ids in self.token_ids(texts, length)]

    def timed(self, host: EngineHost, texts: list[str] | list[tuple[str, str]], length: int) -> tuple[Run, float]:
        """A run from text, with its seconds from the first text to the last vector."""
        started = time.perf_counter()
        result = run(host, self.requests(texts, length))
        return result, time.perf_counter() - started

    def tokenizing_rate(self, texts: list[str] | list[tuple[str, str]], length: int) -> float:
        """Tokens a second of the tokenizer alone."""
        started = time.perf_counter()
        tokens = sum(map(len, self.token_ids(texts, length)))
        return tokens / (time.perf_counter() - started)
