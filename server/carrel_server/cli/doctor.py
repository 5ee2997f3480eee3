"""``carrel doctor``: what this machine and these models will do, before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import click

from carrel_server.cli.parameters import DTYPES, count, parse_model, quantization_of


@click.command(short_help="What this machine and these models will do.")
@click.argument("models", nargs=-1, metavar="[MODEL[,key=value…]]...")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="auto", show_default=True)
@click.option("--quantization", "-q", type=quantization_of, metavar="int8|int4|fp8", help="Of chat models, at load.")
@click.option("--max-model-len", type=count, help="Tokens of prompt and output, e.g. 8192 or 8k.")
@click.option("--max-num-seqs", type=count, default=256, show_default=True, help="Requests in one step.")
@click.option("--kv-cache-memory-bytes", type=count, help="Default: planned from what the device has.")
@click.option("--gpu-memory-utilization", type=float, default=0.9, show_default=True, help="Share of the device.")
@click.option("--download-dir", help="Where Hugging Face's models are kept.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Is it free?")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(models: tuple[str, ...], port: int, dtype: str, as_json: bool, **options: Any) -> None:
    """Explain what this machine and the MODELs will do: where they are found, whether they are supported and fit.

    Takes the models and flags of carrel serve; no MODEL: the bundled ones. Reads configurations and the weights'
    headers; loads no weights, asks no network. The status is 1 if something cannot be served.
    """
    from carrel.config import EngineConfig, ModelSpec
    from carrel.host import resolve_device

    from carrel_server.cli.doctor_machine import examine_machine
    from carrel_server.cli.doctor_models import examine_models
    from carrel_server.cli.serve_plan import STARTERS

    config = EngineConfig(dtype=DTYPES[dtype], **options)
    config = replace(config, device=resolve_device(config.device))
    specs = [parse_model(model, None) for model in models] or [ModelSpec(name=name) for name in STARTERS]
    report(examine_machine(config, port), examine_models(specs, config), as_json=as_json)


def report(machine: Any, models: list[Any], *, as_json: bool) -> None:
    """
    Raises:
        click.exceptions.Exit: with status 1, if there is a problem.
    """
    from carrel_server.cli.findings import count_of, page

    sections = [machine, *models]
    problems = [text for section in sections for text in section.texts("problem")]
    warnings = [text for section in sections for text in section.texts("warning")]
    if as_json:
        parts = [section.as_dict() for section in sections]
        together = parts.pop() if models and models[-1].title == "Together" else None
        value = {"ok": not problems, "machine": parts[0], "models": parts[1:], "together": together}
        click.echo(json.dumps({**value, "problems": problems, "warnings": warnings}, ensure_ascii=False, indent=2))
    else:
        for line in page(sections):
            click.echo(line)
        click.echo(f"{count_of(len(problems), 'problem')}, {count_of(len(warnings), 'warning')}.")
    if problems:
        raise click.exceptions.Exit(1)
