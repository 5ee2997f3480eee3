"""JavaScript's clients: ``openai``, ``ai`` with ``@ai-sdk/openai-compatible``, and ``@langchain/openai``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from carrel.host import EngineHost
from other_languages import HERE, node, printed, waiting
from reading_room import (
    API_KEY,
    CHAT,
    DEFAULT,
    EMBED,
    LOANS_ANSWER,
    LONG_TOKENS,
    RERANK,
    THOUGHT,
    THOUGHT_ANSWER,
    WEATHER_REPORT,
)
from server_threads import wait_for

pytestmark = pytest.mark.node

CACHE = HERE.parent.parent / ".node-clients"
BOOK = {"title": "红楼梦", "year": 1791}
CITIES = ["北京", "上海"]
QUIET = {**os.environ, "LANGCHAIN_TRACING_V2": "false", "AI_SDK_LOG_WARNINGS": "false"}


@pytest.fixture(scope="session")
def programs() -> Path:
    """A folder with the programs and what they import, installed once from the lock file; skips if it cannot be."""
    node()
    CACHE.mkdir(exist_ok=True)
    lock = (HERE / "node" / "package-lock.json").read_bytes()
    stamp = CACHE / "installed.lock"
    for source in (HERE / "node").iterdir():
        if source.is_file():
            shutil.copy(source, CACHE)
    if not stamp.exists() or stamp.read_bytes() != lock:
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=280)
        if done.returncode != 0:
            pytest.skip(f"npm ci could not install the clients: {done.stderr.strip()[-300:]}")
        stamp.write_bytes(lock)
    return CACHE


def said(programs: Path, url: str, program: str, command: str) -> dict[str, Any]:
    lines = printed([node(), str(programs / f"{program}.mjs"), url, API_KEY, command], cwd=programs, env=QUIET)
    return {line.pop("name"): line for line in lines}


def test_openai_calls(programs: Path, url: str) -> None:
    found = said(programs, url, "openai", "calls")
    assert found["chat"] == {"text": LOANS_ANSWER, "finish": "stop"}
    assert found["stream"]["text"] == LOANS_ANSWER and found["stream"]["tokens"] > 0
    assert found["completion"]["text"] == LOANS_ANSWER
    assert found["embeddings"]["size"] == 48 and found["embeddings"]["far"] < 1e-6, "base64 by default, as floats"
    assert set(found["models"]["models"]) >= {CHAT, EMBED, RERANK}
    assert [part.strip() for part in found["thoughts"].values()] == [THOUGHT, THOUGHT_ANSWER]


def test_openai_tools(programs: Path, url: str) -> None:
    found = said(programs, url, "openai", "tools")
    assert found["call"]["tool"] == "get_weather" and json.loads(found["call"]["arguments"]) == {"city": "北京"}
    assert found["call"]["finish"] == "tool_calls"
    assert found["calls"] == {"cities": CITIES, "finish": "tool_calls"}
    assert found["agent"] == {"text": WEATHER_REPORT}


def test_openai_errors(programs: Path, url: str) -> None:
    found = said(programs, url, "openai", "refused")
    assert (found["wrong key"]["kind"], found["wrong key"]["status"]) == ("AuthenticationError", 401)
    assert found["no model"]["status"] == 404 and CHAT in found["no model"]["message"]
    assert (found["temperature"]["status"], found["temperature"]["param"]) == (400, "temperature")


def test_openai_structured(programs: Path, url: str) -> None:
    assert said(programs, url, "openai", "structured") == {"parsed": {"book": BOOK}, "parsed stream": {"book": BOOK}}


def test_openai_responses(programs: Path, url: str) -> None:
    found = said(programs, url, "openai", "responses")
    assert found["response"] == {"text": LOANS_ANSWER, "status": "completed"}
    stream = {"text": LOANS_ANSWER, "first": "response.created", "last": "response.completed"}
    assert found["response stream"] == stream


def test_ai_sdk_calls(programs: Path, url: str) -> None:
    found = said(programs, url, "ai-sdk", "calls")
    assert (found["chat"]["text"], found["chat"]["finish"]) == (LOANS_ANSWER, "stop")
    assert (found["stream"]["text"], found["stream"]["finish"]) == (LOANS_ANSWER, "stop")
    assert found["stream"]["tokens"] > 0
    assert found["thoughts"]["text"].strip() == THOUGHT_ANSWER
    assert found["thoughts"]["reasoning"].strip() == THOUGHT
    assert found["completion"]["finish"] == "stop"
    assert found["embeddings"] == {"size": 48, "count": 2}


def test_ai_sdk_tools(programs: Path, url: str) -> None:
    found = said(programs, url, "ai-sdk", "tools")
    assert found["call"] == {"tool": "get_weather", "input": {"city": "北京"}, "finish": "tool-calls"}
    assert (found["agent"]["text"], found["agent"]["steps"]) == (WEATHER_REPORT, 2)
    assert {"tool-input-start", "tool-call", "tool-result", "text-delta"} <= set(found["agent"]["kinds"])


def test_ai_sdk_structured(programs: Path, url: str) -> None:
    found = said(programs, url, "ai-sdk", "structured")
    assert found["object"]["book"] == found["object stream"]["book"] == BOOK
    assert found["object stream"]["partial"] > 1


def test_ai_sdk_errors(programs: Path, url: str) -> None:
    found = said(programs, url, "ai-sdk", "refused")
    assert found["no model"]["status"] == 404 and CHAT in found["no model"]["message"]


def test_langchain_calls(programs: Path, url: str) -> None:
    found = said(programs, url, "langchain", "calls")
    assert found["chat"]["text"] == LOANS_ANSWER and found["chat"]["tokens"] > 0
    assert found["stream"]["text"] == LOANS_ANSWER
    assert found["batch"]["texts"] == [LOANS_ANSWER, DEFAULT]
    assert found["embeddings"] == {"size": 48, "count": 2}


def test_langchain_tools(programs: Path, url: str) -> None:
    found = said(programs, url, "langchain", "tools")
    assert found["call"] == {"tool": "get_weather", "args": {"city": "北京"}}
    assert found["calls"] == {"cities": CITIES}
    assert found["agent"] == {"text": WEATHER_REPORT}


def test_langchain_structured(programs: Path, url: str) -> None:
    found = said(programs, url, "langchain", "structured")
    assert found == {"jsonSchema": {"book": BOOK}, "functionCalling": {"book": BOOK}}


@pytest.mark.parametrize("program", ["openai", "ai-sdk", "langchain"])
def test_a_stream_that_is_left(programs: Path, url: str, host: EngineHost, program: str) -> None:
    """The process lives on: only its stream is called off."""
    generated = host.loop.stats().scheduler.num_generated_tokens
    command = [node(), str(programs / f"{program}.mjs"), url, API_KEY, "leave"]
    with waiting(command, cwd=programs, env=QUIET) as line:
        assert line["text"].startswith("第1本")
        wait_for(lambda: host.loop.stats().num_open == 0, seconds=5)
        assert host.loop.stats().scheduler.num_generated_tokens - generated < LONG_TOKENS


def test_a_stream_that_nobody_reads(programs: Path, url: str, host: EngineHost) -> None:
    command = [node(), str(programs / "openai.mjs"), url, API_KEY, "stall"]
    with waiting(command, cwd=programs, env=QUIET) as line:
        assert line["status"] == 200
        assert said(programs, url, "langchain", "calls")["chat"]["text"] == LOANS_ANSWER
    wait_for(lambda: host.loop.stats().num_open == 0, seconds=10)
