"""A server's freed memory goes back to the operating system, which the library does not do by itself."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# Blocks that Python takes from the library, of which every hundredth stays: so no end of a heap is free.
_GROWN_AND_FREED = """
    import asyncio
    from shared.server.freed_memory import give_back_freed_memory, resident_bytes

    def grow():
        blocks = [bytes(3000) for _ in range(50_000)]
        return blocks[::100]

    async def main():
        before = resident_bytes()
        giving_back = asyncio.create_task(give_back_freed_memory(0.05)) if {gives_back} else None
        await asyncio.sleep(0)
        kept = await asyncio.to_thread(grow)
        grown = resident_bytes()
        assert grown > before + 60 * 2**20, (before, grown)
        # A search that came too early doubles the time until the next one.
        for _ in range(2000 if giving_back else 50):
            if resident_bytes() < before + 30 * 2**20:
                break
            await asyncio.sleep(0.02)
        print(len(kept), resident_bytes() < before + 30 * 2**20)

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc_trim is the GNU C library's")
@pytest.mark.parametrize("gives_back", [True, False])
def test_freed_memory_is_given_back(*, gives_back: bool) -> None:
    program = textwrap.dedent(_GROWN_AND_FREED).format(gives_back=gives_back)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"500 {gives_back}\n", done.stderr
