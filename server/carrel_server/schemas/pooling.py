"""The bodies of ``/pooling`` and ``/classify``."""

from __future__ import annotations

from typing import Literal

from carrel.params import PoolingParams

from carrel_server.schemas.embedding import EmbeddingBody, PoolingBody


class RawPoolingBody(EmbeddingBody):
    """``task`` None: the numbers as the model gives them."""

    task: Literal["embed", "classify"] | None = None

    @property
    def activated(self) -> bool:
        """Unit vectors of an embedder, probabilities of a classifier."""
        return bool(self.task is not None if self.use_activation is None else self.use_activation)


class ClassifyBody(PoolingBody):
    use_activation: bool = True  # false: logits in place of probabilities

    def pooling_params(self) -> PoolingParams:
        return PoolingParams(add_special_tokens=self.add_special_tokens, **self.truncation())
