"""Turns the engine's outputs for one prompt into :class:`RequestOutput`. Knows its ``n`` children; knows no thread.

Feeding and taking are apart: whoever is called by the engine feeds, whoever reads takes, and a reader that is slow gets
several steps in one output.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from carrel.completion import Completion
from carrel.outputs import RequestMetrics, RequestOutput
from carrel.params import RequestOutputKind, SamplingParams
from carrel.request import Request
from carrel.step import EngineOutput
from carrel.tokenizer import Tokenizer


class OutputProcessor:
    """The completions of one prompt.

    ``requests`` are the ``n`` child requests, in order; ``prompt`` the text that the caller gave or the template made.
    """

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        requests: Sequence[Request],
        params: SamplingParams,
        tokenizer: Tokenizer,
    ) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._requests = list(requests)
        self._kind = params.output_kind
        prompt_token_ids = requests[0].prompt_token_ids
        self.completions = [Completion(i, tokenizer, prompt_token_ids, params) for i in range(len(requests))]
        self._child_of = {request.request_id: child for request, child in zip(requests, self.completions, strict=True)}
        self.metrics = RequestMetrics(arrival_time=requests[0].arrival_time)

    def feed(self, outputs: Sequence[EngineOutput]) -> list[str]:
        """Take the engine's news in. Returns ids to abort: requests that a stop string ended before the engine did."""
        stopped = []
        for output in outputs:
            child = self._child_of[output.request_id]
            was_open = child.finish_reason is None
            child.feed(output)
            if output.new_token_ids and self.metrics.first_token_time is None:
                self.metrics.first_token_time = time.monotonic()
            if was_open and child.finish_reason is not None and not output.finished:
                stopped.append(output.request_id)
        if self.finished and self.metrics.finished_time is None:
            self.metrics.finished_time = time.monotonic()
        return stopped

    @property
    def finished(self) -> bool:
        return all(child.finish_reason is not None for child in self.completions)

    @property
    def prompt_token_ids(self) -> list[int]:
        return self._requests[0].prompt_token_ids

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that the first child found in the prefix cache."""
        return self._requests[0].num_cached_tokens

    def take(self) -> RequestOutput | None:
        """The output to show now, in the kind that the parameters ask for; None if there is nothing new to see."""
        if self._kind is RequestOutputKind.FINAL_ONLY and not self.finished:
            return None
        news = [child for child in self.completions if child.has_news]
        if not news:
            return None
        shown = (
            [child.delta() for child in news]
            if self._kind is RequestOutputKind.DELTA
            else [child.whole() for child in self.completions]
        )
        self.metrics.first_scheduled_time = self._requests[0].first_scheduled_time
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=shown,
            finished=self.finished,
            num_cached_tokens=self.num_cached_tokens,
            metrics=self.metrics,
        )
