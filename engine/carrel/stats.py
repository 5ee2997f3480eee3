"""Numbers about a running engine, for metrics and for people. Knows no metrics library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVCacheStats:
    """The KV cache of one chat model. Token counts grow for as long as the engine lives."""

    num_blocks: int
    num_free_blocks: int
    num_queried_tokens: int  # of admitted prompts
    num_hit_tokens: int  # of those, found in the prefix cache

    @property
    def usage(self) -> float:
        """Share of the blocks that requests hold, 0..1."""
        return 1.0 - self.num_free_blocks / self.num_blocks


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """What the scheduler holds now, and what it has done since it was made."""

    num_running: int  # chat requests that hold KV blocks
    num_waiting: int  # chat requests that do not, preempted ones included
    num_waiting_pooling: int
    num_steps: int
    num_preemptions: int
    num_prompt_tokens: int  # computed or found in the cache, of chat requests that have begun to answer
    num_generated_tokens: int
    num_pooled_tokens: int
    kv_caches: dict[str, KVCacheStats]  # by model key
