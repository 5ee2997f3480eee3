"""How the token budget of one step is divided: decode, pooling, prefill.

Knows lanes and counts of tokens. Does not know results, errors or clients. The order of filling, and why:

1. Decode: what running chats lack past their prefill. Nothing comes before it, so nothing stalls a chat.
2. Pooling: a bounded share while chats have work, so chats never starve embedding and embedding never floods a step.
3. Prefill: chunks of admitted prompts, then new ones, by priority, then first come first served.
4. Pooling again, into what is left, if no chat decodes and so none waits for the end of the step.

The tokens of a step stay within the budget but for one case: an input to pool that does not fit beside the decodes
comes alone with them. Two steps never pass in a row in which pooling takes all that a waiting prefill could have had.
"""

from __future__ import annotations

from collections.abc import Mapping

from carrel.chat_lane import ChatLane
from carrel.pooling_lane import PoolingLane
from carrel.request import Request
from carrel.request_queue import urgency
from carrel.step import ModelBatch, ScheduledRequest, SchedulerOutput


class StepPlanner:
    """Divides each step among the lanes; remembers only whether prefill gave way to pooling in the last one."""

    def __init__(
        self, lanes: Mapping[str, ChatLane], pooling: PoolingLane, *, max_num_seqs: int, max_num_batched_tokens: int
    ) -> None:
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_num_seqs = min(max_num_seqs, max_num_batched_tokens)  # every running chat can decode in every step
        self._lanes = lanes
        self._pooling = pooling
        self._prefill_gave_way = False

    def plan(self) -> SchedulerOutput:
        """The work of the next step. See :meth:`carrel.scheduler.Scheduler.schedule`."""
        preempted: list[Request] = []
        chats: dict[str, list[ScheduledRequest]] = {model: [] for model in self._lanes}
        for model, lane in self._lanes.items():
            lane.schedule_decodes(chats[model], preempted)
        num_decode_tokens = sum([item.num_scheduled_tokens for items in chats.values() for item in items])
        budget = self.max_num_batched_tokens - num_decode_tokens

        pooled = self._share_with_pooling(budget)
        budget -= sum(request.num_prompt_tokens for request in pooled)
        self._prefill_gave_way = bool(pooled) and budget <= 0 and self._prefill_waits()
        budget = self._continue_prefills(chats, budget)
        budget = self._admit(chats, budget, closed={request.model for request in preempted})
        if num_decode_tokens == 0:
            pooled += self._pooling.fill(budget)

        batches = [ModelBatch(model, items) for model, items in chats.items() if items]
        return SchedulerOutput(batches + _pooling_batches(pooled), preempted)

    def _share_with_pooling(self, budget: int) -> list[Request]:
        """Inputs to pool in this step, chosen before prefill gets its part."""
        if not any(lane.has_work for lane in self._lanes.values()):
            return self._pooling.take(budget)
        return [] if self._prefill_gave_way else self._pooling.take_share(budget)

    def _prefill_waits(self) -> bool:
        return any(len(lane.waiting) or lane.prefilling for lane in self._lanes.values())

    def _continue_prefills(self, chats: dict[str, list[ScheduledRequest]], budget: int) -> int:
        """Next chunks of the prompts that have begun. Return what is left of the budget."""
        for request in sorted((r for lane in self._lanes.values() for r in lane.prefilling), key=urgency):
            if budget <= 0:
                break
            item = self._lanes[request.model].continue_prefill(request, budget)
            chats[request.model].append(item)
            budget -= item.num_scheduled_tokens
        return budget

    def _admit(self, chats: dict[str, list[ScheduledRequest]], budget: int, closed: set[str]) -> int:
        """Start waiting requests, of models not in ``closed``. Return what is left of the budget.

        Whose head finds no room is closed for this step: who stands behind it must not overtake it for ever.
        """
        num_seats = self.max_num_seqs - sum(len(lane.running) for lane in self._lanes.values())
        while budget > 0 and num_seats > 0 and (lane := self._next_lane(closed)) is not None:
            item = lane.admit(budget)
            if item is None:
                closed.add(lane.model)
                continue
            chats[lane.model].append(item)
            budget -= item.num_scheduled_tokens
            num_seats -= 1
        return budget

    def _next_lane(self, closed: set[str]) -> ChatLane | None:
        """The lane whose first waiting request is the most urgent of all."""
        heads = [(lane.waiting.peek(), lane) for model, lane in self._lanes.items() if model not in closed]
        waiting = [(urgency(head), lane) for head, lane in heads if head is not None]
        return min(waiting, key=lambda pair: pair[0])[1] if waiting else None


def _pooling_batches(requests: list[Request]) -> list[ModelBatch]:
    batches: dict[str, ModelBatch] = {}
    for request in requests:
        batch = batches.setdefault(request.model, ModelBatch(request.model, []))
        batch.requests.append(ScheduledRequest(request, request.num_prompt_tokens))
    return list(batches.values())
