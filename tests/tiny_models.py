"""The small random models of ``scripts/make_tiny_models.py``, made once for a test session and only when asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_tiny_models.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tiny_models", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TinyModels:
    """``tiny_models("qwen2")`` is the folder of that model; the names are ``VARIANTS`` of the script.

    The folders are shared by the whole session: copy one before you change it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._script: ModuleType | None = None

    @property
    def script(self) -> ModuleType:
        if self._script is None:  # imports transformers, which takes a while
            self._script = load_script()
        return self._script

    def __call__(self, name: str) -> Path:
        folder = self._root / name
        return folder if folder.is_dir() else self.script.make_model(name, folder)
