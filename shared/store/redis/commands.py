"""Running the store's scripts and commands: one place for time-outs, errors, and the contact with the store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from redis.exceptions import NoScriptError

from shared.errors import ChatError
from shared.store.redis.address import Address
from shared.store.redis.append_line import AppendLine
from shared.store.redis.connections import ANSWER_TIMEOUT_S, async_client, close_client, primary_of
from shared.store.redis.contact import Contact
from shared.store.redis.errors import FAILURES, lost_line, unavailable

T = TypeVar("T")
Argument = str | bytes | int | float

# This many commands are on their way at once; the others wait for a connection.
_MAX_COMMANDS = 16


class LuaScript:
    """A Lua script of the folder ``scripts`` with what all of them share; sent whole only where the server lacks it."""

    def __init__(self, name: str) -> None:
        folder = Path(__file__).with_name("scripts")
        self.source = folder.joinpath("common.lua").read_text() + folder.joinpath(f"{name}.lua").read_text()
        self.sha1 = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Commands:
    """The connections of one node: one for appends, which wait for each other anyway, and a few for all else."""

    def __init__(self, address: Address, contact: Contact, ack_replicas: int) -> None:
        self.contact = contact
        self.offset_ms = 0.0
        self.pushes = ack_replicas == 0
        self._ack_replicas = ack_replicas
        self._publish = "SPUBLISH" if address.form == "cluster" else "PUBLISH"
        self._client = async_client(address)
        # A cluster's client finds the node of a key, and WAIT belongs to the connection of its write.
        self._append_line = None if address.form == "cluster" or ack_replicas else AppendLine(address)
        self._free = asyncio.Semaphore(_MAX_COMMANDS)

    async def write(self, script: LuaScript, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a script that writes, and wait for the replicas that are asked for; its own arguments are ARGV[4] and on.

        Raises ChatError ``storage_unavailable``. It may have been run all the same: its reply may have been lost.
        """
        return await self._run(lambda: self._evaluate(script, keys, arguments, self._ack_replicas))

    async def append(self, script: LuaScript, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a script as ``write`` does, on the connection for appends. A caller that is cancelled breaks the connection."""
        line = self._append_line
        if line is None:
            return await self.write(script, keys, arguments)
        given = self._arguments(keys, arguments)

        async def evaluate() -> Any:
            try:
                return await line.run("EVALSHA", script.sha1, *given)
            except NoScriptError:
                return await line.run("EVAL", script.source, *given)

        return await self._guarded(evaluate)

    async def read(self, script: LuaScript, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a script that only reads, as ``call`` runs a command. Raises ChatError ``storage_unavailable``."""
        return await self._run(lambda: self._evaluate(script, keys, arguments, 0), repeats=True)

    async def call(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """Run a command, or a pipeline of commands, that may be run twice. Raises ChatError ``storage_unavailable``.

        A command whose connection is broken is run once more, on a new connection.
        """
        return await self._run(lambda: command(self._client), repeats=True)

    async def publish(self, messages: Sequence[tuple[str, str | bytes]]) -> None:
        """Push messages, channel and text; with replicas to wait for, this is done after they have answered."""
        if not messages:
            return
        pipeline = self._client.pipeline(transaction=False)
        for channel, message in messages:
            pipeline.execute_command(self._publish, channel, message)
        await self._run(pipeline.execute, repeats=True)

    async def leave_old_primary(self) -> bool:
        """Ask a Sentinel for the primary. Close the connections if it is another one than before; returns whether it is.

        A primary that was replaced may be back, and takes writes until the Sentinels make it a replica (10 s later).
        These writes are lost. A command that is on its way fails, and is repeated like every command whose line broke.

        A lease that is over at the new primary proves nothing yet (``Contact.moved``).
        """
        try:
            primary = await primary_of(self._client)
        except FAILURES:
            # The Sentinels are away, or are replacing the primary now.
            return False
        before, self.contact.primary = self.contact.primary, primary
        if before in (None, primary):
            return False
        self.contact.moved()
        await self._client.connection_pool.disconnect()
        if self._append_line is not None:
            await self._append_line.disconnect()
        return True

    async def close(self) -> None:
        """Close the connections."""
        await close_client(self._client)
        if self._append_line is not None:
            await self._append_line.close()

    async def _run(self, work: Callable[[], Awaitable[T]], *, repeats: bool = False) -> T:
        # A command that has been sent is not cancelled with its caller: or the next command would read its reply.
        running = asyncio.ensure_future(self._limited(work, repeats=repeats))
        running.add_done_callback(_note_failure)
        return await asyncio.shield(running)

    async def _limited(self, work: Callable[[], Awaitable[T]], *, repeats: bool = False) -> T:
        async with self._free:
            return await self._guarded(work, repeats=repeats)

    async def _guarded(self, work: Callable[[], Awaitable[T]], *, repeats: bool = False) -> T:
        try:
            try:
                result = await work()
            except FAILURES as error:
                if not repeats or not lost_line(error):
                    raise
                self.contact.lost()
                result = await work()
        except FAILURES as error:
            failure = unavailable(error)
            if isinstance(failure, ChatError):
                self.contact.lost()
            raise failure from error
        self.contact.heard()
        return result

    def _arguments(self, keys: Sequence[str], arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        return (len(keys), *keys, self.offset_ms, "1" if self.pushes else "0", self._publish, *arguments)

    async def _evaluate(
        self, script: LuaScript, keys: Sequence[str], arguments: Sequence[Argument], ack_replicas: int
    ) -> Any:
        client, given = self._client, self._arguments(keys, arguments)
        if not ack_replicas:
            try:
                return await client.execute_command("EVALSHA", script.sha1, *given)
            except NoScriptError:
                return await client.execute_command("EVAL", script.source, *given)
        for command, text in (("EVALSHA", script.sha1), ("EVAL", script.source)):
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command(command, text, *given)
            pipeline.execute_command("WAIT", ack_replicas, int(ANSWER_TIMEOUT_S * 500))
            result, replicas = await pipeline.execute(raise_on_error=False)
            if isinstance(result, NoScriptError):
                continue
            if isinstance(result, Exception):
                raise result
            if isinstance(replicas, Exception):
                raise replicas
            if replicas < ack_replicas:
                raise ChatError(
                    "storage_unavailable",
                    f"The store cannot be used now: {replicas} of {ack_replicas} replicas have answered;"
                    " try again in a few seconds.",
                )
            return result
        raise AssertionError("EVAL never answers NOSCRIPT")


def _note_failure(running: asyncio.Future[Any]) -> None:
    """Look at the failure of a command, whose caller may have been cancelled; asyncio would print a traceback otherwise."""
    if not running.cancelled():
        running.exception()
