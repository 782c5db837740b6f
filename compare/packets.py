"""``python -m compare packets``: packets that are really lost, and an address that changes in mid-answer (Linux, root).

Two network namespaces, a line between them that delays each packet and drops a seeded share, the kernel's own TCP and UDP at
both ends. Ten streams share one connection or have one each, over HTTP/1.1, HTTP/2, gRPC, and HTTP/3 where Caddy and pyqwest
are installed. ``python -m compare --network real`` is the same command.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from compare.lines.packets.namespaces import NoPacketLine, why_not
from compare.measuring.packets.run import PacketPlan, measure
from compare.measuring.packets.ways import MOVED, WAYS
from compare.measuring.statistics import ENOUGH_ROUNDS
from compare.showing import packets_report
from compare.showing.folder import prepare
from protocols.live import open_console
from shared.signals import run_until_signal
from shared.usage import reason, usage_of

CANNOT_RUN = 3


def parse(argv: Sequence[str] | None) -> tuple[PacketPlan, Path]:
    """The plan, and the folder for the report."""
    parser = argparse.ArgumentParser(
        prog="python -m compare packets", description=usage_of(__doc__.partition("\n\n")[0])
    )
    parser.add_argument("--only", help=f"protocols, comma-separated, of {', '.join(WAYS)}")
    parser.add_argument("--loss", default="0,2,5", metavar="N,N", help="lost packets in percent (default: 0,2,5)")
    parser.add_argument("--delay-ms", type=float, default=50.0, metavar="N", help="of each direction (default: 50)")
    parser.add_argument("--streams", type=int, default=10, metavar="N", help="turns at once (default: 10)")
    parser.add_argument("--tokens", type=int, metavar="N", help="length of a turn (default: 80, with --quick 40)")
    parser.add_argument("--rate", type=float, default=20.0, metavar="N", help="tokens a second a turn (default: 20)")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"rounds (default: {ENOUGH_ROUNDS}, with --quick 1; fewer claim nothing)",
    )
    parser.add_argument("--quick", action="store_true", help="one short round with 0 and 2 %% loss")
    parser.add_argument("--seed", type=int, default=1, help="seed of the losses and of the order (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("compare-out/packets"), help="folder to write (default: compare-out/packets)"
    )
    args = parser.parse_args(argv)
    ways = args.only.split(",") if args.only else list(WAYS)
    if unknown := set(ways) - set(WAYS):
        parser.error(f"no such protocol: {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    try:
        losses = [
            float(part) / 100 for part in ("0,2" if args.quick and args.loss == "0,2,5" else args.loss).split(",")
        ]
    except ValueError:
        parser.error("--loss: percents with commas between them, such as 0,2,5")
    rounds = args.rounds if args.rounds is not None else 1 if args.quick else ENOUGH_ROUNDS
    tokens = args.tokens if args.tokens is not None else 40 if args.quick else 80
    if min(args.streams, tokens, rounds) < 1 or args.rate <= 0 or args.delay_ms < 0:
        parser.error("--streams, --tokens, --rounds and --rate must be positive")
    if not all(0 <= loss < 1 for loss in losses):
        parser.error("--loss: at least 0 and less than 100")
    plan = PacketPlan(
        ways=ways,
        losses=losses,
        delay_s=args.delay_ms / 1000,
        streams=args.streams,
        tokens=tokens,
        rate=args.rate,
        rounds=rounds,
        move_rounds=rounds,
        seed=args.seed,
    )
    return plan, args.out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report. Returns the exit status: 3 where this machine cannot do it, 2 when it fails, 130 on Ctrl-C."""
    plan, out = parse(argv)
    if missing := why_not():
        return _cannot(missing)
    try:
        prepare(out)
        stopped = "stopped; the servers and the namespaces are gone, nothing was written"
        return asyncio.run(run_until_signal(_run(open_console(), plan, out), stopped))
    except NoPacketLine as error:
        return _cannot(str(error))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2


def _cannot(missing: str) -> int:
    sys.stderr.write(f"{missing} Anywhere else: python -m compare race --network lossy, a line that a relay shapes.\n")
    return CANNOT_RUN


async def _run(console: Console, plan: PacketPlan, out: Path) -> int:
    about = f"{plan.expected_s:.0f} s" if plan.expected_s < 90 else f"{plan.expected_s / 60:.0f} minutes"
    console.print(f"{plan.rounds * len(plan.cells)} measurements and {len(MOVED)} moved clients: about {about}.")
    with console.status("starting the servers") as status:

        def tell(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                console.print(text, markup=False)

        run = await measure(plan, tell)
    await asyncio.to_thread(packets_report.write, out, run)
    packets_report.show(console, run.results)
    console.print(f"\n{out / 'packets.md'}, with the picture {out / 'head-of-line.svg'}", markup=False, soft_wrap=True)
    failed = run.results.move_failures or any(cell.failures for cell in run.results.cells)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
