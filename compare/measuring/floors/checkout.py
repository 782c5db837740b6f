"""The servers of another checkout of this program, such as a git worktree of an old commit, beside today's servers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from protocols import TRANSPORTS
from protocols.processes import LONGEST_LINE_BYTES, RunningProcess, start_process, without_tls

_PYTHONS = (".venv/bin/python", ".venv/Scripts/python.exe")


def python_of(tree: Path) -> str:
    """The interpreter of the checkout's environment ``.venv``; without such an environment, the interpreter of this process."""
    return next((str(tree / path) for path in _PYTHONS if (tree / path).exists()), sys.executable)


def missing_in(tree: Path) -> str | None:
    """What a folder lacks that a checkout of this program has; None where it has all."""
    wanted = [f"protocols/{transport.folder}/server.py" for transport in TRANSPORTS.values()]
    return next((path for path in wanted if not (tree / path).is_file()), None)


def commit_of(tree: Path) -> str:
    """The hash of the checkout's commit; empty where git does not know one, or where files of the commit were changed."""
    asked = (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    try:
        head, changes = (
            subprocess.run(["git", "-C", tree, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if changes else head


async def start_in(tree: Path, word: str, env: Mapping[str, str]) -> RunningProcess:
    """Start a transport's server of the checkout ``tree`` on any free port; ``env`` is added to this process's environment.

    The imports come from ``tree``, whatever is installed in the interpreter: the folder is first on the path of modules.
    """
    command = [python_of(tree), "-m", f"protocols.{TRANSPORTS[word].folder}.server", "--port", "0"]
    environment = {**os.environ, **without_tls(), **env, "PYTHONPATH": str(tree)}
    return await start_process(command, environment, apart=False, limit=LONGEST_LINE_BYTES, folder=tree)
