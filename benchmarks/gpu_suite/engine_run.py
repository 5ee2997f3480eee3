"""An engine of random weights, and runs of requests through it with the times of what came back.

Token ids in, token ids or vectors out: the engine as faces and server use it, without text. Knows no figure.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from carrel.config import EngineConfig, ModelSpec
from carrel.errors import CarrelError
from carrel.host import EngineHost
from carrel.outputs import FloatArray
from carrel.request import Request
from carrel.step import EngineOutput, TokenLogprobs

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


class Delivery(NamedTuple):
    """What one step brought."""

    moment: float
    num_tokens: int
    num_ended: int


class Run:
    """One run of requests, and the mailbox that takes what comes.

    Outputs are not kept: a hundred thousand objects that live on would have Python's garbage collector look at them
    again and again in the middle of the measurement.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        self.deliveries: list[Delivery] = []
        self.started = 0.0
        self.token_ids: dict[str, list[int]] = {request.request_id: [] for request in requests}
        self.logprobs: dict[str, list[TokenLogprobs]] = {}
        self.pooled: dict[str, FloatArray] = {}
        self.errors: list[CarrelError] = []
        self._first: dict[str, float] = {}  # moment of each request's first token
        self._num_open = len(self.requests)
        self._done = threading.Event()

    def deliver(self, outputs: list[EngineOutput]) -> None:
        """Called by the engine's thread."""
        now, num_tokens, num_ended = time.perf_counter(), 0, 0
        for output in outputs:
            if output.new_token_ids:
                self._take_tokens(output, now)
                num_tokens += len(output.new_token_ids)
            if output.finish_reason is not None:
                num_ended += 1
                self._take_end(output)
        self.deliveries.append(Delivery(now, num_tokens, num_ended))
        self._num_open -= num_ended
        if self._num_open <= 0:
            self._done.set()

    def _take_tokens(self, output: EngineOutput, now: float) -> None:
        made = self.token_ids[output.request_id]
        if not made:
            self._first[output.request_id] = now
        made += output.new_token_ids
        if output.logprobs:
            self.logprobs.setdefault(output.request_id, []).extend(output.logprobs)

    def _take_end(self, output: EngineOutput) -> None:
        if output.pooled is not None:
            self.pooled[output.request_id] = output.pooled
        if output.error is not None:
            self.errors.append(output.error)

    def wait(self, seconds: float) -> None:
        """Until every request ended. Raises what a request ended with, if that was an error."""
        if not self._done.wait(seconds):
            raise TimeoutError(f"{self._num_open} of {len(self.requests)} requests gave no answer in {seconds:.0f} s")
        if self.errors:
            raise self.errors[0]

    @property
    def seconds(self) -> float:
        """From submit to the last delivery."""
        return self.deliveries[-1].moment - self.started

    @property
    def num_output_tokens(self) -> int:
        return sum(delivery.num_tokens for delivery in self.deliveries)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(request.num_prompt_tokens for request in self.requests)

    @property
    def last_first_token(self) -> float:
        """Seconds from submit until every request had a token."""
        return max(self._first.values()) - self.started

    @property
    def steady_rate(self) -> float | None:
        """Tokens a second while all requests decode: after the last first token, up to the first end."""
        begin = max(self._first.values())
        end = next(delivery.moment for delivery in self.deliveries if delivery.num_ended)
        if end <= begin:
            return None  # they never decoded all together
        return sum(each.num_tokens for each in self.deliveries if begin < each.moment <= end) / (end - begin)


def run(host: EngineHost, requests: Sequence[Request], *, seconds: float = RUN_SECONDS) -> Run:
    """Submit all of ``requests`` at once and wait for their ends."""
    result = Run(requests)
    result.started = time.perf_counter()
    host.loop.submit(requests, result)
    result.wait(seconds)
    return result
