"""torch's own attention of packed sequences (FlashAttention-2), where it is there, right, and faster than ours.

``torch.nn.attention.varlen`` is young: its arguments differ from release to release, and which shapes it takes depends
on the GPU. So the first call for a kind of shape tries it on a small batch, beside our kernel; whatever goes wrong
means "not this one", never an error. Knows no cache and no plan.
"""

from __future__ import annotations

import functools
import inspect
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int, bool], Tensor]

_LENGTHS = (1024,) * 8  # sequences of the trial
_TOLERANCE = 2e-2  # of values about 1, in fp16 or bf16
_GAIN = 0.95  # of our time: less is noise
_ERRORS = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError)  # ways to say "not here"


class Kind(NamedTuple):
    """What decides whether torch's kernel takes a call, and how fast."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    causal: bool


class TorchVarlen:
    """Decides once for each kind of call.

    ``ours`` is the kernel that ``theirs`` has to beat, ``clock`` gives the time of a run; see :func:`torch_varlen`.
    """

    def __init__(self, device: torch.device, theirs: Attend, ours: Attend, clock: Callable[[Any], float]) -> None:
        self._device, self._theirs, self._ours, self._clock = device, theirs, ours, clock
        self._kinds: dict[Kind, bool] = {}

    def serves(self, query: Tensor, key: Tensor, causal: bool, window: int | None) -> bool:
        """Whether to take torch's kernel for these; during the capture of a graph only what was tried before."""
        if window is not None or query.dtype not in (torch.float16, torch.bfloat16):
            return False
        kind = Kind(query.shape[1], key.shape[1], query.shape[2], query.dtype, causal)
        if kind not in self._kinds:
            if query.is_cuda and torch.cuda.is_current_stream_capturing():
                return False
            self._kinds[kind] = self._try(kind)
        return self._kinds[kind]

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seq_len: int, causal: bool
    ) -> Tensor:
        """→ [num_tokens, num_heads, head_dim]; all rows belong to a sequence."""
        return self._theirs(query, key, value, cu_seqlens, max_seq_len, causal)

    def works(self, query: Tensor, key: Tensor, causal: bool) -> bool:
        """Whether torch's kernel takes calls like this one at all, however fast."""
        kind = Kind(query.shape[1], key.shape[1], query.shape[2], query.dtype, causal)
        try:
            self._theirs(*_trial(kind, self._device))
        except _ERRORS:
            return False
        return True

    def _try(self, kind: Kind) -> bool:
        """Right and faster on a small batch."""
        try:
            arguments = _trial(kind, self._device)
            theirs, ours = (attend(*arguments) for attend in (self._theirs, self._ours))
            if theirs.shape != ours.shape or not bool((theirs.float() - ours.float()).abs().max() <= _TOLERANCE):
                return False
            times = [self._clock(functools.partial(attend, *arguments)) for attend in (self._theirs, self._ours)]
        except _ERRORS:
            return False
        return times[0] < _GAIN * times[1]


def _trial(kind: Kind, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, int, bool]:
    """Some sequences of this kind, their numbers from a generator of their own."""
    generator = torch.Generator(device=device).manual_seed(0)
    heads = kind.num_heads + 2 * kind.num_kv_heads
    rows = torch.randn(sum(_LENGTHS), heads, kind.head_dim, generator=generator, device=device).to(kind.dtype)
    query, key, value = torch.split(rows, [kind.num_heads, kind.num_kv_heads, kind.num_kv_heads], dim=1)
    starts = [sum(_LENGTHS[:index]) for index in range(len(_LENGTHS) + 1)]
    cu_seqlens = torch.tensor(starts, dtype=torch.int32, device=device)
    return query, key, value, cu_seqlens, max(_LENGTHS), kind.causal


def torch_varlen(device: torch.device, ours: Attend) -> TorchVarlen | None:
    """The trial for ``device``; None where this torch has no such kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = frozenset(inspect.signature(varlen_attn).parameters)
    return TorchVarlen(device, functools.partial(_call, varlen_attn, known), ours, cuda_time)


def _call(
    varlen_attn: Any,
    known: frozenset[str],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seq_len: int,
    causal: bool,
) -> Tensor:
    """``known`` are the arguments that this release has."""
    options: dict[str, Any] = {"window_size": (-1, 0) if causal else (-1, -1)}
    if "window_size" not in known:
        options = {"is_causal": causal}
    if query.shape[1] != key.shape[1]:
        options["enable_gqa"] = True
    out: Tensor = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_seq_len, max_seq_len, **options)
    return out


def cuda_time(run: Callable[[], Tensor]) -> float:
    """Median milliseconds of five runs on the current stream, behind one another; waits for the device."""
    times: list[float] = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(5):  # so that the device works while the host launches
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[1:])  # the first runs warm up
