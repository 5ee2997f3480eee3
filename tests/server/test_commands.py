"""The commands that work in this process: chat, complete, embed, rerank, index, ask. With the bundled models."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from carrel_server.cli import main
from click.testing import CliRunner

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(status, standard output, standard error) of a command line, through the real entry point."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            main(list(arguments))
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_complete(run: Run) -> None:
    first = run("complete", "图书馆", "--max-tokens", "5", "--temperature", "0")
    assert first[0] == 0 and first[1].endswith("\n") and len(first[1]) > 1
    assert run("complete", "图书馆", "--max-tokens", "5", "--temperature", "0") == first


def test_chat_with_one_question(run: Run) -> None:
    status, out, _ = run("chat", "你好", "--max-tokens", "5", "--temperature", "0", "--system", "Be brief.")
    assert status == 0 and out.strip()


def test_a_conversation_remembers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of the standard input are questions, until it ends."""
    from carrel_server.cli.group import carrel

    result = CliRunner().invoke(carrel, ["chat", "--max-tokens", "4", "--temperature", "0"], input="你好\n\nhi\n")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) >= 2


def test_embed(run: Run) -> None:
    status, out, _ = run("embed", "你好", "hello")
    vectors = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [len(vector) for vector in vectors] == [384, 384]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1.0, abs=1e-4)


def test_rerank(run: Run) -> None:
    status, out, _ = run("rerank", "capital of France", "Berlin is big.", "Paris is the capital of France.")
    lines = [line.split("\t") for line in out.splitlines()]
    assert status == 0
    assert [line[1] for line in lines] == ["1", "0"]
    assert float(lines[0][0]) > float(lines[1][0])
    assert len(run("rerank", "a", "b", "c", "--top-n", "1")[1].splitlines()) == 1


def test_index_and_ask(run: Run, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "library.md").write_text(
        "# The library\n\n## Borrowing\n\nA reader may borrow five books for four weeks.\n\n"
        "## Opening hours\n\nThe reading room opens at nine.\n",
        encoding="utf-8",
    )
    (documents / "broken.pdf").write_bytes(b"%PDF-1.7 this is no PDF")
    base = str(tmp_path / "kb")
    status, out, err = run("index", str(documents), "--knowledge-base", base)
    assert status == 1, "a file could not be read"
    assert "added" in out and "broken.pdf" in out and "1 indexed, 0 unchanged, 1 failed" in out
    assert "Traceback" not in err
    (documents / "broken.pdf").unlink()
    (documents / "副本.md").write_bytes((documents / "library.md").read_bytes())
    status, out, _ = run("index", str(documents), "--knowledge-base", base)
    assert status == 0 and "0 indexed, 2 unchanged, 0 failed; 0 chunks" in out
    assert f"duplicate  副本.md  same as {documents / 'library.md'}" in out
    status, out, _ = run("ask", "How many books may a reader borrow?", "--knowledge-base", base)
    assert status == 0
    assert "five books" in out and "[1] library.md" in out and "Borrowing" in out
    assert "retrieve " in out and "total " in out
    reader = ["--knowledge-base", base, "--model", "starter/reader", "--constrain"]
    status, out, _ = run("ask", "How many books may a reader borrow?", *reader)
    assert status == 0 and re.match(r".+ \[\d\]\n|The documents do not answer this question\.\n", out)


def test_an_index_that_is_interrupted(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is indexed stays, and is told; the same command goes on from there."""
    from carrel_rag.ingest import Ingester

    for name in ("a", "b"):
        (tmp_path / f"{name}.md").write_text(f"A reader may borrow the book {name}.", encoding="utf-8")
    index = ("index", str(tmp_path / "a.md"), str(tmp_path / "b.md"), "--knowledge-base", str(tmp_path / "kb"))
    add_one = Ingester._add_one

    def interrupted(self: Ingester, item: Path, *rest: Any) -> Any:
        if item.name == "b.md":
            raise KeyboardInterrupt
        return add_one(self, item, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Ingester, "_add_one", interrupted)
        status, out, err = run(*index)
    assert status == 130 and "added      a.md  1 chunk" in out and "1 indexed, 0 unchanged, 0 failed" in out
    assert "the same command goes on from here" in err
    assert "1 indexed, 1 unchanged, 0 failed" in run(*index)[1]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["index", "no-such-directory", "--knowledge-base", "kb"], 1, "no-such-directory"),
        (["ask", "why?", "--knowledge-base", "no-such-base"], 1, "no knowledge base 'default' in no-such-base"),
        (["ask", "why?"], 2, "--knowledge-base"),
        (["ask", "why?", "--knowledge-base", "kb", "--no-constrain"], 2, "give one by --model"),
        (["index", "", "--knowledge-base", "kb"], 1, "empty"),
        (["serve", "--allowed-origins", "[x"], 2, "not a JSON list"),
        (["complete", "a", "--model", "no-such-folder/m"], 1, "no-such-folder/m"),
        (["complete", "a", "--temperature", "-1"], 1, "temperature must be at least 0"),
        (["embed", "a", "--model", "starter/reader"], 1, "embedding"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_errors_are_one_sentence(run: Run, arguments: list[str], status: int, sentence: str) -> None:
    found, out, err = run(*arguments)
    assert found == status
    assert out == ""
    assert sentence in err
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert "Traceback" not in err


def test_help_reads_well(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0 and "..." not in out.partition("Commands:")[2]
    commands = ["serve", "chat", "doctor", "complete", "embed", "rerank", "index", "ask"]
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert listed[: len(commands)] == commands
    for command in commands:
        status, out, _ = run(command, "--help")
        assert status == 0 and out.startswith(f"Usage: carrel {command} ")
        assert all(len(line) <= 120 for line in out.splitlines())


def test_no_text_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("embed")[0] == 2


@pytest.mark.parametrize(
    ("package", "arguments"), [("click", ["--version"]), ("faiss", ["ask", "a", "--knowledge-base", "b"])]
)
def test_a_missing_package_is_told(package: str, arguments: list[str]) -> None:
    """As in an install without the extras; a process of its own, as modules are imported once."""
    code = f"import sys; sys.modules[{package!r}] = None; from carrel_server.cli import main; main({arguments!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: the package '{package}' is not installed: pip install 'carrel[server]'")
