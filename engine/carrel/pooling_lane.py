"""Inputs that wait to be pooled, of all embedding and rerank models, and how many of them may share a step with chats.

Knows token counts and urgency. Does not know KV blocks: a pooled input is computed whole, in one step, and keeps
nothing.

While chats have work, waiting inputs earn ``max_tokens_beside_chat`` tokens of credit in each step and spend them when
the next input is covered. So a step carries at most that many pooled tokens, or one longer input; on the average the
share is kept, and every input gets its turn.
"""

from __future__ import annotations

import time

from carrel.request import Request, RequestStatus
from carrel.request_queue import RequestQueue


class PoolingLane:
    """All pooling models' waiting inputs in one order of urgency."""

    def __init__(self, max_tokens_beside_chat: int) -> None:
        self.max_tokens_beside_chat = max_tokens_beside_chat
        self.waiting = RequestQueue()
        self._credit = 0

    def take_share(self, budget: int) -> list[Request]:
        """Inputs for a step in which chats have work too: what the credit covers and ``budget`` tokens hold.

        One input that is longer than ``budget`` comes alone, once the credit covers it.
        """
        head = self.waiting.peek()
        if head is None:
            return []
        limit = max(self.max_tokens_beside_chat, head.num_prompt_tokens)
        self._credit = min(self._credit + self.max_tokens_beside_chat, limit)
        taken = self._take(budget, self._credit)
        self._credit -= sum(request.num_prompt_tokens for request in taken)
        return taken

    def take(self, budget: int) -> list[Request]:
        """As many inputs as ``budget`` tokens hold; at least one, for an input longer than any budget must not wait."""
        return self._take(budget, None)

    def fill(self, budget: int) -> list[Request]:
        """As many inputs as ``budget`` tokens hold, none if the first does not fit."""
        head = self.waiting.peek()
        return self._take(budget, None) if head is not None and head.num_prompt_tokens <= budget else []

    def _take(self, budget: int, credit: int | None) -> list[Request]:
        taken: list[Request] = []
        num_tokens = 0
        while (request := self.waiting.peek()) is not None:
            num_tokens += request.num_prompt_tokens
            if (taken and num_tokens > budget) or (credit is not None and num_tokens > credit):
                break
            taken.append(self.waiting.pop())
            request.status = RequestStatus.RUNNING
            request.first_scheduled_time = time.monotonic()
        return taken
