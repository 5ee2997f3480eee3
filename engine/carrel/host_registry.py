"""Hosts that several users of one process share: the same models and options are loaded once.

Ten adapters that name the same model get one :class:`~carrel.host.EngineHost`; the last one to let go closes it. This
registry is the only module global of carrel, and it holds nothing that nobody uses.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel.model_source import find_sources


@dataclass(eq=False)
class _Entry:
    """A host in use, or about to be. ``loading`` keeps others waiting while the first user loads it."""

    key: Hashable
    num_users: int = 0
    host: EngineHost | None = None
    loading: threading.Lock = field(default_factory=threading.Lock)


class HostRegistry:
    """Reference-counted hosts by what they host."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}

    def acquire(self, models: Sequence[ModelSpec], config: EngineConfig | None = None) -> EngineHost:
        """The host of these models and options, loaded if nobody uses it yet. Pair it with :meth:`release`.

        Raises:
            ModelError, OutOfMemoryError: as of :class:`~carrel.host.EngineHost`; nothing is kept then.
        """
        config = config or EngineConfig()
        sources = find_sources(models, config)
        key = (tuple(sources), config)
        entry = self._enter(key)
        try:
            with entry.loading:
                if entry.host is None:
                    entry.host = EngineHost(sources, config)
                return entry.host
        except BaseException:
            self._leave(entry)
            raise

    def release(self, host: EngineHost) -> None:
        """Let go of a host that :meth:`acquire` gave; the last one closes it."""
        with self._lock:
            entry = next((entry for entry in self._entries.values() if entry.host is host), None)
        if entry is None:
            host.close()  # it was given up as dead, or closed by hand: closing twice does no harm
        elif self._leave(entry):
            host.close()

    def __len__(self) -> int:
        """Hosts in use."""
        with self._lock:
            return len(self._entries)

    def _enter(self, key: Hashable) -> _Entry:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or (entry.host is not None and not entry.host.is_alive):
                entry = self._entries[key] = _Entry(key)  # a host that died or was closed is not handed out again
            entry.num_users += 1
            return entry

    def _leave(self, entry: _Entry) -> bool:
        """True if that was the last user."""
        with self._lock:
            entry.num_users -= 1
            if entry.num_users == 0 and self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
            return entry.num_users == 0


_REGISTRY = HostRegistry()


def acquire(models: Sequence[ModelSpec], config: EngineConfig | None = None) -> EngineHost:
    """See :meth:`HostRegistry.acquire`."""
    return _REGISTRY.acquire(models, config)


def release(host: EngineHost) -> None:
    """See :meth:`HostRegistry.release`."""
    _REGISTRY.release(host)
