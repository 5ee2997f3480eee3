"""What a model folder says about itself: sizes, options, task. Reads the JSON files; loads no weights, needs no torch.

The names are carrel's own and the same for every family; ``decoder_config.py`` and ``encoder_config.py`` translate from
the families' spellings. An option that changes the arithmetic and is not known here is refused, never ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carrel.config import Task
from carrel.errors import ModelNotFoundError, UnsupportedModelError
from carrel.layers.rope_config import RopeConfig
from carrel.models.pooling_config import PoolingConfig

JsonObject = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model, as its files describe it; made by :meth:`from_folder`."""

    folder: Path
    architecture: str  # the first of "architectures" in config.json
    model_type: str
    task: Task
    dtype: str | None  # of the checkpoint: "float32", "bfloat16", "float16"; None: see the weights

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_act: str
    norm_eps: float
    max_positions: int  # tokens the position encoding reaches

    # Decoders.
    rope: RopeConfig | None = None
    sliding_windows: tuple[int | None, ...] = ()  # for each layer; None: it sees everything
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm on each head of queries and keys
    tie_word_embeddings: bool = False
    eos_token_ids: frozenset[int] = frozenset()  # config.json and generation_config.json together
    bos_token_id: int | None = None

    # Encoders.
    type_vocab_size: int = 0
    position_offset: int = 0  # RoBERTa counts positions from pad_token_id + 1
    pad_token_id: int | None = None
    labels: tuple[str, ...] = ()  # of a *ForSequenceClassification head, in the order of its logits
    problem_type: str | None = None  # what that head was trained for, as transformers names it
    has_spans: bool = False  # beside the score of a pair a cross-encoder says where in the document the answer stands
    pooling: PoolingConfig | None = None  # how hidden states become a vector; None: not an embedder

    generation: JsonObject = field(default_factory=dict)  # generation_config.json as it stands: default sampling

    @classmethod
    def from_folder(cls, folder: Path | str) -> ModelConfig:
        """Read ``folder/config.json`` and what stands beside it.

        >>> ModelConfig.from_folder("no/such/folder")
        Traceback (most recent call last):
        carrel.errors.ModelNotFoundError: There is no folder no/such/folder; give the path of a model folder.

        Raises:
            ModelNotFoundError: there is no such folder or no config.json in it.
            UnsupportedModelError: the architecture, or an option of it, is not supported.
        """
        from carrel.models.read_config import read_model_config

        return read_model_config(Path(folder))

    @property
    def is_decoder(self) -> bool:
        return self.rope is not None

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @property
    def max_model_len(self) -> int:
        """Longest input in tokens: what the positions reach, or less if sentence-transformers' files say so."""
        limit = self.pooling.max_seq_length if self.pooling else None
        return self.max_positions if limit is None else min(limit, self.max_positions)

    @property
    def embedding_dim(self) -> int | None:
        """Size of the vectors of an embedder; None for other tasks."""
        return self.pooling.output_dim(self.hidden_size) if self.pooling else None


def read_json(path: Path) -> JsonObject:
    """The object in the file ``path``; empty if there is no such file.

    Raises:
        UnsupportedModelError: the file is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnsupportedModelError(f"{path} is not valid JSON ({error}); download the model again.") from error
    if not isinstance(data, dict):
        raise UnsupportedModelError(f"{path} must hold a JSON object; download the model again.")
    return data


def read_config_json(folder: Path) -> JsonObject:
    """``config.json`` of a model folder.

    Raises:
        ModelNotFoundError: no folder, or no config.json in it.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"There is no folder {folder}; give the path of a model folder.")
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} has no config.json; it is not a model folder in Hugging Face's layout.")
    return read_json(folder / "config.json")
