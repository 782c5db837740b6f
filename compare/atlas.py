"""``python -m compare atlas``: probe every wire through every proxy and write ``compare/ATLAS.md``; about half an hour.

``--check`` writes nothing: it tells where the page of this run differs from the page that is there. The exit status is 0, 1 when
the probe was wrong on a path or the pages differ, 2 when a proxy is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from compare.probing.planted.clean import CLEAN, HARMLESS
from compare.probing.planted.plain import PLAIN
from compare.probing.planted.run_paths import PathResult, missing_programs, run_paths
from compare.probing.planted.self_test import JOBS, line, score
from compare.probing.planted.table import PLANTED
from compare.showing.atlas_page import atlas
from protocols.live import open_console
from shared.signals import run_until_signal
from shared.usage import reason, usage_of

PAGE = Path(__file__).with_name("ATLAS.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the atlas, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m compare atlas", description=usage_of(__doc__.partition("\n\n")[0]))
    parser.add_argument(
        "--out", type=Path, default=PAGE, metavar="FILE", help="the page to write (default: compare/ATLAS.md)"
    )
    parser.add_argument("--jobs", type=int, default=JOBS, metavar="N", help=f"paths at once (default: {JOBS})")
    parser.add_argument("--check", action="store_true", help="compare with the page that is there, and write nothing")
    args = parser.parse_args(argv)
    try:
        work = _make(open_console(), args.out, args.jobs, check=args.check)
        return asyncio.run(run_until_signal(work, "stopped"))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2


async def _make(console: Console, out: Path, jobs: int, *, check: bool) -> int:
    paths = (*PLAIN, *PLANTED, *CLEAN, *HARMLESS)
    if missing := missing_programs(paths):
        raise RuntimeError(f"not installed: {', '.join(sorted(missing))}; docs/paths.md says how to install them")
    begun = time.monotonic()

    def tell(result: PathResult) -> None:
        words = f"{result.path.name}, {result.path.wire}: {', '.join(sorted(result.kinds)) or 'nothing'}"
        shown = words if result.path in PLAIN and not result.error else line(result)
        console.print(f"{time.monotonic() - begun:6.1f} s  {shown}", markup=False, soft_wrap=True)

    results = await run_paths(paths, jobs, tell)
    plain, tested = results[: len(PLAIN)], results[len(PLAIN) :]
    planted, silent = tested[: len(PLANTED)], tested[len(PLANTED) :]
    page = atlas(plain, planted, silent)
    same = not check or await asyncio.to_thread(_same, console, out, page)
    if not check:
        await asyncio.to_thread(out.write_text, page, encoding="utf-8")
    console.print(f"{out}: {score(tested)}", style="bold", markup=False)
    return 0 if same and all(result.right for result in tested) and not any(result.error for result in plain) else 1


def _same(console: Console, out: Path, page: str) -> bool:
    """Whether the page is the one that is there; prints the lines that differ."""
    there = out.read_text(encoding="utf-8")
    for row in difflib.unified_diff(there.splitlines(), page.splitlines(), str(out), "this run", lineterm="", n=0):
        console.print(row, markup=False, soft_wrap=True)
    console.print("the page is the same" if page == there else "the page differs", style="bold")
    return page == there
