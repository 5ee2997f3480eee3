"""Waiting requests by priority, then first come first served. Does not know why they wait."""

from __future__ import annotations

import heapq

from carrel.request import Request


def urgency(request: Request) -> tuple[int, int]:
    """Sort key: what goes first is smaller."""
    return request.priority, request.order


class RequestQueue:
    """A heap. A removed request leaves its entry behind, which is dropped when it surfaces or when half are such."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Request]] = []
        self._request_ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._request_ids)

    def push(self, request: Request) -> None:
        assert request.request_id not in self._request_ids, f"{request.request_id} is queued already"
        self._request_ids.add(request.request_id)
        heapq.heappush(self._heap, (request.priority, request.order, request))

    def peek(self) -> Request | None:
        """The most urgent request, or None."""
        while self._heap and self._heap[0][2].status.finished:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> Request:
        request = self.peek()
        assert request is not None, "popped from an empty queue"
        heapq.heappop(self._heap)
        self._request_ids.remove(request.request_id)
        return request

    def discard_finished(self, request: Request) -> None:
        """``request`` ended. It need not have been in the queue."""
        assert request.status.finished, "an unfinished request leaves the queue by pop()"
        if request.request_id in self._request_ids:
            self._request_ids.remove(request.request_id)
            if len(self._heap) > 2 * len(self._request_ids):
                self._heap = [entry for entry in self._heap if not entry[2].status.finished]
                heapq.heapify(self._heap)
