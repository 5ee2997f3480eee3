"""Programs in other languages as clients: what they print, and what to say where their language is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
JAVA_HINT = "apt-get install openjdk-17-jdk-headless, or any JDK of 17 or later on the PATH"
NODE_HINT = "install Node 20 or later, with npm"


def java() -> str:
    """The path of a Java that runs a source file; skips the test where there is none."""
    path = shutil.which("java")
    if path is None or shutil.which("javac") is None:
        pytest.skip(f"no JDK on the PATH: {JAVA_HINT}")
    said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60).stderr
    if (found := re.search(r'version "(\d+)', said)) is None or int(found[1]) < 17:
        pytest.skip(f"this Java is older than 17: {JAVA_HINT}")
    return path


def node() -> str:
    """The path of node; skips the test where there is none."""
    path = shutil.which("node")
    if path is None or shutil.which("npm") is None:
        pytest.skip(f"no node or no npm on the PATH: {NODE_HINT}")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout
    if int(said.strip().removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"this node is {said.strip()}: {NODE_HINT}")
    return path


def printed(command: Sequence[str], seconds: float = 120, **options: Any) -> list[Any]:
    """The JSON objects that a program prints, one a line. It must end well."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, encoding="utf-8", **options)
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def waiting(command: Sequence[str], **options: Any) -> Iterator[Any]:
    """A program that prints one line and then waits; the line. It ends with the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", **options) as program:
        try:
            yield json.loads(program.stdout.readline())
        finally:
            program.kill()
