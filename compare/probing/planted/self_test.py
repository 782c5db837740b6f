"""``probe --self-test``: how many planted faults the probe names, and on how many clean paths it gives a false alarm.

Settings that look harmful and do nothing to a stream are planted too; on them the probe has to be silent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from compare.probing.planted.clean import CLEAN, HARMLESS
from compare.probing.planted.run_paths import PathResult, missing_programs, run_paths
from compare.probing.planted.table import PLANTED

JOBS = 6


async def self_test(console: Console, *, quick: bool, jobs: int = JOBS) -> int:
    """Run it; 0 when every fault was named and no alarm was false, 1 otherwise, 2 when a program is missing.

    ``quick``: the twelve faults and six clean paths of ``make test``.
    """
    paths = [path for path in (*PLANTED, *CLEAN, *HARMLESS) if path.quick or not quick]
    if missing := missing_programs(paths):
        console.print(f"not installed: {', '.join(sorted(missing))}; docs/paths.md says how to install them")
        return 2
    begun = time.monotonic()

    def tell(result: PathResult) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {line(result)}", markup=False, soft_wrap=True)

    results = await run_paths(paths, jobs, tell)
    console.print(score(results), style="bold")
    return 0 if all(result.right for result in results) else 1


def line(result: PathResult) -> str:
    """One result for people; a wrong one with everything that the probe said."""
    path = result.path
    if result.error:
        return f"FAILED  {path.name}, {path.wire}: {result.error}"
    said = ", ".join(sorted(result.kinds)) or "silent"
    if result.right:
        return f"{'named' if path.expected else 'silent':<7} {path.name}, {path.wire}{f': {said}' if path.expected else ''}"
    wanted = path.expected or "silence"
    words = "; ".join(f"{name}: {outcome.words}" for name, outcome in result.outcomes.items())
    return f"WRONG   {path.name}, {path.wire}: {said} instead of {wanted} ({words})"


def score(results: Sequence[PathResult]) -> str:
    """The last line of the self-test."""
    planted = [result for result in results if result.path.expected is not None]
    harmless = [result for result in results if result.path in HARMLESS]
    clean = [result for result in results if result.path.expected is None and result not in harmless]
    named = sum(result.right for result in planted)
    alarms = sum(not result.right for result in clean)
    told = f"named {named} of {len(planted)}, false alarms {alarms} of {len(clean)}"
    if not harmless:
        return told
    return f"{told}; harmless settings silent {sum(result.right for result in harmless)} of {len(harmless)}"
