"""Tensor parallelism as users have it: real processes over gloo; the answers of one, and no end but a clear one."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from carrel import LLM, BeamSearchParams, SamplingParams
from carrel.config import EngineConfig, ModelSpec
from carrel.errors import EngineClosedError, EngineDeadError, InvalidParamsError
from carrel.host import EngineHost
from carrel.request import Request
from carrel.structured_params import StructuredOutputsParams
from carrel.worker import team as team_module
from carrel.worker.team import Team

CHATS = ["qwen2", "llama", "qwen3"]  # tied, untied, tied with head norms
SMALL = {"kv_cache_memory_bytes": 8 << 20, "max_num_batched_tokens": 24, "device": "cpu"}
PROMPTS = [
    {"prompt_token_ids": [5 + i * step % 500 for i in range(length)]} for step, length in ((7, 3), (11, 61), (3, 24))
]


def is_running(pid: int) -> bool:
    """Not a zombie either."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "a rank outlives its engine"
        time.sleep(0.02)


def open_host(folders, size: int) -> EngineHost:
    specs = [ModelSpec(name=str(folder), served_model_name=(folder.name,)) for folder in folders]
    return EngineHost(specs, EngineConfig(tensor_parallel_size=size, **SMALL))


def ask(host: EngineHost, name: str):
    """Tokens and log probabilities, greedy and drawn; the long prompt comes in chunks while the short one decodes."""
    greedy = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, logprobs=4, prompt_logprobs=2)
    bound = {"logit_bias": {9: -100.0}, "allowed_token_ids": list(range(5, 300)), "bad_words": ["book"]}
    drawn = SamplingParams(temperature=0.9, top_p=0.9, seed=3, max_tokens=16, ignore_eos=True, logprobs=0, **bound)
    form = StructuredOutputsParams(regex="[a-f]{3}一二(好|坏)+x")
    formed = SamplingParams(seed=5, max_tokens=24, logprobs=0, structured_outputs=form)
    llm = LLM(host=host)
    (beams,) = llm.beam_search(PROMPTS[0], BeamSearchParams(beam_width=3, max_tokens=4), model=name)
    answers = [out for p in (greedy, drawn, formed) for out in llm.generate(PROMPTS, p, model=name, use_tqdm=False)]
    outputs = [out.outputs[0] for out in answers]
    steps = [step for out in outputs for step in out.logprobs]
    steps += [step for out in answers for step in (out.prompt_logprobs or [])[1:]]
    assert all(re.fullmatch(form.regex, out.text) for out in outputs if out.finish_reason == "stop")
    tokens = [out.token_ids for out in outputs] + [sequence.tokens for sequence in beams.sequences]
    return tokens, [sorted(entry.logprob for entry in step.values()) for step in steps]


def test_two_processes_answer_like_one(tiny_models):
    folders = [tiny_models(name) for name in (*CHATS, "bert-mean")]
    with open_host(folders, 1) as one, open_host(folders, 2) as two:
        pids = two.process_ids
        assert len(pids) == 1
        assert one.process_ids == []
        assert is_running(pids[0])
        for name in CHATS:
            (tokens, logprobs), (expected, expected_logprobs) = ask(two, name), ask(one, name)
            assert tokens == expected
            for ours, theirs in zip(logprobs, expected_logprobs, strict=True):
                assert ours == pytest.approx(theirs, abs=1e-4)
        vectors = [LLM(host=host).embed(["一个读者可以借几本书?"], use_tqdm=False) for host in (one, two)]
        assert vectors[0][0].outputs.embedding == pytest.approx(vectors[1][0].outputs.embedding)
        shared, whole = two.memory_plan.caches["qwen2"], one.memory_plan.caches["qwen2"]
        assert shared.bytes_per_block * 2 == whole.bytes_per_block
    wait_until_gone(pids)
    two.close()  # again
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("carrel-rank")]


class Ends:
    """A mailbox that keeps the last output of each request."""

    def __init__(self) -> None:
        self.outputs: queue.SimpleQueue = queue.SimpleQueue()

    def deliver(self, outputs) -> None:
        for output in outputs:
            if output.finished:
                self.outputs.put(output)


def endless(name: str) -> Request:
    params = SamplingParams(temperature=0.0, max_tokens=1900, ignore_eos=True)
    return Request(name, "qwen2", [7, 8, 9], sampling_params=params, max_tokens=1900)


def test_a_killed_rank_ends_every_request_with_an_error(tiny_models):
    with open_host([tiny_models("qwen2")], 2) as host:
        ends = Ends()
        host.loop.submit([endless(f"r{i}") for i in range(5)], ends)
        time.sleep(0.3)
        assert ends.outputs.empty()
        killed = time.monotonic()
        os.kill(host.process_ids[0], signal.SIGKILL)
        outputs = [ends.outputs.get(timeout=5) for _ in range(5)]
        assert time.monotonic() - killed < 5
        assert {output.request_id for output in outputs} == {f"r{i}" for i in range(5)}
        assert {output.finish_reason for output in outputs} == {"error"}
        assert all(isinstance(output.error, EngineDeadError) for output in outputs)
        assert not host.is_alive
        with pytest.raises(EngineDeadError, match=r"stopped because of an error: .*(Rank 1|several ranks)"):
            host.loop.submit([endless("later")], ends)
        with pytest.raises(EngineDeadError):
            LLM(host=host).generate(PROMPTS[0], use_tqdm=False)
        assert ends.outputs.empty()  # one end each
        wait_until_gone(host.process_ids)
    with pytest.raises(EngineClosedError):
        host.check_open()


def test_an_idle_engine_notices_too(tiny_models):
    with open_host([tiny_models("qwen2")], 2) as host:
        os.kill(host.process_ids[0], signal.SIGKILL)
        deadline = time.monotonic() + 5
        while host.is_alive:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_rank_that_hangs_is_given_up():
    team = Team(["cpu", "cpu"], step_timeout=0.5)
    told: queue.SimpleQueue[EngineDeadError] = queue.SimpleQueue()
    team.on_failure(told.put)
    os.kill(team.process_ids[0], signal.SIGSTOP)
    with pytest.raises(EngineDeadError, match="takes too long"), team.at_work():
        team.group.all_reduce(torch.ones(3))
    assert str(told.get(timeout=5)) == "A step takes too long; a rank hangs."
    wait_until_gone(team.process_ids)
    with pytest.raises(EngineDeadError):
        team.tell({"do": "release"})
    team.close()


def test_a_rank_that_cannot_start_is_an_error(monkeypatch, capfd):
    monkeypatch.setattr(team_module, "FOLLOWER", "carrel.worker.nobody")
    with pytest.raises(EngineDeadError, match="Rank 1"):
        Team(["cpu", "cpu"])
    assert "nobody" in capfd.readouterr().err  # its own words


SCRIPT = """
import time
from carrel import LLM
llm = LLM({folder!r}, tensor_parallel_size=2, device="cpu", kv_cache_memory_bytes=8 << 20)
print(*llm.host.process_ids, flush=True)
time.sleep(60)
"""


def test_ranks_die_with_the_engine_of_an_unguarded_script(tiny_models, tmp_path):
    """The script has no ``if __name__ == "__main__"``: a rank that imported it would start ranks of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(tiny_models("qwen2"))), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 1
        assert is_running(pids[0])
        process.kill()
    wait_until_gone(pids)


def test_what_cannot_be_shared_out_is_refused_before_a_process_starts(tiny_models, monkeypatch):
    monkeypatch.setattr(team_module, "Team", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(InvalidParamsError, match="does not divide the 2 KV heads"):
        open_host([tiny_models("qwen2")], 4)
    with pytest.raises(InvalidParamsError, match="is for chat models, and none is hosted"):
        open_host([tiny_models("bert-mean")], 2)
    with pytest.raises(InvalidParamsError, match="at least 1"):
        EngineConfig(tensor_parallel_size=0)
