"""TLS on the five: certificates, wrong settings, foreign clients, and the message for a mistaken scheme."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from compare import relay as relay_command
from compare.lines.relay import Relay
from protocols import TRANSPORTS, certs
from protocols.ports import free_ports_in_a_row
from protocols.processes import serving
from shared.client.protocol import ChatClient, collect
from shared.config import Settings
from shared.errors import ChatError, NotOurServer
from shared.server.tls import Certificate, certificate
from tests.certificates import ca_file, tls_settings
from tests.conftest import WORDS, MakeServers, Servers
from tests.parts import part

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def secure(make_servers: MakeServers) -> Iterator[Servers]:
    """The five over TLS."""
    five = make_servers(**tls_settings())
    yield five
    assert not five.errors()


async def program(*command: str | Path, given: bytes = b"", env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a program."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


async def ours(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    return await program(sys.executable, "-m", "protocols", *arguments, env=env)


async def test_certs_makes_a_pair_that_openssl_accepts_and_replaces_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    status, out, _ = await ours("certs", "--out", folder, "--name", "chat.example", "--name", "10.1.2.3")
    assert status == 0
    assert dict(line.split("=", 1) for line in out.splitlines()) == certs.files(folder)
    assert {file.name for file in folder.iterdir()} == {"ca.pem", "server.pem", "server-key.pem"}
    assert stat.S_IMODE((folder / "server-key.pem").stat().st_mode) == 0o600
    # The only private key is the server's, so a copy of the folder cannot sign as the CA.
    assert sum(b"PRIVATE KEY" in file.read_bytes() for file in folder.iterdir()) == 1
    names = {"localhost": "hostname", "chat.example": "hostname", "127.0.0.1": "ip", "::1": "ip", "10.1.2.3": "ip"}
    for name, kind in names.items():
        check = ("openssl", "verify", "-CAfile", str(folder / "ca.pem"), f"-verify_{kind}", name)
        assert (await program(*check, str(folder / "server.pem")))[0] == 0, name
    before = {file: file.read_bytes() for file in folder.iterdir()}
    (folder / "ca.pem").unlink()
    status, _, err = await ours("certs", "--out", folder)
    assert status == 1
    assert err == f"{folder / 'server.pem'} exists already and is not replaced; choose another --out\n"
    assert {file: file.read_bytes() for file in folder.iterdir()} == {
        file: data for file, data in before.items() if file.name != "ca.pem"
    }


def _key_with_password(folder: Path) -> dict[str, str]:
    pair = tls_settings()
    key = folder / "locked.pem"
    command = ("openssl", "pkey", "-in", pair["TLS_KEY"], "-aes256", "-passout", "pass:x", "-out", str(key))
    subprocess.run(command, check=True, capture_output=True)
    return {**pair, "TLS_KEY": str(key)}


def _key_of_another(folder: Path) -> dict[str, str]:
    key = folder / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(key))
    return {**tls_settings(), "TLS_KEY": str(key)}


def _no_certificate(folder: Path) -> dict[str, str]:
    file = folder / "note.pem"
    file.write_text("no certificate")
    return {**tls_settings(), "TLS_CERT": str(file)}


def _swapped(folder: Path) -> dict[str, str]:
    pair = tls_settings()
    return {**pair, "TLS_CERT": pair["TLS_KEY"], "TLS_KEY": pair["TLS_CERT"]}


def _damaged(folder: Path) -> dict[str, str]:
    file = folder / "half.pem"
    whole = Path(tls_settings()["TLS_CERT"]).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return {**tls_settings(), "TLS_CERT": str(file)}


def _chain_backwards(folder: Path) -> dict[str, str]:
    leaf = trustme.CA().create_child_ca().issue_cert("localhost")
    cert, key = folder / "chain.pem", folder / "key.pem"
    cert.write_bytes(b"".join(pem.bytes() for pem in reversed(leaf.cert_chain_pems)))
    leaf.private_key_pem.write_to_path(str(key))
    return {**tls_settings(), "TLS_CERT": str(cert), "TLS_KEY": str(key)}


WRONG: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    "no key": (lambda folder: {"TLS_CERT": tls_settings()["TLS_CERT"]}, r"TLS_CERT is set and TLS_KEY is not"),
    "no certificate": (lambda folder: {"TLS_KEY": tls_settings()["TLS_KEY"]}, r"TLS_KEY is set and TLS_CERT is not"),
    "no file": (lambda folder: {**tls_settings(), "TLS_KEY": "/nowhere"}, r"TLS_KEY: /nowhere cannot be read"),
    "password": (_key_with_password, r"TLS_KEY: .*locked.pem has a password"),
    "another key": (
        _key_of_another,
        r"no certificate and its key: the key is not the key of the file's first certificate",
    ),
    "no PEM": (_no_certificate, r"TLS_CERT: .*note.pem holds no certificate in PEM form"),
    "swapped": (_swapped, r"TLS_CERT: .* holds no certificate in PEM form"),
    "damaged": (_damaged, r"no certificate and its key: one of them is damaged"),
    "the chain backwards": (_chain_backwards, r"the file's first certificate, which must be the server's own"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_pair_is_named(kind: str, tmp_path: Path) -> None:
    make, words = WRONG[kind]
    files: dict[str, Any] = {"tls_cert": None, "tls_key": None} | {
        name.lower(): file for name, file in make(tmp_path).items()
    }
    with pytest.raises(ValueError, match=words) as caught:
        certificate(Settings(_env_file=None, **files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["rest", "grpc"])
async def test_a_wrong_pair_is_one_line_at_the_start(word: str) -> None:
    env = {"STORE_URL": "sqlite://", "TLS_CERT": tls_settings()["TLS_CERT"]}
    status, _, err = await ours("serve", word, "--port", "0", env=env)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"{word} server cannot start: TLS_CERT is set and TLS_KEY is not")


async def test_a_wrong_ca_is_one_line_of_the_client(tmp_path: Path) -> None:
    for file, why in ((tmp_path / "none.pem", "No such file"), (ROOT / "Makefile", "CERTIFICATE")):
        status, _, err = await ours("chat", "grpc", "hello", env={"TLS_CA": str(file)})
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith("settings: TLS_CA: no certificates can be read from ")
        assert why in err


async def test_a_key_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    certs.make(tmp_path)
    pair = Certificate(tmp_path / "server.pem", tmp_path / "server-key.pem")
    assert not pair.key_is_exposed()
    pair.key.chmod(0o640)
    assert pair.key_is_exposed()
    env = {"STORE_URL": "sqlite://", **certs.files(tmp_path)}
    async with serving("ndjson", env=env) as server, server.client() as client:
        await client.ping()
    assert len([entry for entry in server.log if entry["event"] == "certificate"]) == 1


@pytest.mark.parametrize("word", ["rest", "websocket"])
async def test_curl_reads_https_and_the_page_has_its_own_origin(secure: Servers, word: str) -> None:
    curl, port = part("curl").path, secure[word].address.rpartition(":")[2]
    for name in ("localhost", "127.0.0.1"):
        base = f"https://{name}:{port}"
        answer = await program(curl, "-sS", "--cacert", ca_file(), f"{base}/health")
        assert json.loads(answer[1])["transport"] == word
        origins = {
            base: 201,
            f"https://localhost:{TRANSPORTS['sse'].default_port}": 201,
            base.replace("https", "http"): 403,
        }
        for origin, expected in origins.items():
            write_out = ("-o", os.devnull, "-w", "%{http_code}")
            command = (
                curl,
                "-sS",
                "--cacert",
                ca_file(),
                *write_out,
                "-H",
                f"Origin: {origin}",
                "-X",
                "POST",
                f"{base}/sessions",
            )
            assert (await program(*command))[1] == str(expected), origin
        policy = await program(curl, "-sS", "--cacert", ca_file(), "-D", "-", "-o", os.devnull, f"{base}/race")
        connect = re.search(r"connect-src ([^;]*)", policy[1])
        assert connect is not None
        assert {source.partition(":")[0] for source in connect[1].split()} == {"'self'", "https", "wss"}


@pytest.mark.parametrize("word", ["sse", "grpc"])
async def test_openssl_trusts_what_each_server_shows(secure: Servers, word: str) -> None:
    alpn = ("-alpn", "h2") if word == "grpc" else ()
    command = ("openssl", "s_client", "-connect", secure[word].address, "-CAfile", ca_file(), "-verify_return_error",
               "-verify_ip", "127.0.0.1", *alpn)  # fmt: skip
    status, out, err = await program(*command)
    assert status == 0, err
    assert "Verify return code: 0 (ok)" in out
    assert re.search(r"TLSv1\.[23]", out)
    assert ("ALPN protocol: h2" in out) == (word == "grpc")


async def test_buf_calls_over_tls(secure: Servers) -> None:
    url = f"https://{secure['grpc'].address}/chat.ChatService/SendMessage"
    data = json.dumps({"message": "/tokens 3 hello"})
    status, out, err = await program(
        part("buf").path, "curl", "--cacert", ca_file(), "--protocol", "grpc", "-d", data, url
    )
    assert status == 0, err
    assert "turnCompleted" in out


async def test_a_handshake_that_never_ends_is_cut(make_servers: MakeServers) -> None:
    """A client sends nothing, or half a ClientHello, to each server at the same time."""
    five = make_servers(REQUEST_TIMEOUT_S="1", **tls_settings())
    words = ("sse", "grpc")
    five.start(*words)
    for_pages = five["grpc"].page_url
    addresses = [*(five[word].address for word in words), *([for_pages.rpartition("/")[2]] if for_pages else [])]

    async def cut(address: str, sent: bytes) -> None:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        finally:
            writer.transport.abort()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for address in addresses:
            for sent in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40):
                group.create_task(cut(address, sent))
    for word in words:
        async with five[word].client() as client:
            assert (await collect(client.chat("hello"))).status == "completed"


async def test_answers_wait_for_a_tls_client_that_does_not_read(secure: Servers) -> None:
    """A late reader sends more pipelined requests than fit into the buffers.

    The server answers all of them, in order.
    """
    host, _, port = secure["rest"].address.rpartition(":")
    context = ssl.create_default_context(cafile=ca_file())
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, limit=1024)
    asked = [f"/openapi.json?{number}" for number in range(60)]
    writer.write("".join(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n" for path in asked).encode())
    writer.write(f"GET /nowhere HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(30):
        # The sockets' buffers fill, and the server stops reading before this client has read a byte.
        async with secure["ndjson"].client() as other:
            await other.ping()
        said = bytearray()
        while data := await reader.read(65536):
            said += data
    assert said.count(b"HTTP/1.1 200 OK") == len(asked)
    assert said.count(b"HTTP/1.1 404 Not Found") == 1
    assert said.rindex(b"HTTP/1.1 404") > said.rindex(b"HTTP/1.1 200")
    writer.close()


async def refusal(word: str, address: str, **options: object) -> str:
    """What a client says of a server that it cannot use."""
    return await refused(TRANSPORTS[word].client(address, **options))


async def refused(client: ChatClient) -> str:
    async with asyncio.timeout(20):
        try:
            with pytest.raises(NotOurServer) as caught:
                async with client:
                    await collect(client.chat("hello"))
        finally:
            await client.aclose()
    assert client.counts.lost == 0
    assert "\n" not in caught.value.message
    return caught.value.message


async def test_a_client_without_tls_is_told_that_the_server_expects_it(secure: Servers, word: str) -> None:
    message = await refusal(word, secure[word].address)
    assert message.startswith(f"{secure[word].address} expects TLS")
    assert "--tls" in message


async def test_a_client_with_tls_is_told_that_the_server_speaks_none(servers: Servers, word: str) -> None:
    message = await refusal(word, servers[word].address, tls=True)
    assert message.startswith(f"{servers[word].address} speaks no TLS")


async def test_a_certificate_that_is_not_trusted_is_named(secure: Servers, word: str) -> None:
    message = await refusal(word, secure[word].address, tls=True)
    assert "has a certificate that this client does not trust" in message
    assert "TLS_CA" in message


@pytest.mark.parametrize("client", [("-m", "protocols", "chat", "grpc"), ("protocols/grpc/client.py",)])
async def test_a_handshake_that_fails_is_one_line_of_the_grpc_client(
    client: tuple[str, ...], secure: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Set by the gRPC client of this process; each way to start the client must set the level by itself.
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    status, _, err = await program(sys.executable, *client, "--host", secure["grpc"].address, "--tls", "hello")
    assert status == 2
    (line,) = err.splitlines()
    assert "has a certificate that this client does not trust" in line


async def test_a_certificate_for_another_name_is_named(make_servers: MakeServers, word: str, tmp_path: Path) -> None:
    ca = trustme.CA()
    for name, pem in (("ca.pem", ca.cert_pem), ("key.pem", (leaf := ca.issue_cert("other.example")).private_key_pem)):
        pem.write_to_path(str(tmp_path / name))
    (tmp_path / "cert.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
    env = {"TLS_CERT": str(tmp_path / "cert.pem"), "TLS_KEY": str(tmp_path / "key.pem")}
    async with serving(word, env={"STORE_URL": "sqlite://", **env}) as server:
        assert "has a certificate for another name" in await refusal(word, server.address, ca=tmp_path / "ca.pem")


@pytest.mark.parametrize("word", WORDS)
async def test_each_way_to_say_tls_reaches_the_server(secure: Servers, word: str) -> None:
    host, _, port = secure[word].address.rpartition(":")
    scheme = {"websocket": "wss", "grpc": "grpcs"}.get(word, "https")
    env = {"TLS_CA": ca_file()}
    by_url = await ours("chat", word, "--host", f"{scheme}://{host}:{port}", "/tokens 3 hello", env=env)
    assert by_url[0] == 0, by_url[2]
    assert by_url[1].strip()
    by_setting = await ours("chat", word, "--host", f"{host}:{port}", "--tls", "/tokens 3 hello", env=env)
    assert by_setting[0] == 0, by_setting[2]


async def test_tls_and_a_scheme_without_it_contradict_each_other() -> None:
    status, _, err = await ours("chat", "sse", "--host", "http://127.0.0.1", "--tls", "hello")
    assert (status, err) == (
        1,
        "invalid_request: --tls and an address that begins with http:// contradict each other.\n",
    )
    with pytest.raises(ChatError):
        TRANSPORTS["websocket"].client("ws://127.0.0.1:1", tls=True)


async def test_a_relay_counts_what_it_cannot_read(
    secure: Servers, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Relay(secure[word].url) as relay:
        async with TRANSPORTS[word].client(relay.address, ca=Path(ca_file())) as client:
            assert (await collect(client.chat("/tokens 5 hello"))).status == "completed"
        assert relay.down_bytes > 500
        assert not sum(connection.events for connection in relay.connections)
    with pytest.raises(SystemExit):
        relay_command.main(["--listen", "0", "--to", secure[word].url, "--cut-after-event", "3"])
    assert "TLS hides the events" in capsys.readouterr().err


async def test_the_demo_runs_over_tls(tmp_path: Path) -> None:
    env = {"OFFLINE_TOKENS_PER_S": "0", "OFFLINE_FIRST_TOKEN_MS": "0", "OFFLINE_TOKENS": "8"}
    status, out, err = await ours("demo", "--tls", "--size", "64x64", "--out", tmp_path / "out", env=env)
    assert status == 0, out + err
    for word in WORDS:
        assert f"{TRANSPORTS[word].title} on {TRANSPORTS[word].scheme_prefix(tls=True)}127.0.0.1:" in out


@asynccontextmanager
async def _all_five(env: dict[str, str]) -> AsyncIterator[list[str]]:
    """``serve all`` on free ports; the lines with which the servers begin."""
    base = free_ports_in_a_row(len(WORDS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "protocols", "serve", "all", "--port-base", str(base), cwd=ROOT, env={**os.environ, **env},
        stderr=asyncio.subprocess.PIPE, limit=2**20,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            yield [(await process.stderr.readline()).decode() for _ in WORDS]
    finally:
        process.send_signal(2)
        await process.communicate()


async def test_serve_all_shows_the_scheme(tmp_path: Path) -> None:
    async with _all_five({"STORE_URL": f"sqlite:///{tmp_path / 'chat.db'}", **tls_settings()}) as lines:
        shown = [json.loads(line)["address"] for line in lines]
    assert [url.partition("://")[0] for url in shown] == [TRANSPORTS[word].scheme + "s" for word in WORDS]
