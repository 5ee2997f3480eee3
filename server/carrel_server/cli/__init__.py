"""The ``carrel`` command line. Knows flags and words; torch, FastAPI and models load when a command needs them."""

from __future__ import annotations

import sys

import click
from carrel._version import __version__
from carrel.errors import CarrelError

from carrel_server.cli.knowledge import ask, index
from carrel_server.cli.local import chat, complete, embed, rerank
from carrel_server.cli.serve import serve

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="carrel")
def carrel() -> None:
    """Chat, embeddings and rerank from one engine, and answers from your documents."""


for command in (serve, chat, complete, embed, rerank, index, ask):
    carrel.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``carrel``: one clear sentence instead of a traceback for whatever carrel raises on purpose."""
    _run(carrel, arguments)


def run_serve(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m carrel_server``."""
    _run(serve, arguments)


def _run(command: click.Command, arguments: list[str] | None) -> None:
    try:
        name = "carrel" if command is carrel else "carrel serve"
        status = command.main(arguments, standalone_mode=False, prog_name=name)
        sys.exit(status or 0)  # click hands an Exit's status back
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except (CarrelError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
