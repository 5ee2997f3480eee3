"""Which architectures carrel has, and what each family takes for granted in its config.json. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from carrel.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family: what its config.json leaves unsaid. Defaults are those of transformers."""

    name: str
    is_decoder: bool
    prefix: str  # of the weights of the bare model, in a checkpoint with a head
    ties_by_default: bool = False
    defaults: tuple[tuple[str, Any], ...] = ()  # keys of config.json that may be missing
    fixed: tuple[tuple[str, Any], ...] = ()  # facts of the architecture that config.json never says
    refused: tuple[str, ...] = ()  # options that change the arithmetic, refused when set


LLAMA = Family(
    name="llama",
    is_decoder=True,
    prefix="model.",
    defaults=(("rms_norm_eps", 1e-6), ("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")),
)
QWEN2 = Family(
    name="qwen2",
    is_decoder=True,
    prefix="model.",
    defaults=(("rms_norm_eps", 1e-6), ("hidden_act", "silu")),
    fixed=(("qkv_bias", True), ("windows_by_layer", True)),
)
QWEN3 = Family(
    name="qwen3",
    is_decoder=True,
    prefix="model.",
    defaults=(("rms_norm_eps", 1e-6), ("hidden_act", "silu"), ("attention_bias", False), ("head_dim", 128)),
    fixed=(("qk_norm", True), ("windows_by_layer", True)),
)
MISTRAL = Family(
    name="mistral",
    is_decoder=True,
    prefix="model.",
    defaults=(("rms_norm_eps", 1e-6), ("hidden_act", "silu"), ("sliding_window", 4096)),
    fixed=(("window_everywhere", True),),
)
BERT = Family(name="bert", is_decoder=False, prefix="bert.", defaults=(("layer_norm_eps", 1e-12), ("pad_token_id", 0)))
ROBERTA = Family(
    name="roberta",
    is_decoder=False,
    prefix="roberta.",
    defaults=(("layer_norm_eps", 1e-12), ("pad_token_id", 1)),
    fixed=(("positions_after_pad", True),),
)

_DECODERS = {"Llama": LLAMA, "Qwen2": QWEN2, "Qwen3": QWEN3, "Mistral": MISTRAL}
_ENCODERS = {"Bert": BERT, "Roberta": ROBERTA, "XLMRoberta": ROBERTA}


def _architectures() -> dict[str, Family]:
    table = {f"{name}{suffix}": family for name, family in _DECODERS.items() for suffix in ("ForCausalLM", "Model")}
    for name, family in _ENCODERS.items():
        for suffix in ("Model", "ForMaskedLM", "ForSequenceClassification"):
            table[name + suffix] = family
    return table


def supported_architectures() -> list[str]:
    return sorted(_architectures())


def family_of(architecture: str) -> Family:
    """The family of an architecture name of config.json.

    >>> family_of("Qwen3ForCausalLM").name
    'qwen3'

    Raises:
        UnsupportedModelError: carrel does not have it; the message lists what there is.
    """
    family = _architectures().get(architecture)
    if family is None:
        raise UnsupportedModelError(
            f"The architecture {architecture} is not supported; supported are {', '.join(supported_architectures())}."
        )
    return family
