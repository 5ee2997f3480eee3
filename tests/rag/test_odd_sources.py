"""What an impatient user hands over: folders with everything in them, pipes, wrong types. Told at once, or left out."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from carrel.errors import InvalidParamsError
from carrel_rag import Document, RAGPipeline, RetrieverConfig, SourceNotFoundError
from rag_fakes import FakeEmbedder

LEAST: int = -(2**63)
NOTE = Document(
    text="共有4812盏灯笼。", source="note", metadata={"lang": "zh", "year": 2026, "checked": True, "least": LEAST}
)


def test_the_knowledge_base_does_not_index_itself(tmp_path: Path) -> None:
    (tmp_path / "灯笼.txt").write_text("共有4812盏灯笼。", encoding="utf-8")
    with RAGPipeline.open(tmp_path / "kb", embedder=FakeEmbedder()) as pipeline:
        for state in ("added", "unchanged"):
            report = pipeline.add(tmp_path, use_tqdm=False)
            assert [(file.name, file.state) for file in report.files] == [("灯笼.txt", state)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_never_waited_for(pipeline: RAGPipeline, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    (tmp_path / "note.md").write_text("Lanterns.", encoding="utf-8")
    assert [file.name for file in pipeline.add(tmp_path, use_tqdm=False).files] == ["note.md"]
    (status,) = pipeline.add(tmp_path / "pipe", use_tqdm=False).failed
    assert status.error == "this is a pipe, a device or a socket; only files are read."


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on this system")
def test_a_name_that_is_no_text_is_told_and_the_others_are_read(pipeline: RAGPipeline, tmp_path: Path) -> None:
    try:
        (tmp_path / "a\udcff.txt").write_text("Lanterns.", encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes only names that are Unicode")
    (tmp_path / "b.txt").write_text("灯笼。", encoding="utf-8")
    report = pipeline.add(tmp_path, use_tqdm=False)
    assert [file.name for file in report.added] == ["b.txt"]
    assert [file.error for file in report.failed] == [
        "its name is not valid Unicode, so it cannot be cited. Rename the file."
    ]


def test_a_text_that_is_padded_with_blanks_is_read_in_no_time(pipeline: RAGPipeline) -> None:
    started = time.process_time()
    padded = Document(text=f"灯笼{' ' * 200_000}4812盏{'.' * 200_000}共计", source="padded")
    assert [file.state for file in pipeline.add(padded, use_tqdm=False).files] == ["added"]
    assert time.process_time() - started < 20


def test_an_empty_path_is_not_the_working_directory(pipeline: RAGPipeline) -> None:
    with pytest.raises(SourceNotFoundError, match="empty"):
        pipeline.add("", use_tqdm=False)


@pytest.mark.parametrize(
    "value",
    [["a"], {"b": 1}, object(), float("nan"), float("-inf"), 2**63, -(2**70), 10**5000, "half \ud83d"],
    ids=lambda value: type(value).__name__,
)
def test_metadata_that_cannot_be_compared_is_refused_before_anything_is_read(pipeline: RAGPipeline, value: Any) -> None:
    for call in (
        lambda: pipeline.add([NOTE], metadata={"tags": value}, use_tqdm=False),
        lambda: pipeline.add([NOTE, Document(text="x", source="x", metadata={"tags": value})], use_tqdm=False),
        lambda: pipeline.retrieve("灯笼", where={"tags": value}),
    ):
        with pytest.raises(InvalidParamsError, match="'tags'"):
            call()
    assert pipeline.documents() == []


@pytest.mark.parametrize("key", ['l"a', "l\\a", "l\na", "l\0a", "l\ud83da", 5], ids=ascii)
def test_keys_of_metadata_that_cannot_be_found_are_refused(pipeline: RAGPipeline, key: Any) -> None:
    for call in (
        lambda: pipeline.add(NOTE, metadata={key: "a"}, use_tqdm=False),
        lambda: pipeline.retrieve("灯笼", where={key: "a"}),
    ):
        with pytest.raises(InvalidParamsError, match="keys strings without"):
            call()


def test_metadata_of_every_kind_is_found_again(pipeline: RAGPipeline) -> None:
    pipeline.add(NOTE, use_tqdm=False)
    for where in (
        {"lang": "zh"},
        {"year": 2026},
        {"checked": True},
        {"missing": None},
        {"lang": "zh", "year": 2026},
        {"least": LEAST},
    ):
        assert len(pipeline.retrieve("灯笼", where=where)) == 1, where
    for where in ({"lang": "en"}, {"year": 2025}, {"checked": False}, {"l'a.b": "zh"}):
        assert pipeline.retrieve("灯笼", where=where) == (), where


@pytest.mark.parametrize("question", [None, 5, ["a"], b"a"])
def test_a_question_is_a_string(pipeline: RAGPipeline, question: Any) -> None:
    with pytest.raises(InvalidParamsError, match="the question must be a string"):
        pipeline.ask(question)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3"])
def test_top_k_is_a_whole_number(pipeline: RAGPipeline, top_k: Any) -> None:
    with pytest.raises(InvalidParamsError, match="top_k must be a whole number"):
        pipeline.retrieve("a", top_k=top_k)


def test_top_k_has_an_upper_bound(pipeline: RAGPipeline) -> None:
    pipeline.add(NOTE, use_tqdm=False)
    assert len(pipeline.retrieve("灯笼", top_k=1000)) == 1
    for top_k in (1001, 2**63, 10**5000):
        with pytest.raises(InvalidParamsError, match=r"top_k must be at most 1,000 passages"):
            pipeline.retrieve("灯笼", top_k=top_k)
    for name in ("top_k", "num_search", "num_rerank"):
        with pytest.raises(ValueError, match=f"{name} must be at most"):
            RetrieverConfig(**{name: 2**63})
