"""What the HTTP side is told at start. Knows nothing of models; their options are ``carrel.config``'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TokenIdsPolicy = Literal["reject", "model"]
SamplingDefaults = Literal["auto", "vllm"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Options of the HTTP side of one server.

    >>> ServerSettings(api_keys=("secret",)).api_keys
    ('secret',)
    """

    api_keys: tuple[str, ...] = ()  # empty: no key is asked for
    embedding_token_ids: TokenIdsPolicy = "reject"  # what token ids sent as embedding input mean
    generation_config: SamplingDefaults = "auto"  # auto: sampling defaults from the model's generation_config.json
    max_body_bytes: int = 64 * 1024 * 1024  # of one request
    allowed_origins: tuple[str, ...] = ()  # browsers' origins that may call (CORS)
    docs: bool = True  # /docs and /openapi.json
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # defaults for every chat request
