"""The pipeline over fake models: adding, asking, streaming, both modes, and every way it can refuse."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from carrel.errors import InvalidParamsError
from carrel_rag import (
    AnswerEvent,
    CitationEvent,
    DeltaEvent,
    Document,
    FileStatus,
    KnowledgeBaseClosedError,
    KnowledgeBaseError,
    KnowledgeBaseMismatchError,
    Limits,
    NoContextEvent,
    RAGPipeline,
    RetrievedEvent,
    RetrieverConfig,
    SourceNotFoundError,
    SplitterConfig,
    list_knowledge_bases,
    parse_location,
)
from rag_fakes import FakeEmbedder, FakeReranker, ScriptedChat

HARBOUR = Document(
    text="The harbour has 4,812 lanterns. Of these, 1,207 burned colza oil.", source="harbour", title="Harbour"
)
CARDS = Document(
    text="会员分为银卡、金卡和墨玉卡三级。墨玉卡会员按1.5倍累积积分。",
    source="卡",
    title="会员办法",
    metadata={"lang": "zh"},
)


def test_a_question_is_answered_with_its_source(pipeline: RAGPipeline) -> None:
    pipeline.add([HARBOUR, CARDS], use_tqdm=False)
    answer = pipeline.ask("How many lanterns burned colza oil?")
    assert answer.text == "Of these, 1,207 burned colza oil. [1]"
    (citation,) = answer.citations
    assert answer.chunks[citation.number - 1].id == citation.chunk_id
    assert HARBOUR.text[citation.start : citation.end] == citation.quote
    assert answer.mode == "extractive"
    assert not answer.abstained
    assert answer.timings.total >= answer.timings.retrieve + answer.timings.rerank > 0
    assert answer.timings.first_token is not None
    assert answer.usage.total_tokens == 0


def test_a_chinese_question(pipeline: RAGPipeline) -> None:
    pipeline.add([HARBOUR, CARDS], use_tqdm=False)
    assert pipeline.ask("墨玉卡会员按几倍累积积分？").text == "墨玉卡会员按1.5倍累积积分。 [1]"
    assert pipeline.ask("龙舟赛是谁赢的？").text == "文档中没有找到这个问题的答案。"


def test_an_empty_knowledge_base_abstains(pipeline: RAGPipeline) -> None:
    events = list(pipeline.stream("What is it?"))
    assert [type(event) for event in events] == [RetrievedEvent, NoContextEvent, DeltaEvent, AnswerEvent]
    answer = pipeline.ask("What is it?")
    assert answer.abstained
    assert answer.text == "The documents do not answer this question."


def test_a_threshold_that_nothing_reaches_says_so(pipeline: RAGPipeline) -> None:
    pipeline.add(HARBOUR, use_tqdm=False)
    best = pipeline.retrieve("lanterns")[0].score
    assert pipeline.retrieve("lanterns", min_score=best) != ()
    assert pipeline.retrieve("lanterns", min_score=best + 1e-6) == ()
    event = next(e for e in pipeline.stream("lanterns", min_score=2.0) if isinstance(e, NoContextEvent))
    assert event.reason == "1 passages were found, but none reaches the threshold."


def test_metadata_filters(pipeline: RAGPipeline) -> None:
    pipeline.add([HARBOUR, CARDS], use_tqdm=False)
    assert {chunk.source for chunk in pipeline.retrieve("lanterns", where={"lang": "zh"})} == {"卡"}
    assert pipeline.retrieve("lanterns", where={"lang": "fr"}) == ()


def test_who_interrupts_knows_what_is_stored(pipeline: RAGPipeline) -> None:
    told: list[str] = []

    def stop(status: FileStatus) -> None:
        told.append(status.source)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.add([HARBOUR, CARDS], use_tqdm=False, on_file=stop)
    assert told == ["harbour"] == [document.source for document in pipeline.documents()]
    assert [status.state for status in pipeline.add([HARBOUR, CARDS], use_tqdm=False).files] == ["unchanged", "added"]


def test_adding_again_changes_nothing_and_changed_files_are_replaced(pipeline: RAGPipeline, tmp_path: Path) -> None:
    note = tmp_path / "笔记 & notes.md"
    note.write_text("# 灯笼\n\n共有4812盏。", encoding="utf-8")
    first = pipeline.add(note, use_tqdm=False)
    assert [(s.name, s.state, s.num_chunks) for s in first.files] == [("笔记 & notes.md", "added", 1)]
    assert [s.state for s in pipeline.add(str(note), use_tqdm=False).files] == ["unchanged"]
    note.write_text("# 灯笼\n\n共有9999盏。", encoding="utf-8")
    assert [s.state for s in pipeline.add([note], use_tqdm=False).files] == ["updated"]
    assert [info.num_chunks for info in pipeline.documents()] == [1]
    assert "9999" in pipeline.ask("灯笼共有多少盏？").text
    assert pipeline.delete(note)
    assert not pipeline.delete(note)
    assert pipeline.documents() == []


def test_the_same_bytes_under_two_names_are_indexed_once(pipeline: RAGPipeline, tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("同样的内容。", encoding="utf-8")
    report = pipeline.add(tmp_path, use_tqdm=False)
    states = {
        status.name: (status.state, status.duplicate_of) for status in report.files if status.name.endswith(".md")
    }
    assert states == {"a.md": ("added", None), "b.md": ("duplicate", str(tmp_path / "a.md"))}


def states(pipeline: RAGPipeline, *documents: Document) -> list[str]:
    return [status.state for status in pipeline.add(documents, use_tqdm=False).files]


def test_the_same_text_with_other_metadata_is_no_duplicate(pipeline: RAGPipeline) -> None:
    shops = [replace(CARDS, source=f"shop {n}", metadata={"shop": n}) for n in range(3)]
    assert states(pipeline, *shops) == ["added"] * 3
    for n, shop in enumerate(shops):
        assert {chunk.source for chunk in pipeline.retrieve("墨玉卡", where={"shop": n})} == {shop.source}
    assert states(pipeline, *shops) == ["unchanged"] * 3
    (copy,) = pipeline.add(replace(shops[2], source="copy"), use_tqdm=False).files
    assert (copy.state, copy.duplicate_of) == ("duplicate", "shop 2")  # of the twin that says the same, not the oldest
    assert states(pipeline, replace(shops[1], metadata={"shop": 0})) == ["duplicate"]
    assert {info.source for info in pipeline.documents()} == {"shop 0", "shop 2"}


def test_the_same_text_with_another_title_is_no_duplicate(pipeline: RAGPipeline) -> None:
    other = replace(CARDS, source="other", title="Card rules")
    assert states(pipeline, CARDS, other, replace(other, source="untitled", title="")) == [
        "added",
        "added",
        "duplicate",
    ]
    assert {info.title for info in pipeline.documents()} == {"会员办法", "Card rules"}


def test_a_new_title_or_media_type_updates_a_text(pipeline: RAGPipeline) -> None:
    pipeline.add(CARDS, use_tqdm=False)
    renamed = replace(CARDS, title="Card rules")
    marked = replace(renamed, media_type="text/markdown")
    assert states(pipeline, renamed) == ["updated"]
    assert states(pipeline, marked) == ["updated"]
    assert states(pipeline, marked, replace(marked, title="")) == ["unchanged"] * 2  # no title asks for no other one
    (info,) = pipeline.documents()
    assert (info.title, info.media_type) == ("Card rules", "text/markdown")


def test_one_broken_file_stops_no_other(pipeline: RAGPipeline, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "deep"
    folder.mkdir(parents=True)
    (folder / "good.txt").write_text("好文件。", encoding="utf-8")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    (folder / "locked.pdf").write_bytes((data / "encrypted-needs-password.pdf").read_bytes())
    (folder / "empty.md").write_bytes(b"")
    (folder / ".hidden.txt").write_text("unseen", encoding="utf-8")
    report = pipeline.add(tmp_path / "docs", use_tqdm=False)
    errors = {status.name: status.error or "" for status in report.failed}
    assert sorted(errors) == ["broken.pdf", "empty.md", "locked.pdf"]
    assert "damaged" in errors["broken.pdf"]
    assert "password" in errors["locked.pdf"]
    assert "empty" in errors["empty.md"]
    assert [status.name for status in report.added] == ["good.txt"]
    assert report.num_chunks == 1


def test_a_file_with_too_many_chunks_fails_alone(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    with RAGPipeline.open(tmp_path, embedder=embedder, limits=Limits(max_chunks=2)) as rag:
        report = rag.add([Document(text="词。\n\n" * 2000, source="长"), CARDS], use_tqdm=False)
        assert [status.state for status in report.files] == ["failed", "added"]
        assert "max_chunks=2" in (report.files[0].error or "")


def test_a_path_that_does_not_exist_is_one_clear_error(pipeline: RAGPipeline, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="没有这个文件夹"):
        pipeline.add(tmp_path / "没有这个文件夹", use_tqdm=False)
    assert pipeline.documents() == []


def test_progress_is_shown_file_by_file(pipeline: RAGPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.add([HARBOUR, CARDS])
    assert "Indexing" in capsys.readouterr().err
    pipeline.add(Document(text="\n\n".join(f"第{n}段。" * 200 for n in range(200)), source="长文"))
    assert re.search(r"长文: 128/\d+ passages", capsys.readouterr().err)


def test_a_generated_answer(tmp_path: Path) -> None:
    chat = ScriptedChat("1,207 of them burned colza oil 【1】. Nobody knows more [9].")
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=FakeReranker(), chat=chat) as rag:
        rag.add([HARBOUR, CARDS], use_tqdm=False)
        answer = rag.ask("How many lanterns burned colza oil?")
        assert answer.text == "1,207 of them burned colza oil [1]. Nobody knows more."
        assert [c.quote for c in answer.citations] == ["Of these, 1,207 burned colza oil."]
        assert answer.mode == "generative"
        assert answer.usage.completion_tokens > 0
        events = list(rag.stream("How many lanterns burned colza oil?"))
        assert "".join(e.text for e in events if isinstance(e, DeltaEvent)) == answer.text
        assert [e.citation for e in events if isinstance(e, CitationEvent)] == list(answer.citations)
        assert isinstance(events[-1], AnswerEvent)
        assert rag.ask("How many lanterns burned colza oil?", mode="extractive").mode == "extractive"


def test_leaving_a_stream_stops_the_chat_model(tmp_path: Path) -> None:
    chat = ScriptedChat("word " * 1000)
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=FakeReranker(), chat=chat) as rag:
        rag.add(HARBOUR, use_tqdm=False)
        events = rag.stream("How many lanterns?")
        assert next(e for e in events if isinstance(e, DeltaEvent))
        events.close()  # type: ignore[attr-defined]  # it is a generator
        assert chat.closed.is_set()


def test_the_answer_leaves_room_for_passages(tmp_path: Path) -> None:
    chat = ScriptedChat("fine", max_model_len=800)
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), chat=chat) as rag:
        rag.add(HARBOUR, use_tqdm=False)
        assert rag.ask("How many lanterns?").chunks
        with pytest.raises(InvalidParamsError, match="context of 800 tokens"):
            rag.ask("How many lanterns?", max_tokens=800)
        assert rag.ask("How many lanterns?", max_tokens=790).abstained


def test_as_many_passages_as_asked_for(pipeline: RAGPipeline) -> None:
    pipeline.add([Document(text=f"Lantern {n} burns.", source=str(n)) for n in range(60)], use_tqdm=False)
    assert len(pipeline.retrieve("lantern", top_k=50)) == 50
    assert len(pipeline.retrieve("lantern")) == 5


def test_a_model_that_abstains_cites_nothing(tmp_path: Path) -> None:
    chat = ScriptedChat("文档中没有找到这个问题的答案。")
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), chat=chat) as rag:
        rag.add(CARDS, use_tqdm=False)
        answer = rag.ask("墨玉卡是什么颜色？")
        assert answer.abstained
        assert answer.citations == ()


async def test_asking_from_asyncio(tmp_path: Path) -> None:
    chat = ScriptedChat("word " * 50)
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=FakeReranker(), chat=chat) as rag:
        await rag.aadd([HARBOUR, CARDS], use_tqdm=False)
        answer = await rag.aask("How many lanterns burned colza oil?", mode="extractive")
        assert answer.text == "Of these, 1,207 burned colza oil. [1]"
        stream = rag.astream("How many lanterns?")
        async for event in stream:
            if isinstance(event, DeltaEvent):
                break
        await stream.aclose()  # type: ignore[attr-defined]  # it is an async generator
        assert chat.closed.wait(5)


async def test_cancelling_a_question_stops_the_chat_model(tmp_path: Path) -> None:
    chat = ScriptedChat("word " * 1000, pause=0.01)
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=FakeReranker(), chat=chat) as rag:
        rag.add(HARBOUR, use_tqdm=False)
        task = asyncio.create_task(rag.aask("How many lanterns?"))
        while not chat.asked:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(chat.closed.wait, 5)


def test_the_auto_mode(tmp_path: Path) -> None:
    starter = ScriptedChat("nonsense")
    starter.is_starter = True
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), chat=starter) as rag:
        rag.add(HARBOUR, use_tqdm=False)
        assert rag.ask("How many lanterns?").mode == "extractive"
        assert rag.ask("How many lanterns?", mode="generative").mode == "generative"


def test_bad_questions_and_options(pipeline: RAGPipeline, tmp_path: Path) -> None:
    with pytest.raises(InvalidParamsError, match="question is empty"):
        pipeline.ask(" \u3000")
    with pytest.raises(InvalidParamsError, match="mode must be"):
        pipeline.stream("x", mode="magic")  # type: ignore[arg-type]  # at the call, not at the first event
    assert pipeline.ask("half a sign: \ud83d").abstained
    with pytest.raises(InvalidParamsError, match="mode must be"):
        pipeline.ask("x", mode="magic")  # type: ignore[arg-type]
    with pytest.raises(InvalidParamsError, match="needs a chat model"):
        pipeline.ask("x", mode="generative")
    with pytest.raises(InvalidParamsError, match="top_k"):
        pipeline.ask("x", top_k=0)
    with pytest.raises(InvalidParamsError, match="max_tokens must be at least 1"):
        pipeline.ask("x", max_tokens=0)
    with pytest.raises(TypeError):
        pipeline.ask("x", topk=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="chunk_tokens"):
        SplitterConfig(chunk_tokens=2)
    with pytest.raises(ValueError, match="top_k"):
        RetrieverConfig(top_k=0)


def test_another_embedding_model_is_refused(tmp_path: Path) -> None:
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder("one")) as rag:
        rag.add(CARDS, use_tqdm=False)
    with pytest.raises(KnowledgeBaseMismatchError, match=r"embedding_model 'one' \(now 'two'\)"):
        RAGPipeline.open(tmp_path, embedder=FakeEmbedder("two"))
    with pytest.raises(KnowledgeBaseMismatchError, match="chunk_tokens"):
        RAGPipeline.open(tmp_path, embedder=FakeEmbedder("one"), splitter=SplitterConfig(chunk_tokens=100))
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder("one")) as rag:
        assert rag.ask("墨玉卡会员按几倍累积积分？").text.startswith("墨玉卡会员按1.5倍")


def test_many_knowledge_bases_in_one_folder(tmp_path: Path) -> None:
    for name in ("手册", "notes", "default"):
        RAGPipeline.open(tmp_path / "kb", name=name, embedder=FakeEmbedder()).close()
    assert list_knowledge_bases(tmp_path / "kb") == ["default", "notes", "手册"]
    assert parse_location(str(tmp_path / "kb" / "手册")) == (tmp_path / "kb", "手册")
    assert parse_location(str(tmp_path / "kb" / "new")) == (tmp_path / "kb", "new")
    assert parse_location(str(tmp_path / "kb")) == (tmp_path / "kb", "default")
    with pytest.raises(KnowledgeBaseError, match="there: default, notes, 手册"):
        RAGPipeline.open(tmp_path / "kb", name="none", create=False, embedder=FakeEmbedder())
    for name in ("../escape", "a/b", "", ".hidden", " x"):
        with pytest.raises(KnowledgeBaseError, match="cannot name"):
            RAGPipeline.open(tmp_path / "kb", name=name, embedder=FakeEmbedder())


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "kb").write_text("x", encoding="utf-8")
    with pytest.raises(KnowledgeBaseError, match="cannot be made"):
        RAGPipeline.open(tmp_path / "kb", embedder=FakeEmbedder())


def test_nothing_works_after_close(pipeline: RAGPipeline) -> None:
    pipeline.close()
    pipeline.close()
    for call in (
        pipeline.documents,
        lambda: pipeline.ask("x"),
        lambda: pipeline.add(CARDS),
        lambda: pipeline.delete("x"),
    ):
        with pytest.raises(KnowledgeBaseClosedError):
            call()
