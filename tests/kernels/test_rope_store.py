"""Head norms, rotary embedding and the KV store in one launch = the twin, and = the layers that do them one by one."""

from dataclasses import dataclass

import pytest
import torch
from carrel.kernels import reference, reference_rope
from carrel.kernels.rope_store import rope_store
from torch import Tensor

TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 4e-2}
BLOCK_SIZE, NUM_BLOCKS, MAX_POSITIONS = 4, 6, 50


@dataclass
class Inputs:
    """Arguments of one launch, drawn afresh by ``make``; ``copy`` gives tensors of its own."""

    num_heads: int
    qkv: Tensor
    cos_sin: Tensor
    positions: Tensor
    weights: tuple[Tensor, Tensor] | None
    keys: Tensor
    values: Tensor
    slots: Tensor

    def run(self, function: object, *, stores: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        qkv, keys, values = self.qkv.clone(), self.keys.clone(), self.values.clone()
        q_weight, k_weight = self.weights or (None, None)
        cache = {"keys": keys, "values": values, "slot_mapping": self.slots} if stores else {}
        function(  # type: ignore[operator]
            qkv, self.cos_sin, self.positions,
            num_heads=self.num_heads, q_weight=q_weight, k_weight=k_weight, eps=1e-6, **cache,
        )  # fmt: skip
        return qkv, keys, values


def make(
    heads: tuple[int, int, int], num_tokens: int, dtype: torch.dtype, device: torch.device, *, norm: bool = False
) -> Inputs:
    num_heads, num_kv_heads, head_dim = heads
    generator = torch.Generator().manual_seed(num_tokens * 1000 + head_dim)

    def draw(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    angles = torch.rand(MAX_POSITIONS, head_dim // 2, generator=generator) * 7
    cache_shape = (num_kv_heads, NUM_BLOCKS, BLOCK_SIZE, head_dim)
    slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE, generator=generator)[:num_tokens]
    slots[1::3] = -1
    return Inputs(
        num_heads=num_heads,
        qkv=draw(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim),
        cos_sin=torch.cat((angles.cos(), angles.sin()), dim=-1).to(device),
        positions=torch.randint(MAX_POSITIONS, (num_tokens,), generator=generator).to(device),
        weights=(draw(head_dim), draw(head_dim)) if norm else None,
        keys=draw(*cache_shape),
        values=draw(*cache_shape),
        slots=slots.to(device),
    )


def close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        tolerance = TOLERANCE[ours.dtype]
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("heads", [(14, 2, 64), (4, 4, 128), (2, 1, 16), (3, 1, 80), (8, 2, 6)])
def test_equals_its_twin(heads: tuple[int, int, int], norm: bool, dtype: torch.dtype, device: torch.device) -> None:
    inputs = make(heads, 5, dtype, device, norm=norm)
    found = inputs.run(rope_store)
    close(found, inputs.run(reference_rope.rope_store))
    width = sum(heads[:2]) * heads[2]
    assert torch.equal(found[0][:, width:], inputs.qkv[:, width:])  # values stay as they were


def test_padding_rows_store_nothing(dtype: torch.dtype, device: torch.device) -> None:
    inputs = make((4, 2, 32), 3, dtype, device)
    inputs.slots = torch.full_like(inputs.slots, -1)
    _, keys, values = inputs.run(rope_store)
    assert torch.equal(keys, inputs.keys) and torch.equal(values, inputs.values)


def test_without_a_cache(dtype: torch.dtype, device: torch.device) -> None:
    inputs = make((6, 3, 48), 4, dtype, device, norm=True)
    found, keys, values = inputs.run(rope_store, stores=False)
    close((found,), (inputs.run(reference_rope.rope_store, stores=False)[0],))
    assert torch.equal(keys, inputs.keys) and torch.equal(values, inputs.values)


def test_any_tile_gives_the_same(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make((5, 3, 64), 3, torch.float32, device, norm=True)
    narrow = inputs.run(rope_store)
    monkeypatch.setattr("carrel.kernels.rope_store.MANY_TOKENS", 1)
    assert all(map(torch.equal, narrow, inputs.run(rope_store)))


def test_rows_that_lie_apart_and_no_token(dtype: torch.dtype, device: torch.device) -> None:
    inputs = make((2, 1, 16), 4, dtype, device)
    wide = torch.zeros(4, 100, dtype=dtype, device=device)
    wide[:, 10:74] = inputs.qkv
    rope_store(wide[:, 10:74], inputs.cos_sin, inputs.positions, num_heads=2)
    close((wide[:, 10:74],), (inputs.run(reference_rope.rope_store, stores=False)[0],))
    assert not wide[:, :10].any() and not wide[:, 74:].any()
    rope_store(inputs.qkv[:0], inputs.cos_sin, inputs.positions[:0], num_heads=2)


def test_the_twin_rotates_as_complex_numbers() -> None:
    """The twin itself: dimension i and i + half as real and imaginary part, turned by e^(i·angle)."""
    x, angles = torch.randn(3, 2, 10, dtype=torch.float64), torch.rand(3, 1, 5, dtype=torch.float64) * 6
    turned = torch.complex(x[..., :5], x[..., 5:]) * torch.exp(1j * angles)
    found = reference_rope.rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(found, torch.cat((turned.real, turned.imag), dim=-1), atol=1e-6, rtol=1e-6)


def test_a_gather_gives_back_what_was_stored(device: torch.device) -> None:
    inputs = make((2, 2, 16), 8, torch.float32, device)
    inputs.slots = torch.arange(8, device=device)  # blocks 0 and 1
    qkv, keys, values = inputs.run(rope_store)
    table = torch.tensor([[0, 1]], device=device)
    rows = qkv.unflatten(-1, (-1, 16))
    assert torch.equal(reference.gather_kv(keys, table)[0].transpose(0, 1), rows[:, 2:4])
    assert torch.equal(reference.gather_kv(values, table)[0].transpose(0, 1), rows[:, 4:])
