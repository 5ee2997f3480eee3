"""How much one document may ask of the machine. Knows no format."""

from __future__ import annotations

from dataclasses import dataclass

from carrel_rag.errors import DocumentTooLargeError

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits per document; over one of them the document fails, and the message names the limit.

    >>> Limits(max_pages=10).max_pages
    10
    """

    max_file_bytes: int = 100 * MIB
    max_unpacked_bytes: int = 400 * MIB  # of a zip container (DOCX)
    max_compression_ratio: int = 200  # unpacked / packed of one member over a MiB: more is a zip bomb
    max_pages: int = 5_000
    max_characters: int = 50_000_000
    max_chunks: int = 50_000


def check_limit(amount: int, limit: int, name: str, what: str) -> None:
    """Raises ``DocumentTooLargeError`` when ``amount`` is over the limit called ``name``."""
    if amount > limit:
        raise DocumentTooLargeError(
            f"{what}: {amount:,} is over {name}={limit:,}. Split the document, or raise the limit: Limits({name}=…)."
        )
