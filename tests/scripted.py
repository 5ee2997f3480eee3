"""A model that writes what a test tells it to, through the real engine, sampler, grammar and parsers.

The tiny random model computes every step as usual; only its logits are replaced, right before the real sampler, by
those of a model that is very sure of the next piece of a script. What a grammar or a bias forbids is not drawn, so a
script that breaks a form shows what carrel makes of it: off its script the model prefers what closes a form.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel.step import ScheduledRequest
from carrel.tokenizer import Tokenizer
from carrel.worker.model_runner import ChatRunner
from carrel.worker.step_sampler import SampledStep, StepSampler
from tiny_models import TinyModels
from tokenizers import AddedToken
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

Script = Callable[[str], str]  # prompt text → the answer, special tokens written out
CLOSERS = {b"}": 5.0, b"]": 4.0, b'"': 3.0, b"\n": 1.0}


class ScriptedSampler:
    """Implements ``StepSampler`` around a real one."""

    def __init__(self, sampler: StepSampler, tokenizer: Tokenizer, vocab_size: int, script: Script) -> None:
        self._sampler, self._tokenizer, self._script = sampler, tokenizer, script
        self._vocab_size = vocab_size
        pieces = [(tokenizer.token_bytes(token), token) for token in range(tokenizer.vocab_size)]
        self._ids = {piece: token for piece, token in reversed(pieces) if piece}  # the lowest id of equal pieces
        self._longest = max(map(len, self._ids))

    def sample(self, logits: Tensor, items: Sequence[ScheduledRequest]) -> SampledStep:
        rows = torch.stack([self._row(item) for item in items])
        return self._sampler.sample(rows.to(logits), items)

    def runs_ahead(self, items: Sequence[ScheduledRequest]) -> bool:
        """Never: the script goes on from the tokens so far."""
        return False

    def release(self, request_ids: Sequence[str]) -> None:
        self._sampler.release(request_ids)

    def _row(self, item: ScheduledRequest) -> Tensor:
        """[vocab_size] logits of a model that knows what comes next."""
        request, decode = item.request, self._tokenizer.token_bytes
        written = b"".join(map(decode, request.output_token_ids))
        script = self._script(self._tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False)).encode()
        row = torch.zeros(self._vocab_size)
        for piece, score in CLOSERS.items():
            row[self._ids[piece]] = score
        rest = script[len(written) :] if script.startswith(written) else b""
        for length in range(1, min(len(rest), self._longest) + 1):
            if (token := self._ids.get(rest[:length])) is not None:
                row[token] = 20.0 + length
        row[sorted(request.eos_token_ids)] = 10.0 if rest else 40.0
        return row


def scripted_folder(
    tiny_models: TinyModels,
    folder: Path,
    *,
    chat_template: str | None = None,
    special: Sequence[str] = (),
    added: Sequence[str] = (),
    base: str = "qwen2",
) -> Path:
    """A copy of a tiny model with more tokens: ``special`` ones are dropped by ``skip_special_tokens``, ``added`` are
    single tokens of plain text, as ``<think>`` is. Open it with ``load_format="dummy"``; :func:`scripted_host` does."""
    shutil.copytree(tiny_models(base), folder, dirs_exist_ok=True)
    raw = RawTokenizer.from_file(str(folder / "tokenizer.json"))
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    raw.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = max(config["vocab_size"], raw.get_vocab_size(with_added_tokens=True))
    (folder / "config.json").write_text(json.dumps(config))
    if chat_template is not None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": chat_template}))
    return folder


def scripted_host(specs: Sequence[ModelSpec], script: Script, config: EngineConfig | None = None) -> EngineHost:
    """A host whose chat models write ``script``. The caller closes it."""
    defaults = EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20, max_num_seqs=64, load_format="dummy")
    host = EngineHost(specs, config or defaults)
    for hosted in host.models.values():
        runner = host._executor.runners[hosted.runner_key]
        if isinstance(runner, ChatRunner):
            runner.sampler = ScriptedSampler(runner.sampler, hosted.tokenizer, hosted.config.vocab_size, script)
    return host
