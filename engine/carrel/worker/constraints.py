"""Which tokens the rows of a step may draw: grammars, bad words, allowed ids, ends before min_tokens; and biases.

Of all rules about one token the grammar's comes first, then allowed ids, bad words and min_tokens: a rule that would
leave no token is passed over for that step. What is kept of a request is made anew whenever it is missing, out of its
tokens so far, so that a preemption changes nothing. Knows no device and no kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from carrel.errors import CarrelError
from carrel.grammar import Bitmask, Matcher
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import ScheduledRequest

KEPT = 64  # requests that are remembered beside those of the last steps


def is_constrained(request: Request) -> bool:
    """Whether the tokens of ``request`` are drawn under a mask or a bias."""
    params = request.sampling_params
    return request.grammar is not None or (params is not None and params.has_constraints)


@dataclass(slots=True)
class StepConstraints:
    """The constrained rows of one step. A row may stand in ``masked_rows``, in ``biased_rows``, or in both."""

    masked_rows: NDArray[np.int64]  # [n]
    masks: NDArray[np.int32]  # [n, ceil(vocab_size / 32)]
    biased_rows: NDArray[np.int64]  # [m] one entry for each bias
    biased_ids: NDArray[np.int64]  # [m]
    biases: NDArray[np.float32]  # [m]
    errors: dict[int, CarrelError]  # row → why its request cannot go on


@dataclass(slots=True)
class _Kept:
    """What is known of one request."""

    allowed: Bitmask | None  # from the allowed ids
    barred: Bitmask | None  # bad words of one token
    words: dict[int, list[tuple[int, ...]]]  # the other bad words, by their last token but one
    biased_ids: NDArray[np.int64]
    biases: NDArray[np.float32]
    matcher: Matcher | None = None
    num_consumed: int = 0
    last_step: int = 0

    @classmethod
    def of(cls, request: Request, vocab_size: int) -> _Kept:
        params, words = _params(request), dict[int, list[tuple[int, ...]]]()
        for word in request.bad_words_token_ids:
            if len(word) > 1 and 0 <= word[-1] < vocab_size:
                words.setdefault(word[-2], []).append(word)
        single = [word[0] for word in request.bad_words_token_ids if len(word) == 1 and 0 <= word[0] < vocab_size]
        biases = params.logit_bias or {}
        return cls(
            allowed=None if params.allowed_token_ids is None else mask_of(params.allowed_token_ids, vocab_size),
            barred=mask_of(single, vocab_size) if single else None,
            words=words,
            biased_ids=np.fromiter(biases.keys(), dtype=np.int64, count=len(biases)),
            biases=np.fromiter(biases.values(), dtype=np.float32, count=len(biases)),
        )

    def barred_behind(self, output: Sequence[int], vocab_size: int) -> Bitmask | None:
        """Tokens that would end a bad word right after ``output``; None: none would."""
        ended = (
            [
                word[-1]
                for word in self.words.get(output[-1], ())
                if tuple(output[max(0, len(output) + 1 - len(word)) :]) == word[:-1]
            ]
            if output
            else []
        )
        if not ended:
            return self.barred
        mask = mask_of(ended, vocab_size)
        return mask if self.barred is None else mask | self.barred


@dataclass(slots=True)
class _Rows:
    """A step's constraints while they are put together."""

    masked: list[int] = field(default_factory=list)
    masks: list[Bitmask] = field(default_factory=list)
    biased: list[tuple[int, _Kept]] = field(default_factory=list)
    errors: dict[int, CarrelError] = field(default_factory=dict)

    def finish(self, num_words: int) -> StepConstraints:
        masks = np.stack(self.masks) if self.masks else np.zeros((0, num_words), dtype=np.int32)
        rows, sizes = [row for row, _ in self.biased], [len(kept.biases) for _, kept in self.biased]
        none = np.zeros(0, dtype=np.int64)
        return StepConstraints(
            masked_rows=np.array(self.masked, dtype=np.int64),
            masks=masks,
            biased_rows=np.repeat(np.array(rows, dtype=np.int64), sizes),
            biased_ids=np.concatenate([none, *(kept.biased_ids for _, kept in self.biased)]),
            biases=np.concatenate([none.astype(np.float32), *(kept.biases for _, kept in self.biased)]),
            errors=self.errors,
        )


class Constraints:
    """Of one model, over all steps. One thread uses it."""

    def __init__(self) -> None:
        self._kept: dict[Request, _Kept] = {}  # by identity
        self._step = 0
        self._requests: list[Request] = []  # that were looked at last, and what was found
        self._is_free = self._runs_ahead = True

    def of_step(self, items: Sequence[ScheduledRequest], vocab_size: int) -> StepConstraints | None:
        """What holds for row i, ``items[i]``; None if all rows are free. Read during submit() alone."""
        self._step += 1
        self._look_at(items)
        if self._is_free:
            return None
        rows = _Rows()
        for row, item in enumerate(items):
            if is_constrained(item.request):
                self._constrain(row, item, vocab_size, rows)
        self._forget(4 * len(items) + KEPT)
        return rows.finish(-(-vocab_size // 32))

    def runs_ahead(self, items: Sequence[ScheduledRequest]) -> bool:
        """Whether no mask of the next step depends on the tokens of this one."""
        self._look_at(items)
        return self._runs_ahead

    def release(self, request_ids: Sequence[str]) -> None:
        """These requests ended."""
        ended = set(request_ids)
        if any(request.request_id in ended for request in self._requests):
            self._requests, self._is_free, self._runs_ahead = [], True, True
        for request in [request for request in self._kept if request.request_id in ended]:
            del self._kept[request]

    def _look_at(self, items: Sequence[ScheduledRequest]) -> None:
        """The same requests decode for many steps: they are looked at once."""
        requests = [item.request for item in items]
        if requests != self._requests:
            self._requests = requests
            self._is_free = not any(map(is_constrained, requests))
            self._runs_ahead = self._is_free or not any(request.reads_output for request in requests)

    def _constrain(self, row: int, item: ScheduledRequest, vocab_size: int, rows: _Rows) -> None:
        kept = self._keep(item.request, vocab_size)
        if len(kept.biases):
            rows.biased.append((row, kept))
        try:
            mask = self._mask(kept, item, vocab_size)
        except CarrelError as error:
            rows.errors[row] = error
            return
        if mask is not None:
            rows.masked.append(row)
            rows.masks.append(mask)

    def _mask(self, kept: _Kept, item: ScheduledRequest, vocab_size: int) -> Bitmask | None:
        """Tokens that may be drawn; None: all."""
        request, params = item.request, _params(item.request)
        output = request.output_token_ids[: item.num_output_tokens]
        mask = self._grammar_mask(kept, request, output, vocab_size)
        if kept.allowed is not None:
            mask = kept.allowed.copy() if mask is None else _narrowed(mask, kept.allowed)
        barred = kept.barred_behind(output, vocab_size)
        ends = request.end_token_ids if item.num_output_tokens < params.min_tokens else ()
        inside = [token for token in ends if 0 <= token < vocab_size]
        for out in (barred, mask_of(inside, vocab_size) if inside else None):
            if out is not None:
                mask = _narrowed(full_mask(vocab_size) if mask is None else mask, ~out)
        return mask

    def _keep(self, request: Request, vocab_size: int) -> _Kept:
        kept = self._kept.get(request)
        if kept is None:
            kept = self._kept[request] = _Kept.of(request, vocab_size)
        kept.last_step = self._step
        return kept

    def _grammar_mask(self, kept: _Kept, request: Request, output: Sequence[int], vocab_size: int) -> Bitmask | None:
        if request.grammar is None:
            return None
        if kept.matcher is None or kept.num_consumed > len(output):
            kept.matcher, kept.num_consumed = request.grammar.matcher(), 0
        kept.matcher.consume(output[kept.num_consumed :])
        kept.num_consumed = len(output)
        mask = np.zeros(-(-vocab_size // 32), dtype=np.int32)
        kept.matcher.fill_bitmask(mask)
        return mask

    def _forget(self, most: int) -> None:
        """Requests that give way, and rows that were computed once more after their release."""
        if len(self._kept) > most:
            for request in [request for request, kept in self._kept.items() if kept.last_step < self._step - 1]:
                del self._kept[request]


def full_mask(vocab_size: int) -> Bitmask:
    """[ceil(vocab_size / 32)] every token."""
    return np.full(-(-vocab_size // 32), -1, dtype=np.int32)


def mask_of(token_ids: Iterable[int], vocab_size: int) -> Bitmask:
    """[ceil(vocab_size / 32)] these tokens alone.

    >>> mask_of([0, 33], 64).tolist()
    [1, 2]
    """
    mask = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
    ids = np.fromiter(token_ids, dtype=np.int64)
    np.bitwise_or.at(mask, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
    return mask.view(np.int32)


def _narrowed(mask: Bitmask, kept: Bitmask) -> Bitmask:
    """The tokens of both; ``mask`` as it is if there are none."""
    both = mask & kept
    return both if both.any() else mask


def _params(request: Request) -> SamplingParams:
    assert request.sampling_params is not None, "only requests that sample reach the sampler"
    return request.sampling_params
