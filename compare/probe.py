"""``python -m compare probe ADDRESS``: does the path to a server hold, cut, strip or repeat its stream?

The probe is a client alone. It takes about ten seconds and the patience for each wire. Exit status 0: nothing was found, 1:
findings, 2: no server answers there. ``--self-test`` plants faults in five proxies and tells how many of them the probe names.
docs/probe.md has the checks, what each sends, and the shape of ``--json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rich.console import Console

from compare.probing.all_checks import Check, checks_for, probe
from compare.probing.checks.pace import refusal
from compare.probing.document import AbsentWire, ProbedWire, as_document
from compare.probing.findings import of_outcomes
from compare.probing.foreign import FOREIGN_CHECKS, Foreign, probe_foreign
from compare.probing.http1 import fetch
from compare.probing.outcome import Finding, Outcome
from compare.probing.planted.self_test import JOBS, self_test
from compare.probing.recognise import RecognisedServer, recognise, speaks
from compare.probing.steadiness import watching
from compare.probing.subject import Subject
from compare.probing.target import Target, parse_target
from compare.probing.wires import WIRES
from compare.showing.probe_view import ProbeView, show_findings
from protocols import TRANSPORTS
from protocols.live import open_console
from shared.config import Settings
from shared.errors import ServerAbsent
from shared.signals import run_until_signal
from shared.usage import usage_of

CLEAN, FINDINGS, UNREACHABLE = 0, 1, 2
_ALL = "all"
_FOUND = 200
# The names that hops give themselves in ``Server`` and ``Via``.
_PRODUCTS = {
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "caddy": "Caddy",
    "envoy": "Envoy",
    "awselb": "ALB",
    "cloudflare": "Cloudflare",
}


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m compare probe", description=usage_of(__doc__.partition("\n\n")[0]))
    add = parser.add_argument
    add("address", metavar="ADDRESS", nargs="?", help="HOST:PORT or a URL, as your users reach the server")
    add(
        "--wire",
        action="append",
        choices=[*WIRES, _ALL],
        help="the transport, may be given several times, or all; HOST without a port then means each one's own port "
        "(default: the server is asked)",
    )
    add("--direct", metavar="ADDRESS", help="the same server without the path: what it does there too is no finding")
    add("--patience", type=float, default=20.0, metavar="S", help="the longest silence that is tried (default: 20)")
    add("--key", help="the server's key (default: API_SECRET_KEY)")
    add("--ca", metavar="FILE", help="certificates to trust, in PEM (default: TLS_CA, else the system's)")
    add("--json", action="store_true", help="the outcomes and findings as one JSON object")
    add("--allow-turns", action="store_true", help="start turns also where a real model answers them")
    add("--body", default="", metavar="JSON", help="for the stream of another server: what is sent to it")
    add("--method", default="", metavar="SERVICE/METHOD", help="for another gRPC server: its server-streaming method")
    add("--self-test", action="store_true", help="plant faults in five proxies, and count those that are named")
    add("--quick", action="store_true", help="with --self-test: twelve faults and six clean paths")
    add("--jobs", type=int, default=JOBS, metavar="N", help=f"with --self-test: paths at once (default: {JOBS})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Probe a path, or run the self-test, and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(argv)
    if args.patience < 1 or args.jobs < 1:
        parser.error("--patience and --jobs: at least 1")
    if bool(args.address) == args.self_test:
        parser.error("give an ADDRESS, or --self-test")
    work = self_test(open_console(), quick=args.quick, jobs=args.jobs) if args.self_test else _probe(args)
    try:
        return asyncio.run(run_until_signal(work, "stopped"))
    except (ServerAbsent, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return UNREACHABLE


@dataclass(frozen=True, slots=True)
class _Planned:
    """One wire that will be probed, with its checks; no checks: a stream of another server."""

    server: RecognisedServer
    target: Target
    direct: Target | None
    checks: Sequence[Check]

    @property
    def turns(self) -> int:
        """About how many turns its checks start."""
        return sum(check.turns for check in self.checks) * (2 if self.direct else 1)


async def _probe(args: argparse.Namespace) -> int:
    console = Console(stderr=True, highlight=False) if args.json else open_console()
    probed: list[ProbedWire] = []
    absent: list[AbsentWire] = []
    try:
        planned = await _plan(args, absent)
        if planned and planned[0].server.word:
            console.print(_announcement(args, planned), markup=False)
        for plan in planned:
            probed.append(await _probe_one(console, args, plan))
            if not args.json:
                named = plan.server.refusal is not None or plan.server.word in ("rest", "ndjson", "sse")
                product = await _product(plan.target) if named else None
                show_findings(console, probed[-1].findings, product, args.patience)
    except (ServerAbsent, ValueError, OSError) as error:
        absent.append(AbsentWire("", str(error)))
    for wire in absent:
        sys.stderr.write(f"{wire.word}: {wire.why}\n" if wire.word else f"{wire.why}\n")
    status = UNREACHABLE if not probed else FINDINGS if any(wire.findings for wire in probed) else CLEAN
    if args.json:
        sys.stdout.write(json.dumps(as_document(args.address, args.patience, status, probed, absent), indent=2) + "\n")
    return status


async def _plan(args: argparse.Namespace, absent: list[AbsentWire]) -> list[_Planned]:
    """The wires to probe. Of several wires, those that do not answer are added to ``absent``."""
    words: list[str] = list(WIRES) if args.wire and _ALL in args.wire else list(dict.fromkeys(args.wire or ()))
    if len(words) < 2:
        return [await _plan_one(args, words[0] if words else None)]
    planned = []
    for word in words:
        target = _target(args.address, args, word)
        try:
            if await speaks(target, word):
                planned.append(await _plan_one(args, word))
            else:
                absent.append(AbsentWire(word, f"{target.authority} does not speak it"))
        except ServerAbsent as error:
            absent.append(AbsentWire(word, str(error)))
    return planned


async def _plan_one(args: argparse.Namespace, word: str | None) -> _Planned:
    target = _target(args.address, args, word)
    direct = _target(args.direct, args, word) if args.direct else None
    server = RecognisedServer("") if args.method else await recognise(target, word)
    checks = checks_for(server.word) if server.word else []
    if not server.costs_nothing and not args.allow_turns:
        checks = [check for check in checks if not check.turns]
    return _Planned(server, target, direct, checks)


async def _probe_one(console: Console, args: argparse.Namespace, plan: _Planned) -> ProbedWire:
    begun_s = time.monotonic()
    server, usual = plan.server, set[str]()
    refused = _refused(args, plan)
    if refused is not None:
        return ProbedWire(server.word, args.address, server.provider, 0.0, {}, [refused])
    if not server.word:
        foreign = _foreign(console, plan.target, args)
        outcomes = await _watched(console, args.address, probe_foreign(foreign, args.patience), FOREIGN_CHECKS)
    else:
        if plan.direct is not None:
            made = _own(plan.direct, server, plan.checks, args)
            outcomes = await _watched(console, f"direct: {args.direct}, {server.word}", made, plan.checks)
            usual = {finding.kind for finding in of_outcomes(outcomes.values())}
        made = _own(plan.target, server, plan.checks, args)
        outcomes = await _watched(console, f"{args.address}, {server.word}", made, plan.checks)
    findings = [finding for finding in of_outcomes(outcomes.values()) if finding.kind not in usual]
    seconds = time.monotonic() - begun_s
    return ProbedWire(server.word, plan.target.authority, server.provider, seconds, outcomes, findings)


def _refused(args: argparse.Namespace, plan: _Planned) -> Finding | None:
    """The finding where the first question is refused, so that neither the server nor its model is known, or has a wrong path."""
    if plan.server.under:
        words = (
            f"a server of this project answers below {plan.server.under}, and a hop takes that part of the path away"
        )
        return Finding("path_changed", "", words)
    heard, known = plan.server.refusal, plan.server.word and (plan.server.costs_nothing or args.allow_turns)
    if heard is None or known or (heard.status == _FOUND and not plan.server.word):
        return None
    kind, words = refusal(WIRES["rest"], heard)
    return Finding(kind, plan.server.word, f"the first question is refused: {words}")


def _target(address: str, args: argparse.Namespace, word: str | None) -> Target:
    settings = Settings()
    secret, ca = settings.api_secret_key, args.ca or settings.tls_ca
    key = args.key or (secret.get_secret_value() if secret else None)
    if word is not None and "://" not in address and ":" not in address:
        address = f"{address}:{_default_port(word)}"
    return parse_target(address, key, ssl.create_default_context(cafile=ca) if ca else None)


def _default_port(word: str) -> int:
    """The port on which the server of a wire listens by default."""
    row = next(row for row in TRANSPORTS.values() if word in (row.word, row.page_word))
    return row.default_port if row.word == word else row.default_port + 1


def _announcement(args: argparse.Namespace, planned: Sequence[_Planned]) -> str:
    turns = sum(plan.turns for plan in planned)
    words = ", ".join(plan.server.word for plan in planned)
    providers = sorted({plan.server.provider for plan in planned} - {""})
    model = f"the {' and '.join(providers)} model answers" if providers else "a model answers"
    started = f"starts about {turns} turns" if turns else "starts no turn without --allow-turns, and tells less"
    return f"Probing {words} at {args.address}; {model}: the probe {started}."


def _foreign(console: Console, target: Target, args: argparse.Namespace) -> Foreign:
    """A stream of another server.

    Raises ValueError where the request would cost money and the user has not allowed that.
    """
    if target.path == "/" and not args.method:
        raise ValueError(
            f"{args.address} is no server of this project: name its transport with --wire, or give the whole URL of a"
            " stream (with --body what is sent to it), or --method of a gRPC server"
        )
    if (args.body or args.method) and not args.allow_turns:
        raise ValueError("a foreign server counts as a real model: --allow-turns sends it this one request")
    asked = "one request with a body" if args.body or args.method else "some GET requests, and nothing with a body"
    console.print(f"Probing another server at {args.address}: the probe sends {asked}.", markup=False)
    return Foreign(target, args.body, args.method)


async def _own(
    target: Target, server: RecognisedServer, checks: Sequence[Check], args: argparse.Namespace
) -> AsyncIterator[tuple[str, Outcome]]:
    async with watching() as steadiness:
        subject = Subject(WIRES[server.word], target, args.patience, steadiness)
        async with aclosing(probe(subject, checks)) as made:
            async for check, outcome in made:
                yield check.name, outcome


async def _watched(
    console: Console, title: str, made: AsyncIterator[tuple[str, Outcome]], checks: Sequence[Check] | Sequence[str]
) -> dict[str, Outcome]:
    """Show the outcomes as they come."""
    outcomes: dict[str, Outcome] = {}
    view = ProbeView(console, title, [check if isinstance(check, str) else check.name for check in checks])
    with view.shown(keep=True):
        async for name, outcome in made:
            outcomes[name] = outcome
            view.tell(name, outcome)
    return outcomes


async def _product(target: Target) -> str | None:
    """The product that a hop names itself in the headers of an answer."""
    headers = (await fetch(target, "GET", "/health")).headers
    said = f"{headers.get('server', '')} {headers.get('via', '')}".lower()
    return next((product for name, product in _PRODUCTS.items() if name in said), None)
