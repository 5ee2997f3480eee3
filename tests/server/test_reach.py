"""How a server is reached: behind a prefix, over TLS, through a unix socket, from a browser's page."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from carrel.async_llm import AsyncLLM
from carrel.errors import CarrelError
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from carrel_server.cli.serve import serve
from carrel_server.cli.serve_plan import plan_serve
from carrel_server.listening import address_of, bind_unix, listening
from carrel_server.run import make_server
from server_threads import running, wait_for

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}
ORIGIN = "http://app.example"


# -- behind a prefix


@pytest.fixture(scope="module")
def prefixed(host: EngineHost) -> Iterator[str]:
    settings = ServerSettings(root_path="/llm", api_keys=("key",))
    with running(create_app(AsyncLLM(host=host), settings)) as url:
        yield url


@pytest.mark.parametrize("prefix", ["", "/llm"])
def test_a_proxy_may_strip_the_prefix_or_not(prefixed: str, prefix: str) -> None:
    with httpx.Client(base_url=prefixed + prefix, headers={"Authorization": "Bearer key"}) as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/llm"}]
        assert "/llm/openapi.json" in client.get("/docs").text
    assert httpx.get(prefixed + prefix + "/health/ready").status_code == 200, "without a key"


@pytest.mark.parametrize(
    "path", ["/llm/v1/models", "/v1/models", "/llm/llm/health", "/llmhealth", "/llm", "/llm//health"]
)
def test_the_prefix_opens_nothing(prefixed: str, path: str) -> None:
    assert httpx.get(prefixed + path).status_code == 401


# -- over TLS


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[trustme.CA, list[str]]:
    """An authority, and the flags of a server that it vouches for."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(tmp_path / "cert.pem", append=True)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority, ["--ssl-keyfile", str(tmp_path / "key.pem"), "--ssl-certfile", str(tmp_path / "cert.pem")]


def test_tls(host: EngineHost, certificate: tuple[trustme.CA, list[str]], tmp_path: Path) -> None:
    authority, flags = certificate
    client_certificate = authority.issue_cert("reader@example")
    client_certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    flags += ["--ssl-ca-certs", str(tmp_path / "ca.pem"), "--ssl-cert-reqs", "2"]
    plan = plan_serve(serve.make_context("serve", ["m", "--port", "0", *flags]).params)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with listening("127.0.0.1", 0, None) as listener:
        app = create_app(AsyncLLM(host=host))
        server = make_server(app, plan, address_of(listener, "127.0.0.1", tls=True))
        server._load, server._on_ready = lambda: host, lambda _: None
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        url = address_of(listener, "127.0.0.1", tls=True)
        assert url.startswith("https://127.0.0.1:")
        with pytest.raises(httpx.TransportError):
            httpx.get(url + "/health", verify=trusting)
        trusting.load_cert_chain(str(tmp_path / "client.pem"))
        answer = httpx.post(url + "/v1/chat/completions", json=CHAT, verify=trusting)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http") + "/health")
        server.should_exit = server.force_exit = True
        thread.join(10)
    assert answer.status_code == 200 and not thread.is_alive()


def test_a_certificate_that_is_none(certificate: tuple[trustme.CA, list[str]], tmp_path: Path) -> None:
    _, flags = certificate
    (tmp_path / "cert.pem").write_text("nothing")
    plan = plan_serve(serve.make_context("serve", ["m", *flags]).params)
    with pytest.raises(CarrelError, match="TLS files cannot be used"):
        make_server(create_app(), plan, "")


# -- through a unix socket


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "carrel.sock"
    with listening("ignored", 0, str(path)) as listener:
        listener.listen()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert address_of(listener, "ignored", tls=False) == f"unix:{path}"
        with pytest.raises(CarrelError, match="another server does"):
            bind_unix(path)
    assert not path.exists()


def test_a_socket_that_a_dead_server_has_left(tmp_path: Path) -> None:
    path = tmp_path / "carrel.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening("", 0, str(path)) as listener:
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(CarrelError, match="no socket"):
        bind_unix(path)
    assert path.read_text() == "mine"
    with pytest.raises(CarrelError, match="Cannot listen on"):
        bind_unix(tmp_path / "no-such-folder" / "x.sock")
    with pytest.raises(CarrelError, match="Cannot listen on"):
        bind_unix(tmp_path / ("long" * 60))


def test_another_servers_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "carrel.sock"
    with listening("", 0, str(path)):
        os.unlink(path)
        with bind_unix(path):
            other = path.stat().st_ino
    assert not path.exists() or path.stat().st_ino == other


# -- from a browser's page


def test_a_preflight_needs_no_key(host: EngineHost) -> None:
    """Browsers send none; the request that follows does."""
    settings = ServerSettings(
        allowed_origins=(ORIGIN,), allowed_methods=("POST",), allowed_headers=("Authorization",), api_keys=("key",)
    )
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with running(create_app(AsyncLLM(host=host), settings)) as url:
        path = url + "/v1/chat/completions"
        preflight = httpx.options(path, headers=ask)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in preflight.headers
        assert httpx.options(path, headers=ask | {"Access-Control-Request-Method": "PUT"}).status_code == 400
        assert httpx.options(path).status_code == 401, "no preflight"
        refused = httpx.post(path, json=CHAT, headers={"Origin": ORIGIN})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == ORIGIN, "the page may read why"
        answer = httpx.post(path, json=CHAT, headers={"Origin": ORIGIN, "Authorization": "Bearer key"})
        assert answer.status_code == 200
        assert answer.headers["access-control-expose-headers"] == "X-Request-Id"


def test_credentials(host: EngineHost) -> None:
    settings = ServerSettings(allowed_origins=(ORIGIN,), allow_credentials=True)
    with running(create_app(AsyncLLM(host=host), settings)) as url:
        headers = httpx.get(url + "/v1/models", headers={"Origin": ORIGIN}).headers
    assert headers["access-control-allow-credentials"] == "true"


def test_no_docs(host: EngineHost) -> None:
    with running(create_app(AsyncLLM(host=host), ServerSettings(docs=False))) as url:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert httpx.get(url + path).status_code == 404
