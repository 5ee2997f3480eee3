"""What the HTTP side is told at start. Knows nothing of models; their options are ``carrel.config``'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from carrel.errors import InvalidParamsError
from carrel.params import MAX_N

TokenIdsPolicy = Literal["reject", "model", "cl100k"]
SamplingDefaults = Literal["auto", "vllm"]
AccessLogFormat = Literal["text", "json", "none"]
ANY = ("*",)
CEILINGS = {"max_choices": MAX_N}  # the engine's own; a setting can only lower them


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Options of the HTTP side of one server.

    >>> ServerSettings(api_keys=("secret",)).api_keys
    ('secret',)

    Raises:
        InvalidParamsError: an empty key, a limit that is out of its range, or credentials for every origin.
    """

    api_keys: tuple[str, ...] = ()  # empty: no key is asked for
    embedding_token_ids: TokenIdsPolicy = "reject"  # what token ids sent as embedding input mean
    generation_config: SamplingDefaults = "auto"  # auto: sampling defaults from the model's generation_config.json
    docs: bool = True  # /docs and /openapi.json
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # defaults for every chat request
    trust_request_chat_template: bool = False  # a request may bring a chat template of its own
    access_log: AccessLogFormat = "text"  # lines of the logger "carrel_server.access"
    silent_paths: tuple[str, ...] = ()  # no line for these, such as /health
    root_path: str = ""  # prefix under which a proxy shows the server

    # Of one request; one more is refused.
    max_body_bytes: int = 64 * 1024 * 1024
    max_inputs: int = 2048  # texts to embed, prompts to complete: OpenAI's number
    max_documents: int = 10_000  # to rerank or to score
    max_choices: int = 128  # n and best_of
    max_stop_strings: int = 64
    request_timeout: float | None = 3600.0  # seconds from the first byte to the last; None: as long as it takes
    body_timeout: float = 60.0  # seconds for the body to come
    max_concurrent_requests: int = 4096  # of all clients together

    allowed_origins: tuple[str, ...] = ()  # browsers' origins that may call (CORS)
    allowed_methods: tuple[str, ...] = ANY
    allowed_headers: tuple[str, ...] = ANY
    allow_credentials: bool = False  # cookies and the like, from those origins

    def __post_init__(self) -> None:
        if not all(key.strip() for key in self.api_keys):
            raise InvalidParamsError("An API key is empty. Give it a value, or give none.", param="api_keys")
        if self.allow_credentials and "*" in self.allowed_origins:
            message = "allow_credentials needs origins by name: with * every site could use its visitors' credentials."
            raise InvalidParamsError(message, param="allow_credentials")
        for name in (
            "max_body_bytes",
            "max_inputs",
            "max_documents",
            "max_choices",
            "max_stop_strings",
            "max_concurrent_requests",
        ):
            if getattr(self, name) < 1:
                raise InvalidParamsError(f"{name} must be at least 1, got {getattr(self, name)}.", param=name)
        for name, most in CEILINGS.items():
            if getattr(self, name) > most:
                raise InvalidParamsError(f"{name} must be at most {most}, got {getattr(self, name)}.", param=name)
        for name in ("request_timeout", "body_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise InvalidParamsError(f"{name} must be above 0 seconds, got {seconds}.", param=name)
