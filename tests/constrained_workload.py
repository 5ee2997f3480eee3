"""The workload of overlap scheduling with forms, biases, lists of ids and bad words among its requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import overlap_workload as workload
import pytest
from carrel.models.config import ModelConfig
from carrel.request import Request
from carrel.structured_output import GrammarCompiler, response_lark
from carrel.structured_params import StructuredOutputsParams
from carrel.tokenizer import Tokenizer

FORMS: list[dict[str, Any]] = [
    {"json": {"type": "array", "items": {"enum": ["新", "旧", 12]}, "minItems": 5}},
    {"regex": r"[a-f]{20,40}\d"},
    {"substrings_of": ["检索增强生成把文档和模型结合起来", "the quick brown fox"]},
]
PARAMS: list[dict[str, Any]] = [
    {"temperature": 1.0, "logprobs": 2},
    {"temperature": 1.0},
    {"temperature": 0.0, "logit_bias": {7: 5.0, 9: -100.0}},
    {"temperature": 1.0, "structured_outputs": 0, "logprobs": 3},
    {"temperature": 0.8, "allowed_token_ids": list(range(20, 60))},
    {"temperature": 1.0, "structured_outputs": 1, "min_tokens": 4},
    {"temperature": 0.0, "structured_outputs": 2},
]
ENDS = frozenset({0, 2})


def constrain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the workload's requests have what ``PARAMS`` says; ``structured_outputs`` is a number in FORMS."""
    compiler = GrammarCompiler(Tokenizer.from_folder(folder), ModelConfig.from_folder(folder).vocab_size, ENDS)
    plain = workload.requests

    def requests(params: list[dict[str, Any]]) -> Iterator[Request]:
        forms = [values.get("structured_outputs") for values in params]
        bare = [{key: value for key, value in values.items() if key != "structured_outputs"} for values in params]
        for index, request in enumerate(plain(bare)):
            form = forms[index % len(forms)]
            request.max_tokens = 20  # so long that some give way
            if form is not None:
                request.eos_token_ids = request.end_token_ids = ENDS
                request.grammar = compiler.compile(response_lark(StructuredOutputsParams(**FORMS[form])))
            if index % 5 == 1:
                request.bad_words_token_ids = ((40,), (41, 42))
            yield request

    monkeypatch.setattr(workload, "requests", requests)
