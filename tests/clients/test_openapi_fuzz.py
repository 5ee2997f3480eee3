"""schemathesis sends what it can think of by /openapi.json: no answer is a 5xx, and every error has its shape."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from carrel.async_llm import AsyncLLM
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from reading_room import API_KEY, CHAT, EMBED, RERANK
from server_threads import running
from tiny_models import TinyModels

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def fuzzed(tiny_models: TinyModels) -> Iterator[tuple[EngineHost, str]]:
    """A server whose contexts are short: what a fuzzer asks to be generated ends soon."""
    specs = [
        ModelSpec(name=str(tiny_models("qwen2")), served_model_name=(CHAT,), max_model_len=96),
        ModelSpec(name=str(tiny_models("bert-mean")), served_model_name=(EMBED,)),
        ModelSpec(name=str(tiny_models("bert-reranker")), served_model_name=(RERANK,)),
    ]
    config = EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20, max_num_seqs=64)
    with (
        EngineHost(specs, config) as host,
        running(create_app(AsyncLLM(host=host), ServerSettings(api_keys=(API_KEY,)))) as url,
    ):
        yield host, url


def fuzz(url: str, folder: Path, *options: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """schemathesis over every operation. It works in ``folder``, with a seed of its own, and keeps nothing."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run", url + "/openapi.json"]
    fixed = ["--header", f"Authorization: Bearer {API_KEY}", "--generation-database", "none", "--seed", "4"]
    quiet = ["--warnings", "off", "--suppress-health-check", "all", "--request-timeout", "30", "--no-shrink"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": ""}
    return subprocess.run(
        [*command, *fixed, *quiet, *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def check(done: subprocess.CompletedProcess[str], host: EngineHost) -> None:
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert host.loop.stats().num_open == 0


def test_no_answer_is_a_server_error(fuzzed: tuple[EngineHost, str], tmp_path: Path) -> None:
    host, url = fuzzed
    done = fuzz(url, tmp_path, "--checks", CHECKS, "--phases", "examples,fuzzing", "--max-examples", "6", seconds=200)
    check(done, host)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_answer_is_a_server_error_however_long(fuzzed: tuple[EngineHost, str], tmp_path: Path) -> None:
    host, url = fuzzed
    phases = "examples,coverage,fuzzing"
    done = fuzz(url, tmp_path, "--checks", CHECKS, "--phases", phases, "--max-examples", "150", seconds=880)
    check(done, host)
