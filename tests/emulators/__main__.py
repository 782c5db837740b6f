"""``python -m tests.emulators [--port N]``: the emulators as a process; one line of JSON says that they are ready."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal

from tests.emulators.server import Emulator


async def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="loopback emulators of Gemini and OpenAI")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with Emulator(parser.parse_args().port) as emulator:
        ready = {"ready": emulator.base_url, "gemini": emulator.base_url, "openai": emulator.openai_url}
        print(json.dumps(ready), flush=True)
        await stop.wait()


asyncio.run(main())
