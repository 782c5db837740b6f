"""What ``STORE_URL`` says about a Redis or Valkey: where it is, how it is found, and how it is spoken to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

Form = Literal["single", "sentinel", "cluster"]

_FORMS: dict[str, Form] = {
    "redis": "single",
    "rediss": "single",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}
SCHEMES = tuple(_FORMS)
_PORTS: dict[Form, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """``hosts`` are the server itself, the Sentinels, or the cluster's first nodes. ``tls`` are the library's options."""

    form: Form
    hosts: tuple[tuple[str, int], ...]
    service: str
    database: int
    prefix: str
    username: str | None
    password: str | None
    tls: dict[str, Any] | None

    def __str__(self) -> str:
        """The address without its password, for messages."""
        return ",".join(f"{host}:{port}" for host, port in self.hosts)


def parse_address(url: str, password: str | None) -> Address:
    """The address that ``url`` gives; ``password`` (STORE_PASSWORD) stands in for one in the URL.

    Raises ValueError that shows the right form.
    """
    parts = urlsplit(url)
    form = _FORMS.get(parts.scheme)
    if form is None:
        raise ValueError(f"STORE_URL must begin with one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, url_password = credentials.partition(":")
    path = [piece for piece in parts.path.split("/") if piece]
    service = ""
    if form == "sentinel":
        if not path:
            raise ValueError("STORE_URL must be redis+sentinel://HOST:26379,HOST:26379/NAME/0; NAME is the primary's")
        service = unquote(path.pop(0))
    if len(path) > 1 or (path and not path[0].isdecimal()) or (form == "cluster" and path):
        raise ValueError("STORE_URL must end with the number of the database, such as redis://HOST:6379/0")
    tls, prefix = _options(parts.query, parts.scheme == "rediss")
    return Address(
        form=form,
        hosts=tuple(_host(host, _PORTS[form]) for host in hosts.split(",")),
        service=service,
        database=int(path[0]) if path else 0,
        prefix=prefix,
        username=unquote(user) or None,
        password=unquote(url_password) or password or None,
        tls=tls,
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    try:
        port = parts.port or default_port
    except ValueError:
        raise ValueError(f"STORE_URL: {text.rpartition(':')[2]} is no port") from None
    if not parts.hostname:
        raise ValueError("STORE_URL must name a host, such as redis://127.0.0.1:6379/0")
    return parts.hostname, port


def _options(query: str, tls: bool) -> tuple[dict[str, Any] | None, str]:
    prefix, options = "genai", dict[str, Any]()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "prefix" and value and not set("{}: \n") & set(value):
            prefix = value
        elif name == "ssl" and value in ("true", "false"):
            tls = value == "true"
        elif name in _TLS_OPTIONS:
            options[name] = value
        else:
            raise ValueError(
                f"STORE_URL: {name}={value} is not known; there are prefix, ssl, {', '.join(_TLS_OPTIONS)}"
            )
    return ({"ssl": True, **options} if tls or options else None), prefix
