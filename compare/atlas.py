"""``python -m compare atlas``: probe every wire through every proxy and write ``compare/ATLAS.md``; about half an hour.

The exit status is 0, 1 when the probe was wrong on a path, 2 when a proxy is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from compare.probing.planted.plain import PLAIN
from compare.probing.planted.run_paths import PathResult, missing_programs, run_paths
from compare.probing.planted.self_test import JOBS, line, score
from compare.probing.planted.table import CLEAN, PLANTED
from compare.showing.atlas_page import atlas
from protocols.live import open_console
from shared.signals import run_until_signal

PAGE = Path(__file__).with_name("ATLAS.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the atlas, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m compare atlas", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, default=PAGE, metavar="FILE", help="default: compare/ATLAS.md")
    parser.add_argument("--jobs", type=int, default=JOBS, metavar="N", help=f"paths at once (default: {JOBS})")
    args = parser.parse_args(argv)
    try:
        return asyncio.run(run_until_signal(_write(open_console(), args.out, args.jobs), "stopped"))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


async def _write(console: Console, out: Path, jobs: int) -> int:
    paths = (*PLAIN, *PLANTED, *CLEAN)
    if missing := missing_programs(paths):
        raise RuntimeError(f"not installed: {', '.join(sorted(missing))}; docs/paths.md says how to install them")
    begun = time.monotonic()

    def tell(result: PathResult) -> None:
        words = f"{result.path.name}, {result.path.wire}: {', '.join(sorted(result.kinds)) or 'nothing'}"
        shown = words if result.path in PLAIN and not result.error else line(result)
        console.print(f"{time.monotonic() - begun:6.1f} s  {shown}", markup=False, soft_wrap=True)

    results = await run_paths(paths, jobs, tell)
    plain, tested = results[: len(PLAIN)], results[len(PLAIN) :]
    planted, clean = tested[: len(PLANTED)], tested[len(PLANTED) :]
    await asyncio.to_thread(out.write_text, atlas(plain, planted, clean), encoding="utf-8")
    console.print(f"{out}: {score(tested)}", style="bold", markup=False)
    return 0 if all(result.right for result in tested) and not any(result.error for result in plain) else 1
