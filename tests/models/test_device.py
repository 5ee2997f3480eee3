"""Which device an engine runs on, and how one that is not there is refused."""

import pytest
import torch
from carrel.errors import InvalidParamsError
from carrel.host import resolve_device


@pytest.fixture(params=[0, 1, 2])
def num_gpus(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


def test_auto_is_the_first_gpu_if_there_is_one(num_gpus):
    assert resolve_device("auto") == ("cuda" if num_gpus else "cpu")
    assert resolve_device("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_refused(num_gpus):
    for index in range(3):
        if index < num_gpus:
            assert resolve_device(f"cuda:{index}") == f"cuda:{index}"
            continue
        with pytest.raises(
            InvalidParamsError, match=f"cuda:{index}.*finds {num_gpus} GPUs.*use .cpu. or .auto."
        ) as info:
            resolve_device(f"cuda:{index}")
        assert info.value.param == "device"
    if not num_gpus:
        with pytest.raises(InvalidParamsError, match="built with CUDA, and is there a driver"):
            resolve_device("cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "mps", ""])
def test_other_devices_are_refused_by_name(device):
    with pytest.raises(InvalidParamsError, match='must be "auto", "cpu", "cuda" or "cuda:N"'):
        resolve_device(device)
