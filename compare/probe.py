"""``python -m compare probe ADDRESS``: does the path to a server hold, cut, strip or repeat its stream?

The probe is a client alone. It takes about ten seconds and the patience. Exit status 0: nothing was found, 1: findings, 2: no
server answers there. ``--self-test`` plants faults in five proxies and tells how many of them the probe names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from rich.console import Console

from compare.probing.all_checks import Check, checks_for, probe
from compare.probing.findings import of_outcomes
from compare.probing.foreign import FOREIGN_CHECKS, Foreign, probe_foreign
from compare.probing.http1 import fetch
from compare.probing.outcome import Finding, Outcome
from compare.probing.planted.self_test import JOBS, self_test
from compare.probing.recognise import RecognisedServer, recognise
from compare.probing.steadiness import watching
from compare.probing.subject import Subject
from compare.probing.target import Target, parse_target
from compare.probing.wires import WIRES
from compare.showing.probe_view import ProbeView, as_record, show_findings
from protocols.live import open_console
from shared.config import Settings
from shared.errors import ServerAbsent
from shared.signals import run_until_signal

CLEAN, FINDINGS, UNREACHABLE = 0, 1, 2
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
    parser = argparse.ArgumentParser(prog="python -m compare probe", description=__doc__.partition("\n\n")[0])
    add = parser.add_argument
    add("address", metavar="ADDRESS", nargs="?", help="HOST:PORT or a URL, as your users reach the server")
    add("--wire", choices=WIRES, help="the server's transport (default: the server is asked)")
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


async def _probe(args: argparse.Namespace) -> int:
    console = Console(stderr=True, highlight=False) if args.json else open_console()
    target = _target(args.address, args)
    server = RecognisedServer("") if args.method else await recognise(target, args.wire)
    usual: set[str] = set()
    if server.word:
        checks = checks_for(server.word)
        if not server.costs_nothing and not args.allow_turns:
            checks = [check for check in checks if not check.turns]
        console.print(_announcement(args, server, checks), markup=False)
        if args.direct:
            direct = _target(args.direct, args)
            outcomes = await _watched(console, f"direct: {args.direct}", _own(direct, server, checks, args), checks)
            usual = {finding.kind for finding in of_outcomes(outcomes.values())}
        outcomes = await _watched(console, args.address, _own(target, server, checks, args), checks)
    else:
        foreign = _foreign(console, target, args)
        outcomes = await _watched(console, args.address, probe_foreign(foreign, args.patience), FOREIGN_CHECKS)
    findings = [finding for finding in of_outcomes(outcomes.values()) if finding.kind not in usual]
    if args.json:
        sys.stdout.write(json.dumps(_record(args, server, outcomes, findings), indent=2) + "\n")
    else:
        show_findings(console, findings, await _product(target) if server.word in ("rest", "ndjson", "sse") else None)
    return FINDINGS if findings else CLEAN


def _target(address: str, args: argparse.Namespace) -> Target:
    settings = Settings()
    secret, ca = settings.api_secret_key, args.ca or settings.tls_ca
    key = args.key or (secret.get_secret_value() if secret else None)
    return parse_target(address, key, ssl.create_default_context(cafile=ca) if ca else None)


def _announcement(args: argparse.Namespace, server: RecognisedServer, checks: Sequence[Check]) -> str:
    turns = sum(check.turns for check in checks) * (2 if args.direct else 1)
    model = f"the {server.provider} model answers" if server.provider else "a model answers"
    started = f"starts about {turns} turns" if turns else "starts no turn without --allow-turns, and tells less"
    return f"Probing {server.word} at {args.address}; {model}: the probe {started}."


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


def _record(
    args: argparse.Namespace, server: RecognisedServer, outcomes: dict[str, Outcome], findings: Sequence[Finding]
) -> dict[str, object]:
    return {
        "address": args.address,
        "wire": server.word,
        "provider": server.provider,
        "patience_s": args.patience,
        "checks": [
            {"check": name, "judged": outcome.judged, "words": outcome.words} for name, outcome in outcomes.items()
        ],
        "findings": [as_record(finding) for finding in findings],
    }
