"""``python -m compare results FOLDER``: the short page of results, from the folder of a run.

The folder may be one of ``compare all``: then factors, chains and the run over TLS (``FOLDER/tls``) have their parts of the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from compare.showing import section
from compare.showing.published import page
from compare.showing.report import BESIDE
from compare.showing.results import read
from shared.usage import reason, usage_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the page. Returns the exit status, 2 when a run cannot be read or the page cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m compare results", description=usage_of(__doc__.partition("\n\n")[0])
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of a run without TLS")
    parser.add_argument(
        "--tls",
        type=Path,
        metavar="FOLDER",
        help="the folder of a run with --tls (default: FOLDER/tls where there is one)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page there (default: print it)")
    args = parser.parse_args(argv)
    encrypted = args.tls or (args.folder / "tls" if (args.folder / "tls").is_dir() else None)
    try:
        plain, over_tls = read(args.folder), read(encrypted) if encrypted is not None else None
        beside = [one for name in BESIDE for one in section.read(args.folder, name)]
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"no results of a run: {reason(error)}\nMake some with: python -m compare run\n")
        return 2
    if plain.tls or (over_tls is not None and not over_tls.tls):
        sys.stderr.write("FOLDER must hold a run without TLS, and the folder of --tls a run with TLS\n")
        return 2
    text = page(plain, over_tls, beside)
    if args.out is None:
        print(text, end="")
        return 0
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"the page cannot be written: {reason(error)}\n")
        return 2
    return 0
