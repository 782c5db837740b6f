"""The queue of a WebSocket's messages, and what is dropped from the scope of an open answer: they fit the libraries."""

from __future__ import annotations

import asyncio
import inspect
import re

import fastapi.routing
import pytest
from fastapi.middleware import asyncexitstack
from uvicorn.protocols.websockets import websockets_sansio_impl

from shared.server.http import open_body
from shared.server.http.received import ReceivedMessages


def test_the_queue_has_what_uvicorn_uses_of_it() -> None:
    used = re.findall(r"self\.queue\.(\w+)", inspect.getsource(websockets_sansio_impl))
    assert set(used) == {name for name in vars(ReceivedMessages) if not name.startswith("_")}


def test_the_exit_stacks_have_the_names_that_fastapi_gives_them() -> None:
    source = inspect.getsource(fastapi.routing) + inspect.getsource(asyncexitstack)
    assert set(re.findall(r'"(fastapi_\w+_astack)"', source)) == set(open_body._EXIT_STACKS)


async def test_messages_come_in_order_and_a_cancelled_wait_loses_none() -> None:
    queue = ReceivedMessages()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.001)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait(1)
    queue.put_nowait(2)
    # The wait is cancelled after its message has come and before it has gone on.
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert [await queue.get(), await queue.get(), queue.empty()] == [1, 2, True]
