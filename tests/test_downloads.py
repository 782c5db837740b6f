"""The pictures behind URLs: which URLs are fetched, and that the connection goes to the address that was checked."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from pathlib import Path

import pytest
import trustme

from shared.images.download import Address, Downloads, is_public
from shared.llm.checked import NotAnAnswer
from tests.emulators import Emulator
from tests.emulators.images import picture

MAX = 1 << 20
HOST = "pictures.example"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("64:ff9b::808:808", True),
        ("::ffff:8.8.8.8", True),
        ("2002:808:808::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.1.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("2001:db8::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}/pictures/plain.png",
        "http://localhost:{port}/pictures/plain.png",
        "http://127.0.0.1:9/pictures/plain.png",
        "https://127.0.0.1:{port}/pictures/plain.png",
        "https://[::1]:{port}/pictures/plain.png",
        "https://2130706433:{port}/pictures/plain.png",
        "https://0x7f.1:{port}/pictures/plain.png",
        "//127.0.0.1:9/pictures/plain.png",
        "ftp://127.0.0.1:{port}/pictures/plain.png",
        "https://",
        "https:///pictures/plain.png",
        "http://[",
        "https://no.such.name.invalid/",
    ],
)
async def test_other_origins_are_not_fetched(url: str) -> None:
    async with Emulator() as emulator:
        with pytest.raises(NotAnAnswer):
            await Downloads(emulator.openai_url, MAX).fetch(url.format(host=HOST, port=emulator.port))
        assert emulator.seen == []


@pytest.mark.parametrize(
    "url", ["{base}/pictures/plain.png", "/pictures/plain.png", "HTTP://user:key@127.0.0.1:{port}/pictures/plain.png#x"]
)
async def test_the_servers_own_origin_is_fetched(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with Emulator() as emulator:
        data = await Downloads(emulator.openai_url, MAX).fetch(url.format(base=emulator.base_url, port=emulator.port))
        assert data == picture("1536x1024", 200)
        assert emulator.seen[0].headers.keys() <= {"host", "accept", "accept-encoding", "connection", "user-agent"}
        assert emulator.seen[0].headers["host"] == f"127.0.0.1:{emulator.port}"
        with pytest.raises(NotAnAnswer, match="larger than 100"):
            await Downloads(emulator.openai_url, 100).fetch("/pictures/plain.png")


async def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name is resolved once; TLS still asks for the name's own certificate, and ``Host`` is the name."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(tls)
    names: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[Address]:
        names.append((host, port))
        return [ipaddress.ip_address("127.0.0.1")]

    async with Emulator(tls=tls) as emulator:
        url = f"https://{HOST}:{emulator.port}/pictures/plain.png"
        downloads = Downloads("http://images.example/v1", MAX, resolve=resolve, public=lambda _: True)
        assert await downloads.fetch(url) == picture("1536x1024", 200)
        assert names == [(HOST, emulator.port)]
        assert emulator.seen[0].headers["host"] == f"{HOST}:{emulator.port}"
        with pytest.raises(NotAnAnswer, match="ConnectError"):
            await downloads.fetch(url.replace(HOST, "other.example"))
        checked = Downloads("http://images.example/v1", MAX, resolve=resolve)
        with pytest.raises(NotAnAnswer, match="not public"):
            await checked.fetch(url)
        assert len(emulator.seen) == 1


async def test_every_address_of_a_name_must_be_public() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        return [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("10.0.0.1")]

    with pytest.raises(NotAnAnswer, match="not public"):
        await asyncio.wait_for(Downloads("http://images.example", MAX, resolve=resolve).fetch(f"https://{HOST}/"), 30)
