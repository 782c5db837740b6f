"""The command ``compare probe`` as the tests run it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


async def probed(*arguments: str, **env: str) -> tuple[int, str, str]:
    """The command in a process of its own: its exit status, its output, its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "compare", "probe", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **env},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
