"""Small real tokenizers of the three kinds that matter, trained in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog; it doesn't stop, does it? Yes! We've seen 's and 're.",
    "检索增强生成把文档检索和语言模型结合起来。你好，世界！今天天气很好。",
    "Emoji: 🎉🚀👩‍💻 and accents: café naïve über; numbers 12345 and symbols {}[]<>#@.",
    "引擎在一个进程里同时提供对话、向量和重排。",
] * 4


def byte_level(vocab_size: int = 400) -> Tokenizer:
    """As Qwen and Llama 3 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<思考>", special=False, normalized=False)])
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2, Mistral and Phi 3 have it: SentencePiece BPE whose unknown characters become bytes."""
    special = ["<unk>", "<s>", "</s>"]
    base = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    base.normalizer = _sentence_piece_normalizer()
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=special, limit_alphabet=60)
    base.train_from_iterator(TEXTS, trainer)
    state: dict[str, Any] = json.loads(base.to_str())
    size = len(state["model"]["vocab"])
    state["model"]["vocab"] |= {f"<0x{byte:02X}>": size + byte for byte in range(256)}
    state["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _sentence_piece_normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


KINDS = {
    "byte_level": (byte_level, {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}),
    "word_piece": (
        word_piece,
        {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        | {"clean_up_tokenization_spaces": True, "tokenizer_class": "PreTrainedTokenizerFast"},
    ),
    "byte_fallback": (
        byte_fallback,
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"},
    ),
}


def save(kind: str, folder: Path, **config: Any) -> Path:
    """Write a tokenizer folder; ``config`` goes into tokenizer_config.json."""
    make, defaults = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    make().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(defaults | config, ensure_ascii=False), encoding="utf-8")
    return folder
