"""A Redis or Valkey that cannot be used is refused at the start, with one sentence that says what to change."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compare.valkey import Valkey
from protocols.ports import free_port
from protocols.processes import serving
from shared.store.open import open_store, without_password
from shared.store.protocol import Options
from shared.store.redis import start_checks
from shared.store.redis.address import parse_address
from shared.store.redis.store import RedisStore
from tests.conftest import FAST, until
from tests.store.suite import asked, end, new_session, redis_url, refused, valkey

Start = Callable[..., Valkey]
CLUSTER = ("cluster-enabled yes",)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start("maxmemory 10mb", …)``: a Valkey with these settings."""
    started: list[Valkey] = []

    def one(*settings: str) -> Valkey:
        ports = [f"cluster-port {free_port()}"] if settings == CLUSTER else []
        server = Valkey(tmp_path / f"valkey{len(started)}", ["save ''", *settings, *ports])
        started.append(server)
        return server.start()

    yield one
    for server in started:
        server.kill()


def refusal(url: str, **options: Any) -> str:
    with pytest.raises(ValueError, match="STORE_") as error:
        open_store(url, Options(**options))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_policy_that_evicts_is_refused(start: Start) -> None:
    """T17: with allkeys-lru the server drops the logs of running turns, and no client gets an error."""
    assert "set maxmemory-policy noeviction" in refusal(start("maxmemory-policy allkeys-lru").url)
    assert "noeviction" in refusal(start("maxmemory 100mb", "maxmemory-policy volatile-ttl").url)


def test_a_version_that_is_too_old_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own server reports an older version."""
    server, info = start(), start_checks._info
    monkeypatch.setattr(start_checks, "_info", lambda *given: {**info(*given), "redis_version": "6.0.16"})
    assert "is version 6.0.16; Redis 6.2 or newer, or Valkey, is needed" in refusal(server.url)


def test_a_replica_is_refused(start: Start) -> None:
    primary = start()
    assert "is a replica; name the primary" in refusal(start(f"replicaof 127.0.0.1 {primary.port}").url)


def test_a_cluster_is_named_as_one(start: Start) -> None:
    server = start(*CLUSTER)
    assert f"use redis+cluster://127.0.0.1:{server.port}" in refusal(server.url)
    assert "use redis://" in refusal(f"redis+cluster://127.0.0.1:{valkey().port}")


def test_nobody_there() -> None:
    assert "is it running" in refusal("redis://127.0.0.1:1/0")


def test_a_password_that_is_missing_or_wrong(start: Start) -> None:
    server = start("requirepass open-sesame")
    assert "STORE_PASSWORD" in refusal(server.url)
    assert "STORE_PASSWORD" in refusal(server.url, password="wrong")
    with_password = server.url.replace("redis://", "redis://:open-sesame@")
    assert "open-sesame" not in without_password(with_password)
    for url, password in ((with_password, None), (server.url, "open-sesame")):
        open_store(url, Options(password=password))


def test_a_user_that_lacks_a_permission(start: Start) -> None:
    server = start(
        "user deaf on >x ~* &* +@all -subscribe -ssubscribe -psubscribe",
        "user mute on >x ~* &* +@all -publish",
        "user scriptless on >x ~* &* +@all -eval -evalsha",
        "user elsewhere on >x ~other:* &* +@all",
        "user right on >x ~{genai}:* &{genai}:*"
        " -@all +@read +@write +@scripting +@pubsub +@connection +@transaction +info +time +wait",
    )
    for user in ("deaf", "mute", "scriptless", "elsewhere"):
        assert "lacks a permission; it needs: +@read" in refusal(server.url.replace("redis://", f"redis://{user}:x@"))
    open_store(server.url.replace("redis://", "redis://right:x@"))


@pytest.mark.parametrize("version", ["0", "999", ""], ids=["older", "newer", "none"])
async def test_data_of_another_version(tmp_path: Path, version: str) -> None:
    """A whole server does not start on them, says why in one line, and leaves them as they are."""
    url = redis_url(tmp_path)
    open_store(url)
    key = "{" + url.rpartition("=")[2] + "}:version"
    valkey().ask("SET", key, version)
    assert "another version" in refusal(url)
    with pytest.raises(RuntimeError) as refused:
        async with serving("sse", env={**FAST, "STORE_URL": url}):
            pass
    assert "are of another version of this program; use another ?prefix= or database" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert valkey().ask("GET", key) == f"${len(version)}\r\n{version}\r\n".encode()


def test_a_store_that_is_full(start: Start) -> None:
    assert "raise maxmemory" in refusal(start("maxmemory 1mb").url)


def test_replicas_are_not_waited_for_in_a_cluster(start: Start) -> None:
    server = start(*CLUSTER)
    assert "not with a cluster" in refusal(f"redis+cluster://127.0.0.1:{server.port}", ack_replicas=1)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host:port/0",
        "redis://host/name",
        "redis://host/0/1",
        "redis://host/0?prefx=a",
        "redis://host/0?prefix=",
        "redis://host/0?prefix={a}",
        "redis+sentinel://host:26379",
        "redis+cluster://host/1",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    assert "STORE_URL" in refusal(url)


def test_addresses() -> None:
    one = parse_address("rediss://ada:p%40ss@store.example:7000/3?prefix=blue&ssl_ca_certs=/ca.pem", "other")
    assert (one.form, one.hosts, one.database, one.prefix) == ("single", (("store.example", 7000),), 3, "blue")
    assert (one.username, one.password) == ("ada", "p@ss")
    assert one.tls == {"ssl": True, "ssl_ca_certs": "/ca.pem"}
    sentinel = parse_address("redis+sentinel://a:1,b,[::1]:3/mymaster/2", "secret")
    assert (sentinel.form, sentinel.service, sentinel.database) == ("sentinel", "mymaster", 2)
    assert sentinel.hosts == (("a", 1), ("b", 26379), ("::1", 3))
    assert (sentinel.password, sentinel.tls) == ("secret", None)
    assert "secret" not in str(sentinel)


def test_without_the_extra_the_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from shared.store.open import open_store\n"
        "try: open_store('redis://127.0.0.1:1/0')\n"
        "except ValueError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert 'pip install -e ".[redis]"' in run.stdout


async def _talks(store: RedisStore) -> None:
    started = await store.start_turn(asked(session_id=await new_session(store)))
    await end(store, started, "Hello")
    text = await store.read_text(started.turn.turn_id)
    assert text is not None and text[1] == "Hello"
    await store.close()


async def test_over_tls_the_certificate_is_verified(tmp_path: Path) -> None:
    """The Valkey of these tests has no TLS, so a relay speaks it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    make = [*command.split(), "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", valkey().port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context) as server:
        url = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        assert "cannot be used" in await asyncio.to_thread(refusal, url)
        await _talks(await asyncio.to_thread(RedisStore, f"{url}?ssl_ca_certs={certificate}", Options()))


async def test_a_cluster_with_one_tag(start: Start) -> None:
    server = start(*CLUSTER)
    assert server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383).startswith(b"+OK")
    await until(lambda: b"cluster_state:ok" in server.ask("CLUSTER", "INFO"))
    await _talks(RedisStore(f"redis+cluster://127.0.0.1:{server.port}", Options()))


async def test_an_event_is_on_a_replica_before_it_is_acknowledged(start: Start) -> None:
    """WAIT, then publish; without enough replicas the store is not usable for writes."""
    primary = start()
    alone = RedisStore(primary.url, Options(ack_replicas=1))
    assert await refused(new_session(alone)) == "storage_unavailable"
    await alone.close()
    replica = start(f"replicaof 127.0.0.1 {primary.port}")
    await until(lambda: b"state=online" in primary.ask("INFO", "replication"))
    store = RedisStore(f"{primary.url}?prefix=acked", Options(ack_replicas=1))
    started = await store.start_turn(asked(session_id=await new_session(store)))
    await end(store, started, "Hello")
    assert b"completed" in replica.ask("HGETALL", "{acked}:t:" + started.turn.turn_id)
    await store.close()
