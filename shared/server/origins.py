"""Origins (RFC 6454) and host names (RFC 9110, section 7.2) in the one form in which they are compared."""

from __future__ import annotations

import ipaddress
import re

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_SCHEME = r"[a-z][a-z0-9+.-]*"
_NAME = r"[a-z0-9._~-]+"
_IPV6 = r"\[[0-9a-f:.]+\]"
_ORIGIN = re.compile(rf"({_SCHEME})://({_NAME}|{_IPV6})(?::(\d{{1,5}}))?")
_AUTHORITY = re.compile(rf"({_NAME}|{_IPV6})(?::(\d{{0,5}}))?")
_RIGHT_FORM = (
    "write origins as a browser sends them, scheme://host or scheme://host:port, such as https://app.example.com"
)


def canonical_origin(origin: str) -> str | None:
    """``scheme://host[:port]`` in lower case and without the scheme's default port; None for text that is no origin."""
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return None
    scheme, name, digits = match[1], match[2], match[3]
    if digits is None or int(digits) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{name}"
    return f"{scheme}://{name}:{int(digits)}" if 0 < int(digits) < 65536 else None


def origin_of(scheme: str, host: str) -> str | None:
    """The origin of a request's own scheme and ``Host``; a WebSocket's schemes count as HTTP's."""
    return canonical_origin(f"{scheme.replace('ws', 'http', 1)}://{host.strip()}")


def host_name(host: str) -> str | None:
    """The name in a ``Host``, in lower case and without the port; None for text that is no host."""
    match = _AUTHORITY.fullmatch(host.strip().lower())
    return match[1] if match else None


def is_address(name: str) -> bool:
    """Whether a name is an IP address: four decimal parts, or IPv6 in brackets and without a zone."""
    try:
        if name.startswith("["):
            return bool(ipaddress.IPv6Address(name[1:-1]))
        return bool(ipaddress.IPv4Address(name))
    except ValueError:
        return False


def parse_allowed_origins(setting: str) -> frozenset[str] | None:
    """The origins of ``ALLOWED_ORIGINS``, comma-separated; None for ``*``, which allows every origin.

    A closing slash and the scheme's default port are dropped. Raises ValueError, with the right form, for an entry that no browser
    can send.
    """
    entries = [entry.strip() for entry in setting.split(",") if entry.strip()]
    if entries == ["*"]:
        return None
    origins = set()
    for entry in entries:
        origin = canonical_origin(entry.removesuffix("/"))
        if origin is None:
            shown = re.sub(r"//[^/]*@", "//…@", entry)
            raise ValueError(f"ALLOWED_ORIGINS: {shown!r} {_fault(entry)}; {_RIGHT_FORM}")
        origins.add(origin)
    return frozenset(origins)


def _fault(entry: str) -> str:
    """Why an entry is no origin, for the operator."""
    if entry == "*":
        return "allows every origin and so stands alone"
    if entry.lower() == "null":
        return "is what every sandboxed page sends, so it cannot be told apart"
    if " " in entry:
        return "has a blank inside, and a comma stands between origins"
    if "*" in entry:
        return "has a * inside, and every origin is named in full"
    scheme, colon, rest = entry.partition("://")
    if not colon:
        return f"has no scheme, did you mean https://{entry.split('/')[0]}?"
    for sign, what in (("@", "a user"), ("?", "a query"), ("#", "a fragment"), ("/", "a path")):
        if sign in rest:
            name = rest.rpartition("@")[2]
            return f"has {what}, did you mean {scheme}://{re.split('[/?#]', name)[0]}?"
    if not entry.isascii():
        return "has letters that are not ASCII, write the xn-- form of the name"
    return "is no origin"
