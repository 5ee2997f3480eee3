"""``carrel doctor``: what it says of machines and models, whole and broken, is what serving them does."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel.preview import plan_together, preview_model
from carrel_server.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(status, standard output, standard error) of ``carrel doctor``, through the real entry point."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["doctor", *arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


def asked(run: Run, *arguments: str) -> dict[str, Any]:
    _, out, _ = run(*arguments, "--json")
    answer = json.loads(out)
    assert isinstance(answer, dict)
    return answer


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_the_page(run: Run) -> None:
    status, out, err = run()
    assert status == 0 and err == ""
    assert all(len(line) <= 80 for line in out.splitlines())
    for word in ("python", "torch", "cpu", "memory", "gpu", "starter/reader", "starter/embedding", "Qwen2ForCausalLM"):
        assert word in out
    assert out.rstrip().splitlines()[-1].startswith("0 problems")


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_the_plan_is_the_one_that_serving_makes(tiny_models: Callable[[str], Path], quantization: Any) -> None:
    specs = [ModelSpec(name=str(tiny_models(name))) for name in ("qwen2", "bert-mean", "bert-reranker", "bert-spans")]
    config = EngineConfig(device="cpu", kv_cache_memory_bytes=8 << 20, quantization=quantization)
    previews = [preview for spec in specs if (preview := preview_model(spec, config)) is not None]
    foreseen = plan_together(previews, config)
    with EngineHost(specs, config) as host:
        assert host.memory_plan == foreseen


def test_facts_of_each_kind_of_model(run: Run, tiny_models: Callable[[str], Path]) -> None:
    names = ("qwen2", "bert-mean", "bert-reranker")
    answer = asked(run, *(str(tiny_models(name)) for name in names), "--kv-cache-memory-bytes", "8388608")
    assert answer["ok"] is True and answer["problems"] == []
    chat, embedder, reranker = answer["models"]
    assert (chat["task"], embedder["task"], reranker["task"]) == ("chat", "embedding", "rerank")
    assert chat["kv"] > 0 and chat["context"] > 0 and chat["template"] is True
    assert chat["weights"]["parameters"] > 0 and chat["quantised"]["int4"] < chat["quantised"]["int8"]
    assert embedder["vectors"]["dim"] > 0 and embedder["vectors"]["pooling"] == ["mean"]
    assert reranker["reranker"] == "cross-encoder"
    assert answer["together"]["memory"]["kv"] <= 8388608 and answer["together"]["kv cache"]["tokens"] > 0
    assert answer["machine"]["device"] in ("cpu", "cuda") and answer["machine"]["cpu"]["cores"] >= 1


def break_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")


def other_architecture(folder: Path) -> None:
    change(folder, architectures=["MambaForCausalLM"])


def quantised_already(folder: Path) -> None:
    change(folder, quantization_config={"quant_method": "gptq"})


def more_layers(folder: Path) -> None:
    change(folder, num_hidden_layers=9, layer_types=None)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.parametrize(
    ("hurt", "word"),
    [
        (break_weights, "no weights"),
        (only_pickle, "pickle"),
        (damage, "damaged"),
        (other_architecture, "MambaForCausalLM"),
        (quantised_already, "gptq"),
        (more_layers, "lack"),
        (no_config, "config.json"),
    ],
)
def test_broken_folders(
    run: Run, tiny_models: Callable[[str], Path], tmp_path: Path, hurt: Callable[[Path], None], word: str
) -> None:
    folder = copied(tiny_models("qwen2"), tmp_path / "损坏")
    hurt(folder)
    status, out, _ = run(str(folder), str(tiny_models("bert-mean")))
    assert status == 1 and "Traceback" not in out
    assert "x cannot serve" in out and word in " ".join(out.split())
    assert "BertModel" in out, "the other model is examined all the same"
    assert asked(run, str(folder))["problems"]


def test_a_model_without_a_template(run: Run, tiny_models: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(tiny_models("qwen2"), tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    answer = asked(run, str(folder))
    assert answer["ok"] is True
    assert "--chat-template" in answer["warnings"][0]


def test_a_name_that_is_not_here(run: Run) -> None:
    """Tests are offline, so nothing can be downloaded."""
    status, out, _ = run("Qwen/no-such-model-1B")
    assert status == 1 and "HF_HUB_OFFLINE" in out


def test_what_would_be_downloaded(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    status, out, _ = run("Qwen/no-such-model-1B", "--download-dir", str(tmp_path))
    assert status == 0 and "would download it" in " ".join(out.split())
    assert list(tmp_path.iterdir()) == [], "nothing was asked for"


def test_what_does_not_fit(run: Run, tiny_models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_models("qwen2"))
    status, out, _ = run(folder, "--max-model-len", "256", "--kv-cache-memory-bytes", "4096")
    text = " ".join(out.split())
    assert status == 1 and "x does not fit" in out
    assert "lower max_model_len" in text and "context" in text, "and the rest is said"
    import carrel.worker.memory as memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000)
    status, out, _ = run(str(tiny_models("bert-mean")))
    text = " ".join(out.split())
    assert status == 1 and "97.7" not in text and "0.1 MiB free" in text and "more" in text
    status, out, _ = run(folder)
    assert status == 1 and "no memory left" in " ".join(out.split())


def test_what_it_says_of_gpus(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch describes two of them; what is computed stays on the CPU."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((8, 0), (9, 0))[index])
    machine = asked(run, "starter/embedding", "--device", "cpu")["machine"]
    assert machine["cuda:1"] == {"name": "GPU 1", "free": 70 << 30, "total": 80 << 30, "compute_capability": "9.0"}
    _, out, _ = run("starter/embedding", "--device", "cpu")
    text = " ".join(out.split())
    assert "GPU 0, 70.00 GiB of 80.00 GiB free, compute capability 8.0, no fp8" in text
    assert "compute capability 9.0, fp8" in text


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        answer = asked(run, "starter/embedding", "--port", port)
    assert answer["ok"] is True and port in answer["warnings"][0]


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--device", "tpu"], 1, "device"),
        (["--dtype", "int3"], 2, "--dtype"),
        (["starter/reader,nonsense=1"], 2, "nonsense"),
        (["--quantization", "int2"], 2, "int2"),
    ],
)
def test_wrong_flags(run: Run, arguments: list[str], status: int, word: str) -> None:
    found, out, err = run(*arguments)
    assert found == status and out == "" and word in err and "Traceback" not in err
