"""``python -m protocols store check|export``: whether the store's file is whole, and what can be read of a damaged one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw
from pydantic import ValidationError

from shared.config import Settings, settings_problems
from shared.store.sqlite.salvage import export, problems


def main(argv: Sequence[str]) -> int:
    """Check or export. Returns the exit status: 0, 1 for a damaged file, 2 when there is no such file."""
    parser = argparse.ArgumentParser(
        prog="python -m protocols store", description="Look at the SQLite file that STORE_URL names, without a server."
    )
    parser.add_argument(
        "command", choices=("check", "export"), help="check: whether the file is whole; export: JSON lines to stdout"
    )
    parser.add_argument("--file", help="the file (default: that of STORE_URL)")
    args = parser.parse_args(argv)
    try:
        name = args.file or _file_of(Settings().store_url)
    except ValidationError as error:
        return _end(settings_problems(error), 2)
    except ValueError as error:
        return _end(str(error), 2)
    path = Path(name).expanduser()
    try:
        found = path.is_file()
    except OSError as error:
        return _end(f"{path} cannot be the name of a file ({error.strerror})", 2)
    if not found:
        return _end(f"there is no file {path}", 2)
    try:
        status = _check(path) if args.command == "check" else _export(path)
        sys.stdout.flush()
    except OSError as error:
        # Python writes at exit what could not be written before, and would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _end(f"stdout cannot be written ({error.strerror})", 1)
    return status


def _file_of(url: str) -> str:
    scheme, _, path = url.partition("://")
    if scheme != "sqlite" or not path:
        raise ValueError(f"STORE_URL is {scheme}://, and only a SQLite file can be checked or exported; use --file")
    return path[1:]


def _check(path: Path) -> int:
    found = problems(path)
    if not found:
        sys.stdout.write(f"{path} is whole\n")
        return 0
    for problem in found:
        sys.stdout.write(f"{problem}\n")
    advice = f"python -m protocols store export --file {path} > saved.jsonl"
    return _end(f"{path} is damaged; `{advice}` saves what can be read; then set STORE_URL to another file", 1)


def _export(path: Path) -> int:
    lines = 0
    try:
        for line in export(path):
            sys.stdout.write(line + "\n")
            lines += 1
        sys.stdout.flush()
    except apsw.Error as error:
        return _end(f"{path} cannot be read ({type(error).__name__})", 1)
    counted = "1 line" if lines == 1 else f"{lines} lines"
    return _end(f"{counted}: sessions, turns and images, then the events of each turn", 0)


def _end(words: str, status: int) -> int:
    sys.stderr.write(f"{words}\n")
    return status
