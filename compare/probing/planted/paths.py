"""A path that is probed in the self-test, and how one with a planted setting is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from compare.lines.faults import Faults
from compare.probing.outcome import Kind
from compare.probing.planted import configs

# Above the time-outs that are planted, of 2 and 3 s.
PATIENCE_S = 4.5
Config = Callable[[int, str, str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedPath:
    """A path between the probe and a server: a proxy with a configuration, the relay of this project, or neither
    (direct).

    ``expected`` names what the probe has to find, nothing on a clean path; ``also`` are findings that the same setting
    causes. ``servers``: how many servers are behind the proxy; the configuration gets their addresses with spaces between them.
    ``loaded``: the machine is kept busy meanwhile. ``quick``: part of ``make test``. ``heartbeat_s`` is the
    server's.
    """

    name: str
    wire: str
    program: str = ""
    config: Config | None = None
    faults: Faults | None = None
    servers: int = 1
    expected: Kind | None = None
    also: tuple[Kind, ...] = ()
    loaded: bool = False
    quick: bool = False
    patience_s: float = PATIENCE_S
    heartbeat_s: float = 60.0


def planted(
    program: str,
    config: Config,
    name: str,
    wire: str,
    expected: Kind | None,
    *also: Kind,
    quick: bool = False,
    servers: int = 1,
) -> ProbedPath:
    """A proxy with one setting; ``also`` are findings that the same setting causes."""
    title = {"nginx": "nginx", "haproxy": "HAProxy", "caddy": "Caddy", "envoy": "Envoy", "traefik": "Traefik"}[program]
    return ProbedPath(
        name=f"{title} {name}",
        wire=wire,
        program=program,
        config=config,
        expected=expected,
        also=also,
        quick=quick,
        servers=servers,
    )


def nginx(name: str, wire: str, expected: Kind | None, *also: Kind, quick: bool = False, **lines: Any) -> ProbedPath:
    """nginx; ``lines`` are those of its configuration in ``configs.py``."""
    return planted("nginx", partial(configs.nginx, **lines), name, wire, expected, *also, quick=quick)


def haproxy(name: str, wire: str, expected: Kind | None, *also: Kind, quick: bool = False, **lines: Any) -> ProbedPath:
    """HAProxy; ``lines`` are those of its configuration in ``configs.py``."""
    return planted("haproxy", partial(configs.haproxy, **lines), name, wire, expected, *also, quick=quick)


def caddy(name: str, wire: str, expected: Kind | None, *also: Kind, quick: bool = False, **lines: Any) -> ProbedPath:
    """Caddy; ``lines`` are those of its configuration in ``configs.py``."""
    return planted("caddy", partial(configs.caddy, **lines), name, wire, expected, *also, quick=quick)


def envoy(name: str, wire: str, expected: Kind | None, *also: Kind, quick: bool = False, **parts: Any) -> ProbedPath:
    """Envoy; ``parts`` are those of its configuration in ``configs.py``."""
    return planted("envoy", partial(configs.envoy, **parts), name, wire, expected, *also, quick=quick)


def traefik(name: str, wire: str, expected: Kind | None, *also: Kind, quick: bool = False, **parts: Any) -> ProbedPath:
    """Traefik; ``parts`` are those of its configuration in ``configs.py``."""
    return planted("traefik", partial(configs.traefik, **parts), name, wire, expected, *also, quick=quick)


def relay(name: str, wire: str, faults: Faults, expected: Kind | None, *also: Kind, quick: bool = False) -> ProbedPath:
    """The relay of this project."""
    return ProbedPath(name=f"relay {name}", wire=wire, faults=faults, expected=expected, also=also, quick=quick)
