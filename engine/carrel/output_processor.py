"""Turns the engine's outputs for one prompt into :class:`RequestOutput`. Knows its ``n`` children; knows no thread.

Feeding and taking are apart: whoever is called by the engine feeds, whoever reads takes, and a reader that is slow gets
several steps in one output.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from carrel.completion import Completion
from carrel.logprobs import named_prompt_logprobs
from carrel.outputs import CompletionOutput, LogprobsOnePosition, RequestMetrics, RequestOutput
from carrel.params import RequestOutputKind, SamplingParams
from carrel.parsers.base import AnswerFormat
from carrel.request import Request
from carrel.step import EngineOutput
from carrel.tokenizer import Tokenizer


class OutputProcessor:
    """The completions of one prompt.

    ``requests`` are the child requests, in order; ``prompt`` the text that the caller gave or the template made;
    ``answer`` how a chat's answer is written, None for a plain text.
    """

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        requests: Sequence[Request],
        params: SamplingParams,
        tokenizer: Tokenizer,
        answer: AnswerFormat | None = None,
    ) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._requests = list(requests)
        self._kind = params.output_kind
        self._params, self._tokenizer = params, tokenizer
        self._prompt_logprobs: list[LogprobsOnePosition | None] | None = None
        prompt_token_ids = requests[0].prompt_token_ids
        own = [request.sampling_params or params for request in requests]  # with what ranking needs
        self.completions = [Completion(i, tokenizer, prompt_token_ids, each, answer) for i, each in enumerate(own)]
        self._child_of = {request.request_id: child for request, child in zip(requests, self.completions, strict=True)}
        self.metrics = RequestMetrics(arrival_time=requests[0].arrival_time)

    def feed(self, outputs: Sequence[EngineOutput]) -> list[str]:
        """Take the engine's news in. Returns ids to abort: requests that a stop string ended before the engine did."""
        stopped = []
        for output in outputs:
            child = self._child_of[output.request_id]
            was_open = child.finish_reason is None
            child.feed(output)
            if output.prompt_logprobs is not None:
                self._prompt_logprobs = named_prompt_logprobs(self._tokenizer, output.prompt_logprobs)
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

    @property
    def num_generated_tokens(self) -> int:
        """Of all sequences, also of those that will not be shown."""
        return sum([len(child.token_ids) for child in self.completions])

    def take(self) -> RequestOutput | None:
        """The output to show now, in the kind that the parameters ask for; None if there is nothing new to see."""
        if self._kind is RequestOutputKind.FINAL_ONLY and not self.finished:
            return None
        news = [child for child in self.completions if child.has_news]
        if not news:
            return None
        if self._kind is RequestOutputKind.DELTA:
            shown = [child.delta() for child in news]
        else:
            shown = self._best([child.whole() for child in self.completions])
        prompt_logprobs = self._prompt_logprobs
        if self._kind is RequestOutputKind.DELTA:
            self._prompt_logprobs = None
        self.metrics.first_scheduled_time = self._requests[0].first_scheduled_time
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=shown,
            finished=self.finished,
            num_cached_tokens=self.num_cached_tokens,
            num_generated_tokens=self.num_generated_tokens,
            prompt_logprobs=prompt_logprobs,
            metrics=self.metrics,
        )

    def _best(self, outputs: list[CompletionOutput]) -> list[CompletionOutput]:
        """The ``n`` with the highest log probability per token, as OpenAI defines best_of; else all."""
        if not self._params.ranks_sequences:
            return outputs
        best = sorted(outputs, key=_mean_logprob, reverse=True)[: self._params.n]
        for index, output in enumerate(best):
            output.index = index
            if self._params.logprobs is None:
                output.logprobs = output.cumulative_logprob = None
        return best


def _mean_logprob(output: CompletionOutput) -> float:
    """Lowest for a sequence that has no token, because it was aborted."""
    return (output.cumulative_logprob or 0.0) / len(output.token_ids) if output.token_ids else -math.inf
