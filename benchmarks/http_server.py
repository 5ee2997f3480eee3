"""What HTTP costs: beside the engine in process, beside a bare uvicorn, beside another server.

Knows how to time; serves nothing itself. Every figure stands beside a limit or a peer of the same run.

    python benchmarks/http_server.py [--peer URL --peer-model NAME] [--only PART …] [--out FILE.jsonl]

Parts: ``latency`` (HTTP over in-process, one short chat), ``streams`` (256 at once), ``chunk`` (CPU of a streamed
chunk), ``embed`` (one small text a request, beside ``--peer``), ``base64`` (CPU of a thousand vectors).
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from bare_uvicorn import CHUNK
from carrel import LLM, SamplingParams
from carrel.config import ModelSpec
from carrel.host import EngineHost
from carrel.starter import STARTERS
from carrel_server.step_threads import StepThreads
from rows import ROOT, append_rows, machine
from server_process import carrel, serving
from sse_client import Stream, read_streams

Row = dict[str, Any]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
TWELVE_TOKENS = "the house stands on the hill and the river runs"  # with [CLS] and [SEP]: 12
NUM_STREAMS, STREAM_TOKENS = 256, 64


class Connection:
    """One kept-alive connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "a URL has a host"
        self._http = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        self._http.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        data = answer.read()
        assert answer.status == 200, data[:500]
        return json.loads(data)


def milliseconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def alternate(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each run by side; the sides take turns, after 10 runs each to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 10):
        for name, run in sides.items():
            spent = milliseconds(run)
            if number >= 10:
                taken[name].append(spent)
    return taken


def latency(rounds: int) -> list[Row]:
    """The starter reader answers a short chat with 8 tokens, here and in a server."""
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 8, "ignore_eos": True}
    models = [ModelSpec(name=name) for name in STARTERS]
    threads = StepThreads()  # as a server has them
    host = EngineHost(models, before_step=threads.prepare)
    with host, LLM(host=host) as llm, serving(carrel()) as server:
        connection = Connection(server.url)
        taken = alternate(
            {
                "in process": lambda: llm.chat(MESSAGES, params, use_tqdm=False),
                "over HTTP": lambda: connection.post("/v1/chat/completions", body),
            },
            rounds,
        )
    medians = {name: round(statistics.median(values), 2) for name, values in taken.items()}
    added = medians["over HTTP"] - medians["in process"]
    return [{"workload": "one short chat, 8 tokens", "ms": medians, "added_ms": round(added, 2), "target_ms": 3.0}]


def tiny_chat(folder: Path) -> str:
    import runpy

    script = runpy.run_path(str(ROOT / "scripts" / "make_tiny_models.py"))
    return str(script["make_model"]("qwen2", folder / "tiny"))


def stream_bodies(num_streams: int, num_tokens: int) -> list[dict[str, Any]]:
    common = {"max_tokens": num_tokens, "ignore_eos": True, "stream": True, "temperature": 1.0}
    return [{"messages": [{"role": "user", "content": f"story {i}"}], "seed": i, **common} for i in range(num_streams)]


def streams(_: int) -> list[Row]:
    """256 streams of the tiny model: errors, and how evenly they get on."""
    with tempfile.TemporaryDirectory() as folder, serving(carrel(tiny_chat(Path(folder)))) as server:
        bodies = stream_bodies(NUM_STREAMS, STREAM_TOKENS)
        asyncio.run(read_streams(server.url, "/v1/chat/completions", bodies[:16]))
        started = time.perf_counter()
        found = asyncio.run(read_streams(server.url, "/v1/chat/completions", bodies))
        seconds = time.perf_counter() - started
    errors = sum(not stream.done or stream.status != 200 for stream in found)
    return [{"workload": f"{NUM_STREAMS} streams of {STREAM_TOKENS} tokens", "errors": errors, **fairness(found)}
            | {"tokens_per_second": round(NUM_STREAMS * STREAM_TOKENS / seconds)}]  # fmt: skip


def fairness(found: Sequence[Stream]) -> Row:
    """When half of all events have come, how many each stream has; 1.0 is the same for all (Jain's index)."""
    times = sorted(moment for stream in found for moment in stream.events)
    half = times[len(times) // 2]
    shares = np.array([sum(moment <= half for moment in stream.events) / stream.num_chunks for stream in found])
    firsts = [stream.events[0] - stream.sent for stream in found]
    ends = [stream.events[-1] - stream.sent for stream in found]
    return {
        "jain_index_at_half": round(float(shares.sum() ** 2 / (len(shares) * (shares**2).sum())), 3),
        "least_and_most_share_at_half": [round(float(shares.min()), 2), round(float(shares.max()), 2)],
        "first_event_s": [round(min(firsts), 3), round(max(firsts), 3)],
        "end_s": [round(min(ends), 3), round(max(ends), 3)],
    }


def chunk(_: int) -> list[Row]:
    """CPU of the event loop's thread for each chunk, 32 streams at once, beside uvicorn with ready bytes."""
    num_streams, num_tokens = 32, 256
    bodies = stream_bodies(num_streams, num_tokens)
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "carrel": carrel(tiny_chat(Path(folder))),
            "bare uvicorn": [str(ROOT / "benchmarks" / "bare_uvicorn.py"), str(num_tokens)],
        }
        for name, arguments in sides.items():
            with serving(arguments) as server:
                asyncio.run(read_streams(server.url, "/v1/chat/completions", bodies[:8]))
                before = server.loop_seconds()
                runs = [asyncio.run(read_streams(server.url, "/v1/chat/completions", bodies)) for _ in range(4)]
                num_chunks = sum(stream.num_chunks for run in runs for stream in run)
                spent[name] = (server.loop_seconds() - before) / num_chunks * 1e6
    return [
        {
            "workload": f"a streamed chunk of about {len(CHUNK)} bytes, {num_streams} streams",
            "event_loop_us": {name: round(value, 1) for name, value in spent.items()},
            "added_us": round(spent["carrel"] - spent["bare uvicorn"], 1),
        }
    ]


def embed(rounds: int, peer: str | None, peer_model: str | None, flags: Sequence[str]) -> list[Row]:
    """One text of 12 tokens a request, one after another, MiniLM: as Dify sends them."""
    with serving(carrel("starter/embedding", flags=flags)) as server:
        ours = Connection(server.url)
        sides: dict[str, Callable[[], object]] = {
            "carrel": lambda: ours.post("/v1/embeddings", {"model": "starter/embedding", "input": [TWELVE_TOKENS]})
        }
        if peer is not None:
            theirs = Connection(peer)
            sides["peer"] = lambda: theirs.post("/v1/embeddings", {"model": peer_model, "input": [TWELVE_TOKENS]})
        taken = alternate(sides, rounds)
        answer = ours.post("/v1/embeddings", {"input": [TWELVE_TOKENS]})
        assert answer["usage"]["prompt_tokens"] == 12, "the text has 12 tokens"
    rates = {name: round(1e3 / statistics.median(values), 1) for name, values in taken.items()}
    row: Row = {"workload": "one 12-token embedding a request", "requests_per_second": rates}
    if "peer" in rates:
        row |= {"ratio": round(rates["carrel"] / rates["peer"], 2), "target_ratio": 3.0}
    return [row]


def base64(_: int) -> list[Row]:
    """CPU to write a thousand vectors of 1024 dimensions as base64, beside the floor: one base64 of all bytes."""
    import base64 as codec

    from carrel_server.pooling_answer import Encoding, PoolingAnswer

    vectors = np.random.default_rng(0).standard_normal((1000, 1024), dtype=np.float32)
    answer = PoolingAnswer("embd-1", "model", num_tokens=12_000)

    def cpu(run: Callable[[], object]) -> float:
        spent = []
        for _ in range(9):
            started = time.process_time()
            run()
            spent.append((time.process_time() - started) * 1e3)
        return round(statistics.median(spent), 2)

    async def size(encoding: Encoding) -> int:
        return len(await answer.write(list(vectors), [False] * len(vectors), encoding))

    with asyncio.Runner() as loop:  # one for all, as in a server: its thread and memory are there already

        def write(encoding: Encoding) -> int:
            return loop.run(size(encoding))  # not the bytes: the runner writes a result's repr, which takes 40 ms

        sides = {
            "base64": cpu(lambda: write("base64")),
            "float": cpu(lambda: write("float")),
            "floor": cpu(lambda: codec.b64encode(vectors.tobytes())),
        }
    return [{"workload": "1000 vectors of 1024 dimensions", "cpu_ms": sides, "target_ms": 50.0}]


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "latency": latency, "streams": streams, "chunk": chunk, "base64": base64
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*PARTS, "embed"], default=[*PARTS, "embed"])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--peer", help="URL of another server with the same embedding model")
    parser.add_argument("--peer-model", help="its name for the model")
    parser.add_argument("--flags", default="", help='of carrel serve in the part embed: --flags="--dtype bfloat16"')
    parser.add_argument("--out", type=Path, default=None, help="append the rows to this file")
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.only:
        made = (
            embed(args.rounds, args.peer, args.peer_model, args.flags.split())
            if name == "embed"
            else PARTS[name](args.rounds)
        )
        for row in made:
            print(json.dumps(row, ensure_ascii=False), flush=True)
            rows.append({**row, **machine()})
    if args.out:
        append_rows(args.out, rows)


if __name__ == "__main__":
    main()
