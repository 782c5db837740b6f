"""``python -m compare COMMAND``: hands over to the module of the command."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap

from shared.visible import visible

COMMANDS = {
    "floor": ("compare.floor", "each server's cost against the smallest server that does the same job"),
    "guide": ("compare.guide", "which transport for what you need, with the price"),
    "numbers": ("compare.numbers", "what your load costs on each transport, computed from a run of this machine"),
    "race": ("compare.race", "the lanes live in the terminal, then the table and a verdict"),
    "chain": ("compare.chain", "turns in a row: what a kept conversation and a kept connection save, and why"),
    "factors": ("compare.factors", "what the encoding, the HTTP version, the framing and the server library cost"),
    "page": ("compare.page", "the race in a browser, with a slow phone, a buffering proxy and stalls as buttons"),
    "run": ("compare.run", "all experiments, unattended, into a folder with a report"),
    "packets": ("compare.packets", "what a lost packet delays, and what a changed address costs (Linux, root)"),
    "all": ("compare.everything", "factors, chains, and all lanes without and with TLS; says first how long it takes"),
    "results": ("compare.results", "the short page of results, from the folder of a run: compare/RESULTS.md"),
    "diff": ("compare.diff", "two runs side by side"),
    "phases": ("compare.phases", "how long TCP, TLS, the request, the first byte and the first token take"),
    "probe": ("compare.probe", "what the path to a server does to its stream, and the line to change"),
    "atlas": ("compare.atlas", "what each proxy does to each wire: compare/ATLAS.md"),
    "wire": ("compare.wire", "the bytes of one short turn, explained"),
    "migration": ("compare.migration", "pictures over REST and over gRPC: three claims of an article, measured"),
    "cluster": ("compare.cluster", "nodes on one store die while clients go on; counts what was lost"),
    "stores": ("compare.stores", "what a committed event costs on each store, SQLite and Valkey in one run"),
    "valkey": ("compare.valkey", "a Valkey on this machine, for STORE_URL"),
    "relay": ("compare.relay", "break the line between clients and a server"),
}


def main() -> int:
    """Give the arguments to the command's own ``main``. Returns the exit status, 2 for an unknown command."""
    name, *rest = sys.argv[1:] or [""]
    if [name, *rest[:1]] == ["--network", "real"]:
        name, rest = "packets", rest[1:]
    if name in COMMANDS:
        return int(importlib.import_module(COMMANDS[name][0]).main(rest))
    if name not in ("", "-h", "--help"):
        print(f"no such command: {visible(name)}\n")
    print("usage: python -m compare COMMAND ...\n")
    for command, (_, what) in COMMANDS.items():
        print(_folded(f"  {command:<10} ", what))
    return 0 if name in ("-h", "--help") else 2


def _folded(head: str, text: str) -> str:
    """A line that is broken between words where the terminal is too narrow."""
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False)


if __name__ == "__main__":
    raise SystemExit(main())
