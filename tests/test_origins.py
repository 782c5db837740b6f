"""Origins and host names: the pages that may use a server, the names of a server, and misspelt settings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from protocols.processes import Server, serving
from shared.config import Settings
from shared.server.access import access_policy
from tests.conftest import FAST, KEY, MakeServers, Servers
from tests.raw_http import ask

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
WITH_KEY = {"X-API-Key": KEY}


@asynccontextmanager
async def http_to(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client that sends the headers that a test gives."""
    async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False, verify=False) as client:
        yield client


async def handshake(server: Server, host: str, origin: str) -> int:
    """The status of a WebSocket handshake with this ``Host`` and ``Origin``."""
    address, _, port = server.address.rpartition(":")
    try:
        async with connect(f"ws://{host}/ws", host=address, port=int(port), origin=Origin(origin), proxy=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_pages_of_this_machine_may_write(word: str, servers: Servers) -> None:
    """Pages of every configured port, and of the server's own port, may write, under every loopback name."""
    own = servers[word].address.rpartition(":")[2]
    async with http_to(servers[word]) as http:
        for name in ("localhost", "127.0.0.1", "[::1]"):
            for port in ("8000", "8001", "8002", "8003", own):
                answer = await http.post("/sessions", headers={"Origin": f"http://{name}:{port}"})
                assert answer.status_code == 201, (name, port)
        for origin in (
            *("http://evil.example", "http://localhost", "https://localhost:8000", "http://localhost:9999", "null", ""),
            *("http://localhost:8000.evil.example", "http://evil.example:8000", "file://", "http://localhost:8000/"),
        ):
            for method, path in (("POST", "/sessions"), ("POST", "/turns/x/cancel"), ("DELETE", "/sessions/x")):
                answer = await http.request(method, path, headers={"Origin": origin})
                assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), (method, origin)
        # A browser keeps a foreign page from reading an answer that does not name the page's origin.
        answer = await http.get("/models", headers={"Origin": "http://evil.example"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_the_page_of_a_port_forward_may_write(word: str, servers: Servers) -> None:
    """ssh -L, docker -p and editors make another port lead to the server: the page's origin is then its own ``Host``."""
    async with http_to(servers[word]) as http:
        for host, origin, status in (
            ("localhost:9002", "http://localhost:9002", 201),
            ("LOCALHOST:9002", "HTTP://localhost:9002", 201),
            ("localhost", "http://localhost", 201),
            ("localhost", "http://localhost:80", 201),
            ("localhost:80", "http://localhost", 201),
            ("[::1]:9002", "http://[::1]:9002", 201),
            ("localhost:9002", "https://localhost:9002", 403),
            ("localhost:9002", "http://localhost:9003", 403),
            ("localhost:9002", "http://127.0.0.1:9002", 403),
            ("localhost:9002", "null", 403),
            ("evil.example", "http://evil.example", 403),
        ):
            answer = await http.post("/sessions", headers={"Host": host, "Origin": origin})
            assert answer.status_code == status, (host, origin)


async def test_the_handshake_of_a_page_behind_a_port_forward(servers: Servers) -> None:
    server = servers["websocket"]
    assert await handshake(server, "localhost:9002", "http://localhost:9002") == 101
    assert await handshake(server, "localhost:9002", "http://localhost:9003") == 403
    assert await handshake(server, "localhost:9002", "null") == 403
    assert await handshake(server, "evil.example", "http://evil.example") == 403


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_hosts(word: str, servers: Servers) -> None:
    """A page can rebind its name to this machine; the name is then not one of the server's."""
    async with http_to(servers[word]) as http:
        for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"):
            assert (await http.get("/models", headers={"Host": host})).status_code == 200, host
        for host in (
            *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]", "0.0.0.0", "@localhost"),
            *("localhost:x", "localhost:80:80", "local host", "[::1", "192.168.1.20:8000"),
        ):
            answer = await http.get("/models", headers={"Host": host})
            assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), host


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_balancers_probe(word: str, servers: Servers, keyed: Servers) -> None:
    """A probe names an address as ``Host`` and has no key. It gets the status alone, so a rebound page learns nothing."""
    for five in (servers, keyed):
        async with http_to(five[word]) as http:
            for method in ("GET", "HEAD"):
                probe = await http.request(method, "/health", headers={"Host": "10.0.3.17:8002"})
                assert probe.status_code == 200
                assert probe.text == ('{"status":"ok"}' if method == "GET" else "")
            assert set((await http.get("/health")).json()) > {"status", "transport", "model"}
            assert (await http.get("/health/", headers={"Host": "10.0.3.17"})).status_code == 403


async def test_allowed_origins(make_servers: MakeServers) -> None:
    """Named origins take the place of the default ones; their hosts are names of the server; handshakes follow them too."""
    setting = "https://app.example:443/, http://other.example:81/ ,HTTPS://Upper.Example,"
    chosen = make_servers(ALLOWED_ORIGINS=setting)
    for word in ("rest", "websocket"):
        async with http_to(chosen[word]) as http:
            for origin, status in (
                ("https://app.example", 201),
                ("HTTPS://APP.EXAMPLE", 201),
                ("https://upper.example", 201),
                ("http://other.example:81", 201),
                ("http://app.example", 403),
                ("http://localhost:8000", 403),
                ("null", 403),
            ):
                assert (await http.post("/sessions", headers={"Origin": origin})).status_code == status, origin
            for host in ("app.example", "other.example:81", "upper.example:5000", "localhost"):
                assert (await http.get("/models", headers={"Host": host})).status_code == 200
            answer = await http.get("/models", headers={"Origin": "https://app.example"})
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
    server = chosen["websocket"]
    assert await handshake(server, server.address, "https://app.example") == 101
    assert await handshake(server, server.address, "http://evil.example") == 403


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("app.example.com", "no scheme, did you mean https://app.example.com?"),
        ("localhost:8000", "no scheme, did you mean https://localhost:8000?"),
        ("https://app.example.com/chat", "a path, did you mean https://app.example.com?"),
        ("https://app.example.com//", "a path"),
        ("https://me:secret@app.example.com", "a user, did you mean https://app.example.com?"),
        ("https://app.example.com?x=1", "a query"),
        ("https://app.example.com#top", "a fragment"),
        ("https://*.example.com", "a * inside"),
        ("*,https://app.example.com", "stands alone"),
        ("null", "cannot be told apart"),
        ("https://app.example.com:99999", "no origin"),
        ("https://app.example.com:0", "no origin"),
        ("https://", "no origin"),
        ("https://bücher.example", "xn--"),
        ("https://a.example https://b.example", "a blank inside"),
    ],
)
def test_a_misspelt_origin_is_a_start_up_error(setting: str, words: str) -> None:
    settings = Settings(_env_file=None, allowed_origins=f"https://fine.example,{setting}")
    with pytest.raises(ValueError, match="ALLOWED_ORIGINS") as refused:
        access_policy(settings, "127.0.0.1", [8000])
    assert words in str(refused.value)
    assert "such as https://app.example.com" in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_a_server_says_it_at_the_start(word: str) -> None:
    env = {**FAST, "STORE_URL": "sqlite://", "ALLOWED_ORIGINS": "https://*.example.com"}
    with pytest.raises(
        RuntimeError, match=r"cannot start: ALLOWED_ORIGINS: 'https://\*\.example\.com' has a \* inside"
    ):
        async with serving(word, env=env):
            pass


def test_every_origin_needs_a_key() -> None:
    with pytest.raises(ValueError, match="API_SECRET_KEY"):
        access_policy(Settings(_env_file=None, allowed_origins=" * "), "127.0.0.1", [8000])
    policy = access_policy(Settings(_env_file=None, allowed_origins="*", api_secret_key=KEY), "127.0.0.1", [8000])
    policy.check_origin("http://anywhere.example", "http", "localhost")
    policy.check_host("anywhere.example")


async def test_every_origin_is_said_at_the_start(make_servers: MakeServers) -> None:
    chosen = make_servers(ALLOWED_ORIGINS="*", API_SECRET_KEY=KEY)
    headers = {"origin": "http://anywhere.example", "host": "anywhere.example", "x-api-key": KEY}
    answer = await ask(chosen, "rest", "POST", "/sessions", headers=headers)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (201, "*")
    (listening,) = (entry for entry in chosen["rest"].log if entry["event"] == "listening")
    assert listening["origins"] == "any (ALLOWED_ORIGINS=*)"


def test_empty_is_unset() -> None:
    policy = access_policy(Settings(_env_file=None, allowed_origins=""), "127.0.0.1", [80, 8000])
    assert policy.origins == access_policy(Settings(_env_file=None), "127.0.0.1", [80, 8000]).origins
    policy.check_origin("http://localhost", "http", "elsewhere")
    policy.check_origin("http://127.0.0.1:8000", "http", "elsewhere")


async def test_addresses_where_a_server_is_bound_beyond_loopback() -> None:
    """An address cannot be rebound, so it is allowed as ``Host`` in its usual forms; names are checked as before."""
    env = {**FAST, "STORE_URL": "sqlite://", "API_SECRET_KEY": KEY}
    async with serving("rest", env=env, arguments=("--host", "0.0.0.0")) as server:
        port = server.address.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, headers=WITH_KEY) as http:
            for host, status in (
                ("192.168.1.20:8000", 200),
                ("[fd00::17]:8000", 200),
                ("localhost", 200),
                ("evil.example", 403),
                ("192.168.1", 403),
                ("0x7f.1", 403),
                ("010.0.0.1", 403),
                ("3232235777", 403),
                ("fd00::17", 403),
                ("[fe80::1%25eth0]", 403),
            ):
                assert (await http.get("/models", headers={"Host": host})).status_code == status, host
            page = {"Host": "192.168.1.20:8000", "Origin": "http://192.168.1.20:8000"}
            assert (await http.post("/sessions", headers=page)).status_code == 201
            assert (await http.get("/sessions", headers={"X-API-Key": "wrong"})).status_code == 401


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, str]]:
    """Another network namespace, as another machine: its name, and this machine's address as seen from there."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and iproute2")
    pid = os.getpid()
    name, here, network = f"genai{pid}", f"ga{pid}", f"10.{200 + pid % 50}.{pid // 50 % 250}"
    commands = (
        f"ip netns add {name}",
        f"ip link add {here} type veth peer name there netns {name}",
        f"ip addr add {network}.1/30 dev {here}",
        f"ip link set {here} up",
        f"ip -n {name} addr add {network}.2/30 dev there",
        f"ip -n {name} link set there up",
    )
    with contextlib.ExitStack() as stack:
        # The interface goes first: with the namespace it would go some time later.
        for command in (f"ip netns del {name}", f"ip link del {here}"):
            stack.callback(subprocess.run, command.split(), capture_output=True, check=False)
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"this machine makes no network namespace: {command}: {done.stderr}")
        yield name, f"{network}.1"


async def test_a_client_on_another_machine_is_served(elsewhere: tuple[str, str], word: str) -> None:
    """As the README says: with a key and ``--host 0.0.0.0``, a client on another machine that has the key is served."""
    namespace, address = elsewhere
    env = {**FAST, "STORE_URL": "sqlite://", "API_SECRET_KEY": KEY}
    async with serving(word, env=env, arguments=("--host", "0.0.0.0")) as server:
        port = server.address.rpartition(":")[2]
        command = ("ip", "netns", "exec", namespace, sys.executable, "-m", "protocols", "chat", word)
        process = await asyncio.create_subprocess_exec(
            *command, "--host", address, "--port", port, "--json", "Hello",
            env={**os.environ, "API_SECRET_KEY": KEY}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, complained = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, complained.decode()
        assert json.loads(said.splitlines()[-1])
