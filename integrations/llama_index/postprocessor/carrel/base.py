"""carrel's rerankers as a LlamaIndex node postprocessor. Translates and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from carrel_client import RerankFields
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import ConfigDict

from carrel.errors import InvalidParamsError
from carrel.outputs import RerankResult


class CarrelRerank(BaseNodePostprocessor, RerankFields):
    """A reranker of carrel, in this process or over HTTP.

    Args:
        model, llm, base_url: as for ``llama_index.llms.carrel.Carrel``.
        top_n: how many nodes are kept, best first; None keeps all.
        keep_retrieval_score: write the score that a node came with to its metadata, as ``retrieval_score``.

    Example:
        .. code-block:: python

            from llama_index.postprocessor.carrel import CarrelRerank

            with CarrelRerank(model="starter/reranker", top_n=2) as rerank:
                best = rerank.postprocess_nodes(nodes, query_str="分页注意力是什么？")
                best[0].score  # 0..1
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    keep_retrieval_score: bool = False

    @classmethod
    def class_name(cls) -> str:
        return "CarrelRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self.callback_manager.event(CBEventType.RERANKING, payload=self._payload(nodes, query)) as event:
            ranked = self._ranked(nodes, self.ranking(query, _texts(nodes)))
            event.on_end(payload={EventPayload.NODES: ranked})
        return ranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self.callback_manager.event(CBEventType.RERANKING, payload=self._payload(nodes, query)) as event:
            ranked = self._ranked(nodes, await self.aranking(query, _texts(nodes)))
            event.on_end(payload={EventPayload.NODES: ranked})
        return ranked

    def _payload(self, nodes: list[NodeWithScore], query: str) -> dict[str, object]:
        return {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model or self.base_url or "shared",
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }

    def _ranked(self, nodes: Sequence[NodeWithScore], results: Sequence[RerankResult]) -> list[NodeWithScore]:
        """Copies: the retriever's nodes keep their scores and their metadata."""
        return [self._scored(nodes[result.index], result.relevance_score) for result in results]

    def _scored(self, node: NodeWithScore, score: float) -> NodeWithScore:
        if not self.keep_retrieval_score:
            return NodeWithScore(node=node.node, score=score)
        kept = node.node.model_copy(update={"metadata": {**node.node.metadata, "retrieval_score": node.score}})
        return NodeWithScore(node=kept, score=score)


def _texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


def _query(bundle: QueryBundle | None) -> str:
    """
    Raises:
        InvalidParamsError: there is no query to rank by.
    """
    if bundle is None:
        raise InvalidParamsError("CarrelRerank ranks by a query: pass query_str= or query_bundle=.", param="query_str")
    return bundle.query_str
