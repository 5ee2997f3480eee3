"""The small random models of ``scripts/make_tiny_models.py``, made once for a test session and only when asked for."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "make_tiny_models.py"


def load_script(path: Path = SCRIPT) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_in_int8_rows(folder: Path, target: Path) -> tuple[Path, Path]:
    """``target/int8``, the model of ``folder`` in int8 rows, and ``target/float``, the same numbers in float32."""
    from safetensors.torch import load_file, save_file

    int8_rows = load_script(ROOT / "training" / "int8_rows.py")
    stored, plain = (shutil.copytree(folder, target / name) for name in ("int8", "float"))
    weights = load_file(folder / "model.safetensors")
    int8_rows.write_int8_rows(weights, stored / "model.safetensors")
    rows = load_file(stored / "model.safetensors")
    scaled = {name.removesuffix(".scale") for name in rows if name.endswith(".scale")}
    for name in weights:
        weights[name] = rows[name].float() * rows[f"{name}.scale"][:, None] if name in scaled else rows[name]
    save_file(weights, plain / "model.safetensors")
    return stored, plain


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
