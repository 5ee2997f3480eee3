"""The HTTP benchmark's own arithmetic, and that its client reads what carrel and a bare server send."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROGRAMS))


def test_even_streams_are_even() -> None:
    from http_server import fairness
    from sse_client import Stream

    even = [Stream(0.0, 200, [0.1 * i for i in range(1, 11)], True) for _ in range(4)]
    assert fairness(even)["jain_index_at_half"] == 1.0
    late = Stream(0.0, 200, [1.0 + 0.1 * i for i in range(1, 11)], True)
    found = fairness([*even, late])
    assert found["jain_index_at_half"] < 0.9 and found["least_and_most_share_at_half"][0] == 0.0
    assert found["end_s"] == [1.0, 2.0]


@pytest.mark.skipif(sys.platform != "linux", reason="CPU time of a thread is read from /proc")
def test_the_client_counts_the_chunks_of_a_bare_server() -> None:
    from server_process import serving
    from sse_client import read_streams

    with serving([str(PROGRAMS / "bare_uvicorn.py"), "7"]) as server:
        streams = asyncio.run(read_streams(server.url, "/v1/chat/completions", [{}] * 3))
        assert server.process_seconds() >= server.loop_seconds() >= 0.0
    assert [stream.num_chunks for stream in streams] == [8, 8, 8]  # seven, and [DONE]
    assert all(stream.done and stream.status == 200 for stream in streams)
