"""From the demo documents to cited answers with the bundled models: English and Chinese, in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from carrel import LLM
from carrel_rag import AnswerEvent, DeltaEvent, KnowledgeBaseError, RAGPipeline, RetrievedEvent
from carrel_rag.engine_models import bind_engine
from carrel_rag.prompts import make_messages


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as opened:
        yield opened


@pytest.fixture(scope="module")
def rag(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RAGPipeline]:
    folder = Path(__file__).parents[2] / "examples" / "documents"
    with RAGPipeline.open(tmp_path_factory.mktemp("kb"), llm=llm) as pipeline:
        report = pipeline.add(folder, use_tqdm=False)
        assert not report.failed, report.failed
        assert len(report.added) == 6
        yield pipeline


ASKED = [
    (
        "Which two general types of self-locking nuts are in use?",
        "all-metal type and the fiber lock type",
        "faa-handbook-page.pdf",
        "page 1",
    ),
    ("Who patented the typewriter in 1868?", "Christopher Latham Sholes", "word-processor-5-pages.pdf", "page 1"),
    (
        "How large is the mirror of the biggest telescope?",
        "1.52 metres",
        "observatory-visitor-guide.html",
        "Ainsley reflector",
    ),
    ("How much does an observing night cost for a student?", "20.00", "observatory-visitor-guide.html", "tickets"),
    ("What does error E07 mean?", "humidity sensor out of range", "weather-station-manual.md", "Error codes"),
    ("How long does the battery last without sun?", "21 days", "weather-station-manual.md", "Power"),
    ("墨玉卡会员的积分倍率是多少？", "1.5", "青竹书店会员与退换货办法.docx", ""),
    ("退货申诉电话是多少？", "0571-5550-0136", "青竹书店会员与退换货办法.docx", "第五条"),
    ("植物园是谁创建的？", "沈若兰", "云栖植物园参观指南.md", "云栖植物园"),
    ("无人机飞行由谁批准？", "贺远山", "云栖植物园参观指南.md", "游园须知"),
    ("Can I bring my own telescope?", "twelve concrete pillars", "observatory-visitor-guide.html", "visitors ask"),
    ("线上换货由谁批准？", "林小棠", "青竹书店会员与退换货办法.docx", "第四条"),
]


@pytest.mark.parametrize(("question", "words", "name", "place"), ASKED)
def test_the_right_answer_with_the_right_citation(
    rag: RAGPipeline, question: str, words: str, name: str, place: str
) -> None:
    answer = rag.ask(question)
    (first,) = answer.citations
    assert words in first.quote
    assert first.name == name
    assert place in first.place
    assert f"[{first.number}]" in answer.text
    text = rag.document_text(first.document_id)
    assert text is not None
    assert text[first.start : first.end] == first.quote
    assert " ".join(answer.text.removesuffix(f" [{first.number}]").split()) in " ".join(first.quote.split())
    assert answer.mode == "extractive"


def test_most_answers_are_the_words_themselves(rag: RAGPipeline) -> None:
    answers = {question: (words, rag.ask(question).text) for question, words, _, _ in ASKED}
    others = {question: said for question, (words, said) in answers.items() if words not in said}
    assert len(others) <= len(ASKED) // 4, others
    assert sum(len(said) < 60 for _, said in answers.values()) >= len(ASKED) * 3 // 4, "short answers"


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of Mongolia?",
        "Who won the football world cup in 2010?",
        "如何制作红烧肉？",
        "月球上有几家书店？",
    ],
)
def test_no_answer_where_there_is_none(rag: RAGPipeline, question: str) -> None:
    answer = rag.ask(question)
    assert answer.abstained
    assert answer.citations == ()


def test_the_starter_reader_as_machinery(rag: RAGPipeline) -> None:
    """Held to quotes: a piece of a passage with its number, or that there is none."""
    question = "How long does the battery last without sun?"
    events = list(rag.stream(question, mode="generative", max_tokens=64))
    answer = events[-1]
    assert isinstance(events[0], RetrievedEvent)
    assert isinstance(answer, AnswerEvent)
    assert "".join(e.text for e in events if isinstance(e, DeltaEvent)) == answer.answer.text
    assert answer.answer.abstained or answer.answer.citations
    assert answer.answer.usage.completion_tokens <= 64
    assert answer.answer.usage.prompt_tokens > 100
    assert answer.answer.timings.first_token is not None


async def test_asking_the_starters_from_asyncio(rag: RAGPipeline) -> None:
    assert "21 days" in (await rag.aask("How long does the battery last without sun?")).text


def test_the_engine_counts_as_the_pipeline_plans(llm: LLM) -> None:
    models = bind_engine(llm)
    assert models.chat is not None
    messages = make_messages("共有多少盏灯笼？", [])
    prompt = llm.chat([dict(m) for m in messages], use_tqdm=False)[0].prompt_token_ids  # type: ignore[arg-type]
    assert models.chat.count_message_tokens(messages) == len(prompt)
    assert models.embedder.embed_documents(["灯笼", "a lantern"]).shape == (2, models.embedder.dim)
    assert models.embedder.embed_query("灯笼").shape == (models.embedder.dim,)
    assert models.embedder.count_tokens(["one two three"]) == [3]


@pytest.mark.parametrize("word", ["battery ", "电池"])
def test_a_question_as_long_as_a_page_is_cut(rag: RAGPipeline, word: str) -> None:
    assert rag.ask(word * 3000).chunks


def test_an_engine_without_an_embedder_is_refused(tmp_path: Path) -> None:
    with LLM(model="starter/reader") as chat_only, pytest.raises(KnowledgeBaseError, match="embedding_model="):
        RAGPipeline.open(tmp_path, llm=chat_only)


def test_the_pipeline_never_closes_what_it_was_given(llm: LLM, tmp_path: Path) -> None:
    RAGPipeline.open(tmp_path, llm=llm).close()
    assert llm.embed("still open", use_tqdm=False)
