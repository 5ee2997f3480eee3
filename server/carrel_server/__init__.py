"""The OpenAI-compatible HTTP server of carrel, and the ``carrel`` command line.

Knows HTTP, JSON and flags. Does not know tensors: everything a route needs of a model it asks of ``carrel.AsyncLLM``.
Importing this package loads neither torch nor FastAPI.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrel_server.app import create_app
    from carrel_server.settings import ServerSettings

_HOMES = {"ServerSettings": "settings", "create_app": "app"}

__all__ = ["ServerSettings", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'carrel_server' has no attribute {name!r}")
    return getattr(importlib.import_module(f"carrel_server.{_HOMES[name]}"), name)
