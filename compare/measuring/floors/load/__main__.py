"""``python -m compare.measuring.floors.load '<Job as JSON>'`` prints a ``Result`` as JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec

from compare.measuring.floors.load.job import Job
from compare.measuring.floors.load.run import run


def main(argv: Sequence[str] | None = None) -> int:
    """Do one job. Returns the exit status, 1 with a line on stderr when it fails."""
    given = sys.argv[1:] if argv is None else argv
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        try:
            result = runner.run(run(msgspec.json.decode(given[0], type=Job)))
        except (RuntimeError, OSError, TimeoutError) as error:
            sys.stderr.write(f"{error or type(error).__name__}\n")
            return 1
    sys.stdout.write(msgspec.json.encode(result).decode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
