"""Weights from safetensors files, single or sharded, into a model's parameters. Never pickle.

A model says for each of its parameters which tensors of the checkpoint make it up (several are concatenated along the
first dimension: fused projections). What is missing, unexpected or of another shape is an error that names the tensors.

A weight may be stored in int8 rows: ``X``, int8 [rows, columns], beside ``X.scale``, float32 [rows]. It is read as the
float32 weight ``X * scale[:, None]``, and nobody further on knows the difference. ``training/int8_rows.py`` writes such
files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from carrel.errors import WeightsError
from carrel.layers.parallel import Alone, ParallelGroup, Split, share
from carrel.layers.weight_formats import set_parameter
from carrel.models.config import read_json
from carrel.models.weight_facts import INT8, SCALE

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SHOWN = 8  # names in an error message

Sources = Mapping[str, Sequence[str]]  # parameter → the checkpoint's tensors, concatenated along dimension 0


class Checkpoint:
    """The tensors of a model folder by name, read when asked for.

    ``prefix`` is cut off the names that have it, so that a bare model and one with a head look alike.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}  # safetensors' open files
        self._names: dict[str, tuple[Path, str]] = {}  # name → (file, name in the file)
        for path in weight_files(folder):
            self._files[path] = _open(path)
            for stored in self._files[path].keys():  # noqa: SIM118  # a method of safe_open, which is no mapping
                self._names[_plain_name(stored, prefix)] = (path, stored)
        self._scales = {name: self._take_scale(name) for name in self._int8_names()}

    @property
    def names(self) -> set[str]:
        """Of the weights; the scales of int8 rows belong to theirs."""
        return set(self._names)

    def load(self, name: str, split: Split | None = None, group: ParallelGroup | None = None) -> Tensor:
        """The tensor called ``name``, on the CPU in the dtype of the file, float32 for one in int8 rows; with ``split``
        this rank's slice of it."""
        tensor = self._read(*self._names[name], split, group)
        if name not in self._scales:
            return tensor
        by_rows = None if split is not None and split.kind == "columns" else split
        scale = self._read(*self._scales[name], by_rows, group)
        if not bool(scale.isfinite().all()):
            raise WeightsError(
                f"{self.folder}: {name}{SCALE} holds numbers that are not finite; download the model again."
            )
        return tensor.float().mul_(scale[:, None])

    def _read(self, path: Path, stored: str, split: Split | None, group: ParallelGroup | None) -> Tensor:
        try:
            tensor: Tensor
            if split is None or group is None or group.size == 1:
                tensor = self._files[path].get_tensor(stored)
            else:
                tensor = _slice(self._files[path].get_slice(stored), split, group)
        except SafetensorError as error:
            raise WeightsError(
                f"{path}: tensor {stored} cannot be read ({error}); download the model again."
            ) from error
        return tensor

    def dtype(self) -> str:
        """dtype of the first floating-point weight: "float32" (as of int8 rows), "bfloat16", "float16", …"""
        names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64", INT8: "float32"}
        for place in self._names.values():
            name, _ = self._facts(place)
            if name in names:
                return names[name]
        raise WeightsError(f"{self.folder} holds no floating-point weights; use the bf16, fp16 or fp32 checkpoint.")

    def _int8_names(self) -> list[str]:
        """Of the weights in int8 rows.

        Raises:
            WeightsError: a weight of another dtype has a scale, which says that it means other numbers.
        """
        int8 = [name for name, place in self._names.items() if self._facts(place)[0] == INT8]
        scaled = {name.removesuffix(SCALE) for name in self._names if name.endswith(SCALE)}
        odd = sorted((scaled & self._names.keys()) - set(int8))
        if odd:
            raise WeightsError(f"{self.folder}: {_some(odd)} have scales, as only int8 weights do.")
        return int8

    def _take_scale(self, name: str) -> tuple[Path, str]:
        """Where the scale of the int8 weight ``name`` stands; it is no name of its own any more.

        Raises:
            WeightsError: there is none, or one that does not fit.
        """
        place = self._names.pop(name + SCALE, None)
        _, shape = self._facts(self._names[name])
        if place is None:
            raise WeightsError(f"{self.folder}: {name} is int8 and has no {name}{SCALE}; download the model again.")
        dtype, length = self._facts(place)
        if len(shape) != 2 or dtype != "F32" or length != shape[:1]:
            raise WeightsError(
                f"{self.folder}: {name}, int8 {tuple(shape)}, needs a matrix and one F32 scale for each row, but "
                f"{name}{SCALE} is {dtype} {tuple(length)}."
            )
        return place

    def _facts(self, place: tuple[Path, str]) -> tuple[str, list[int]]:
        """dtype, as safetensors names it, and shape of a tensor."""
        path, stored = place
        found = self._files[path].get_slice(stored)
        return str(found.get_dtype()), list(found.get_shape())


def _slice(stored: Any, split: Split, group: ParallelGroup) -> Tensor:
    """``stored`` is a slice of safetensors: only what is asked for is read."""
    shape = stored.get_shape()
    if split.kind == "first":
        whole: Tensor = stored[:]
        return whole if group.rank == 0 else torch.zeros_like(whole)
    dim = 1 if split.kind == "columns" else 0
    fits = shape[0] == split.whole if split.kind == "vocabulary" else shape[dim] % group.size == 0
    if not fits:
        return cast(Tensor, stored[:])  # its shape will be found wrong
    count = share(shape[dim], group.size)
    start = min(group.rank * count, shape[dim])
    end = min(start + count, shape[dim])
    part: Tensor = stored[:, start:end] if dim else stored[start:end]
    if dim or end - start == count:
        return part
    return torch.cat((part, part.new_zeros(count - (end - start), *part.shape[1:])))


def _plain_name(name: str, prefix: str) -> str:
    name = name.removeprefix(prefix)
    if name.endswith("LayerNorm.gamma"):  # checkpoints converted from TensorFlow
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith("LayerNorm.beta") else name


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder.

    Raises:
        WeightsError: there are none, only pickles, or a shard is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        shards = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise WeightsError(f"{folder} lacks the shards {_some(missing)} of {INDEX}; download the model again.")
        return [folder / shard for shard in shards]
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise WeightsError(
            f"{folder} has its weights only as pickle, which can run any code and is never loaded. Convert them once "
            "on a machine you trust: AutoModel.from_pretrained(folder).save_pretrained(folder) of transformers writes "
            f"{SINGLE}; or choose a revision of the model that has it."
        )
    raise WeightsError(f"{folder} has no weights: neither {SINGLE} nor {INDEX}; download the model again.")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged ({error}); download the model again.") from error


def load_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    sources: Sources,
    *,
    device: str,
    dtype: torch.dtype,
    ignored: Iterable[str] = (),
    splits: Mapping[str, Split] | None = None,
    group: ParallelGroup | None = None,
) -> None:
    """Fill every parameter of ``module`` from ``checkpoint``; those of ``ignored`` prefixes may be left over.

    In a ``group`` of several ranks, of the parameters in ``splits`` only this rank's slice is read.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape; the message names them.
    """
    used = {name for names in sources.values() for name in names}
    check_names(checkpoint, used, tuple(ignored))
    parameters = dict(module.named_parameters())
    assert set(parameters) == set(sources), "a model names the sources of exactly its parameters"
    splits, group = splits or {}, group or Alone()
    wrong: list[str] = []
    for name, parameter in parameters.items():
        tensor = _join([checkpoint.load(source, splits.get(name), group) for source in sources[name]])
        if tensor is None or tensor.shape != parameter.shape:
            found = "shapes that do not join" if tensor is None else str(tuple(tensor.shape))
            wrong.append(f"{' + '.join(sources[name])}: {found}, expected {tuple(parameter.shape)}")
            continue
        # A tensor of a file may be a view of it; ours must outlive the file and count as memory taken.
        assign(module, name, tensor.to(device=device, dtype=dtype, copy=len(sources[name]) == 1))
    if wrong:
        raise WeightsError(f"Weights in {checkpoint.folder} do not fit config.json: {_some(wrong)}.")


def check_names(checkpoint: Checkpoint, used: set[str], ignored: tuple[str, ...]) -> None:
    """
    Raises:
        WeightsError: the checkpoint lacks some of ``used``, or holds others that are not ``ignored``.
    """
    missing = sorted(used - checkpoint.names)
    if missing:
        raise WeightsError(f"Weights in {checkpoint.folder} lack {_some(missing)}; download the model again.")
    extra = sorted(name for name in checkpoint.names - used if not _ignorable(name, ignored))
    if extra:
        raise WeightsError(
            f"Weights in {checkpoint.folder} hold tensors that its architecture does not have: {_some(extra)}; "
            "config.json and the weights belong to different models."
        )


def _ignorable(name: str, ignored: tuple[str, ...]) -> bool:
    return name.startswith(ignored) or name.endswith(("rotary_emb.inv_freq", "position_ids", "token_type_ids"))


def _join(tensors: list[Tensor]) -> Tensor | None:
    if len(tensors) == 1:
        return tensors[0]
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        return None
    return torch.cat(tensors)


def assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put ``tensor`` in the place of the parameter ``name``, and pack it where its module has a format."""
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    set_parameter(module, last, tensor)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
