"""``python -m compare COMMAND``: relay, and what else stands in the table."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "floor": ("compare.floor", "our cost against the smallest servers that do the job"),
    "race": ("compare.race", "the lanes live in the terminal, then the table and a verdict"),
    "run": ("compare.run", "the whole experiment, unattended, into a folder with its report"),
    "diff": ("compare.diff", "two runs side by side"),
    "wire": ("compare.wire", "one short turn's bytes, as they were on the wire, explained"),
    "migration": ("compare.migration", "pictures over REST and gRPC: the article's three claims"),
    "relay": ("compare.relay", "break the line between a client and a server"),
}


def main() -> int:
    """Hand the arguments to the command's own ``main``; its exit status."""
    name, *rest = sys.argv[1:] or [""]
    if name in COMMANDS:
        return int(importlib.import_module(COMMANDS[name][0]).main(rest))
    print("usage: python -m compare COMMAND ...\n")
    for command, (_, what) in COMMANDS.items():
        print(f"  {command:<10} {what}")
    return 0 if name in ("-h", "--help") else 2


if __name__ == "__main__":
    raise SystemExit(main())
