"""From a plan to a running server: socket, engine, app, uvicorn, and the way down. Knows signals; knows no flags."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import click
import uvicorn
from carrel._version import __version__
from carrel.async_llm import AsyncLLM
from carrel.errors import CarrelError
from carrel.host import EngineHost
from fastapi import FastAPI

from carrel_server.app import create_app
from carrel_server.http_protocol import IgnoreUpgradeProtocol
from carrel_server.service import Service

if TYPE_CHECKING:
    from carrel_server.cli.serve_plan import ServePlan

LAST_WORDS = 2.0  # seconds for requests that were cut off to say so


class CarrelServer(uvicorn.Server):
    """uvicorn that says when it is ready, ends with status 0 on a signal, and ends at once on the second one."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.server_state.tasks and not self.force_exit:  # cancelled: they tell their clients
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._service.draining = True


def run_server(plan: ServePlan) -> None:
    """Serve until a signal comes.

    Raises:
        CarrelError: the port is taken, or a model cannot be served.
    """
    logging.basicConfig(level=plan.log_level.upper(), format="%(levelname)s: %(message)s")
    with bind(plan.host, plan.port) as listener, EngineHost(plan.models, plan.engine) as host:
        app = create_app(AsyncLLM(host=host), plan.settings)
        address = url(plan, listener)
        server = make_server(app, plan, lambda: announce(plan, host, address))
        server.run(sockets=[listener])


def make_server(app: FastAPI, plan: ServePlan, on_ready: Callable[[], None]) -> CarrelServer:
    config = uvicorn.Config(
        app,
        http=IgnoreUpgradeProtocol,
        ws="none",
        lifespan="off",
        log_level=plan.log_level,
        access_log=plan.access_log,
        timeout_graceful_shutdown=plan.shutdown_timeout,
        root_path=plan.root_path,
        ssl_keyfile=plan.ssl_keyfile,
        ssl_certfile=plan.ssl_certfile,
        server_header=False,
    )
    return CarrelServer(config, app.state.service, on_ready)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is told before any model is loaded, and port 0 is known.

    Raises:
        CarrelError: the address cannot be had.
    """
    listener: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise CarrelError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from None
    return listener


def url(plan: ServePlan, listener: socket.socket) -> str:
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    scheme = "https" if plan.ssl_certfile else "http"
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


def announce(plan: ServePlan, host: EngineHost, address: str) -> None:
    """What is served, on which device, with which memory, and where. The last line is for programs."""
    click.echo(f"carrel {__version__} on {host.device}")
    for hosted in host.models.values():
        click.echo(f"  {hosted.task:<10} {', '.join(hosted.names)}  (up to {hosted.max_model_len} tokens)")
        if hosted.task == "chat" and hosted.chat_template is None:
            click.echo("             no chat template: /v1/chat/completions is off until --chat-template gives one")
    click.echo(f"memory: {host.memory_plan.describe()}")
    click.echo(f"API key: {'needed' if plan.settings.api_keys else 'none asked for'}")
    click.echo(f"carrel is ready at {address}")
