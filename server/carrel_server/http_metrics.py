"""Counts of HTTP requests, under the names that vLLM's dashboards read. Knows routes' templates, no models."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})


class HttpMetrics:
    """In a registry that the engine's metrics join when there is an engine."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["handler", "method", "status"]
        self._requests = Counter("http_requests", "Ended HTTP requests.", labels, registry=self.registry)
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "First byte of the request to last byte of the answer.",
            ["handler", "method"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def observe(self, handler: str, method: str, status: int, seconds: float) -> None:
        """``handler`` is a route's template; statuses are grouped, as 2xx."""
        method = method if method in METHODS else "other"
        self._requests.labels(handler, method, f"{status // 100}xx").inc()
        self._seconds.labels(handler, method).observe(seconds)
