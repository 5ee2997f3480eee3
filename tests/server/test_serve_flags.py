"""``carrel serve``'s flags: what they become, what is refused, what is accepted with a warning. No model is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from carrel.errors import CarrelError
from carrel_server.cli.group import carrel
from carrel_server.cli.parameters import parse_model
from carrel_server.cli.serve import serve, spread_values
from carrel_server.cli.serve_plan import ServePlan, plan_serve
from click.testing import CliRunner


def plan(*arguments: str) -> ServePlan:
    """The plan of a command line."""
    context = serve.make_context("serve", list(arguments))
    return plan_serve(context.params)


def refused(*arguments: str) -> str:
    """The sentence with which a command line is refused."""
    with pytest.raises(click.ClickException) as error:
        plan(*arguments)
    return error.value.format_message()


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_API_KEY", "CARREL_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_no_model_means_the_starters() -> None:
    made = plan()
    assert [spec.name for spec in made.models] == ["starter/reader", "starter/embedding", "starter/reranker"]
    assert (made.host, made.port) == ("127.0.0.1", 8000)
    assert made.settings.api_keys == ()


def test_a_vllm_command_line() -> None:
    line = (
        "Qwen/Qwen2.5-7B-Instruct --served-model-name qwen gpt-4 --host 0.0.0.0 --port 0 --dtype half "
        "--max-model-len 32k --max-num-seqs 64 --max-num-batched-tokens 4K --gpu-memory-utilization 0.8 "
        "--tensor-parallel-size 2 --api-key secret --enforce-eager --no-async-scheduling --seed 3"
    )
    made = plan(*line.split())
    (model,) = made.models
    assert model.name == "Qwen/Qwen2.5-7B-Instruct"
    assert model.served_model_name == ("qwen", "gpt-4")
    assert made.engine.dtype == "float16"
    assert (made.engine.max_model_len, made.engine.max_num_batched_tokens) == (32_000, 4096)
    assert (made.engine.max_num_seqs, made.engine.gpu_memory_utilization, made.engine.seed) == (64, 0.8, 3)
    assert made.engine.enforce_eager
    assert made.engine.tensor_parallel_size == 2
    assert made.engine.overlap_scheduling is False
    assert made.settings.api_keys == ("secret",)
    assert (made.host, made.port) == ("0.0.0.0", 0)


def test_the_modules_spelling() -> None:
    assert [spec.name for spec in plan("--model", "some/model").models] == ["some/model"]


def test_several_models_with_options_of_their_own() -> None:
    made = plan(
        "--chat-model",
        "a/chat,max_model_len=4K,served_model_name=one,served_model_name=two",
        "--embedding-model",
        "b/embed,dtype=bfloat16",
        "--reranker-model",
        "c/rerank",
        "--max-model-len",
        "8192",
    )
    chat, embedding, reranker = made.models
    assert (chat.task, chat.max_model_len, chat.served_model_name) == ("chat", 4096, ("one", "two"))
    assert (embedding.task, embedding.dtype) == ("embedding", "bfloat16")
    assert (reranker.task, reranker.name) == ("rerank", "c/rerank")
    assert made.engine.max_model_len == 8192


def test_served_model_name_is_the_chat_models() -> None:
    made = plan("--chat-model", "a/chat", "--embedding-model", "b/embed", "--served-model-name", "qwen")
    assert [spec.served_model_name for spec in made.models] == [("qwen",), ()]
    assert "one chat model" in refused("--embedding-model", "b", "--reranker-model", "c", "--served-model-name", "x")


def test_task_overrules_the_detection() -> None:
    assert plan("Qwen/Qwen3-Reranker-0.6B", "--task", "score").models[0].task == "rerank"
    assert plan("some/model", "--runner", "generate").models[0].task == "chat"
    assert "one MODEL" in refused("a", "b", "--task", "embed")
    assert "contradict" in refused("a", "--runner", "pooling", "--task", "generate")


@pytest.mark.parametrize("name", ["VLLM_API_KEY", "CARREL_API_KEY"])
def test_keys_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "from-environment")
    assert plan().settings.api_keys == ("from-environment",)
    assert plan("--api-key", "given").settings.api_keys == ("given",)


@pytest.mark.parametrize(
    ("name", "value"), [("VLLM_API_KEY", ""), ("VLLM_API_KEY", " \n"), ("CARREL_API_KEY", ""), ("CARREL_API_KEY", " ,")]
)
def test_an_empty_variable_is_no_open_server(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(CarrelError, match=f"The API key in {name} is empty"):
        plan()
    assert plan("--api-key", "given").settings.api_keys == ("given",)


def test_a_line_break_is_no_part_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "one,zwei\n")
    assert plan().settings.api_keys == ("one,zwei",)


def test_several_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CARREL_API_KEY", "one, zwei,")
    assert plan().settings.api_keys == ("one", "zwei")
    file = tmp_path / "keys"
    file.write_text("# of the reading room\n\nschlüssel\n  drei \n", encoding="utf-8")
    file.chmod(0o600)
    made = plan("--api-key-file", str(file))
    assert made.settings.api_keys == ("one", "zwei", "schlüssel", "drei")
    assert made.fixed_keys == ("one", "zwei")
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    plan("--api-key-file", str(file))
    assert "chmod 600" in capsys.readouterr().err


def test_no_key_where_one_was_meant(tmp_path: Path) -> None:
    """A variable that is not set must not open the server."""
    with pytest.raises(CarrelError, match="API key is empty"):
        plan("--api-key", "")
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    with pytest.raises(CarrelError, match="holds no API key"):
        plan("--api-key-file", str(file))


def test_parsers_are_the_chat_models() -> None:
    made = plan("m", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")
    assert made.auto_tool_choice
    assert [(spec.tool_call_parser, spec.reasoning_parser) for spec in made.models] == [("hermes", "qwen3")]
    own = plan("--chat-model", "m,tool_call_parser=hermes,reasoning_parser=none").models[0]
    assert (own.tool_call_parser, own.reasoning_parser) == ("hermes", "none")


def test_the_limits_of_the_server() -> None:
    line = "m --max-inputs 3 --max-documents 1k --max-choices 2 --max-stop-strings 5 --max-concurrent-requests 6"
    settings = plan(*line.split(), "--request-timeout", "1.5", "--body-timeout", "2").settings
    assert (settings.max_inputs, settings.max_documents, settings.max_choices) == (3, 1000, 2)
    assert (settings.max_stop_strings, settings.max_concurrent_requests) == (5, 6)
    assert (settings.request_timeout, settings.body_timeout) == (1.5, 2.0)
    assert plan("m", "--request-timeout", "0").settings.request_timeout is None
    with pytest.raises(CarrelError, match="max_inputs must be at least 1"):
        plan("m", "--max-inputs", "0")


def test_revisions(tmp_path: Path) -> None:
    made = plan("some/model", "--revision", "v2", "--download-dir", str(tmp_path))
    assert (made.models[0].revision, made.engine.download_dir) == ("v2", str(tmp_path))
    assert plan("--chat-model", "some/model,revision=v2").models[0].revision == "v2"
    assert "one model's" in refused("a", "b", "--revision", "v2")


def test_where_and_how_to_listen() -> None:
    made = plan("m", "--uds", "s.sock", "--root-path", "llm/", "--no-access-log", "--load-format", "dummy")
    assert (made.uds, made.settings.root_path, made.settings.access_log) == ("s.sock", "/llm", "none")
    assert made.engine.load_format == "dummy"
    assert plan("m", "--access-log-format", "json").settings.access_log == "json"
    assert plan("m", "--disable-access-log-for-endpoints", "/health,/x").settings.silent_paths == ("/health", "/x")
    assert plan("m", "--load-format", "safetensors").engine.load_format == "auto"


@pytest.mark.parametrize(
    "line",
    [
        "{model} --dtype=float16 --tensor-parallel-size 2 --enable-auto-tool-choice --tool-call-parser hermes"
        " --trust-remote-code",
        "--model {model} --served-model-name name --max-model-len 2048 --dtype half --max-num-seqs 256"
        ' --gpu-memory-utilization 0.9 --lora-dtype="auto"',
    ],
)
def test_command_lines_people_have(line: str) -> None:
    (model,) = plan(*line.format(model="Qwen/Qwen2.5-7B-Instruct").split()).models
    assert model.name == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pipeline-parallel-size", "2"], "one engine"),
        (["--quantization", "awq"], "quantization must be one of int8, int4, fp8, got 'awq'"),
        (["--tool-call-parser", "hermess"], "there is no parser 'hermess' here. Known: "),
        (["--reasoning-parser", "thoughts"], "there is no parser 'thoughts' here. Known: "),
        (["--chat-model", "a,tool_call_parser=x"], "there is no parser 'x' here. Known: "),
        (["--tool-parser-plugin", "x.py"], "--tool-parser-plugin is not supported"),
        (["--api-key-file", "no-such-file"], "there is no file"),
        (["--allowed-headers", '["a"'], "not a JSON list"),
        (["--ssl-keyfile", __file__], "without --ssl-certfile"),
        (["--request-timeout", "soon"], "not a number of seconds"),
        (["--enable-ssl-refresh"], "SIGHUP reads the certificate again"),
        (["--knowledge-base", "kb"], "--knowledge-base is not supported"),
        (["--max-model-lenn", "5"], "No such option"),
        (["--max-model-len", "many"], "not a whole number"),
        (["--chat-template", "no-such-file.jinja"], "neither a file nor"),
        (["--chat-model", "a,max_len=4"], "max_model_len"),
        (["--default-chat-template-kwargs", "[1]"], "not a JSON object"),
    ],
)
def test_refused_in_one_sentence(arguments: list[str], sentence: str) -> None:
    message = refused("some/model", *arguments)
    assert sentence in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "arguments",
    [["--trust-remote-code"], ["--lora-dtype", "auto"], ["--swap-space", "4"], ["--enable-chunked-prefill"]],
)
def test_flags_without_meaning_get_one_warning(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    plan("some/model", *arguments)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"Warning: {arguments[0]} ")


def test_values_that_ask_for_nothing_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    plan("m", "--kv-cache-dtype", "auto", "--load-format", "safetensors", "-tp", "1", "--response-role", "assistant")
    assert capsys.readouterr().err == ""


def test_values_spread_only_after_the_model() -> None:
    assert spread_values(["m", "--api-key", "a", "b"]) == ["m", "--api-key", "a", "--api-key", "b"]
    assert spread_values(["--api-key", "a", "m"]) == ["--api-key", "a", "m"]
    assert spread_values(["--model", "m", "--served-model-name", "a", "b", "--port", "1"])[-4:] == [
        "--served-model-name",
        "b",
        "--port",
        "1",
    ]


@pytest.mark.parametrize(("value", "meaning"), [("int8", "int8"), ("int4", "int4"), ("fp8", "fp8"), ("none", None)])
def test_quantization(value: str, meaning: str | None) -> None:
    assert plan("m", "-q", value).engine.quantization == meaning
    assert plan("m").engine.quantization is None


def test_a_template_may_be_a_file_or_text(tmp_path: Any) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }} 你好", encoding="utf-8")
    assert plan("m", "--chat-template", str(file)).models[0].chat_template == "{{ messages[0].content }} 你好"
    assert plan("m", "--chat-template", "{{ messages }}").models[0].chat_template == "{{ messages }}"


def test_allowed_origins_as_vllm_writes_them() -> None:
    made = plan("m", "--allowed-origins", '["http://a", "http://b"]', "--allowed-methods", '["GET"]')
    assert made.settings.allowed_origins == ("http://a", "http://b")
    assert (made.settings.allowed_methods, made.settings.allowed_headers) == (("GET",), ("*",))
    assert plan("m", "--allowed-origins", "http://a", "--allow-credentials").settings.allow_credentials
    with pytest.raises(CarrelError, match="origins by name"):
        plan("m", "--allowed-origins", "*", "--allow-credentials")


def test_model_options_of_an_unknown_kind() -> None:
    with pytest.raises(click.BadParameter, match="dtype must be one of"):
        parse_model("a,dtype=int3", "chat")


def test_help_lists_only_what_is_there() -> None:
    text = CliRunner().invoke(carrel, ["--help"]).output
    for command in ("serve", "chat", "complete", "embed", "rerank", "index", "ask", "doctor"):
        assert f"  {command} " in text
    for later in ("eval", "bench", "  kb "):
        assert later not in text
    assert "--pipeline-parallel-size" not in CliRunner().invoke(carrel, ["serve", "--help"]).output


def test_version() -> None:
    from carrel._version import __version__

    assert CliRunner().invoke(carrel, ["--version"]).output == f"carrel, version {__version__}\n"


def test_the_command_line_starts_quickly() -> None:
    """Nothing heavy is imported for ``--help``."""
    code = (
        "import sys, carrel_server.cli.group; print({'torch', 'fastapi', 'uvicorn', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "set()"
