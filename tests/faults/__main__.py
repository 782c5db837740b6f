"""``python -m tests.faults``: every check at its full size, with totals and seeds; the exit status is 0 when all faults count 0."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

from protocols import TRANSPORTS
from tests.faults import bombs
from tests.faults.checks import CHECKS, run
from tests.faults.harness import Totals, say


async def _run_all(names: list[str], seed: int, share: float) -> list[Totals]:
    done = []
    for name in names:
        say(f"{name} …")
        totals = await run(CHECKS[name], seed, share)
        print(totals, flush=True)
        for example in totals.examples:
            print(f"    {example}", flush=True)
        done.append(totals)
    return done


def main() -> int:
    """Run the checks that are named, and print their totals."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="CHECK",
        help=f"of {', '.join(CHECKS)} (default: all); or bombs, then names of attacks: /health beside each attack",
    )
    parser.add_argument("--seed", type=int, help="repeats a run (default: a random seed)")
    parser.add_argument("--share", type=float, default=1.0, help="of the full size, from 0 to 1 (default: 1)")
    args = parser.parse_args()
    if args.names[:1] == ["bombs"]:
        return 1 if asyncio.run(bombs.main(args.names[1:], list(TRANSPORTS), 8 * args.share)) else 0
    unknown = set(args.names) - CHECKS.keys()
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1_000_000)
    begun = time.monotonic()
    print(f"seed {seed}, share {args.share:g}", flush=True)
    done = asyncio.run(_run_all(args.names or list(CHECKS), seed, args.share))
    bad = sum(totals.bad for totals in done)
    print(
        f"all {sum(totals.runs for totals in done)} runs: lost {sum(totals.lost for totals in done)},"
        f" shown twice {sum(totals.twice for totals in done)}, generated twice {sum(totals.generated for totals in done)},"
        f" ends wrong {sum(totals.ends for totals in done)}, hash wrong {sum(totals.hashes for totals in done)},"
        f" other {sum(totals.other for totals in done)}; seed {seed}; {time.monotonic() - begun:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
