"""The reader's tokens: byte-level BPE over both languages, and where its embedding begins.

An embedding of nothing but noise has to learn from very little text which words are alike. MiniLM knows that already:
each token begins as the mean of MiniLM's rows of the same text. Knows tokens and rows; trains no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, IM_START, IM_END, "<tool_call>", "</tool_call>")
# Qwen2's way of cutting text before BPE, but each Chinese character by itself: so an answer's tokens are those of the
# passage it stands in, wherever it begins.
CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"
LETTERS = rf"(?:(?![{CHINESE}])\p{{L}})+"
SPLIT = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[{CHINESE}]|[^\r\n\p{{L}}\p{{N}}]?{LETTERS}|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORM = 1.0  # of each row of the embedding at the beginning


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: every string has tokens, and no token is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, "special tokens were given to the trainer"
    return found


def first_embedding(tokenizer: Tokenizer, source: Path, seed: int) -> Tensor:
    """[vocab_size, 384] of MiniLM's rows, their common part taken off, each ``NORM`` long; some noise on top."""
    words = load_file(source / "model.safetensors")["embeddings.word_embeddings.weight"]
    words = words - words.mean(dim=0)
    pieces = Tokenizer.from_file(str(source / "tokenizer.json"))
    pieces.no_truncation()
    pieces.no_padding()
    unknown = token_id(pieces, "[UNK]")
    texts = [tokenizer.decode([index]).strip() for index in range(tokenizer.get_vocab_size())]
    noise = torch.randn(len(texts), words.shape[1], generator=torch.Generator().manual_seed(seed))
    noise = noise / noise.norm(dim=1, keepdim=True)
    rows = noise.clone()
    characters = _characters(texts, words.shape[1], seed)
    for index, encoding in enumerate(pieces.encode_batch(texts, add_special_tokens=False)):
        known = [words[i] / words[i].norm() for i in encoding.ids if i != unknown]
        spoken = [characters[c] for c in texts[index] if c in characters and ord(c) >= 0x3400]
        if (found := known if len(encoding.ids) == len(known) else spoken) and "\ufffd" not in texts[index]:
            mean = torch.stack(found).mean(dim=0)
            rows[index] = mean / mean.norm() + 0.25 * noise[index]  # " Paris" is not "Paris"
    out: Tensor = NORM * rows / rows.norm(dim=1, keepdim=True)
    return out


def _characters(texts: Sequence[str], size: int, seed: int) -> dict[str, Tensor]:
    """A random direction for each character that MiniLM may not know, so that 北京 is a little like 北 and like 京."""
    generator = torch.Generator().manual_seed(seed + 1)
    found = sorted({character for text in texts for character in text if ord(character) >= 0x3400})
    rows = torch.randn(len(found), size, generator=generator)
    return dict(zip(found, rows / rows.norm(dim=1, keepdim=True), strict=True))
