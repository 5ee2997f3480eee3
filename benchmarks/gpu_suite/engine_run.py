"""An engine of random weights, and runs of requests through it with the time of every delivery.

Token ids in, token ids or vectors out: the engine as faces and server use it, without text. Knows no figure.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel.request import Request
from carrel.step import EngineOutput

from gpu_suite.shapes import Shape

RUN_SECONDS = 120.0  # a run that gives no answer for so long is dead


@contextlib.contextmanager
def opened(shape: Shape, device: str, **options: Any) -> Iterator[EngineHost]:
    """A host of ``shape`` with random weights; ``options`` are those of :class:`EngineConfig`."""
    defaults: dict[str, Any] = {"load_format": "dummy", "skip_tokenizer_init": True, "device": device}
    with tempfile.TemporaryDirectory() as folder:
        spec = ModelSpec(name=str(shape.write(Path(folder) / "model")), served_model_name=(shape.name,))
        with EngineHost([spec], EngineConfig(**{**defaults, **options})) as host:
            yield host


class Run:
    """All deliveries of one run of requests, with their times. Also the mailbox that takes them."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        self.deliveries: list[tuple[float, list[EngineOutput]]] = []
        self.started = 0.0
        self._open = {request.request_id for request in requests}
        self._done = threading.Event()

    def deliver(self, outputs: list[EngineOutput]) -> None:
        """Called by the engine's thread."""
        self.deliveries.append((time.perf_counter(), outputs))
        for output in outputs:
            if output.finish_reason is not None:
                self._open.discard(output.request_id)
        if not self._open:
            self._done.set()

    def wait(self, seconds: float) -> None:
        """Until every request ended. Raises what a request ended with, if that was an error."""
        if not self._done.wait(seconds):
            raise TimeoutError(f"{len(self._open)} of {len(self.requests)} requests gave no answer in {seconds:.0f} s")
        for output in self.outputs:
            if output.error is not None:
                raise output.error

    @property
    def outputs(self) -> list[EngineOutput]:
        return [output for _, outputs in self.deliveries for output in outputs]

    @property
    def seconds(self) -> float:
        """From submit to the last delivery."""
        return self.deliveries[-1][0] - self.started

    @property
    def num_output_tokens(self) -> int:
        return sum(len(output.new_token_ids) for output in self.outputs)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(request.num_prompt_tokens for request in self.requests)

    @property
    def num_deliveries(self) -> int:
        return len(self.deliveries)

    def token_ids(self) -> dict[str, list[int]]:
        made: dict[str, list[int]] = {request.request_id: [] for request in self.requests}
        for output in self.outputs:
            made[output.request_id] += output.new_token_ids
        return made

    def first_token_seconds(self) -> list[float]:
        """Of each request, from submit to its first token."""
        first: dict[str, float] = {}
        for moment, outputs in self.deliveries:
            for output in outputs:
                if output.new_token_ids:
                    first.setdefault(output.request_id, moment - self.started)
        return list(first.values())

    def steady_rate(self) -> float:
        """Tokens a second while all requests decode: after the last first token, before the first end."""
        last_first = self.started + max(self.first_token_seconds())
        first_end = min(
            moment for moment, outputs in self.deliveries if any(output.finish_reason for output in outputs)
        )
        tokens = sum(
            len(output.new_token_ids)
            for moment, outputs in self.deliveries
            if last_first < moment <= first_end
            for output in outputs
        )
        span = first_end - last_first
        assert span > 0, "the requests never decoded all together"
        return tokens / span


def run(host: EngineHost, requests: Sequence[Request], *, seconds: float = RUN_SECONDS) -> Run:
    """Submit all of ``requests`` at once and wait for their ends."""
    result = Run(requests)
    result.started = time.perf_counter()
    host.loop.submit(requests, result)
    result.wait(seconds)
    return result
