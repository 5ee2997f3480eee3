"""Counts what the engine does. Plain numbers for an exporter to read; knows no metrics library."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from dataclasses import dataclass, field

from carrel.loop import LoopStats

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """Observations in buckets: ``counts[i]`` are at most ``bounds[i]``, and the last count has no bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]  # one more than bounds; not cumulative
    total: float  # sum of the observations

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The state of an engine at one moment. Counters only grow."""

    num_running: int  # chat requests that hold KV blocks
    num_waiting: int  # requests in the queue, of every kind
    num_open: int  # accepted and not ended
    kv_cache_usage: float  # 0..1, of the fullest chat model
    prefix_cache_queries: int  # prompt tokens looked up
    prefix_cache_hits: int  # of those, found
    num_preemptions: int
    num_steps: int
    prompt_tokens: int  # of ended chat requests
    generation_tokens: int
    pooled_tokens: int  # of ended embedding and rerank requests
    requests: dict[tuple[str, str], int]  # (model, finish reason) → requests
    time_to_first_token: HistogramSnapshot
    request_latency: HistogramSnapshot
    loop: LoopStats

    @property
    def prefix_cache_hit_rate(self) -> float:
        return self.prefix_cache_hits / self.prefix_cache_queries if self.prefix_cache_queries else 0.0


@dataclass(slots=True)
class Histogram:
    bounds: tuple[float, ...] = LATENCY_BUCKETS
    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(self.bounds, tuple(self.counts), self.total)


class EngineMetrics:
    """Fed by whoever finishes a request, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[str] = Counter()
        self._first_token = Histogram()
        self._latency = Histogram()

    def generation_finished(
        self,
        model: str,
        *,
        reasons: list[str],
        num_prompt_tokens: int,
        num_generated_tokens: int,
        time_to_first_token: float | None,
        latency: float,
    ) -> None:
        """One prompt is done; ``reasons`` has the finish reason of each of its completions. Times in seconds."""
        with self._lock:
            self._requests.update((model, reason) for reason in reasons)
            self._tokens["prompt"] += num_prompt_tokens
            self._tokens["generation"] += num_generated_tokens
            self._latency.observe(latency)
            if time_to_first_token is not None:
                self._first_token.observe(time_to_first_token)

    def pooling_finished(self, model: str, *, reason: str, num_tokens: int, latency: float) -> None:
        """One embedding or one scored pair is done."""
        with self._lock:
            self._requests[(model, reason)] += 1
            self._tokens["pooled"] += num_tokens
            self._latency.observe(latency)

    def snapshot(self, loop: LoopStats) -> EngineSnapshot:
        scheduler, caches = loop.scheduler, loop.scheduler.kv_caches.values()
        with self._lock:
            return EngineSnapshot(
                num_running=scheduler.num_running,
                num_waiting=loop.num_queued,
                num_open=loop.num_open,
                kv_cache_usage=max((cache.usage for cache in caches), default=0.0),
                prefix_cache_queries=sum(cache.num_queried_tokens for cache in caches),
                prefix_cache_hits=sum(cache.num_hit_tokens for cache in caches),
                num_preemptions=scheduler.num_preemptions,
                num_steps=scheduler.num_steps,
                prompt_tokens=self._tokens["prompt"],
                generation_tokens=self._tokens["generation"],
                pooled_tokens=self._tokens["pooled"],
                requests=dict(self._requests),
                time_to_first_token=self._first_token.snapshot(),
                request_latency=self._latency.snapshot(),
                loop=loop,
            )
