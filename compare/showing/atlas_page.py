"""``compare/ATLAS.md``: what each proxy does to each wire, and the line to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compare.probing.advice import ADVICE, HARM, TRIED
from compare.probing.outcome import Kind
from compare.probing.planted.plain import HEARTBEAT_S, PATIENCE_S
from compare.probing.planted.run_paths import PathResult
from protocols import TRANSPORTS

RELAY = "The relay of this project"
PRODUCTS = {"nginx": "nginx", "haproxy": "HAProxy", "caddy": "Caddy", "envoy": "Envoy", "traefik": "Traefik"}


def atlas(plain: Sequence[PathResult], planted: Sequence[PathResult], clean: Sequence[PathResult]) -> str:
    """The page. It holds no figure of the run, so that a run on another machine writes the same page."""
    return f"""# What each proxy does to each wire, and the line to change

`python -m compare atlas` wrote this page: it starts each proxy in front of the five servers and probes every wire through it, as
`python -m compare probe ADDRESS` does with yours. The settings were {TRIED}, all on one machine.

## The configuration that people have

Each proxy as its documentation or package begins, with a silence of {PATIENCE_S:g} s and heartbeats every {HEARTBEAT_S:g} s.

{_matrix(plain)}

{_cures_of_plain(plain)}

## One setting, and what it does

Each setting was planted alone. "It does" is the title of what the probe said. The second table of a proxy has the line to change.

{_settings(planted)}

## Nothing found

"As in the README" are the lines in the transports' READMEs, word for word.

{_nothing(clean)}
"""


def _matrix(plain: Sequence[PathResult]) -> str:
    rows = [f"| | {' | '.join(TRANSPORTS)} |", f"|---|{'---|' * len(TRANSPORTS)}"]
    for program, title in PRODUCTS.items():
        cells = [_said(result) for result in plain if result.path.program == program]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _said(result: PathResult) -> str:
    if result.error:
        return "does not start"
    return "<br>".join(ADVICE[kind].title for kind in _sorted(result.kinds)) or "nothing"


def _sorted(kinds: Iterable[str]) -> list[Kind]:
    found = set(kinds)
    return [kind for kind in HARM if kind in found]


def _cures_of_plain(plain: Sequence[PathResult]) -> str:
    rows = ["| proxy | what it does by default | the line to change |", "|---|---|---|"]
    for program, title in PRODUCTS.items():
        kinds = {kind for result in plain if result.path.program == program for kind in result.kinds}
        rows += [f"| {title} | {ADVICE[kind].title} | {_cure(title, kind)} |" for kind in _sorted(kinds)]
    return "\n".join(rows)


def _cure(title: str, kind: Kind) -> str:
    return ADVICE[kind].cures.get(title) or ADVICE[kind].here


def _settings(planted: Sequence[PathResult]) -> str:
    """For each proxy what its settings do, and the line to change for what they do."""
    parts = []
    for title in (*PRODUCTS.values(), RELAY):
        wires: dict[tuple[str, Kind], list[str]] = {}
        for result in planted:
            path = result.path
            if path.expected is not None and result.right and PRODUCTS.get(path.program, RELAY) == title:
                wires.setdefault((path.name, path.expected), []).append(path.wire)
        rows = [f"| {name} | {', '.join(found)} | {ADVICE[kind].title} |" for (name, kind), found in wires.items()]
        cures = {ADVICE[kind].title: _cure(title, kind) for kind in _sorted(kind for _, kind in wires)}
        changes = [f"| {does} | {cure} |" for does, cure in cures.items() if cure]
        parts += [f"### {title}", "\n".join(["| setting | wires | it does |", "|---|---|---|", *rows])]
        parts.append("\n".join(["| it does | the line to change |", "|---|---|", *changes]))
    return "\n\n".join(parts)


def _nothing(clean: Sequence[PathResult]) -> str:
    wires: dict[str, list[str]] = {}
    for result in clean:
        if result.right:
            wires.setdefault(result.path.name, []).append(result.path.wire)
    return "\n".join(f"- {name}: {', '.join(found)}" for name, found in wires.items())
