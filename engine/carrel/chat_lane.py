"""The requests of one chat model: who runs, who waits, who gives way when the KV cache is full.

Knows one :class:`~carrel.kv_cache.KVCacheManager` and the order of urgency. Does not know other models, nor how the
token budget of a step is divided.

All blocks of a prompt are taken when the request is admitted, so a prefill that has begun never waits for memory. Only
decode asks for more. When there is none, the least urgent request gives its blocks back and is computed again later.
The most urgent request can thus always go on, and alone it fits: that is checked before it is accepted.

What is scheduled counts as computed from then on, and the token to be sampled is a placeholder until the device tells
it, so that the next step can be scheduled while this one is in flight. Blocks are free for others as soon as their
request ends or gives way, even if a step in flight still writes to them: the device runs steps in order, and whoever
gets such a block writes it, in a later step, before reading it.
"""

from __future__ import annotations

import time
from bisect import insort

from carrel.kv_cache import KVCacheManager
from carrel.request import Request, RequestStatus
from carrel.request_queue import RequestQueue, urgency
from carrel.step import ScheduledRequest


class ChatLane:
    """One chat model's running and waiting requests.

    ``running``, and those of them whose prefill is not finished, ``prefilling``, are sorted: the most urgent first.
    """

    def __init__(self, model: str, kv_cache: KVCacheManager) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.running: list[Request] = []
        self.prefilling: list[Request] = []
        self.waiting = RequestQueue()
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    def schedule_decodes(self, scheduled: list[ScheduledRequest], preempted: list[Request]) -> None:
        """What requests past their prefill lack, the most urgent first: the token (or tokens) sampled last."""
        running, block_size = self.running, self.kv_cache.block_size
        index = 0
        while index < len(running):  # preemption shortens the list from its end, behind what is scheduled already
            request = running[index]
            index += 1
            num_computed_tokens, num_placeholders = request.num_computed_tokens, request.num_output_placeholders
            if num_computed_tokens < request.num_prefill_tokens:
                continue
            num_output_tokens = len(request.output_token_ids) + num_placeholders
            if num_placeholders and num_output_tokens >= request.max_tokens:
                continue  # its last token is being sampled
            num_tokens = len(request.prompt_token_ids) + num_output_tokens
            num_new_tokens, block_ids = num_tokens - num_computed_tokens, request.block_ids
            if num_tokens > len(block_ids) * block_size and not self._grow(request, num_new_tokens, preempted):
                continue
            request.num_computed_tokens, request.num_output_placeholders = num_tokens, num_placeholders + 1
            scheduled.append(
                ScheduledRequest(request, num_new_tokens, block_ids, num_computed_tokens, True, num_placeholders > 0)
            )

    def continue_prefill(self, request: Request, max_tokens: int) -> ScheduledRequest:
        """The next chunk of a prompt, of at most ``max_tokens`` tokens. Its blocks were taken when it was admitted."""
        start, end = request.num_computed_tokens, request.num_prefill_tokens
        num_new_tokens = min(end - start, max_tokens)
        samples = start + num_new_tokens == end
        request.num_computed_tokens += num_new_tokens
        if samples:
            request.num_output_placeholders += 1
            self.prefilling.remove(request)
        num_logits = request.num_prompt_logits(start, start + num_new_tokens)
        return ScheduledRequest(
            request, num_new_tokens, request.block_ids, start, samples, num_prompt_logits=num_logits
        )

    def admit(self, max_tokens: int) -> ScheduledRequest | None:
        """Start the most urgent waiting request with at most ``max_tokens`` tokens; None if it must wait.

        It waits for room: one block for each running request stays free, so that what is admitted now is not preempted
        in the next steps. It also waits while another request computes half or more of what it lacks, and then finds
        that in the cache: the ``n`` completions of a prompt compute the prompt once.
        """
        request = self.waiting.peek()
        assert request is not None, "the caller looks whether anybody waits"
        blocks, num_cached_tokens = self.kv_cache.get_computed_blocks(request)
        num_missing_tokens = request.num_tokens - num_cached_tokens
        if 2 * self.kv_cache.num_coming_tokens(request, blocks) >= num_missing_tokens:
            return None
        block_ids = self.kv_cache.allocate_slots(request, num_missing_tokens, blocks, headroom=len(self.running))
        if block_ids is None:
            return None
        self.waiting.pop()
        if request.first_scheduled_time is None:
            request.first_scheduled_time = time.monotonic()
            request.num_cached_tokens = num_cached_tokens
        request.block_ids = block_ids
        request.num_computed_tokens = num_cached_tokens
        request.num_prefill_tokens = request.num_tokens
        request.status = RequestStatus.RUNNING
        insort(self.running, request, key=urgency)
        insort(self.prefilling, request, key=urgency)
        return self.continue_prefill(request, max_tokens)

    def drop_finished(self, request: Request) -> None:
        """``request`` ended, wherever it was: give back its blocks."""
        self.waiting.discard_finished(request)
        for requests in (self.running, self.prefilling):
            if request in requests:
                requests.remove(request)
        self.kv_cache.free(request)

    def _grow(self, request: Request, num_new_tokens: int, preempted: list[Request]) -> bool:
        """Take blocks for so many more tokens. While there are none, the least urgent request gives way.

        False: that was ``request`` itself.
        """
        while self.kv_cache.allocate_slots(request, num_new_tokens) is None:
            victim = self.running.pop()
            self._preempt(victim)
            preempted.append(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        """Back to the queue. A token that is being sampled for it is dropped, and sampled again: it is the same."""
        self.kv_cache.free(request)
        if request in self.prefilling:
            self.prefilling.remove(request)
        request.num_computed_tokens = request.num_output_placeholders = 0
        request.num_preemptions += 1
        request.status = RequestStatus.PREEMPTED
        self.num_preemptions += 1
        self.waiting.push(request)
