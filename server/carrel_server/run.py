"""From a plan to a running server and down again: socket, app, uvicorn, engine, logs, signals. Knows no flags."""

from __future__ import annotations

import gc
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import click
import uvicorn
from carrel.errors import CarrelError
from fastapi import FastAPI

from carrel_server.app import create_app, open_app
from carrel_server.banner import banner
from carrel_server.http_protocol import IgnoreUpgradeProtocol
from carrel_server.http_server import CarrelServer, check_tls
from carrel_server.keys import KeyRing, all_keys
from carrel_server.listening import address_of, listening

if TYPE_CHECKING:
    from carrel.host import EngineHost

    from carrel_server.cli.serve_plan import ServePlan

logger = logging.getLogger(__name__)

KEEP_ALIVE = 75  # seconds an idle connection stays: longer than proxies and clients keep theirs, so that they end it


def run_server(plan: ServePlan) -> None:
    """Serve until a signal comes. The port answers at once, ready or not; models load meanwhile.

    Raises:
        CarrelError: the port is taken, a model cannot be served, or the engine has died.
    """
    set_up_logs(plan)
    with listening(plan.host, plan.port, plan.uds) as listener:
        app = create_app(None, plan.settings)
        address = address_of(listener, plan.host, tls=plan.ssl_certfile is not None)
        server = make_server(app, plan, address)
        logger.info("listening at %s; every request but health gets a 503 until the models are loaded", address)
        try:
            server.run(sockets=[listener])
        finally:
            if server.host is not None:
                server.host.close()
    if server.error is not None:
        raise server.error
    if server.is_loading:
        leave()


def make_server(app: FastAPI, plan: ServePlan, address: str) -> CarrelServer:
    config = uvicorn.Config(
        app,
        http=IgnoreUpgradeProtocol,
        ws="none",
        lifespan="off",
        log_level="debug" if plan.log_level == "debug" else "warning",
        access_log=False,  # carrel's own has the requests' ids
        timeout_keep_alive=KEEP_ALIVE,
        ssl_keyfile=plan.ssl_keyfile,
        ssl_certfile=plan.ssl_certfile,
        ssl_ca_certs=plan.ssl_ca_certs,
        ssl_cert_reqs=plan.ssl_cert_reqs,
        server_header=False,
    )
    check_tls(config)

    def on_ready(host: EngineHost) -> None:
        from carrel.async_llm import AsyncLLM

        open_app(app, AsyncLLM(host=host))
        for line in banner(plan, host, address):
            click.echo(line)

    reload = partial(reload_files, plan, app.state.keys, config)
    return CarrelServer(
        config,
        app.state.readiness,
        load=partial(load_engine, plan),
        on_ready=on_ready,
        on_hangup=reload if plan.api_key_file or plan.ssl_certfile else None,
        shutdown_timeout=plan.shutdown_timeout,
    )


def load_engine(plan: ServePlan) -> EngineHost:
    from carrel.host import EngineHost  # loads torch: not before the port answers

    from carrel_server.step_threads import StepThreads

    host = EngineHost(plan.models, plan.engine, before_step=StepThreads().prepare)
    calm_collector()
    return host


def calm_collector() -> None:
    """While Python looks for garbage in cycles all threads wait, tenths of seconds if it looks through everything.
    What has been loaded stays, so it is looked through no more; and a large answer is no reason to look through all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 50)


def reload_files(plan: ServePlan, keys: KeyRing, config: uvicorn.Config) -> None:
    """On SIGHUP: the key file and the certificate anew. What cannot be read changes nothing."""
    try:
        if plan.api_key_file is not None:
            keys.replace(all_keys(plan.fixed_keys, plan.api_key_file))
        if config.ssl is not None and plan.ssl_certfile is not None:
            config.ssl.load_cert_chain(plan.ssl_certfile, plan.ssl_keyfile)
    except (CarrelError, OSError) as error:
        logger.error("SIGHUP: %s Everything stays as it was.", error)
    else:
        logger.info("SIGHUP: read the key file and the certificate again, %d keys", len(keys))


def set_up_logs(plan: ServePlan) -> None:
    """The access log has lines of its own shape: JSON must stand alone."""
    logging.basicConfig(level=plan.log_level.upper(), format="%(levelname)s: %(message)s")
    access = logging.getLogger("carrel_server.access")
    access.propagate = False
    handler = logging.StreamHandler()
    is_json = plan.settings.access_log == "json"
    handler.setFormatter(logging.Formatter("%(message)s" if is_json else "%(asctime)s %(message)s"))
    access.handlers = [handler]


def leave() -> None:
    """End the process under a thread that still loads and would be waited for otherwise. Processes that it started
    end by themselves when their pipe does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
