"""Token ids that clients send in place of texts: OpenAI's vocabulary cl100k_base, from ids back to text.

LangChain's ``OpenAIEmbeddings`` cuts texts with it and sends the ids, whatever the model behind the URL. The ids are
turned into text again, which the model's own tokenizer then reads. Knows the vocabulary's file and where tiktoken and
LlamaIndex keep it; downloads nothing, and needs neither of them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from carrel.errors import CarrelError, InvalidParamsError

CACHE_NAME = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # tiktoken's name for the file: the SHA-1 of its address
FILE_NAME = "cl100k_base.tiktoken"
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
FOLDERS = ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")  # the environment variables that tiktoken reads
FETCH = """python -c "import tiktoken; tiktoken.get_encoding('cl100k_base')\""""
SPECIAL = {
    100257: b"<|endoftext|>",
    100258: b"<|fim_prefix|>",
    100259: b"<|fim_middle|>",
    100260: b"<|fim_suffix|>",
    100276: b"<|endofprompt|>",
}


class Cl100k:
    """The bytes of each token.

    >>> Cl100k({0: "图".encode(), 1: b" a"}).decode([0, 1])
    '图 a'
    """

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self._pieces = pieces

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids. Bytes at its ends that are half of a character, where a client cut, are left out.

        Raises:
            InvalidParamsError: an id that the vocabulary does not have.
        """
        try:
            data = b"".join(map(self._pieces.__getitem__, token_ids))
        except KeyError as error:
            raise InvalidParamsError(
                f"input holds {error.args[0]}, which is no id of cl100k_base.", param="input"
            ) from None
        return data.decode(errors="ignore")


def load_cl100k() -> Cl100k:
    """Read the vocabulary, which takes a tenth of a second.

    Raises:
        CarrelError: its file is on none of the known places, or is another one.
    """
    path = next((path for path in _places() if path.is_file()), None)
    if path is None:
        raise CarrelError(
            f"Token ids of cl100k need OpenAI's vocabulary {FILE_NAME}, which is not on this machine. Where there is "
            f"internet, run TIKTOKEN_CACHE_DIR=FOLDER {FETCH}, and start carrel with the same TIKTOKEN_CACHE_DIR."
        )
    return read_cl100k(path)


def read_cl100k(path: Path) -> Cl100k:
    """
    Raises:
        CarrelError: the file is damaged, or is another vocabulary.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise CarrelError(f"{path} is not OpenAI's {FILE_NAME}: its SHA-256 differs. Delete it and fetch it again.")
    pairs = (line.split() for line in data.splitlines())
    return Cl100k({int(rank): base64.b64decode(piece) for piece, rank in pairs} | SPECIAL)


def _places() -> Iterator[Path]:
    for name in FOLDERS:
        if folder := os.environ.get(name):
            yield from (Path(folder) / CACHE_NAME, Path(folder) / FILE_NAME)
    yield Path(tempfile.gettempdir()) / "data-gym-cache" / CACHE_NAME
    spec = importlib.util.find_spec("llama_index")  # a namespace package: this runs nothing of it
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        yield Path(folder) / "core" / "_static" / "tiktoken_cache" / CACHE_NAME
