"""The command group, and how errors leave it. Knows the commands; does not know what they do."""

from __future__ import annotations

import click
from carrel._version import __version__
from carrel.errors import CarrelError

from carrel_server.cli.chat import chat
from carrel_server.cli.doctor import doctor
from carrel_server.cli.knowledge import ask, index
from carrel_server.cli.local import complete, embed, rerank
from carrel_server.cli.serve import serve

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class Commands(click.Group):
    """Lists the commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


EPILOG = """\b
carrel doctor                                  what this machine can do
carrel serve Qwen/Qwen2.5-3B-Instruct BAAI/bge-m3
carrel chat --base-url http://127.0.0.1:8000   talk to it

carrel COMMAND --help says more. The exit status is 0, 1 after an error, 2 after a wrong command line, 130 after Ctrl-C.
"""


@click.group(cls=Commands, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(__version__, prog_name="carrel")
def carrel() -> None:
    """Chat, embeddings and rerank from one engine, and answers from your documents."""


for command in (serve, chat, doctor, complete, embed, rerank, index, ask):
    carrel.add_command(command)


def run(name: str, arguments: list[str] | None) -> int:
    """Run ``carrel`` or its ``serve``; the exit status. One clear sentence for whatever carrel raises on purpose."""
    command, shown = (carrel, "carrel") if name == "carrel" else (serve, "carrel serve")
    try:
        status = command.main(arguments, standalone_mode=False, prog_name=shown)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 130
    except (CarrelError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    return int(status or 0)  # click hands an Exit's status back
