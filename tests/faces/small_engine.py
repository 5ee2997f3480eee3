"""Options that keep the engines of these tests small."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {"kv_cache_memory_bytes": 16 << 20, "max_num_seqs": 64}
