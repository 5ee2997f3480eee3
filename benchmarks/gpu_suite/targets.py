"""What the figures are held against: the project's targets on one H200, by the name of the row. Plain data."""

from __future__ import annotations

H200_TARGETS = {
    "Qwen2.5-0.5B batch 1 decode": 1_000,
    "Qwen2.5-0.5B 256 mixed requests": 40_000,
    "Qwen3-0.6B 256 mixed requests": 22_000,
    "Qwen2.5-7B batch 1 decode": 190,
    "Qwen2.5-7B batch 256 end to end": 16_500,
    "Qwen2.5-7B batch 256 decode": 25_000,
    "Qwen2.5-7B prefill": 33_000,
    "Qwen3-8B batch 1 decode": 190,
    "Qwen3-8B batch 256 end to end": 15_000,
    "Qwen3-8B batch 256 decode": 25_000,
    "Qwen3-8B prefill": 33_000,
    "bge-m3 token ids": 600_000,
    "bge-reranker-v2-m3 token ids": 1_180,
}
