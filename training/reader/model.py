"""The reader: a small Qwen2 that begins with what a reader needs, and a loss that shows its last layer where to look.

From nothing, a transformer needs many millions of tokens before heads appear that match equal words and copy what they
found. Here they are there at the beginning (after Trockman and Kolter, "Mimetic Initialization of Self-Attention
Layers", 2023): in every layer half of the heads look for words like their own, and the last layer copies what it looks
at. While it quotes a passage the last layer is told where the quoted word stands (as alignments guide a translator: Liu
et al., "Neural Machine Translation with Supervised Attention", 2016). It stays an ordinary Qwen2 checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

HEAD_DIM = 64
ALIKE = 0.7  # how strongly a matching head prefers an equal word at the beginning
COPIED = 0.4  # how loudly the last layer says what it looks at
Model = Any  # Qwen2ForCausalLM: transformers' decorators hide its types


@dataclass(frozen=True)
class Size:
    """The shape of a reader."""

    layers: int
    intermediate: int
    vocab_size: int
    hidden: int = 384  # MiniLM's, whose words it begins with
    heads: int = 6
    kv_heads: int = 3


SIZES = {"cpu": Size(4, 768, 12_288), "gpu": Size(6, 1024, 12_288)}


def make_model(size: Size, words: Tensor, context: int, pad: int, end: int) -> Model:
    """``words`` [vocab_size, hidden] is the tied embedding at the beginning."""
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=pad,
        eos_token_id=end,
    )
    config._attn_implementation = "eager"  # its weights are looked at; and fused attention trains slowly on a CPU
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(words)
        for number, layer in enumerate(model.model.layers):
            _match(layer.self_attn, size, last=number == size.layers - 1)
        _copy(model.model.layers[-1].self_attn, size)
    return model


def _projections(size: Size) -> Tensor:
    """[kv_heads, HEAD_DIM, hidden] with orthonormal rows."""
    square: Tensor = torch.linalg.qr(torch.randn(size.hidden, size.hidden))[0]
    return square[: size.kv_heads * HEAD_DIM].reshape(size.kv_heads, HEAD_DIM, size.hidden)


def _match(attention: Any, size: Size, *, last: bool) -> None:
    """The first head of each key head gives a word like itself a higher weight."""
    group = size.heads // size.kv_heads
    for index, projection in enumerate(_projections(size)):
        rows = slice(index * HEAD_DIM, (index + 1) * HEAD_DIM)
        strength = (0.3 if last else 1.0) * ALIKE**0.5
        attention.k_proj.weight[rows] += strength * projection
        head = index * group * HEAD_DIM
        attention.q_proj.weight[head : head + HEAD_DIM] += strength * projection


def _copy(attention: Any, size: Size) -> None:
    """What the last layer looks at is added to what it says, in each key head's part of the space."""
    group = size.heads // size.kv_heads
    for index, projection in enumerate(_projections(size)):
        attention.v_proj.weight[index * HEAD_DIM : (index + 1) * HEAD_DIM] += projection
        for head in range(index * group, (index + 1) * group):
            attention.o_proj.weight[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] += COPIED / group * projection.T


@dataclass(frozen=True)
class Row:
    """One example as tokens."""

    ids: list[int]
    reply: int  # where the reply begins
    looks: tuple[tuple[int, tuple[int, ...]], ...]  # (a position that quotes next, where the quoted token stands)


def losses(model: Model, rows: list[Row], device: str, text_share: float) -> dict[str, Tensor]:
    """``reply``: of the replies' tokens; ``look``: of where the last layer looks; ``text``: of some of the others."""
    length = -(-max(len(row.ids) for row in rows) // 16) * 16
    ids = torch.tensor([row.ids + [0] * (length - len(row.ids)) for row in rows], device=device)
    with torch.autocast(device.split(":")[0], torch.bfloat16):
        out = model.model(input_ids=ids, output_attentions=True, use_cache=False)
    said = [(i, at) for i, row in enumerate(rows) for at in range(row.reply - 1, len(row.ids) - 1)]
    found = {"reply": _token_loss(model, out.last_hidden_state, ids, said)}
    if text_share > 0:
        step = max(1, round(1 / text_share))
        other = [(i, at) for i, row in enumerate(rows) for at in range(i % step, row.reply - 2, step)]
        found["text"] = _token_loss(model, out.last_hidden_state, ids, other)
    weights = out.attentions[-1].float().mean(dim=1)  # [rows, length, length], over the heads
    seen = [
        weights[i, at, torch.tensor(places, device=device)].sum()
        for i, row in enumerate(rows)
        for at, places in row.looks
    ]
    if seen:
        found["look"] = -(torch.stack(seen) + 1e-6).log().mean()
    return found


def _token_loss(model: Model, hidden: Tensor, ids: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """Of the tokens after ``places``: (row, position)."""
    rows, at = torch.tensor(places, device=ids.device).unbind(1)
    logits = nn.functional.linear(hidden[rows, at].to(torch.bfloat16), model.lm_head.weight.to(torch.bfloat16))
    return nn.functional.cross_entropy(logits.float(), ids[rows, at + 1])
