"""Plants a delay of 50 ms in a server: Python imports a module of this name at its start when this folder is on PYTHONPATH.

``PLANTED_DELAY`` says where: ``commit``, or ``state`` for turns whose message is longer than 10,000 characters.
"""

import asyncio
import os
from typing import Any

from shared.chat.committer import Committer
from shared.chat.request import TurnRequest
from shared.chat.service import ChatService
from shared.store.protocol import Append, Appended

_DELAY_S = 0.05
_LONG = 10_000
_store = Committer._store
_record = ChatService._record_turn


async def _store_late(self: Committer, batch: list[Append]) -> list[Appended] | None:
    await asyncio.sleep(_DELAY_S)
    return await _store(self, batch)


async def _record_late(self: ChatService, request: TurnRequest) -> Any:
    if len(request.text) > _LONG:
        await asyncio.sleep(_DELAY_S)
    return await _record(self, request)


if os.environ.get("PLANTED_DELAY") == "commit":
    Committer._store = _store_late  # type: ignore[method-assign]
elif os.environ.get("PLANTED_DELAY") == "state":
    ChatService._record_turn = _record_late  # type: ignore[method-assign]
