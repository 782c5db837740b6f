"""The picture behind a URL that an image server sent in place of the bytes.

The URL comes from another program, so it must not make this server read what only this server can reach. A URL is fetched when its
origin is the image server's own (RFC 6454: scheme, host, port), or when it is https and every address of its host is public. The
connection goes to the address that was checked, each redirect is checked anew, and no key, cookie or proxy is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.llm.checked import NotAnAnswer

if TYPE_CHECKING:
    import httpx2

MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], Awaitable[list[Address]]]


async def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found))


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet.

    An IPv6 address that stands for an IPv4 address counts as that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


@dataclass(frozen=True, slots=True)
class Downloads:
    """Fetches pictures for the image server at ``base_url``; ``max_bytes`` limits one picture, the caller limits the time.

    ``resolve`` and ``public`` are replaced in tests, which have no public addresses.
    """

    base_url: str
    max_bytes: int
    resolve: Resolve = resolve
    public: Callable[[Address], bool] = is_public

    async def fetch(self, url: str) -> bytes:
        """The bytes behind ``url``, which may be relative to the base URL. Raises NotAnAnswer."""
        import httpx2

        try:
            context = await asyncio.to_thread(httpx2.create_ssl_context)
            target = httpx2.URL(self.base_url.rstrip("/") + "/").join(url)
            for _ in range(1 + MAX_REDIRECTS):
                # A client for each request: no cookie is kept, and nothing of the environment counts but the certificates.
                async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=None) as http:
                    answer = await self._get(http, target)
                if isinstance(answer, bytes):
                    return answer
                target = target.join(answer)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            if isinstance(error, NotAnAnswer):
                raise
            raise NotAnAnswer(f"the picture's URL cannot be fetched: {type(error).__name__}") from None
        raise NotAnAnswer(f"the picture's URL redirects more than {MAX_REDIRECTS} times")

    async def _get(self, http: httpx2.AsyncClient, target: httpx2.URL) -> bytes | str:
        """One request: the picture's bytes, or where a redirect leads."""
        connect_to, extensions = await self._checked(target)
        headers = {"host": target.netloc.decode("ascii"), "accept": "image/*", "accept-encoding": "identity"}
        async with http.stream("GET", connect_to, headers=headers, extensions=extensions) as response:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return str(response.headers["location"])
            if response.status_code != 200:
                raise NotAnAnswer(f"the picture's URL gives HTTP {response.status_code}")
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > self.max_bytes:
                    raise NotAnAnswer(f"a picture is larger than {self.max_bytes} bytes")
            return bytes(data)

    async def _checked(self, target: httpx2.URL) -> tuple[httpx2.URL, dict[str, str]]:
        """Where to connect for this URL, and the name that the certificate must have. Raises NotAnAnswer."""
        import httpx2

        plain = target.copy_with(userinfo=b"", fragment=None)
        if _origin(target) == _origin(httpx2.URL(self.base_url)):
            return plain, {}
        host = target.raw_host.decode("ascii")
        if target.scheme != "https" or not host:
            raise NotAnAnswer("the picture's URL is neither the image server's own nor https")
        addresses = await self.resolve(host, target.port or _PORTS["https"])
        if not addresses or not all(map(self.public, addresses)):
            raise NotAnAnswer("the picture's URL leads to an address that is not public")
        return plain.copy_with(host=str(addresses[0])), {"sni_hostname": host}


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port or _PORTS.get(url.scheme)
