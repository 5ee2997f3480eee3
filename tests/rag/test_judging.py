"""Who judges the passages that a search found, and that nothing is computed twice for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from carrel_rag import Document, RAGPipeline, RetrieverConfig
from carrel_rag.protocols import FloatArray
from rag_fakes import FakeEmbedder, FakeReranker

HARBOUR = Document(text="The harbour has 4,812 lanterns. Of these, 1,207 burned colza oil.", source="harbour")
CARDS = Document(text="会员分为银卡、金卡和墨玉卡三级。墨玉卡会员按1.5倍累积积分。", source="卡")
NOTES = [HARBOUR, CARDS]


def test_scores_are_not_computed_twice(tmp_path: Path) -> None:
    reranker = FakeReranker()
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=reranker) as rag:
        rag.add(NOTES, use_tqdm=False)
        rag.ask("How many lanterns?")
        asked = reranker.num_pairs
        assert rag.ask("How many lanterns?").text
        assert reranker.num_pairs == asked


def test_without_a_reranker_the_stored_vectors_judge(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    with RAGPipeline.open(tmp_path, embedder=embedder) as pipeline:
        pipeline.add(NOTES, use_tqdm=False)
        before = embedder.num_texts
        best, *others = pipeline.retrieve("墨玉卡会员按几倍累积积分？")
        assert embedder.num_texts == before  # no passage is embedded a second time
        assert best.name == "卡"
        assert best.rerank_score is not None
        assert best.rerank_score == pytest.approx(best.dense_score)
        assert [chunk.rerank_score is not None for chunk in others] == [True]
        assert pipeline.ask("墨玉卡会员按几倍累积积分？").text == "墨玉卡会员按1.5倍累积积分。 [1]"


def test_a_passage_that_only_its_words_found_is_judged_too(tmp_path: Path) -> None:
    class Astray(FakeEmbedder):
        def embed_query(self, text: str) -> FloatArray:
            return super().embed_query(CARDS.text)

    config = RetrieverConfig(num_search=1, top_k=1)
    with RAGPipeline.open(tmp_path, embedder=Astray(), retriever=config) as pipeline:
        pipeline.add(NOTES, use_tqdm=False)
        (found,) = pipeline.retrieve("How many lanterns?")
        assert (found.name, found.dense_score) == ("harbour", None)
        assert found.rerank_score is not None
        assert abs(found.rerank_score) < 0.5
