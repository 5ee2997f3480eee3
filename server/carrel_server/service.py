"""What every route needs: the engine, the settings, the metrics. One per app, kept in ``app.state``."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from carrel.config import Ability
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from carrel_server.metrics import ServerMetrics
from carrel_server.request_record import current_record
from carrel_server.sampling_defaults import read_sampling_defaults
from carrel_server.settings import ServerSettings
from carrel_server.token_ids import Cl100k

if TYPE_CHECKING:
    from carrel.async_llm import AsyncLLM
    from carrel.host import EngineHost
    from carrel.hosted_model import HostedModel

logger = logging.getLogger(__name__)

MAX_REMEMBERED_FIELDS = 1000  # somebody may send random names for ever


class Service:
    """The engine as routes see it."""

    def __init__(
        self,
        llm: AsyncLLM,
        settings: ServerSettings,
        registry: CollectorRegistry | None = None,
        cl100k: Cl100k | None = None,
    ) -> None:
        self.llm = llm
        self.settings = settings
        self.started = int(time.time())
        self.metrics = ServerMetrics(llm.host, registry)
        self.cl100k = cl100k  # what token ids mean, where that is the policy
        self._warned: set[tuple[str, str]] = set()
        self._sampling_defaults = {
            key: read_sampling_defaults(hosted.folder) if settings.generation_config == "auto" else {}
            for key, hosted in llm.host.models.items()
        }

    @property
    def host(self) -> EngineHost:
        return self.llm.host

    def model(self, name: str | None, ability: Ability) -> HostedModel:
        """The model of that name that does this; no name (or an empty one) is the first model that does."""
        return _noted(self.host.get(name or None, ability))

    def any_model(self, name: str | None) -> HostedModel:
        """The model of that name whatever its task; no name is the first model."""
        return _noted(self.host.find(name) if name else next(iter(self.host.models.values())))

    def sampling_defaults(self, hosted: HostedModel) -> dict[str, Any]:
        return self._sampling_defaults[hosted.key]

    def warn_unknown(self, path: str, fields: Sequence[str]) -> None:
        """One warning for each field that means nothing here, so that nothing is ignored in silence."""
        for name in fields:
            if (path, name) not in self._warned and len(self._warned) < MAX_REMEMBERED_FIELDS:
                self._warned.add((path, name))
                logger.warning("%s: the field %.80r means nothing here and is ignored.", path, name)


def _noted(hosted: HostedModel) -> HostedModel:
    """The model, whose name the access log shall hold."""
    record = current_record()
    if record is not None:
        record.model = hosted.names[0]
    return hosted


def service_of(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service), "create_app sets it"
    return service


def new_id(prefix: str) -> str:
    """
    >>> new_id("chatcmpl").startswith("chatcmpl-")
    True
    """
    return f"{prefix}-{secrets.token_hex(12)}"
