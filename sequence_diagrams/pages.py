"""The generated parts of the READMEs: ``python -m sequence_diagrams.pages`` writes these parts again.

They stand between ``<!-- made: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from compare.measuring.picture_transfers import measure_transfers
from compare.migration import mistakes_table, transfers_table
from compare.showing.published import readme_table
from protocols import TRANSPORTS
from sequence_diagrams.counting import ROOT, code_lines
from sequence_diagrams.glance import glance
from sequence_diagrams.session import session
from sequence_diagrams.wire_page import wire
from shared.usage import usage_of

COMMAND = "python -m sequence_diagrams.pages"
ARTICLE = ROOT / "protocols" / "grpc" / "FROM_REST_TO_GRPC.md"
PAGES = [ROOT / "README.md", ARTICLE, *(ROOT / "protocols" / row.folder / "README.md" for row in TRANSPORTS.values())]
_MADE = re.compile(r"(<!-- made: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def size(word: str) -> str:
    """The lines of code of a leaf's three files."""
    folder = ROOT / "protocols" / TRANSPORTS[word].folder
    names = ("server.py", "client.py", "standalone.py")
    parts = [f"[{name}]({name}) {code_lines(folder / name)}" for name in names]
    return f"Lines of code: {' · '.join(parts)} (the last is the whole protocol in one file, to take home).\n"


def claims() -> str:
    """The article's claims on pictures of two sizes."""
    return "\n".join(
        transfers_table(asyncio.run(measure_transfers(size, rounds)), size, rounds)
        for size, rounds in (("256x256", 15), ("1024x1024", 15))
    )


def mistakes() -> str:
    """The table of the sides that notice a client's mistakes."""
    return asyncio.run(mistakes_table())


def results() -> str:
    """The README's columns of the published results."""
    return readme_table((ROOT / "compare" / "RESULTS.md").read_text(encoding="utf-8"))


# Parts that concern no single transport, and parts of a transport's own page.
_OF_ALL: dict[str, Callable[[], str]] = {"glance": glance, "claims": claims, "mistakes": mistakes, "results": results}
_OF_ONE: dict[str, Callable[[str], str]] = {"wire": wire, "size": size, "session": session}


def made(page: Path, name: str) -> str:
    """The part ``name`` of a page, made again."""
    if name in _OF_ALL:
        return _OF_ALL[name]()
    word = next(transport.word for transport in TRANSPORTS.values() if transport.folder == page.parent.name)
    return _OF_ONE[name](word)


def renew(page: Path, without: Sequence[str] = ()) -> str:
    """The text of a page with its parts made again, except for the parts named in ``without``."""

    def again(found: re.Match[str]) -> str:
        if found[2] in without:
            return found[0]
        return found[1] + made(page, found[2]) + found[4]

    return _MADE.sub(again, page.read_text(encoding="utf-8"))


def canonical(text: str) -> str:
    """A page without what differs each time: ids, times, ports, checksums, masks, and lengths that follow from them."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "{id}", text)
    text = re.sub(r"\b(?:[0-9a-f]{2} )+(?:[0-9a-f]{2}\b|…)|\b[0-9a-f]{64}\b", "{hex}", text)
    text = re.sub(r"^( +)[0-9a-f]{2}(?= {2,}\S)", r"\1{hex}", text, flags=re.MULTILINE)
    text = re.sub(r"\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "{}", text)
    text = re.sub(r"Sec-WebSocket-(Key|Accept): \S+", r"Sec-WebSocket-\1: {}", text)
    # Chance decides which events share an HTTP chunk.
    text = re.sub(r"^(?:< chunk, \d+ bytes| +{hex} +chunk size.*)\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\d+(?:\.\d+)?| +", lambda found: " " if found[0].isspace() else "N", text)


def main() -> int:
    """Renew all pages; with ``--check`` only find out whether a page would change."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=usage_of(__doc__))
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a page would differ")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        choices=[*_OF_ALL, *_OF_ONE],
        help="leave a part as it is",
    )
    args = parser.parse_args()
    different = 0
    for page in PAGES:
        text, now = page.read_text(encoding="utf-8"), renew(page, args.without)
        if args.check:
            different += canonical(text) != canonical(now)
        elif text != now:
            page.write_text(now, encoding="utf-8")
            print(page.relative_to(ROOT))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
