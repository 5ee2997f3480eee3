"""Prometheus metrics in a registry of their own.

Metrics that vLLM has keep vLLM's name and meaning, so that dashboards work; the others are ``carrel:…``.

Engine gauges are read from the engine when scraped; request counts are added by the routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from carrel.outputs import RequestMetrics, RequestOutput
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from carrel_server.request_record import current_record

if TYPE_CHECKING:
    from carrel.host import EngineHost
    from carrel.stats import SchedulerStats

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """Counters and histograms of one server."""

    def __init__(self, host: EngineHost, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.registry.register(EngineCollector(host))
        ProcessCollector(registry=self.registry)  # process_resident_memory_bytes, process_cpu_seconds_total, …
        label = ["model_name"]
        registry = self.registry
        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens.", label, registry=registry)
        self.generation_tokens = Counter("vllm:generation_tokens", "Generated tokens.", label, registry=registry)
        self.ttft = _seconds("vllm:time_to_first_token_seconds", "Arrival to first token.", registry)
        self.e2e = _seconds("vllm:e2e_request_latency_seconds", "Arrival to end.", registry)
        self.queue = _seconds("vllm:request_queue_time_seconds", "Arrival to first step.", registry)
        self.per_token = _seconds(
            "vllm:request_time_per_output_token_seconds", "Mean time between tokens of a request.", registry
        )
        self.prefill = _seconds("vllm:request_prefill_time_seconds", "First step to first token.", registry)
        self.decode = _seconds("vllm:request_decode_time_seconds", "First token to end.", registry)
        self.inference = _seconds("vllm:request_inference_time_seconds", "First step to end.", registry)
        self.params_n = Histogram(
            "vllm:request_params_n", "The n of a request.", label, buckets=(1, 2, 5, 10, 20), registry=registry
        )
        self.request_prompt_tokens = Histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of a request.", label, buckets=TOKENS, registry=registry
        )
        self.request_generation_tokens = Histogram(
            "vllm:request_generation_tokens", "Tokens of a completion.", label, buckets=TOKENS, registry=registry
        )
        self.pooling_items = Counter(
            "carrel:pooling_items", "Embedded or scored items.", [*label, "task"], registry=registry
        )
        self.pooling_seconds = Histogram(
            "carrel:pooling_request_seconds",
            "Embedding or rerank request, arrival to end.",
            [*label, "task"],
            buckets=SECONDS,
            registry=registry,
        )

    def finished(self, model: str, output: RequestOutput, num_tokens: int, num_choices: int) -> None:
        """Count one finished prompt with its choices; ``num_tokens`` over all choices."""
        self.prompt_tokens.labels(model).inc(len(output.prompt_token_ids))
        self.generation_tokens.labels(model).inc(num_tokens)
        self.params_n.labels(model).observe(num_choices)
        self.request_prompt_tokens.labels(model).observe(len(output.prompt_token_ids))
        self.request_generation_tokens.labels(model).observe(num_tokens / num_choices)
        if output.metrics is not None:
            self._observe_times(model, output.metrics, num_tokens // num_choices)
        _note(len(output.prompt_token_ids), num_tokens, output.metrics)

    def _observe_times(self, model: str, times: RequestMetrics, num_tokens: int) -> None:
        start, first, end = times.arrival_time, times.first_token_time, times.finished_time
        scheduled = times.first_scheduled_time
        if scheduled is not None:
            self.queue.labels(model).observe(scheduled - start)
            if first is not None:
                self.prefill.labels(model).observe(first - scheduled)
            if end is not None:
                self.inference.labels(model).observe(end - scheduled)
        if first is not None:
            self.ttft.labels(model).observe(first - start)
        if end is not None:
            self.e2e.labels(model).observe(end - start)
        if first is not None and end is not None:
            self.decode.labels(model).observe(end - first)
        if first is not None and end is not None and num_tokens > 1:
            self.per_token.labels(model).observe((end - first) / (num_tokens - 1))

    def pooled(self, model: str, task: str, num_items: int, num_tokens: int, seconds: float) -> None:
        """Count one finished embedding, score or rerank request."""
        self.pooling_items.labels(model, task).inc(num_items)
        self.pooling_seconds.labels(model, task).observe(seconds)
        self.prompt_tokens.labels(model).inc(num_tokens)
        _note(num_tokens)

    def render(self) -> bytes:
        return generate_latest(self.registry)


def _note(prompt_tokens: int, completion_tokens: int = 0, times: RequestMetrics | None = None) -> None:
    """For the line that the access log will hold; a request may have several prompts."""
    record = current_record()
    if record is None:
        return
    record.prompt_tokens += prompt_tokens
    record.completion_tokens += completion_tokens
    if times is not None and times.first_token_time is not None and record.time_to_first_token is None:
        record.time_to_first_token = times.first_token_time - times.arrival_time


def _seconds(name: str, documentation: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, documentation, ["model_name"], buckets=SECONDS, registry=registry)


class EngineCollector(Collector):
    """What the engine counts by itself, read at scrape time."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is read when the registry only wants names

    def collect(self) -> Iterator[Metric]:
        snapshot = self._host.stats()
        stats = snapshot.loop.scheduler
        ends = CounterMetricFamily("vllm:request_success", "Ended requests.", labels=["model_name", "finished_reason"])
        for (model, reason), number in snapshot.requests.items():
            ends.add_metric([model, reason], number)
        yield ends
        label = self._chat_name()
        yield _one(GaugeMetricFamily, "vllm:num_requests_running", "Chat requests that run.", label, stats.num_running)
        yield _one(GaugeMetricFamily, "vllm:num_requests_waiting", "Chat requests that wait.", label, stats.num_waiting)
        yield _one(CounterMetricFamily, "vllm:num_preemptions", "Preemptions.", label, stats.num_preemptions)
        yield GaugeMetricFamily("carrel:num_pooling_waiting", "Inputs that wait.", stats.num_waiting_pooling)
        yield CounterMetricFamily("carrel:engine_steps", "Steps of the engine.", stats.num_steps)
        yield from self._caches(stats)

    def _caches(self, stats: SchedulerStats) -> Iterator[Metric]:
        label = ["model_name"]
        usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0..1.", labels=label)
        queries = CounterMetricFamily("vllm:prefix_cache_queries", "Prompt tokens looked up.", labels=label)
        hits = CounterMetricFamily("vllm:prefix_cache_hits", "Prompt tokens found.", labels=label)
        facts = ["block_size", "num_gpu_blocks", "enable_prefix_caching", "gpu_memory_utilization"]
        config = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's shape.", labels=[*label, *facts])
        engine = self._host.config
        for key, cache in stats.kv_caches.items():
            name = [self._host.models[key].names[0]]
            usage.add_metric(name, cache.usage)
            queries.add_metric(name, cache.num_queried_tokens)
            hits.add_metric(name, cache.num_hit_tokens)
            values = (engine.block_size, cache.num_blocks, engine.enable_prefix_caching, engine.gpu_memory_utilization)
            config.add_metric([*name, *map(str, values)], 1)
        yield from (usage, queries, hits, config)

    def _chat_name(self) -> str:
        """The scheduler counts over all chat models; the label is the model's when there is only one."""
        names = [hosted.names[0] for hosted in self._host.models.values() if hosted.task == "chat"]
        return names[0] if len(names) == 1 else "all"


def _one(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, documentation: str, label: str, value: float
) -> Metric:
    family = kind(name, documentation, labels=["model_name"])
    family.add_metric([label], value)
    return family
