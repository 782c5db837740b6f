"""What a store costs a transport: the same turns on a server with each store, in memory, on SQLite and on Valkey."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from compare.measuring.experiments.run import CpuTimes, Run
from compare.measuring.lanes import RunningLane, running_lanes, shuffled
from compare.measuring.stores.measure import KINDS, RunningStore, StoreKind, running_store
from compare.valkey import valkey_program
from shared.client.protocol import ChatClient, collect

CLIENTS, TOKENS = 8, 40
_STORES = {"memory": None, "sqlite": KINDS["sqlite"], "valkey": KINDS["valkey-everysec"]}


async def stores(run: Run) -> None:
    """CPU of the server and of the store's process an event, with one store after the other, in a new order in each pass."""
    if not run.scale.paced_s:
        run.unmeasured["stores"] = "not in --quick"
        return
    run.describe(
        "stores",
        "Stores",
        f"{CLIENTS} clients, a turn of {TOKENS} tokens at {run.rate:g} a second each, {run.rounds(1)}, on servers with another"
        " store: in memory, a file of SQLite, a Valkey with appendfsync everysec. CPU of the server and of the store's process.",
        tuple(f"store_{name}" for name in _STORES),
    )
    for name in shuffled(list(_STORES), run.seed, run.pass_number):
        kind = _STORES[name]
        if name == "valkey" and not _has_valkey():
            run.unmeasured["stores, valkey"] = "there is no Valkey here"
            continue
        with _opened(kind) as store:
            async with running_lanes(run.names, rate=run.rate, env={"STORE_URL": store.url}) as lanes:
                for lane_name in run.order(0):
                    run.say(f"{name}, {lane_name}")
                    cost_us = await _cost_us(run, lanes[lane_name], store)
                    run.sample("stores", lane_name, run.round_of(0), f"store_{name}", cost_us)


@contextmanager
def _opened(kind: StoreKind | None) -> Iterator[RunningStore]:
    if kind is None:
        yield RunningStore(StoreKind("memory"), "sqlite://")
        return
    with running_store(kind) as store:
        yield store


def _has_valkey() -> bool:
    with contextlib.suppress(FileNotFoundError):
        return valkey_program().exists()
    return False


async def _cost_us(run: Run, lane: RunningLane, store: RunningStore) -> float | None:
    """The CPU time of the server and of the store for each event of some turns; None where it is not known."""

    async def ask(client: ChatClient) -> None:
        await collect(client.chat(f"/tokens {TOKENS} stores"))

    async with run.clients(lane, CLIENTS) as clients:
        before_s, before = store.cpu_s(), CpuTimes.of(lane)
        await asyncio.gather(*map(ask, clients))
        after = CpuTimes.of(lane)
    if before.server_s is None or after.server_s is None:
        return None
    used_s = after.server_s - before.server_s + store.cpu_s() - before_s
    return used_s * 1e6 / (CLIENTS * (TOKENS + 2))
