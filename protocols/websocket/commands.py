"""The commands of one WebSocket connection that wait for their answer.

An answer is recognised by its type and its fields, because only ``error`` repeats a command's ``request_id``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from shared.duplex_messages import Error, ServerMessage
from shared.errors import ChatError

A = TypeVar("A", bound=msgspec.Struct)


class Commands:
    """The waiting commands, in the order in which they were sent."""

    def __init__(self) -> None:
        # For each request_id, the test of the answer and the future that gets the answer.
        self._waiting: dict[str, tuple[Callable[[ServerMessage], bool], asyncio.Future[Any]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(
        self, request_id: str, kind: type[A], fits: Callable[[A], bool] = lambda answer: True
    ) -> asyncio.Future[A]:
        """The answer to the command with this ``request_id``: the next message of this type that ``fits``."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = (lambda message: isinstance(message, kind) and fits(message), answer)
        return answer

    def forget(self, request_id: str) -> None:
        """Wait no longer for the answer to a command."""
        self._waiting.pop(request_id, None)

    def answer(self, message: ServerMessage) -> None:
        """Give a message to the first command that waits for such an answer."""
        for request_id, (fits, answer) in self._waiting.items():
            if fits(message):
                del self._waiting[request_id]
                if not answer.done():
                    answer.set_result(message)
                return

    def refuse(self, error: Error, refusal: ChatError) -> None:
        """Fail the command that the server has refused."""
        # A server that does not repeat the request_id answers commands in their order.
        request_id = error.request_id if error.request_id is not None else next(iter(self._waiting), "")
        _, answer = self._waiting.pop(request_id, (None, None))
        if answer is not None and not answer.done():
            answer.set_exception(refusal)

    def fail(self, why: Exception) -> None:
        """Fail every command, because the connection has ended."""
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(why)
                # Read once, because the task that waited may have been cancelled, and asyncio logs an exception that is never read.
                answer.exception()
