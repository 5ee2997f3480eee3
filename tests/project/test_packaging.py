"""The wheel: built here, installed elsewhere, and every module of it imported where the checkout cannot be seen."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from checkout import ROOT, module_name, package_files
from packaging.requirements import Requirement

PACKAGES = {"carrel", "carrel_server", "carrel_rag", "carrel_client", "langchain_carrel", "llama_index"}
STARTER_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
STARTERS = sorted(path.parent.name for path in (ROOT / "engine" / "carrel" / "starter").glob("*/config.json"))
MOST_BYTES = {"reader": 15 << 20, "reranker": 25 << 20}  # of a starter's weights

# Imports from the given folder first, without the current folder and without the editable install's path entries.
IMPORTER = """
import importlib, sys
target, checkout, *modules = sys.argv[1:]
sys.path = [target, *(entry for entry in sys.path if not entry.startswith(checkout) or "site-packages" in entry)]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
for name in modules:
    module = importlib.import_module(name)
    home = module.__file__ or ""
    assert home.startswith(target), f"{name} came from {home}"
"""


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (found,) = out.glob("carrel-*.whl")
    return found


def names_in(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def test_one_wheel_for_every_platform(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {name.split("/")[0] for name in names_in(wheel)} - PACKAGES == {
        f"carrel-{wheel.name.split('-')[1]}.dist-info"
    }


def test_tests_and_caches_stay_at_home(wheel: Path) -> None:
    assert [name for name in names_in(wheel) if "test" in name.lower() or name.endswith(".pyc")] == []


def test_llama_index_stays_a_namespace(wheel: Path) -> None:
    """An ``__init__.py`` above the adapters would hide the installed llama-index-core."""
    owners = {"llama_index", "llama_index/llms", "llama_index/embeddings", "llama_index/postprocessor"}
    assert {f"{owner}/__init__.py" for owner in owners} & set(names_in(wheel)) == set()


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in (ROOT / "engine/carrel/starter").glob("*/config.json"))
)
def test_a_starter_is_inside_and_small(wheel: Path, name: str) -> None:
    folder = f"carrel/starter/{name}/"
    files = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    assert {folder + file for file in STARTER_FILES | {"NOTICE"}} <= set(files)
    assert files[folder + "model.safetensors"] <= MOST_BYTES[name]


def test_types_and_licences_are_inside(wheel: Path) -> None:
    names = names_in(wheel)
    for package in PACKAGES - {"llama_index"}:
        assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    modules = [module_name(path) for path in package_files() if path.name != "__main__.py"]
    run(sys.executable, "-P", "-c", IMPORTER, target, ROOT, *modules, cwd=tmp_path)


def test_the_command_is_declared(wheel: Path) -> None:
    (name,) = [name for name in names_in(wheel) if name.endswith("entry_points.txt")]
    assert b"carrel = carrel_server.cli:main" in zipfile.ZipFile(wheel).read(name)


def test_the_base_install_is_the_engine_alone() -> None:
    base = {Requirement(text).name for text in requires("carrel") or [] if "extra ==" not in text}
    engine = {"torch", "triton", "safetensors", "tokenizers", "transformers", "jinja2", "llguidance", "numpy", "tqdm"}
    assert base == engine


def test_triton_is_asked_for_on_linux_only() -> None:
    (triton,) = [Requirement(text) for text in requires("carrel") or [] if text.startswith("triton")]
    assert triton.marker is not None
    assert triton.marker.evaluate({"platform_system": "Linux"})
    assert not triton.marker.evaluate({"platform_system": "Darwin"})


def test_the_constraints_pin_torch_and_every_direct_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {Requirement(line).name.lower().replace("_", "-") for line in lines if line and not line.startswith("#")}
    direct = {Requirement(text).name.lower().replace("_", "-") for text in requires("carrel") or []}
    assert "torch==2.13.0" in lines
    assert direct - pinned <= {"carrel", "triton"}  # a GPU build of torch brings its own triton
