"""The three ways in, as fields of a pydantic model that every adapter inherits: both frameworks build on pydantic.

An unknown keyword argument is an error, and so is one that belongs to another way in.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, ClassVar, Self

from carrel.config import EngineConfig, Task
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from carrel_client.backend import Backend
from carrel_client.connection import Connection


class ConnectionFields(BaseModel):
    """The three ways in.

    - ``model=…`` alone opens that model in this process on first use. Adapters with the same model and the same
      ``engine_options`` share one engine; the last ``close()`` frees it.
    - ``llm=…`` uses the engine of a ``carrel.LLM`` or ``carrel.AsyncLLM`` and never closes it.
    - ``base_url=…`` asks a carrel server (``http://127.0.0.1:8000``, with or without ``/v1``).

    Beside ``llm`` and ``base_url``, ``model`` names one of their models; without it their only one is used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = None
    llm: Any = Field(default=None, exclude=True, repr=False)
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True)
    timeout: float | None = None  # seconds for one answer over HTTP; None: 600
    max_retries: int | None = None  # over HTTP, when the server cannot be reached or is busy; None: 2
    engine_options: dict[str, Any] = Field(default_factory=dict)  # carrel.EngineConfig's, for a model opened here

    task: ClassVar[Task]
    _connection: Connection = PrivateAttr()

    @model_validator(mode="after")
    def _make_connection(self) -> Self:
        self._check_way_in()
        self._connection = Connection(self._open_backend)
        return self

    def _check_way_in(self) -> None:
        if self.llm is not None and self.base_url is not None:
            raise ValueError("give llm= or base_url=, not both: one is in this process, the other over HTTP.")
        if self.llm is None and self.base_url is None and self.model is None:
            raise ValueError("give one of model= (opened here), llm= (shared) or base_url= (a carrel server).")
        if self.llm is not None and not hasattr(self.llm, "host"):
            raise ValueError(f"llm= must be a carrel.LLM or carrel.AsyncLLM, got {type(self.llm).__name__}.")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url= must begin with http:// or https://, got {self.base_url!r}.")
        self._refuse_misplaced(("api_key", "timeout", "max_retries"), self.base_url is not None, "base_url")
        self._refuse_misplaced(("engine_options",), self.llm is None and self.base_url is None, "model")
        EngineConfig(**self.engine_options)

    def _refuse_misplaced(self, names: tuple[str, ...], allowed: bool, way_in: str) -> None:
        """An option of another way in would be read and ignored: refuse it."""
        misplaced = [name for name in names if getattr(self, name) not in (None, {})]
        if misplaced and not allowed:
            raise ValueError(f"{', '.join(misplaced)} has a meaning only with {way_in}=; leave it out.")

    def _open_backend(self) -> Backend:
        if self.base_url is not None:
            from carrel_client.server_backend import ServerBackend

            key = self.api_key.get_secret_value() if self.api_key else None
            return ServerBackend(self.base_url, api_key=key, timeout=self.timeout, max_retries=self.max_retries)
        from carrel_client.engine_backend import EngineBackend  # here: it loads torch, which HTTP does not need

        if self.llm is not None:
            return EngineBackend.shared(self.llm.host)
        assert self.model is not None, "checked when the adapter was made"
        return EngineBackend.opened(self.model, EngineConfig(**self.engine_options))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()  # frameworks copy adapters freely; an engine is shared, never copied

    def close(self) -> None:
        """Gives back what this adapter opened; an engine given as ``llm=`` stays open. May be called again."""
        self._connection.close()

    async def aclose(self) -> None:
        """As ``close``, and closes the HTTP connections of this event loop."""
        await self._connection.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()
