"""Where a knowledge base lies, and whether it fits the models: ``DIR/NAME/knowledge.sqlite3``. Reads no documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from carrel_rag.errors import KnowledgeBaseError, KnowledgeBaseMismatchError
from carrel_rag.store import Store

FILE_NAME = "knowledge.sqlite3"
DEFAULT_NAME = "default"
_NAME = re.compile(r"[^\s./\\:*?\"<>|\x00-\x1f][^/\\:*?\"<>|\x00-\x1f]{0,99}")


def check_name(name: str) -> str:
    """A name that can be a folder on any system; Chinese is fine.

    >>> check_name("手册 2026")
    '手册 2026'

    Raises:
        KnowledgeBaseError: it cannot.
    """
    if not _NAME.fullmatch(name) or name != name.strip():
        raise KnowledgeBaseError(
            f'{name!r} cannot name a knowledge base: use 1 to 100 characters, none of / \\ : * ? " < > |.'
        )
    return name


def parse_location(text: str) -> tuple[Path, str]:
    """``DIR`` or ``DIR/NAME`` as a command line gives it, to ``(DIR, NAME)``.

    It is ``DIR/NAME`` when a knowledge base lies there, or when the folder above already holds one; otherwise it is a
    ``DIR``, and the name is ``default``.

    >>> parse_location("no-such-folder/kb")[1]
    'default'
    """
    path = Path(text)
    if (path / FILE_NAME).is_file() or (not path.exists() and list_knowledge_bases(path.parent)):
        return path.parent, path.name
    return path, DEFAULT_NAME


def list_knowledge_bases(directory: Path | str) -> list[str]:
    """The names of the knowledge bases in ``directory``, sorted; empty if there is no such folder."""
    return sorted(path.parent.name for path in Path(directory).glob(f"*/{FILE_NAME}"))


def open_store(directory: Path, name: str, *, create: bool) -> Store:
    """The store of a knowledge base.

    Raises:
        KnowledgeBaseError: it does not exist and ``create`` is false, or the folder cannot be made or is no folder.
    """
    folder = directory / check_name(name)
    if not create and not (folder / FILE_NAME).is_file():
        known = ", ".join(list_knowledge_bases(directory)) or "none"
        raise KnowledgeBaseError(
            f"no knowledge base {name!r} in {directory}; there: {known}. Index documents into it first."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KnowledgeBaseError(f"the folder {folder} cannot be made: {error.strerror}.") from error
    return Store(folder / FILE_NAME)


def check_fingerprint(store: Store, expected: Mapping[str, str], where: str) -> None:
    """Writes the fingerprint of a new knowledge base, or compares it.

    Raises:
        KnowledgeBaseMismatchError: what it was built with is not what it would be searched with.
    """
    with store.snapshot() as now:
        found = now.fingerprint()
    if found is None:
        store.set_fingerprint(expected)
        return
    different = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    if different:
        parts = ", ".join(f"{key} {found.get(key)!r} (now {expected.get(key)!r})" for key in different)
        raise KnowledgeBaseMismatchError(
            f"{where} was built with {parts}, so its vectors cannot be compared with new ones. "
            "Open it with the same embedding model and chunk size, or index the documents again under another name."
        )
