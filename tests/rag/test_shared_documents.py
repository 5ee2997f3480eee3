"""The larger collection of real and nasty documents, when it lies beside the checkout: each file does what it must."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from carrel_rag import RAGPipeline
from carrel_rag.errors import DocumentError
from carrel_rag.loaders import Extracted, load_file
from carrel_rag.splitter import SplitterConfig, split_document
from rag_fakes import FakeEmbedder, FakeReranker, WordCounter, count_words

SHARED = Path(os.environ.get("CARREL_SHARED") or Path(__file__).parents[2].parent / "shared") / "data" / "documents"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared documents are not here; set CARREL_SHARED")


def names() -> list[str]:
    return sorted(path.name for path in SHARED.iterdir()) if SHARED.is_dir() else []


def load(name: str) -> Extracted:
    return load_file(SHARED / name)


HOLDS: dict[str, list[str]] = {
    "faa-handbook-page.pdf": [
        "The two general types of self-locking nuts currently in use are the all-metal type and the fiber lock type.",
        "Plates must be attached to the structure in a positive manner",
    ],
    "word-processor-5-pages.pdf": ["Patented in 1868 by Christopher Latham Sholes, the typewriter revolutionized"],
    "multilang.pdf": ["你好世界", "Привет, мир", "مرحبا بالعالم", "こんにちは世界", "สวัสดีชาวโลก"],
    "two-column-right-first.pdf": [
        "of which 1,207 burned whale-free colza oil",
        "kept in the harbour office, cabinet 9",
    ],
    "zh-policy-cidfont.pdf": ["旧版办法同时废止。", "积分倍率: 1.5"],
    "word-sample.docx": ["Leaves; Food: Ash, Elm, Maple; Calories per portion: 50"],
    "zh-policy.docx": [
        "申诉电话0571-5550-0136",
        "等级: 墨玉卡; 年度消费门槛（元）: 12000; 积分倍率: 1.5; 生日礼券（元）: 100",
    ],
    "llamafactory-README.zh.md": ["使用零代码命令行与 Web UI 轻松微调百余种大模型"],
    "nested-lists.md": ["a.", "abcd12345：", "def12345。", "bar", "Subitem 2", "Last list item"],
    "文件名 with spaces & 符号.md": ["北码头共有4812盏灯笼", "编号: 44; 颜色: 白; 高度: 7.0 米", "# 不是标题"],
    "zh-policy-big5.txt": ["青竹書店"],
    "utf16-with-bom.txt": ["Hamburgers are delicious"],
    "gbk-meta.html": ["苏州分店每月第二个周三盘点"],
    "semicolon-cp1252.csv": ["Straße: Gänsemarkt 17", "1.250,00 €"],
    "shift-jis.csv": ["髙橋淳"],
    "encrypted-opens-without-password.pdf": ["pdf encryption test"],
    "malformed.html": ["Tickets cost 4 crowns & 50¢ <children free>", "Bicycles travel free after 19:00", "21:15"],
    "prompt-injection.md": ["Orders outside the wall cost 3 crowns."],
    "too-many-columns.csv": ["column 5: e"],
    "one-very-long-line.txt": ["needle-7f3a"],
    "zh-no-spaces-long.txt": ["全文完。"],
    "movie-plots.csv": ["Title: Kansas Saloon Smashers"],
}
LACKS: dict[str, list[str]] = {
    "two-column-right-first.pdf": ["Saltmere Gazette"],
    "zh-policy-cidfont.pdf": ["\ufffd", "同时废 止"],
    "llamafactory-README.zh.md": ["img.shields.io", "<img", "!["],
    "wikipedia-microsoft.html": ["mw.config", "function(", "{display", "Afrikaans"],
    "malformed.html": ["SCRIPT-TEXT-MUST-NOT-BE-INDEXED", "comment must not be indexed"],
    "zh-policy-utf8-bom.txt": ["\ufeff"],
}
REFUSED = {
    "empty.txt": "empty",
    "whitespace-only.md": "empty",
    "binary-garbage.md": "not text",
    "scanned-no-text.pdf": r"no extractable text \(needs OCR\)",
    "encrypted-needs-password.pdf": "password",
}
SAME: list[tuple[str, str]] = [
    ("zh-policy-gbk.txt", "zh-policy-utf8-bom.txt"),
    ("wrong-extension-really-docx.pdf", "zh-policy.docx"),
    ("wrong-extension-really-pdf.txt", "zh-policy-cidfont.pdf"),
]


@pytest.mark.parametrize("name", sorted(HOLDS))
def test_the_text_holds(name: str) -> None:
    text = load(name).text
    assert [part for part in HOLDS[name] if part not in text] == []


@pytest.mark.parametrize("name", sorted(LACKS))
def test_the_text_lacks(name: str) -> None:
    text = load(name).text
    assert [part for part in LACKS[name] if part in text] == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_with_a_reason(name: str) -> None:
    with pytest.raises(DocumentError, match=REFUSED[name]):
        load(name)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_text_in_another_dress(one: str, other: str) -> None:
    assert load(one).text == load(other).text


@pytest.mark.parametrize("name", [name for name in names() if name not in REFUSED])
def test_chunks_keep_to_the_limit_and_to_the_text(name: str) -> None:
    document = load(name)
    started = time.perf_counter()
    chunks = split_document(document, WordCounter(), SplitterConfig(chunk_tokens=128))
    assert time.perf_counter() - started < 20
    assert chunks
    assert all(count_words(document.text[chunk.start : chunk.end]) <= 128 for chunk in chunks)
    last = document.spans[-1]
    assert document.text[last.start : last.end].strip()[-20:] in document.text[chunks[-1].start : chunks[-1].end] + str(
        chunks[-1].section
    )


def test_pages_and_titles() -> None:
    assert {span.page for span in load("word-processor-5-pages.pdf").spans} == {1, 2, 3, 4, 5}
    assert load("wikipedia-microsoft.html").title == "Microsoft - Wikipedia"


def test_headings_give_the_path() -> None:
    paths = {" > ".join(span.section) for span in load("word-sample.docx").spans}
    assert "Swimming in the lake > Let’s swim! > Let’s eat" in paths
    assert any(len(span.section) >= 2 for span in load("llamafactory-README.zh.md").spans)


def test_code_blocks_are_whole() -> None:
    document = load("llamafactory-README.zh.md")
    code = [document.text[s.start : s.end] for s in document.spans if s.kind == "code"]
    assert any(block.startswith("git clone") and "pip install" in block for block in code)


def test_the_huge_table() -> None:
    started = time.perf_counter()
    document = load("huge-table.csv")
    assert time.perf_counter() - started < 10
    rows = [document.text[s.start : s.end] for s in document.spans]
    assert len(rows) == 11_000
    assert all(row.startswith("order_id: O") for row in rows)
    assert sum(int(row.split("quantity: ")[1].split(";")[0]) for row in rows) == 54_791
    assert sum("branch: Hangzhou;" in row for row in rows) == 2_738
    assert sum('gift, wrapped "twice"' in row for row in rows) == 1


def test_the_folder_is_indexed_and_nothing_stops_it(tmp_path: Path) -> None:
    small: Callable[[Path], bool] = lambda path: path.name not in ("huge-table.csv", "MANIFEST.md")  # noqa: E731
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=FakeReranker()) as rag:
        report = rag.add([path for path in sorted(SHARED.iterdir()) if small(path)], use_tqdm=False)
        assert sorted(status.name for status in report.failed) == sorted(REFUSED)
        duplicates = {
            status.name: Path(str(status.duplicate_of)).name for status in report.files if status.state == "duplicate"
        }
        assert duplicates["zh-policy.docx"] == "wrong-extension-really-docx.pdf"
        citation = rag.ask("北码头有多少盏灯笼？").citations[0]
        assert citation.name == "文件名 with spaces & 符号.md"
        assert "4812" in citation.quote
        assert rag.ask("What does delivery outside the wall cost?").text.startswith(
            "Orders outside the wall cost 3 crowns."
        )
