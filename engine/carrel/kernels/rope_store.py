"""One launch between the qkv product and attention: head norms, rotary embedding, and the store into the paged cache.

For a query or key head h with halves (a, b) at position p, c and s the row p of ``cos_sin``::

    (a, b)  = (a, b) / sqrt(mean(h²) + eps) * weight      only where the model norms its heads (Qwen3)
    (a, b)  = (a·c − b·s, b·c + a·s)                       RoPE; dimension i is paired with i + head_dim / 2

    qkv row   | q q q q ......... | k k | v v |    queries and keys are rotated where they lie
                                    │     │
    cache                           keys  values     [head, block, offset], slot = block · block_size + offset

A slot below 0 is a padding row and stores nothing. Sources: Su et al. 2021, "RoFormer" (in GPT-NeoX' pairing); Kwon et
al. 2023, "PagedAttention". Bound by bandwidth, and at small batches by the launch: one instead of five.
Twin: ``reference_rope.rope_store``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase

MANY_TOKENS = 256  # from here on wide programs: fewer of them, each with four warps


@triton.jit
def _rope_store_kernel(
    qkv,  # [num_tokens, (NUM_HEADS + 2 · NUM_KV_HEADS) · HEAD_DIM]
    cos_sin,  # [max_positions, HEAD_DIM] fp32: HEAD_DIM / 2 cosines, then the sines
    positions,  # [num_tokens]
    q_weight,  # [HEAD_DIM]
    k_weight,  # [HEAD_DIM]
    keys,  # [NUM_KV_HEADS, num_blocks, BLOCK_SIZE, HEAD_DIM]
    values,  # the same, and the same strides
    slot_mapping,  # [num_tokens]
    eps,
    qkv_stride,
    head_stride, block_stride, token_stride,  # of the cache
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr, HAS_NORM: tl.constexpr, HAS_CACHE: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = HEAD_DIM // 2
    dtype = qkv.dtype.element_ty
    token = tl.program_id(0).to(tl.int64)
    first_head = tl.program_id(1) * BLOCK_HEADS
    head = first_head + tl.arange(0, BLOCK_HEADS)
    dim = tl.arange(0, BLOCK_HALF)
    in_half = dim < HALF
    inside = (head < NUM_HEADS + 2 * NUM_KV_HEADS)[:, None] & in_half[None, :]
    places = qkv + token * qkv_stride + head[:, None] * HEAD_DIM + dim[None, :]
    low_raw = tl.load(places, mask=inside, other=0.0)
    high_raw = tl.load(places + HALF, mask=inside, other=0.0)
    low, high = low_raw.to(tl.float32), high_raw.to(tl.float32)

    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(low * low + high * high, 1) / HEAD_DIM + eps)[:, None]
        is_query = (head < NUM_HEADS)[:, None]
        low_q = tl.load(q_weight + dim, mask=in_half, other=0.0).to(tl.float32)[None, :]
        low_k = tl.load(k_weight + dim, mask=in_half, other=0.0).to(tl.float32)[None, :]
        high_q = tl.load(q_weight + HALF + dim, mask=in_half, other=0.0).to(tl.float32)[None, :]
        high_k = tl.load(k_weight + HALF + dim, mask=in_half, other=0.0).to(tl.float32)[None, :]
        # rounded to the dtype before and after the product with the weight, as a norm of its own would
        low = ((low * scale).to(dtype).to(tl.float32) * tl.where(is_query, low_q, low_k)).to(dtype).to(tl.float32)
        high = ((high * scale).to(dtype).to(tl.float32) * tl.where(is_query, high_q, high_k)).to(dtype).to(tl.float32)

    row = cos_sin + tl.load(positions + token).to(tl.int64) * HEAD_DIM
    cos = tl.load(row + dim, mask=in_half, other=0.0)[None, :]
    sin = tl.load(row + HALF + dim, mask=in_half, other=0.0)[None, :]
    rotated_low = (low * cos - high * sin).to(dtype)
    rotated_high = (high * cos + low * sin).to(dtype)
    is_rotated = inside & (head < NUM_HEADS + NUM_KV_HEADS)[:, None]
    tl.store(places, rotated_low, mask=is_rotated)
    tl.store(places + HALF, rotated_high, mask=is_rotated)

    if HAS_CACHE:
        slot = tl.load(slot_mapping + token).to(tl.int64)
        if (slot >= 0) & (first_head + BLOCK_HEADS > NUM_HEADS):  # most programs hold query heads alone
            place = slot // BLOCK_SIZE * block_stride + slot % BLOCK_SIZE * token_stride + dim[None, :]
            key_head = (head - NUM_HEADS).to(tl.int64)[:, None]
            value_head = key_head - NUM_KV_HEADS
            is_key, is_value = is_rotated & (key_head >= 0), inside & (value_head >= 0)
            tl.store(keys + key_head * head_stride + place, rotated_low, mask=is_key)
            tl.store(keys + key_head * head_stride + place + HALF, rotated_high, mask=is_key)
            tl.store(values + value_head * head_stride + place, low_raw, mask=is_value)
            tl.store(values + value_head * head_stride + place + HALF, high_raw, mask=is_value)


def rope_store(
    qkv: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    *,
    num_heads: int,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 0.0,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    slot_mapping: Tensor | None = None,
) -> None:
    """Norm and rotate the queries and keys of ``qkv`` in place; store keys and values.

    Args:
        qkv: [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]; rows may lie apart.
        cos_sin: fp32 [max_positions, head_dim]; see ``RotaryEmbedding.by_position``.
        positions: integers [num_tokens], each below max_positions.
        num_heads: of the queries; the number of key heads follows from the width of ``qkv``.
        q_weight, k_weight: [head_dim] of the head norms; both or none. ``eps`` is theirs.
        keys, values: [num_kv_heads, num_blocks, block_size, head_dim]; None: nothing is stored.
        slot_mapping: integers [num_tokens], block * block_size + offset; below 0: not stored.
    """
    num_tokens, head_dim = qkv.shape[0], cos_sin.shape[1]
    num_kv_heads = (qkv.shape[1] // head_dim - num_heads) // 2
    assert qkv.shape[1] == (num_heads + 2 * num_kv_heads) * head_dim and head_dim % 2 == 0, "whole heads"
    assert qkv.stride(1) == 1 and cos_sin.is_contiguous(), "a row lies in one piece"
    if not num_tokens:
        return
    has_cache = keys is not None and values is not None and slot_mapping is not None
    if keys is None or values is None or slot_mapping is None:
        keys = values = qkv[:1, None, None]  # stands in; the kernel has no store then
        slot_mapping = positions
    assert keys.stride() == values.stride() and keys.stride(3) == 1, "keys and values lie alike"
    weights = (qkv, qkv) if q_weight is None else (q_weight, k_weight)
    block_heads, num_warps = _tile(num_tokens, head_dim)
    rows = num_heads + 2 * num_kv_heads
    _rope_store_kernel[(num_tokens, triton.cdiv(rows, block_heads))](
        qkv, cos_sin, positions, *weights, keys, values, slot_mapping, eps, qkv.stride(0), *keys.stride()[:3],
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, BLOCK_SIZE=keys.shape[2],
        BLOCK_HEADS=block_heads, BLOCK_HALF=triton.next_power_of_2(head_dim // 2),
        HAS_NORM=q_weight is not None, HAS_CACHE=has_cache, num_warps=num_warps,
    )  # fmt: skip


def _tile(num_tokens: int, head_dim: int) -> tuple[int, int]:
    """(heads, warps) of a program: a warp holds 16 bytes of both halves in each thread, whatever the head size."""
    heads_a_warp = max(1, 256 // triton.next_power_of_2(head_dim // 2))
    num_warps = 4 if num_tokens >= MANY_TOKENS else 1
    return heads_a_warp * num_warps, num_warps


def _case(heads: tuple[int, int, int], has_norm: bool, has_cache: bool, num_tokens: int) -> CompileCase:
    num_heads, num_kv_heads, head_dim = heads
    block_heads, num_warps = _tile(num_tokens, head_dim)
    options = f"{' norm' if has_norm else ''}{' cache' if has_cache else ''}"
    return CompileCase(
        name=f"heads={num_heads}/{num_kv_heads}x{head_dim} tokens={num_tokens}{options}",
        kernel=_rope_store_kernel,
        signature={
            **dict.fromkeys(("qkv", "q_weight", "k_weight", "keys", "values"), "*bf16:16"),
            "cos_sin": "*fp32:16",
            **dict.fromkeys(("positions", "slot_mapping"), "*i64:16"),
            "eps": "fp32",
            "head_stride": "i64:16",
            **dict.fromkeys(("qkv_stride", "block_stride", "token_stride"), "i32:16"),
        },
        constexprs={
            "NUM_HEADS": num_heads,
            "NUM_KV_HEADS": num_kv_heads,
            "HEAD_DIM": head_dim,
            "BLOCK_SIZE": 16 if has_cache else 1,
            "BLOCK_HEADS": block_heads,
            "BLOCK_HALF": triton.next_power_of_2(head_dim // 2),
            "HAS_NORM": has_norm,
            "HAS_CACHE": has_cache,
        },
        num_warps=num_warps,
    )


_QWEN2_SMALL, _QWEN2, _QWEN3, _QWEN3_SMALL = (14, 2, 64), (28, 4, 128), (32, 8, 128), (16, 8, 128)
COMPILE_CASES = [
    *(_case(_QWEN2_SMALL, False, True, num_tokens) for num_tokens in (1, 2048)),
    *(_case(_QWEN2, False, True, num_tokens) for num_tokens in (1, 2048)),
    *(_case(_QWEN3, has_norm, True, num_tokens) for has_norm in (False, True) for num_tokens in (1, 2048)),
    _case(_QWEN3_SMALL, True, False, 2048),
    _case((32, 32, 96), False, True, 2048),
]
