"""Beam search over the engine: every round asks it for one token of each beam, with the most likely candidates.

::

    beams      a ─┬─ ab ─┬─ abc        each round: beam_width requests of one token, 2 · beam_width candidates each
                  └─ ad ─┴─ abe        the prefix cache has their blocks, so a round computes a block for a beam at most

The search is vLLM's: candidates of all beams are sorted by score, the best ``beam_width`` go on, those that end by an
end-of-sequence token are put aside, and at the end the best of both are the answer. It ends early only when what goes
on cannot become better than what is put aside, so nothing is lost by that. Knows requests and tokens; knows no thread
and no event loop: the faces run the rounds.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import NamedTuple

from carrel.beam_params import MAX_BEAM_WIDTH, BeamSearchParams
from carrel.errors import CarrelError
from carrel.host import EngineHost
from carrel.hosted_model import HostedModel
from carrel.inputs import TokenizedPrompt, resolve_max_tokens
from carrel.jobs import Job
from carrel.logprobs import named_logprobs
from carrel.outputs import (
    BeamSearchOutput,
    BeamSearchSequence,
    CompletionOutput,
    FinishReason,
    LogprobsOnePosition,
    RequestMetrics,
    RequestOutput,
)
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import EngineOutput, TokenLogprobs


class BeamStepParams(SamplingParams):
    """Sampling parameters of one round: more candidates than a caller may see."""

    max_logprobs = 2 * MAX_BEAM_WIDTH


@dataclass(frozen=True, slots=True)
class Beam:
    """A sequence: what was generated so far, and how likely that is."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    cum_logprob: float = 0.0
    end: int | None = None  # the end-of-sequence token that ended it


class _Candidate(NamedTuple):
    """A beam and one more token; there are many, and few become beams."""

    cum_logprob: float
    beam: Beam
    token_id: int
    step: TokenLogprobs

    def as_beam(self, *, ends: bool) -> Beam:
        token_ids, logprobs = (*self.beam.token_ids, self.token_id), (*self.beam.logprobs, self.step)
        return Beam(token_ids, logprobs, self.cum_logprob, self.token_id if ends else None)


class BeamStepJob(Job[TokenLogprobs]):
    """The candidates for one beam's next token."""

    def __init__(self, host: EngineHost, model: HostedModel, request: Request) -> None:
        super().__init__(host, model)
        self.requests = [request]
        self.num_cached_tokens = 0
        self._candidates: TokenLogprobs | None = None

    @property
    def finished(self) -> bool:
        return self.error is not None or self._candidates is not None

    def _feed(self, outputs: Sequence[EngineOutput]) -> list[str]:
        for output in outputs:
            if output.logprobs:
                self._candidates = output.logprobs[0]
                self.num_cached_tokens = output.num_cached_tokens
            elif output.finished:
                self.error = CarrelError("The request was aborted.")
        return []

    def _take(self) -> TokenLogprobs | None:
        return self._candidates

    def _count(self) -> None:
        """The search is counted, as one request."""


class BeamSearch:
    """The search for one prompt. ``jobs()`` and ``advance()`` in turn, until there are no jobs; then ``finish()``."""

    def __init__(
        self,
        host: EngineHost,
        model: HostedModel,
        prompt: TokenizedPrompt,
        params: BeamSearchParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> None:
        self.host, self.model, self.prompt, self.params, self.request_id = host, model, prompt, params, request_id
        self.max_tokens = resolve_max_tokens(model, len(prompt.token_ids), params.max_tokens)
        self.num_generated_tokens = self.num_cached_tokens = 0
        self._beams, self._ended = [Beam()], list[Beam]()
        self._num_rounds = 0
        num_candidates = min(2 * params.beam_width, model.config.vocab_size)
        self._step_params = BeamStepParams(temperature=0.0, max_tokens=1, logprobs=num_candidates)
        self._priority, self._cache_salt = priority, cache_salt
        self._metrics = RequestMetrics(time.monotonic())
        self._counted = False

    def jobs(self) -> list[BeamStepJob]:
        """One job for each beam that goes on; none when the search is over."""
        if self._num_rounds >= self.max_tokens or self._is_decided():
            return []
        return [BeamStepJob(self.host, self.model, self._request(index)) for index in range(len(self._beams))]

    def advance(self, jobs: Sequence[BeamStepJob], candidates: Sequence[TokenLogprobs]) -> None:
        """Take in what the round found."""
        if not self._num_rounds:
            self._metrics.first_token_time = time.monotonic()
            self._metrics.first_scheduled_time = jobs[0].requests[0].first_scheduled_time
            self.num_cached_tokens = jobs[0].num_cached_tokens
        self._num_rounds += 1
        self.num_generated_tokens += len(jobs)
        grown = [
            _Candidate(beam.cum_logprob + logprob, beam, token_id, step)
            for beam, step in zip(self._beams, candidates, strict=True)
            for token_id, logprob in zip(step.token_ids[1:], step.logprobs[1:], strict=True)  # without the drawn one
        ]
        ended = [candidate.as_beam(ends=True) for candidate in grown if self._ends(candidate.token_id)]
        self._ended = self._best(self._ended + ended)
        going_on = (candidate for candidate in grown if not self._ends(candidate.token_id))
        # Of one length, so the most likely ones are the best ones.
        best = heapq.nlargest(self.params.beam_width, going_on, key=itemgetter(0))
        self._beams = [candidate.as_beam(ends=False) for candidate in best]

    def finish(self) -> list[Beam]:
        """The best beams, the best first."""
        self._metrics.finished_time = time.monotonic()
        best = self._best(self._ended + self._beams)
        self._count(["length" if beam.end is None else "stop" for beam in best])
        return best

    def abandon(self) -> None:
        """The reader leaves before the end."""
        self._count(["abort"])

    def score(self, beam: Beam, num_tokens: int | None = None) -> float:
        """How good a beam is; with ``num_tokens``, if so many were generated. The token that ends it does not count."""
        length = len(beam.token_ids) - (beam.end is not None) if num_tokens is None else num_tokens
        whole: float = (len(self.prompt.token_ids) + length) ** self.params.length_penalty
        return beam.cum_logprob / whole

    def _best(self, beams: list[Beam]) -> list[Beam]:
        return sorted(beams, key=self.score, reverse=True)[: self.params.beam_width]

    def _is_decided(self) -> bool:
        """Whether no beam can come to be among the best: log probabilities only fall, the length is what may help."""
        if not self._beams:
            return True
        if len(self._ended) < self.params.beam_width:
            return False
        worst = min(map(self.score, self._best(self._ended)))
        lengths = (self._num_rounds, self.max_tokens)
        return all(max(self.score(beam, length) for length in lengths) <= worst for beam in self._beams)

    def _ends(self, token_id: int) -> bool:
        return token_id in self.model.eos_token_ids and not self.params.ignore_eos

    def _request(self, index: int) -> Request:
        return Request(
            request_id=f"{self.request_id}-{self._num_rounds}-{index}",
            model=self.model.runner_key,
            prompt_token_ids=[*self.prompt.token_ids, *self._beams[index].token_ids],
            sampling_params=self._step_params,
            priority=self._priority,
            cache_salt=self._cache_salt,
        )

    def _count(self, reasons: list[str]) -> None:
        if self._counted:
            return
        self._counted = True
        times = self._metrics
        first, end = times.first_token_time, times.finished_time or time.monotonic()
        self.host.metrics.generation_finished(
            self.model.key,
            reasons=reasons,
            num_prompt_tokens=len(self.prompt.token_ids),
            num_generated_tokens=self.num_generated_tokens,
            time_to_first_token=None if first is None else first - times.arrival_time,
            latency=end - times.arrival_time,
        )

    @property
    def metrics(self) -> RequestMetrics:
        return replace(self._metrics)


def shown_tokens(search: BeamSearch, beam: Beam) -> list[int]:
    """The generated tokens that a caller sees."""
    hides_end = beam.end is not None and not search.params.include_stop_str_in_output
    return list(beam.token_ids[:-1] if hides_end else beam.token_ids)


def beam_search_output(search: BeamSearch, beams: Sequence[Beam]) -> BeamSearchOutput:
    """In vLLM's shape of ``LLM.beam_search``: tokens and text begin with the prompt."""
    tokenizer = search.model.tokenizer
    sequences = []
    for beam in beams:
        tokens = [*search.prompt.token_ids, *shown_tokens(search, beam)]
        sequences.append(
            BeamSearchSequence(
                tokens=tokens,
                logprobs=_named(search, beam),
                cum_logprob=beam.cum_logprob,
                text=tokenizer.decode(tokens),
                finish_reason=_finish_reason(beam),
                stop_reason=beam.end,
            )
        )
    return BeamSearchOutput(sequences)


def request_output(search: BeamSearch, beams: Sequence[Beam]) -> RequestOutput:
    """As any generation's output: a completion for each beam, without the prompt."""
    return RequestOutput(
        request_id=search.request_id,
        prompt=search.prompt.text,
        prompt_token_ids=search.prompt.token_ids,
        outputs=[_completion(search, index, beam) for index, beam in enumerate(beams)],
        finished=True,
        num_cached_tokens=search.num_cached_tokens,
        truncated=search.prompt.truncated,
        num_generated_tokens=search.num_generated_tokens,
        metrics=search.metrics,
    )


def _completion(search: BeamSearch, index: int, beam: Beam) -> CompletionOutput:
    tokenizer, token_ids = search.model.tokenizer, shown_tokens(search, beam)
    return CompletionOutput(
        index=index,
        text=tokenizer.decode(token_ids),
        token_ids=token_ids,
        cumulative_logprob=beam.cum_logprob,
        logprobs=_named(search, beam)[: len(token_ids)],
        finish_reason=_finish_reason(beam),
        stop_reason=None,
    )


def _named(search: BeamSearch, beam: Beam) -> list[LogprobsOnePosition]:
    """Of each token: its own first, then the most likely ones."""
    tokenizer, positions = search.model.tokenizer, []
    for token_id, step in zip(beam.token_ids, beam.logprobs, strict=True):
        position = named_logprobs(tokenizer, step)
        positions.append({token_id: position[token_id], **position})
    return positions


def _finish_reason(beam: Beam) -> FinishReason:
    return "length" if beam.end is None else "stop"
