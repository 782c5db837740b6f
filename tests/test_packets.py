"""The line between two network namespaces: real packets, counted losses, and nothing left behind. Linux and root."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from compare import packets
from compare.lines.packets.line import CLIENT_ADDRESS, SERVER_ADDRESS, loss_bounds, packet_line
from compare.lines.packets.namespaces import (
    Namespaces,
    NoPacketLine,
    ip,
    namespaces,
    our_namespaces,
    remove_leftovers,
    why_not,
)
from compare.measuring.packets.results import Cell, LateToken, PacketResults, late_tokens, together_share
from compare.measuring.packets.run import PacketPlan, measure
from compare.measuring.packets.verdicts import verdicts
from compare.measuring.statistics import Figure
from compare.measuring.turns import Arrival, TurnRecord
from compare.showing.packets_report import markdown, picture_of


@pytest.fixture
async def real_packets() -> None:
    """Skips where this machine allows no namespaces."""
    if reason := why_not():
        pytest.skip(reason)
    try:
        async with namespaces():
            pass
    except NoPacketLine as error:
        pytest.skip(str(error))


# Makes a pair, starts a program inside it, says the id of the pair and of the program, and waits for a signal.
_OWNER = """
import asyncio
from compare.lines.packets.namespaces import namespaces
from shared.signals import run_until_signal

async def own():
    async with namespaces() as pair:
        inside = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", pair.server, "sh", "-c", "echo inside; exec sleep 600", stdout=asyncio.subprocess.PIPE
        )
        await inside.stdout.readline()
        print(pair.id, inside.pid, flush=True)
        await asyncio.Event().wait()
    return 0

raise SystemExit(asyncio.run(run_until_signal(own(), "stopped")))
"""


@asynccontextmanager
async def owner() -> AsyncIterator[tuple[asyncio.subprocess.Process, Namespaces, int]]:
    """A process that owns a pair of namespaces, the pair, and the process id of a program inside it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _OWNER, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        pair, inside = (await process.stdout.readline()).decode().split()
        yield process, Namespaces(pair), int(inside)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def ended(pid: int) -> bool:
    """Whether this process ends soon."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.usefixtures("real_packets")
async def test_namespaces_go_with_a_signal_and_those_of_a_killed_process_at_the_next_start() -> None:
    async with owner() as (stopped, ends, _):
        stopped.send_signal(signal.SIGTERM)
        assert await stopped.wait() == 128 + signal.SIGTERM
        assert not {ends.client, ends.server} & set(await our_namespaces())
    async with owner() as (killed, left, inside), owner() as (_, alive, _):
        assert {left.client, left.server} <= set(await our_namespaces())
        killed.kill()
        await killed.wait()
        # Another test may start at this moment and remove them.
        await remove_leftovers()
        names = set(await our_namespaces())
        assert not {left.client, left.server} & names
        assert {alive.client, alive.server} <= names
        assert await ended(inside)


# Sends datagrams from the server's side; counts on the client's side those that come until none comes for a while.
_SEND = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for number in range({count}):
        sock.sendto(b"x", ("{client}", 9))
        if number % 20 == 19:
            time.sleep(0.002)
"""
_RECEIVE = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind(("{client}", 9))
    print("ready", flush=True)
    sock.settimeout(1.0)
    count = 0
    try:
        while sock.recv(10):
            count += 1
    except TimeoutError:
        print(count, flush=True)
"""
_DATAGRAMS = 2000


@pytest.mark.usefixtures("real_packets")
async def test_the_line_loses_the_share_that_it_is_asked_for() -> None:
    async with packet_line(0.01) as line:
        receiver = await asyncio.create_subprocess_exec(
            *line.in_client,
            sys.executable,
            "-c",
            _RECEIVE.format(client=CLIENT_ADDRESS),
            stdout=asyncio.subprocess.PIPE,
        )
        assert receiver.stdout is not None
        assert await receiver.stdout.readline() == b"ready\n"
        sent, received = await line.kernel_packets()
        await line.set_loss(0.05, seed=7)
        sender = await asyncio.create_subprocess_exec(
            *line.in_server, sys.executable, "-c", _SEND.format(client=CLIENT_ADDRESS, count=_DATAGRAMS)
        )
        assert await sender.wait() == 0
        arrived = int(await receiver.stdout.readline())
        await receiver.wait()
        counted = await line.packets()
        now_sent, now_received = await line.kernel_packets()
    assert counted.down >= _DATAGRAMS
    low, high = loss_bounds(0.05, counted.down)
    assert low <= counted.dropped <= high
    assert arrived == _DATAGRAMS - counted.dropped
    assert (now_sent - sent) - (now_received - received) == counted.dropped


@pytest.mark.usefixtures("real_packets")
async def test_a_short_run_over_real_packets() -> None:
    plan = PacketPlan(
        ways=["h1", "grpc"],
        losses=[0.05],
        delay_s=0.01,
        streams=4,
        tokens=20,
        rate=40.0,
        rounds=1,
        move_rounds=0,
        seed=1,
    )
    said: list[str] = []
    run = await measure(plan, said.append)
    cells = run.results.cells
    assert [(cell.way, cell.connections) for cell in cells] == [("h1", "many"), ("grpc", "many"), ("grpc", "one")]
    for cell in cells:
        assert cell.failures == []
        assert cell.tokens == 80
        assert cell.loss_as_asked
        assert cell.figures["p50"].median >= 10
    assert run.results.kernel_dropped == run.results.dropped == sum(cell.dropped for cell in cells)
    assert "1 round cannot tell a difference" in verdicts(run.results)[0]
    assert picture_of(run.rounds, run.results.delay_ms).startswith("<svg")
    assert SERVER_ADDRESS not in markdown(run.results, drawn=True)


@pytest.mark.parametrize("reason", ["Linux", "root", "iproute2", "/dev/net/tun"])
def test_where_it_cannot_run_one_sentence_says_why(
    reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "darwin" if reason == "Linux" else "linux")
    monkeypatch.setattr("os.geteuid", lambda: 1000 if reason == "root" else 0, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None if reason == "iproute2" else f"/sbin/{name}")
    monkeypatch.setattr("pathlib.Path.exists", lambda path: reason != "/dev/net/tun")
    assert packets.main([]) == packets.CANNOT_RUN
    said = capsys.readouterr().err
    assert reason in said
    assert said.startswith("Real packets need ")
    assert said.count("\n") == 1


async def test_ip_fails_with_its_own_words() -> None:
    if why_not():
        pytest.skip("no ip here")
    with pytest.raises(RuntimeError, match="no-such-namespace"):
        await ip("netns", "delete", "no-such-namespace")


def turn(stream: int, *arrivals: tuple[float, float]) -> TurnRecord:
    """A turn whose chunks were logged and came at these times, ms after the request."""
    chunks = [Arrival(came, "chunk", i + 2, logged, 1, "x") for i, (logged, came) in enumerate(arrivals)]
    return TurnRecord(
        experiment="one", lane="grpc", round=0, stream=stream, asked_at=1000.0, tokens=len(chunks), arrivals=chunks
    )


def test_late_tokens_and_those_that_one_packet_released() -> None:
    turns = [turn(0, (0, 51), (50, 200)), turn(1, (10, 61), (60, 201)), turn(2, (20, 130))]
    late = late_tokens(turns, 50.0)
    assert [(token.stream, token.due_ms, token.came_ms) for token in late] == [
        (2, 1070, 1130),
        (0, 1100, 1200),
        (1, 1110, 1201),
    ]
    assert together_share(late) == pytest.approx(2 / 3)
    assert together_share([LateToken(0, 0, 100), LateToken(0, 50, 101)]) == 0
    assert together_share([]) is None


def cell(way: str, connections: str, loss: float, late: float, together: float = 0.9) -> Cell:
    """A cell whose tokens are late by this share, ± 0.01."""
    figures = {
        "late": Figure(late, max(0, late - 0.01), late + 0.01, 6, late),
        "together": Figure(together, together, together, 6, together),
    }
    return Cell(
        way=way,
        connections="one" if connections == "one" else "many",
        loss=loss,
        figures=figures,
        tokens=4800,
        packets=1000,
        dropped=round(1000 * loss),
        failures=[],
    )


def results(*cells: Cell, rounds: int = 6) -> PacketResults:
    return PacketResults(
        begun_at=0,
        seconds=1,
        delay_ms=50,
        streams=10,
        tokens=80,
        rate=20,
        rounds=rounds,
        seed=1,
        setup=dict.fromkeys(("machine", "python", "versions", "model"), "x"),
        cells=list(cells),
        moves={},
        move_failures=[],
        unmeasured={},
        dropped=20,
        kernel_dropped=20,
    )


def test_the_verdict_names_the_cause_and_claims_nothing_on_a_busy_machine() -> None:
    calm = cell("grpc", "one", 0, 0.0)
    blocked = [cell("grpc", "one", 0.02, 0.3), cell("grpc", "many", 0.02, 0.06, 0.02)]
    (said, counted) = verdicts(results(calm, *blocked))
    assert "30.0 % (29.0–31.0) of the tokens are late on one connection, 6.0 % (5.0–7.0) on 10 connections" in said
    assert "TCP hands on the bytes of a connection in order" in said
    assert "counters of the kernel's devices say the same" in counted
    busy = cell("grpc", "one", 0, 0.12)
    assert "no claim" in verdicts(results(busy, *blocked))[0]
    late_start = [cell("grpc", "one", 0, 0.03), cell("grpc", "many", 0, 0.0)]
    assert "late on one connection (3.0 % also without loss), 6.0 %" in verdicts(results(*late_start, *blocked))[0]
    assert "it takes 6" in verdicts(results(calm, *blocked, rounds=5))[0]
    equal = [cell("grpc", "one", 0.02, 0.065), cell("grpc", "many", 0.02, 0.06)]
    assert "no difference found" in verdicts(results(calm, *equal))[0]
    quic = [cell("h3", "one", 0.02, 0.05), cell("h2", "one", 0.02, 0.25)]
    assert "QUIC orders the bytes of each stream by itself" in verdicts(results(calm, *quic))[0]
    late_start = [cell("h2", "one", 0, 0.03), cell("h2", "many", 0, 0.0)]
    assert "HTTP/2 25.0 % (24.0–26.0) (3.0 % also without loss)." in verdicts(results(*late_start, *quic))[0]


def test_a_line_that_does_not_lose_what_it_was_asked_to_says_nothing() -> None:
    wrong = cell("grpc", "one", 0.02, 0.3)
    wrong.dropped = 90
    assert "These figures say nothing" in verdicts(results(wrong))[-1]
