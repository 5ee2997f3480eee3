"""The ``carrel`` command line. Knows flags and words; torch, FastAPI and models load when a command needs them.

This module is the entry point and needs nothing but Python, so that an install without the extra says what is missing.
"""

from __future__ import annotations

import sys

EXTRAS = "pip install 'carrel[server]' for the command line and the server, 'carrel[all]' for everything"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``carrel``."""
    _run("carrel", arguments)


def run_serve(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m carrel_server``: what ``carrel serve`` does."""
    _run("serve", arguments)


def _run(name: str, arguments: list[str] | None) -> None:
    try:
        from carrel_server.cli.group import run

        status = run(name, arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing.startswith("carrel"):
            raise
        sys.stderr.write(f"Error: the package {missing!r} is not installed: {EXTRAS}.\n")
        status = 1
    sys.exit(status)
