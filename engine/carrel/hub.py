"""From a model's name to a folder on this machine. Knows bundled models and Hugging Face; reads no model file.

Only safetensors, configuration and tokenizer files are ever downloaded: pickled weights are not even fetched.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from carrel.config import Task
from carrel.errors import InvalidParamsError, ModelNotFoundError, UnsupportedModelError
from carrel.starter import STARTERS, find_starter

DOWNLOADED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
IGNORED = ("original/*", "onnx/*", "openvino/*")  # the same weights in other layouts
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(name: str, *, revision: str | None = None, download_dir: str | None = None) -> Path:
    """The folder of a model.

    ``name`` is a folder, ``starter/…``, or a Hugging Face repository such as ``Qwen/Qwen2.5-0.5B-Instruct``, which is
    looked up in the local cache (or ``download_dir``) and, unless ``HF_HUB_OFFLINE`` is set, downloaded; of its newest
    ``revision`` unless one is given.

    >>> resolve("starter/reader").name
    'reader'

    Raises:
        ModelNotFoundError: nothing of that name; the message says where it was looked for and what to do.
        InvalidParamsError: a revision of what has none.
        WeightsError: a bundled model is damaged.
    """
    if revision is not None and (name in STARTERS or Path(name).expanduser().exists()):
        message = f"revision={revision!r} is for models of Hugging Face, and {name} is on this machine. Leave it out."
        raise InvalidParamsError(message, param="revision")
    if name in STARTERS:
        return find_starter(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        raise UnsupportedModelError(f"{name} is a file. Give the folder that holds config.json and *.safetensors.")
    if name.startswith("starter/"):
        raise ModelNotFoundError(f"There is no bundled model {name!r}. {_advice(name)}")
    if not REPOSITORY.fullmatch(name):
        raise ModelNotFoundError(f"There is no folder {name!r}. {_advice(name)}")
    return _hugging_face(name, revision, download_dir)


def starter_task(name: str) -> Task | None:
    """What a bundled model is for; None for every other name."""
    return STARTERS.get(name)


def _hugging_face(name: str, revision: str | None, download_dir: str | None) -> Path:
    from huggingface_hub import constants, errors, snapshot_download  # slow to import, often not needed

    looked = f"not a folder, not bundled, not in the cache {download_dir or constants.HF_HUB_CACHE}"
    wanted, unwanted = list(DOWNLOADED), list(IGNORED)
    try:
        found = snapshot_download(
            name, revision=revision, cache_dir=download_dir, allow_patterns=wanted, ignore_patterns=unwanted
        )
        return Path(found)
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{name} is there, but its owner asks for consent: accept its terms on huggingface.co, "
            "then `hf auth login`. Or give a folder."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{name} has no revision {revision!r}. Give a branch, a tag or a commit.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no model {name!r}: {looked}, not on Hugging Face. {_advice(name)}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError, ValueError) as error:
        network = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "Hugging Face cannot be reached"
        raise ModelNotFoundError(f"There is no model {name!r}: {looked}, and {network}. {_advice(name)}") from error


def _advice(name: str) -> str:
    close = difflib.get_close_matches(name, STARTERS, n=1, cutoff=0.5)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return f"{meant}Give the path of a model folder, or one of the bundled models: {', '.join(STARTERS)}."
