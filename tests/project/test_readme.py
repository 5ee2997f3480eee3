"""The READMEs run. A block whose fence says only its language is run as it stands; ``no-run`` after it says that it
needs a download or never ends.

The blocks run in order, in one working folder that holds ``examples/`` as the checkout does; both languages show the
same code, so it runs once. The server on port 8000 that the text speaks of is a real one with the starter models, on a
free port.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import ROOT

READMES = ["README.md", "README.zh.md"]
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNERS = {"python": [sys.executable, "-W", "error::DeprecationWarning:__main__"], "bash": ["bash", "-euo", "pipefail"]}
ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    readme: str
    number: int
    info: str
    code: str

    @property
    def language(self) -> str:
        return self.info.split(" ")[0]

    @property
    def runs(self) -> bool:
        return self.info in RUNNERS


def blocks(readme: str) -> list[Block]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = enumerate(FENCE.finditer(text), 1)
    return [Block(readme, number, match["info"].strip(), match["code"]) for number, match in found]


RUNNABLE = [block for block in blocks(READMES[0]) if block.runs]  # the other language shows the same code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `carrel serve` with the starter models."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "carrel_server", "--port", "0"]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            yield wait_for_address(process, log)
        finally:
            process.terminate()
            process.wait(30)


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"ready at (http://\S+)", log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"the server did not say its address:\n{log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder: what one block leaves, the next may use."""
    made = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", made / "examples")
    return made


@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: f"{block.readme}-{block.number}-{block.language}")
def test_block(block: Block, folder: Path, server: str) -> None:
    if "curl" in block.code and shutil.which("curl") is None:
        pytest.skip("the block calls curl, which is not installed")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    code = block.code.replace(ADDRESS, server)
    result = subprocess.run(
        [*RUNNERS[block.language], "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, f"{code}\n{result.stdout}\n{result.stderr}"
    assert result.stdout.strip(), "a block of a README shows something"


def test_every_block_is_run_or_says_why_not() -> None:
    every = [block for readme in READMES for block in blocks(readme)]
    unknown = [b for b in every if not (b.runs or b.info == "text" or b.info.endswith(" no-run"))]
    assert unknown == []
    assert {block.language for block in RUNNABLE} == {"python", "bash"}


def test_both_languages_show_the_same_code() -> None:
    def uncommented(block: Block) -> str:
        lines = (re.sub(r"\s*#(?: .*)?$", "", line) for line in block.code.splitlines())
        return "\n".join(line for line in lines if line)

    english, chinese = ([(b.info, uncommented(b)) for b in blocks(readme)] for readme in READMES)
    assert english == chinese
