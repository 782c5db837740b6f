"""TLS that no good client speaks, and certificates that are wrong: each gets its answer, and the servers' logs stay quiet."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from protocols import TRANSPORTS
from protocols.grpc.chat_pb2 import ListModelsRequest
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from protocols.processes import Server, serving
from shared.client.protocol import collect
from shared.client.tls import trusted_certificates
from tests.certificates import ca_file, tls_settings
from tests.conftest import FAST, WORDS, MakeServers, Servers
from tests.parts import part
from tests.test_tls import refusal, refused

ROOT = Path(__file__).parent.parent
NO_TLS = {
    "plain HTTP": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "a record that lies": b"\x16\x03\x01\xff\xff" + b"\x01" * 200,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x00\x05hello",
    "noise": bytes(range(256)),
}


@pytest.fixture(scope="module")
def secure(make_servers: MakeServers) -> Iterator[Servers]:
    """The five over TLS."""
    five = make_servers(**tls_settings())
    yield five
    assert not five.errors()


def addresses(server: Server) -> list[str]:
    """Where a server listens: its port, and its port for pages if it has one."""
    return [server.address, *([server.page_url.rpartition("/")[2]] if server.page_url else [])]


def quiet(server: Server) -> bool:
    """Whether a server has logged only what is no fault of its own, and nothing but its log's lines."""
    return not server.said and all(entry["level"] == "info" for entry in server.log)


async def send_and_read(address: str, data: bytes) -> None:
    """Send bytes, and read until the server closes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    finally:
        writer.transport.abort()


async def fail_handshake(address: str, context: ssl.SSLContext) -> None:
    host, _, port = address.rpartition(":")
    with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError)):
        await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)


async def test_what_is_no_handshake_is_refused(secure: Servers, word: str) -> None:
    """Bytes that are no TLS, a client that does not trust the certificate, and one that speaks an old version alone."""
    server = secure[word]
    old = ssl.create_default_context(cafile=ca_file())
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with asyncio.timeout(40):
        for address in addresses(server):
            for data in NO_TLS.values():
                await send_and_read(address, data)
            await fail_handshake(address, ssl.create_default_context())
            await fail_handshake(address, old)
        async with server.client() as client:
            assert (await collect(client.chat("hello"))).status == "completed"
    assert quiet(server)


async def test_a_handshake_on_a_port_without_tls_is_refused(servers: Servers, word: str) -> None:
    server = servers[word]
    said = list(server.said)
    async with asyncio.timeout(40):
        for address in addresses(server):
            await fail_handshake(address, ssl.create_default_context(cafile=ca_file()))
        async with server.client() as client:
            assert (await collect(client.chat("hello"))).status == "completed"
    assert server.said == said


async def test_the_client_of_the_port_for_pages_names_the_same_mistakes(secure: Servers, servers: Servers) -> None:
    part("connectrpc")
    encrypted, plain = (addresses(five["grpc"])[-1] for five in (secure, servers))
    for address, tls, said in (
        (encrypted, False, "expects TLS"),
        (plain, True, "speaks no TLS"),
        (encrypted, True, "has a certificate that this client does not trust"),
    ):
        assert said in await refused(TRANSPORTS["grpc"].page_client(address, tls=tls)), address


@pytest.mark.parametrize("how", [("-m", "protocols", "serve", "grpc"), ("protocols/grpc/server.py",)])
async def test_grpcio_adds_no_line_to_the_servers_log(how: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    # Set by the gRPC client of this process; each way to start the server must set the level by itself.
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *how, "--port", "0", cwd=ROOT, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **FAST, **tls_settings(), "STORE_URL": "sqlite://", "GRPC_WEB_PORT": "off"},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            address = json.loads(await process.stderr.readline())["address"].rpartition("/")[2]
            await send_and_read(address, NO_TLS["plain HTTP"])
            await fail_handshake(address, ssl.create_default_context())
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = await process.communicate()
    assert all(json.loads(line)["level"] == "info" for line in rest.splitlines())


async def test_a_name_and_ipv6(secure: Servers, word: str) -> None:
    """The certificate is for localhost and for ::1."""
    prefix, port = TRANSPORTS[word].scheme_prefix(tls=True), secure[word].address.rpartition(":")[2]
    async with TRANSPORTS[word].client(f"{prefix}localhost:{port}", ca=Path(ca_file())) as client:
        assert (await collect(client.chat("hello"))).status == "completed"
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    env = {**FAST, "STORE_URL": "sqlite://", **tls_settings()}
    async with serving(word, env=env, arguments=["--host", "::1"]) as server:
        assert server.url.startswith(f"{prefix}[::1]:")
        async with server.client() as client:
            assert (await collect(client.chat("hello"))).status == "completed"


async def test_a_clients_certificate_is_not_asked_for_and_does_no_harm(secure: Servers) -> None:
    own = trustme.CA().issue_cert("client@example.com")
    context = ssl.create_default_context(cafile=ca_file())
    own.configure_cert(context)
    host, _, port = secure["sse"].address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    pair = own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
    credentials = grpc.ssl_channel_credentials(trusted_certificates(Path(ca_file())), *pair)
    async with grpc.aio.secure_channel(secure["grpc"].address, credentials) as channel:
        assert (await ChatServiceStub(channel).ListModels(ListModelsRequest())).models


def written(folder: Path, leaf: trustme.LeafCert, *, whole: bool = True) -> dict[str, str]:
    """The settings of a server with this certificate; not ``whole``: without the rest of its chain."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems[: None if whole else 1]))
    key.touch(0o600)
    key.write_bytes(leaf.private_key_pem.bytes())
    return {"TLS_CERT": str(cert), "TLS_KEY": str(key)}


def trusted(folder: Path, ca: trustme.CA) -> Path:
    file = folder / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return file


async def test_a_chain_with_an_intermediate(make_servers: MakeServers, tmp_path: Path) -> None:
    """The clients trust the root alone. The server sends the intermediate CA, or is refused."""
    root = trustme.CA()
    ca = trusted(tmp_path, root)
    leaf = root.create_child_ca().issue_cert("127.0.0.1")
    five = make_servers(**written(tmp_path, leaf))
    five.start()
    for word in WORDS:
        async with five[word].client(ca=ca) as client:
            assert (await collect(client.chat("hello"))).status == "completed", word
    env = {**FAST, "STORE_URL": "sqlite://", **written(tmp_path, leaf, whole=False)}
    for word in ("ndjson", "grpc"):
        async with serving(word, env=env) as server:
            said = await refusal(word, server.address, ca=ca)
            assert "does not trust (unable to get local issuer certificate)" in said


@pytest.mark.parametrize("word", ["ndjson", "grpc"])
async def test_an_expired_certificate_is_named_on_both_sides(word: str, tmp_path: Path) -> None:
    ca = trustme.CA()
    year = datetime.datetime(2021, 1, 1)
    leaf = ca.issue_cert("127.0.0.1", not_before=year, not_after=year.replace(year=2022))
    async with serving(word, env={**FAST, "STORE_URL": "sqlite://", **written(tmp_path, leaf)}) as server:
        said = await refusal(word, server.address, ca=trusted(tmp_path, ca))
    assert "does not trust (certificate has expired)" in said
    (warning,) = [entry["why"] for entry in server.log if entry["event"] == "certificate"]
    assert warning.startswith("clients will refuse ")
    assert "(certificate has expired)" in warning


@pytest.mark.parametrize("word", ["ndjson", "grpc"])
async def test_files_that_are_replaced_count_from_the_next_start_on(word: str, tmp_path: Path) -> None:
    ca = trustme.CA()
    trusting = trusted(tmp_path, ca)
    env = {**FAST, "STORE_URL": "sqlite://", **written(tmp_path, ca.issue_cert("127.0.0.1"))}
    async with serving(word, env=env) as server:
        # A server that answers has read its files.
        async with server.client(ca=trusting) as client:
            await client.health()
        written(tmp_path, trustme.CA().issue_cert("127.0.0.1"))
        async with server.client(ca=trusting) as client:
            assert (await collect(client.chat("hello"))).status == "completed"
    async with serving(word, env=env) as server:
        assert "does not trust" in await refusal(word, server.address, ca=trusting)
