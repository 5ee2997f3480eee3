"""MiniLM's vocabulary, made fit for Chinese: its unused rows go, the commonest Chinese characters come.

bert-base-uncased knows so few Chinese characters that most of a Chinese passage becomes [UNK]. Knows tokens and rows of
the embedding; trains nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
UNUSED = re.compile(r"\[unused\d+\]")
NUM_CHARACTERS = 6_000
SPREAD = 0.9  # of new rows beside the old ones: they begin a little quieter than what is known


def commonest_characters(texts: Iterable[str], number: int = NUM_CHARACTERS) -> list[str]:
    """The Chinese characters that occur most, the most frequent first; equal ones by code point."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(CHINESE.findall(text))
    return [character for character, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]]


def extended(tokenizer: dict[str, Any], characters: Iterable[str]) -> tuple[dict[str, Any], list[int]]:
    """A tokenizer.json with the new characters, and for each of its ids the old id, -1 for a new one."""
    old = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    kept = [(token, index) for token, index in old if not UNUSED.fullmatch(token)]
    known = {token for token, _ in kept}
    rows = kept + [(character, -1) for character in characters if character not in known]
    ids = {token: index for index, (token, _) in enumerate(rows)}
    new = json.loads(json.dumps(tokenizer))
    new["model"]["vocab"] = ids
    for token in new["added_tokens"]:
        token["id"] = ids[token["content"]]
    for name, special in new["post_processor"].get("special_tokens", {}).items():
        special["ids"] = [ids[name]]
    for side in ("sep", "cls"):  # the other spelling of the same post-processor
        if side in new["post_processor"]:
            token, _ = new["post_processor"][side]
            new["post_processor"][side] = [token, ids[token]]
    return new, [index for _, index in rows]


def embedding_rows(old: Tensor, sources: list[int], seed: int) -> Tensor:
    """[len(sources), hidden_size]: the old rows, and random ones of their mean and spread for what is new."""
    generator = torch.Generator().manual_seed(seed)
    mean, spread = old.mean(dim=0), old.std(dim=0) * SPREAD
    new = torch.randn(len(sources), old.shape[1], generator=generator) * spread + mean
    known = torch.tensor([index >= 0 for index in sources])
    new[known] = old[[index for index in sources if index >= 0]]
    return new


def write_tokenizer(source: Path, target: Path, characters: Iterable[str], *, max_length: int) -> list[int]:
    """Write tokenizer files of ``source`` with the new vocabulary to ``target``; old ids as :func:`extended`."""
    tokenizer, sources = extended(json.loads((source / "tokenizer.json").read_text(encoding="utf-8")), characters)
    tokenizer["truncation"] = tokenizer["padding"] = None
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": max_length,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")},
    }
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return sources
