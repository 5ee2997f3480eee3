"""Which graphs there are, in which order they are captured, and what a capture does that goes wrong."""

from contextlib import nullcontext
from typing import ClassVar

import pytest
import torch
from carrel.worker.cuda_graph import WARM_UPS, CudaCapture, DecodeGraphs, graph_sizes


class FakeStream:
    stream = "a stream"

    def active(self):
        return nullcontext()

    def synchronize(self):
        pass


class FakeGraph:
    """What torch.cuda.CUDAGraph is told."""

    made: ClassVar[list] = []

    def __init__(self):
        self.calls = []
        FakeGraph.made.append(self)

    def capture_begin(self, **options):
        self.calls.append(("begin", options))

    def capture_end(self):
        self.calls.append(("end",))
        if len(self.calls) > 2:
            raise RuntimeError("the capture was lost")

    def replay(self):
        self.calls.append(("replay",))


@pytest.fixture
def capture(monkeypatch):
    monkeypatch.setattr(FakeGraph, "made", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    return CudaCapture(FakeStream())


@pytest.mark.parametrize("largest", [*range(1, 40), 255, 256, 257, 300, 512])
def test_every_batch_has_a_graph_that_is_little_larger(largest):
    sizes = graph_sizes(largest)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == largest
    for count in range(1, largest + 1):
        size = min(size for size in sizes if size >= count)
        assert size - count < max(8, count) and (count > 256 or size - count < 8)


def test_the_largest_is_captured_first_and_the_smallest_that_fits_is_replayed():
    order: list[int] = []
    graphs = DecodeGraphs()
    graphs.capture([1, 2, 4, 8], lambda size: lambda: order.append(size), lambda body: (body(), body)[1])
    assert order == [8, 4, 2, 1]
    assert [graphs.size_for(count) for count in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, None]
    order.clear()
    graphs.replay(4)
    assert order == [4]
    graphs.clear()
    assert graphs.size_for(1) is None


def test_a_capture_warms_up_and_shares_one_pool(capture):
    bodies = []
    replays = [capture(lambda: bodies.append(len(FakeGraph.made))) for _ in range(2)]
    assert bodies == [0] * WARM_UPS + [1] + [1] * WARM_UPS + [2]
    for graph, replay in zip(FakeGraph.made, replays, strict=True):
        assert graph.calls[0] == ("begin", {"pool": "a pool", "capture_error_mode": "thread_local"})
        assert graph.calls[1] == ("end",)
        replay()
        assert graph.calls[2:] == [("replay",)]


def test_a_capture_that_fails_is_ended_and_says_why(capture):
    calls = []

    def body():
        calls.append(1)
        if len(calls) > WARM_UPS:
            FakeGraph.made[0].calls.append(("broken",))
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="operation not permitted"):
        capture(body)
    assert FakeGraph.made[0].calls[-1] == ("end",)


def test_one_failure_turns_all_graphs_off(caplog):
    def capture(body):
        if len(calls := captured) == 2:
            raise torch.OutOfMemoryError("no memory")
        calls.append(body)
        return body

    captured = []
    graphs = DecodeGraphs()
    graphs.capture([1, 2, 4, 8], lambda size: lambda: None, capture)
    assert graphs.sizes == []
    assert len(captured) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the capture for 2 sequences failed: no memory" in caplog.text


def test_a_bug_in_the_body_is_not_hidden():
    def body():
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        DecodeGraphs().capture([1], lambda size: body, lambda body: body())
