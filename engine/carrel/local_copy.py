"""Where a model is on this machine, without asking the network. Knows folders, bundled models, Hugging Face's cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carrel import hub
from carrel.starter import STARTERS

Origin = Literal["bundled", "folder", "cache", "download"]


@dataclass(frozen=True)
class LocalCopy:
    """``folder`` is None if the model would have to be downloaded."""

    origin: Origin
    folder: Path | None


def find_local_copy(name: str, *, revision: str | None = None, download_dir: str | None = None) -> LocalCopy:
    """
    >>> find_local_copy("starter/reader").origin
    'bundled'

    Raises:
        ModelError: no model can have this name, or a bundled one is damaged.
    """
    if name in STARTERS:
        return LocalCopy("bundled", hub.resolve(name))
    is_path = Path(name).expanduser().exists()
    if is_path or name.startswith("starter/") or not hub.REPOSITORY.fullmatch(name):
        return LocalCopy("folder", hub.resolve(name))
    from huggingface_hub import errors, snapshot_download  # slow to import, often not needed

    wanted, unwanted = list(hub.DOWNLOADED), list(hub.IGNORED)
    try:
        found = snapshot_download(
            name,
            revision=revision,
            cache_dir=download_dir,
            allow_patterns=wanted,
            ignore_patterns=unwanted,
            local_files_only=True,
        )
    except (errors.LocalEntryNotFoundError, OSError, ValueError):
        return LocalCopy("download", None)
    return LocalCopy("cache", Path(found))
