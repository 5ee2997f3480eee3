"""``carrel serve`` as a process: what it prints, that it serves, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

MODULE = (sys.executable, "-m", "carrel_server")
PROGRAM = (str(Path(sys.executable).with_name("carrel")), "serve")


class Process:
    """A running ``carrel …``; its output is collected by threads."""

    def __init__(self, *arguments: str, program: tuple[str, ...] = MODULE, **environment: str) -> None:
        command = [*program, *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        self.out: list[str] = []
        self.err: list[str] = []
        streams = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._threads = [threading.Thread(target=lines.extend, args=(stream,)) for stream, lines in streams]
        for thread in self._threads:
            thread.start()

    def url(self) -> str:
        """The address of the ready line."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in list(self.out):
                if found := re.fullmatch(r"carrel is ready at (\S+)\n", line):
                    return found[1]
            time.sleep(0.05)
        raise AssertionError(f"never ready:\n{''.join(self.out)}\n{''.join(self.err)}")

    def waits_for(self, text: str) -> None:
        """Until the log holds ``text``."""
        deadline = time.monotonic() + 60
        while text not in "".join(list(self.err)):
            assert time.monotonic() < deadline and self.process.poll() is None, "".join(self.err)
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(timeout=60)
        for thread in self._threads:
            thread.join(10)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return status


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts processes and makes sure that none is left."""
    started: list[Process] = []

    def run(*arguments: str, **options: Any) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    yield run
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.wait()


def test_serve_and_end(start: Callable[..., Process], tiny_models: Callable[[str], Path]) -> None:
    process = start(
        str(tiny_models("qwen2")),
        *("--embedding-model", f"{tiny_models('bert-mean')},served_model_name=embed"),
        *("--served-model-name", "qwen", "--port", "0", "--kv-cache-memory-bytes", "8M", "--trust-remote-code"),
        CARREL_API_KEY="secret",
    )
    url = process.url()
    headers = {"Authorization": "Bearer secret"}
    assert httpx.get(url + "/health").status_code == 200
    assert httpx.get(url + "/v1/models").status_code == 401
    cards = httpx.get(url + "/v1/models", headers=headers).json()["data"]
    assert [card["id"] for card in cards] == ["qwen", "embed"]
    body = {"model": "qwen", "prompt": "你好", "max_tokens": 2}
    assert httpx.post(url + "/v1/completions", json=body, headers=headers).status_code == 200
    assert process.end() == 0
    text = "".join(process.out)
    for word in ("on cpu", "qwen", "embed", "memory: ", "API key: needed"):
        assert word in text
    errors = "".join(process.err)
    assert errors.count("Warning: --trust-remote-code") == 1
    assert "Traceback" not in errors


def test_a_stream_may_finish_after_sigterm(start: Callable[..., Process], tiny_models: Callable[[str], Path]) -> None:
    process = start(str(tiny_models("qwen2")), "--port", "0", "--kv-cache-memory-bytes", "8M")
    body = {"prompt": "你好", "max_tokens": 150, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", process.url() + "/v1/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    assert process.wait() == 0


def test_the_second_signal_ends_at_once(start: Callable[..., Process], tiny_models: Callable[[str], Path]) -> None:
    process = start(
        str(tiny_models("qwen2")), "--port", "0", "--kv-cache-memory-bytes", "8M", "--shutdown-timeout", "60"
    )
    connection = httpx.Client()
    connection.get(process.url() + "/health")  # kept alive, and never closed by the client
    begun = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    if process.process.poll() is None:
        process.process.send_signal(signal.SIGTERM)
    process.wait()
    connection.close()
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["no-such-folder/model"], 1, "no-such-folder/model"),
        (["--port", "not-a-port"], 2, "--port"),
        (["starter/embedding", "--tensor-parallel-size", "2"], 1, "is for chat models, and none is hosted"),
        (["a", "--max-num-seqs", "0"], 1, "max_num_seqs must be at least 1"),
    ],
)
def test_errors_are_one_sentence(
    start: Callable[..., Process], arguments: list[str], status: int, sentence: str
) -> None:
    process = start(*arguments, HF_HUB_OFFLINE="1")
    assert process.wait() == status
    assert "".join(process.out) == ""
    errors = "".join(process.err)
    assert sentence in errors
    assert "Traceback" not in errors
    assert len([line for line in errors.splitlines() if line.startswith("Error: ")]) == 1


def test_a_folder_without_weights(
    start: Callable[..., Process], tmp_path: Path, tiny_models: Callable[[str], Path]
) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(tiny_models("qwen2"), folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    process = start(str(folder), "--port", "0", "--log-level", "warning")
    assert process.wait() == 1
    (line,) = process.err
    assert line.startswith("Error: ") and "weights" in line


def test_a_taken_port_is_told_before_loading(
    start: Callable[..., Process], url: str, tiny_models: Callable[[str], Path]
) -> None:
    process = start(str(tiny_models("qwen2")), "--port", url.rsplit(":", 1)[1])
    assert process.wait() == 1
    assert "Choose another --port" in "".join(process.err)


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (
            PROGRAM,
            "{model} --dtype=float16 --tensor-parallel-size 2 --enable-auto-tool-choice --tool-call-parser hermes "
            "--trust-remote-code --served-model-name name",
        ),
        (
            MODULE,
            "--model {model} --served-model-name name --max-model-len 2048 --dtype half --max-num-seqs 256 "
            '--gpu-memory-utilization 0.9 --lora-dtype="auto"',
        ),
    ],
)
def test_command_lines_people_have(
    start: Callable[..., Process], tiny_models: Callable[[str], Path], program: tuple[str, ...], line: str
) -> None:
    """vLLM's, with our names in place of its."""
    arguments = line.format(model=tiny_models("qwen2")).replace('"', "").split()
    process = start(*arguments, "--port", "0", "--kv-cache-memory-bytes", "8M", program=program)
    body = {"model": "name", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
    answer = httpx.post(process.url() + "/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert process.end() == 0
    assert "Traceback" not in "".join(process.err)
    assert ("tools: hermes" in "".join(process.out)) == ("hermes" in line)


def test_a_unix_socket_keys_of_a_file_and_lines_of_json(
    start: Callable[..., Process], tiny_models: Callable[[str], Path], tmp_path: Path
) -> None:
    keys, path = tmp_path / "keys", tmp_path / "carrel.sock"
    keys.write_text("old\n")
    keys.chmod(0o600)
    options = ["--kv-cache-memory-bytes", "8M", "--api-key-file", str(keys), "--access-log-format", "json"]
    process = start(str(tiny_models("qwen2")), "--uds", str(path), *options)
    assert process.url() == f"unix:{path}"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://carrel") as client:

        def status(key: str) -> int:
            return client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

        assert (status("old"), status("new")) == (200, 401)
        keys.write_text("new\n")
        process.process.send_signal(signal.SIGHUP)
        process.waits_for("read the key file")
        assert (status("old"), status("new")) == (401, 200)
        keys.write_text("")
        process.process.send_signal(signal.SIGHUP)
        process.waits_for("Everything stays as it was")
        assert (status("old"), status("new")) == (401, 200)
    assert process.end() == 0
    assert not path.exists()
    lines = [json.loads(line) for line in process.err if line.startswith("{")]
    assert [line["status"] for line in lines] == [200, 401, 401, 200, 401, 200]
    assert {line["client"] for line in lines} == {"unix"}
    assert not {"old", "new"} & set(re.findall(r"\w+", "".join(process.out)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_models_load(
    start: Callable[..., Process], tiny_models: Callable[[str], Path], number: int
) -> None:
    process = start(str(tiny_models("qwen2")), "--port", "0")
    process.waits_for("listening at")
    url = re.search(r"listening at (http://\S+);", "".join(process.err))
    assert url is not None
    assert httpx.get(url[1] + "/health/live").status_code == 200
    ready = httpx.get(url[1] + "/health/ready").status_code
    begun = time.monotonic()
    assert process.end(number) == 0
    assert time.monotonic() - begun < 10
    assert ready == 503 and "".join(process.out) == ""
    assert "Traceback" not in "".join(process.err)
