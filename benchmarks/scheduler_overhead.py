"""Host time of one engine step without a model: schedule, update, and both, for a number of decoding chats.

    python benchmarks/scheduler_overhead.py --num-requests 1 64 256

prints one JSON line for each number, in microseconds per step. The device idles for this long in each step, so it
bounds the speed of small models.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time

from carrel.kv_cache import KVCacheManager
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.scheduler import Scheduler
from carrel.step import ModelBatch, RequestResult


def decoding_scheduler(num_requests: int, prompt_len: int, num_steps: int) -> Scheduler:
    """A scheduler whose ``num_requests`` chats have all finished their prefill."""
    max_new_tokens = num_steps + num_requests * prompt_len // 8192 + 16  # nobody ends before the measurement does
    max_len = prompt_len + max_new_tokens
    kv_cache = KVCacheManager(num_requests * (max_len // 16 + 2), 16, enable_caching=True, max_model_len=max_len)
    scheduler = Scheduler({"chat": kv_cache}, max_num_seqs=num_requests, max_num_batched_tokens=8192)
    params = SamplingParams(max_tokens=max_new_tokens)
    requests = []
    for index in range(num_requests):
        prompt = [(index * 131 + position) % 50_000 for position in range(prompt_len)]
        request = Request(
            str(index), "chat", prompt, sampling_params=params, max_tokens=max_new_tokens, eos_token_ids=frozenset({2})
        )
        scheduler.add_request(request)
        requests.append(request)
    while any(request.num_output_tokens == 0 for request in requests):
        one_step(scheduler)
    return scheduler


def one_step(scheduler: Scheduler) -> tuple[float, float]:
    """Seconds in schedule() and in update()."""
    start = time.perf_counter()
    output = scheduler.schedule()
    scheduled = time.perf_counter()
    results = [fake_results(batch) for batch in output.batches]
    executed = time.perf_counter()
    scheduler.update(output, results)
    return scheduled - start, time.perf_counter() - executed


def fake_results(batch: ModelBatch) -> list[RequestResult]:
    return [RequestResult([17] if item.samples else []) for item in batch.requests]


def measure(num_requests: int, prompt_len: int, num_steps: int) -> dict[str, object]:
    """Medians, and the 20th and 80th percentiles, over ``num_steps`` steps, in µs."""
    scheduler = decoding_scheduler(num_requests, prompt_len, num_steps)
    gc.collect()
    times = [one_step(scheduler) for _ in range(num_steps)]
    both = sorted(1e6 * (schedule + update) for schedule, update in times)
    return {
        "benchmark": "scheduler_overhead",
        "num_requests": num_requests,
        "prompt_len": prompt_len,
        "num_steps": num_steps,
        "schedule_us": round(1e6 * statistics.median(schedule for schedule, _ in times), 1),
        "update_us": round(1e6 * statistics.median(update for _, update in times), 1),
        "step_us_p20": round(both[int(0.2 * len(both))], 1),
        "step_us_p50": round(statistics.median(both), 1),
        "step_us_p80": round(both[int(0.8 * len(both))], 1),
        "us_per_request": round(statistics.median(both) / num_requests, 2),
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-requests", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--prompt-len", type=int, default=500)
    parser.add_argument("--num-steps", type=int, default=500)
    args = parser.parse_args()
    for num_requests in args.num_requests:
        print(json.dumps(measure(num_requests, args.prompt_len, args.num_steps)), flush=True)


if __name__ == "__main__":
    main()
