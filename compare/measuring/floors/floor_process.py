"""The process of a floor: it reads what it is given, prints its address as one line, and runs until it is killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from compare.measuring.floors.plan import Side


@asynccontextmanager
async def floor_process(
    command: Sequence[str], name: str, word: str, *, given: bytes = b"", folder: Path | None = None
) -> AsyncIterator[Side]:
    """A running floor of the lane ``word`` as the side ``name``; ``given`` is its input, ``folder`` where it runs.

    Raises RuntimeError when it does not start.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdin=pipe, stdout=pipe)
    assert process.stdin is not None and process.stdout is not None
    try:
        # A floor that ends before it has read its input has no address either.
        with contextlib.suppress(ConnectionError):
            process.stdin.write(given)
            await process.stdin.drain()
        process.stdin.close()
        address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise RuntimeError(f"the side {name} of {word} did not start")
        yield Side(name, word, address, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
