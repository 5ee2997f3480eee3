"""What the engine needs of a compiled grammar: which tokens may come next. Plain protocols; compiles nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Bitmask = npt.NDArray[np.int32]  # [ceil(vocab_size / 32)]: token t may come if bit t % 32 of word t // 32 is set


class Matcher(Protocol):
    """The state of one sequence. Not thread-safe; one device thread uses it."""

    def consume(self, token_ids: Sequence[int]) -> None:
        """Go on by tokens that were sampled. Tokens that end the sequence are passed over."""

    def fill_bitmask(self, mask: Bitmask) -> None:
        """Write which tokens may come next: the ends of the sequence only where the text may end, nothing else where
        it must. At least one bit is set.

        Raises:
            CarrelError: the grammar ran over its limits on this text.
        """


class Grammar(Protocol):
    """A compiled form, shared by the requests of one call."""

    def matcher(self) -> Matcher:
        """A matcher at the beginning of the text."""
        ...
