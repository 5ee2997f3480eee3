"""Which dtype a CPU computes in, and that it says so when it is not the one asked for."""

import logging

import pytest
import torch
from carrel.errors import UnsupportedModelError
from carrel.worker import dtype as dtype_module
from carrel.worker.dtype import resolve_dtype


@pytest.fixture(params=[True, False], ids=["with bf16", "without bf16"])
def half(request, monkeypatch):
    """What half precision becomes on a CPU with and without hardware for bfloat16."""
    monkeypatch.setattr(dtype_module, "cpu_has_bfloat16", lambda: request.param)
    return torch.bfloat16 if request.param else torch.float32


def test_auto_keeps_fp32_and_takes_what_the_cpu_does_well(half):
    assert resolve_dtype("auto", "float32", "cpu") is torch.float32
    assert resolve_dtype("auto", "bfloat16", "cpu") is half
    assert resolve_dtype("auto", "float16", "cpu") is half


def test_float16_asked_for_is_replaced_aloud(half, caplog):
    with caplog.at_level(logging.WARNING):
        assert resolve_dtype("float16", "float32", "cpu") is half
    assert "float16" in caplog.text
    assert str(half) in caplog.text


def test_what_is_done_as_asked_is_done_in_silence(half, caplog):
    with caplog.at_level(logging.WARNING):
        assert resolve_dtype("float32", "bfloat16", "cpu") is torch.float32
        assert resolve_dtype("auto", "float16", "cpu") is half
    assert caplog.text == ""


def test_a_gpu_computes_in_what_was_asked():
    assert resolve_dtype("float16", "float32", "cuda") is torch.float16
    assert resolve_dtype("float32", "bfloat16", "cuda") is torch.float32
    assert resolve_dtype("auto", "bfloat16", "cuda:1") is torch.bfloat16
    assert resolve_dtype("auto", "float16", "cuda") is torch.float16


def test_a_gpu_computes_fp32_checkpoints_in_bf16_unless_told():
    assert resolve_dtype("auto", "float32", "cuda") is torch.bfloat16
    assert resolve_dtype("float32", "float32", "cuda") is torch.float32


@pytest.mark.parametrize(("asked", "checkpoint"), [("auto", "float8_e4m3fn"), ("int8", "float32")])
def test_others_are_refused(asked, checkpoint):
    with pytest.raises(UnsupportedModelError, match="not supported; use one of float32, bfloat16, float16"):
        resolve_dtype(asked, checkpoint, "cpu")
