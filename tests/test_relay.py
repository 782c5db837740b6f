"""The relay alone, between a plain TCP client and a plain TCP server: bytes, cuts, delays, and new connections after a cut."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import fields

import pytest

from compare.lines.connection import RelayedConnection
from compare.lines.faults import NETWORKS, Faults
from compare.lines.positions import EVENT_START
from compare.lines.relay import Relay
from compare.relay import argument_parser
from compare.relay import main as relay_main
from protocols.grpc.convert import to_event_bytes
from shared.events import Chunk, TurnStarted, from_json, to_json

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TURN = "0123abcd-0000-4000-8000-0123456789ab"


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """A TCP server that closes each connection after ``handler``."""

    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        listening.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back every byte."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def sends(*pieces: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read(1)

    return handler


async def connect(relay: Relay) -> Streams:
    host, _, port = relay.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def ended(relay: Relay) -> RelayedConnection:
    """The next connection that ends."""
    return await asyncio.wait_for(relay.finished.get(), 5)


def events(count: int, text: str = '{"type":"chunk" \n\x00$') -> list[bytes]:
    started = TurnStarted(
        turn_id=TURN,
        seq=1,
        at=0.0,
        session_id=None,
        kind="chat",
        input=text,
        model="m",
        context_messages=0,
        request_id=None,
    )
    chunks = [Chunk(turn_id=TURN, seq=seq, at=0.0, text=text) for seq in range(2, count + 1)]
    return [to_json(event) + b"\n" for event in (started, *chunks)]


async def test_bytes_pass_unchanged_and_are_counted() -> None:
    up = random.Random(1).randbytes(3_000_001)
    async with server(echo) as target, Relay(target, capture=True) as relay:
        reader, writer = await connect(relay)
        writer.write(up)
        writer.write_eof()
        assert await reader.read() == up
        writer.close()
        connection = await ended(relay)
        assert (connection.up_bytes, connection.down_bytes, connection.state) == (len(up), len(up), "closed")
        assert (relay.up_bytes, relay.down_bytes) == (len(up), len(up))
        for direction in ("up", "down"):
            assert b"".join(piece.data for piece in relay.captured if piece.direction == direction) == up
        assert [piece.at for piece in relay.captured] == sorted(piece.at for piece in relay.captured)


@pytest.mark.parametrize("position", [0, 1, 9_999, 70_000])
async def test_fin_after_n_bytes(position: int) -> None:
    data = random.Random(2).randbytes(100_000)
    async with server(sends(data)) as target, Relay(target, Faults(cut_after_bytes=position)) as relay:
        reader, writer = await connect(relay)
        assert await reader.read() == data[:position]
        writer.close()
        connection = await ended(relay)
        assert (connection.state, connection.down_bytes, relay.fault_count) == ("cut", position, 1)
        # The next connection goes through.
        reader, writer = await connect(relay)
        assert await reader.readexactly(len(data)) == data
        writer.close()


async def test_fin_is_a_fin_though_the_client_has_sent_more() -> None:
    async with server(sends(b"hello")) as target, Relay(target, Faults(cut_after_bytes=3)) as relay:
        reader, writer = await connect(relay)
        writer.write(b"x" * 50_000)
        assert await reader.read() == b"hel"
        writer.close()


async def test_reset_is_a_reset_on_both_sides() -> None:
    seen = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1000)
        try:
            await reader.read()
            seen.set_result("fin")
        except ConnectionResetError:
            seen.set_result("rst")

    async with server(handler) as target, Relay(target, Faults(cut_after_bytes=100, reset=True)) as relay:
        reader, writer = await connect(relay)
        with pytest.raises(ConnectionResetError):
            while await reader.read(10_000):
                pass
        writer.close()
        assert await asyncio.wait_for(seen, 5) == "rst"
        assert relay.down_bytes == 100


async def test_cut_on_the_way_up() -> None:
    got = bytearray()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            got.extend(data)

    async with server(handler) as target, Relay(target, Faults(cut_after_bytes=7, direction="up")) as relay:
        reader, writer = await connect(relay)
        writer.write(b"0123456789")
        assert await reader.read() == b""
        writer.close()
        await ended(relay)
    assert got == b"0123456"


@pytest.mark.parametrize("pieces", ["whole", "single bytes", "random"])
@pytest.mark.parametrize("count", [0, 1, 7, 19])
async def test_cut_after_event(pieces: str, count: int) -> None:
    lines = events(20)
    data = b"".join(lines)
    if pieces == "whole":
        sent = [data]
    elif pieces == "single bytes":
        sent = [data[i : i + 1] for i in range(len(data))]
    else:
        borders = [0, *sorted(random.Random(count).sample(range(1, len(data)), 30)), len(data)]
        sent = [data[a:b] for a, b in itertools.pairwise(borders)]
    async with server(sends(*sent)) as target, Relay(target, Faults(cut_after_event=count)) as relay:
        reader, writer = await connect(relay)
        got = await reader.read()
        writer.close()
        assert got.startswith(b"".join(lines[:count]))
        assert not got.startswith(b"".join(lines[: count + 1]))
        assert (await ended(relay)).events == count


def test_events_are_found_in_protobuf() -> None:
    data = b"".join(to_event_bytes(from_json(line)) for line in events(5, text="hello"))
    assert len(EVENT_START.findall(data)) == 5


@pytest.mark.parametrize("network", [None, "shaped"])
async def test_a_delay_is_of_one_direction_and_keeps_throughput(network: str | None) -> None:
    faults = Faults(delay_s=0.1) if network is None else Faults(delay_s=0.1, bytes_per_s=20e6)
    async with server(echo) as target, Relay(target, faults) as relay:
        reader, writer = await connect(relay)
        begun = time.monotonic()
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        assert 0.2 <= time.monotonic() - begun < 2
        # 4 MB each way are in flight at once, so the delay counts once and not for each of the hundred pieces.
        begun = time.monotonic()
        writer.write(bytes(4_000_000))
        await reader.readexactly(4_000_000)
        assert time.monotonic() - begun < 6
        writer.close()


async def test_delay_keeps_the_gaps() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(4):
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with server(handler) as target, Relay(target, Faults(delay_s=0.2)) as relay:
        reader, writer = await connect(relay)
        arrivals = []
        while await reader.read(1):
            arrivals.append(time.monotonic())
        gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
        assert len(gaps) == 3
        assert all(0.02 < gap < 0.2 for gap in gaps)
        writer.close()


async def test_throttle_holds_its_bandwidth() -> None:
    data = bytes(200_000)
    async with server(sends(data)) as target, Relay(target, Faults(bytes_per_s=400_000)) as relay:
        begun = time.monotonic()
        reader, writer = await connect(relay)
        await reader.readexactly(20_000)
        first_s = time.monotonic() - begun
        await reader.readexactly(180_000)
        whole_s = time.monotonic() - begun
        assert 0.45 <= whole_s < 5
        assert first_s < whole_s - 0.2, "a narrow line trickles, it does not hold back"
        writer.close()


async def test_late_packets_hold_up_what_is_behind_them() -> None:
    async with server(echo) as target, Relay(target, Faults(late_share=1.0, late_s=0.05)) as relay:
        reader, writer = await connect(relay)
        begun = time.monotonic()
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        assert time.monotonic() - begun >= 0.1
        writer.close()


async def test_slices_arrive_one_by_one() -> None:
    async with server(sends(b"0123456789" * 10)) as target, Relay(target, Faults(slice_bytes=1)) as relay:
        reader, writer = await connect(relay)
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < 100:
            pieces.append(await reader.read(1000))
        assert b"".join(pieces) == b"0123456789" * 10
        assert len(pieces) > 5
        writer.close()


async def test_a_buffer_holds_back_until_it_is_full_or_late() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(10):
            writer.write(b"x" * 100)
            await asyncio.sleep(0.01)
        await reader.read()

    async with (
        server(handler) as target,
        Relay(target, Faults(buffer_bytes=450, buffer_s=3)) as relay,
    ):
        reader, writer = await connect(relay)
        begun = time.monotonic()
        assert len(await reader.read(5000)) >= 450
        assert time.monotonic() - begun < 2
        assert len(await reader.read(5000)) >= 450
        await reader.readexactly(1000 - relay.down_bytes) if relay.down_bytes < 1000 else None
        assert relay.down_bytes == 1000
        writer.close()


async def test_stall_moves_nothing_and_then_goes_on() -> None:
    async with server(echo) as target, Relay(target, Faults(stall_after_bytes=2, stall_s=1.0)) as relay:
        reader, writer = await connect(relay)
        begun = time.monotonic()
        writer.write(b"0123")
        assert await reader.readexactly(2) == b"01"
        assert time.monotonic() - begun < 0.8
        assert await reader.readexactly(2) == b"23"
        assert time.monotonic() - begun >= 1
        writer.close()


async def test_a_stall_is_felt_by_the_server() -> None:
    written = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while True:
            writer.write(bytes(10_000))
            await writer.drain()
            written += 10_000

    async with (
        server(handler) as target,
        Relay(target, Faults(stall_after_bytes=1000, window_bytes=4096)) as relay,
    ):
        _, writer = await connect(relay)
        before = -1
        async with asyncio.timeout(10):
            while written != before:
                before = written
                await asyncio.sleep(0.2)
        assert written < 20_000_000
        writer.close()


async def test_a_black_hole_discards_both_directions_and_the_end() -> None:
    got = bytearray()
    closed = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                got.extend(data)
                writer.write(data)
        finally:
            closed.set()

    async with server(handler) as target, Relay(target, Faults(black_hole_after_bytes=3)) as relay:
        reader, writer = await connect(relay)
        writer.write(b"01234")
        assert await reader.readexactly(3) == b"012"
        writer.write(b"56789")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        assert got == b"01234"
        writer.transport.abort()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(closed.wait(), 0.1)


async def test_new_connections_are_refused_for_a_time() -> None:
    async with (
        server(sends(b"0123")) as target,
        Relay(target, Faults(cut_after_bytes=2, refuse_s=0.3)) as relay,
    ):
        reader, writer = await connect(relay)
        begun = time.monotonic()
        assert await reader.read() == b"01"
        writer.close()
        while True:
            try:
                reader, writer = await connect(relay)
                assert await reader.readexactly(4) == b"0123"
                break
            except (ConnectionResetError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)
            finally:
                writer.close()
        assert time.monotonic() - begun >= 0.28
        assert {connection.state for connection in relay.connections} >= {"cut", "refused"}


@pytest.mark.parametrize("reset", [False, True])
async def test_all_connections_are_cut_by_hand_and_new_ones_are_accepted(reset: bool) -> None:
    async with server(echo) as target, Relay(target) as relay:
        lines = [await connect(relay) for _ in range(3)]
        for _, writer in lines:
            writer.write(b"x")
        for reader, _ in lines:
            await reader.readexactly(1)
        assert relay.cut(reset=reset) == 3
        for reader, writer in lines:
            if reset:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            else:
                assert await reader.read() == b""
            writer.close()
        reader, writer = await connect(relay)
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        writer.close()


async def test_a_server_that_is_gone_resets_the_client() -> None:
    async with server(echo) as target:
        pass
    async with Relay(target) as relay:
        reader, writer = await connect(relay)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert (await ended(relay)).state == "refused"


def test_every_fault_is_an_option() -> None:
    options = {action.dest for action in argument_parser()._actions}
    assert options >= {fault.name for fault in fields(Faults)}
    given = vars(
        argument_parser().parse_args(["--listen", "0", "--to", "a:1", "--delay-s", "0.5", "--reset", "--way", "up"])
    )
    assert (given["delay_s"], given["reset"], given["direction"], given["times"]) == (0.5, True, "up", None)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--listen", "abc", "--to", "a:1"], "'abc' is not [HOST:]PORT"),
        (["--listen", "99999", "--to", "a:1"], "'99999' is not [HOST:]PORT"),
        (["--listen", "0", "--to", "nowhere"], "'nowhere' is not HOST:PORT"),
    ],
)
def test_an_address_that_is_none_is_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        relay_main(argv)
    assert said in capsys.readouterr().err


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert relay_main(["--listen", str(taken.getsockname()[1]), "--to", "127.0.0.1:1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no relay can listen there: ")


def test_networks_are_stated() -> None:
    assert list(NETWORKS) == ["lan", "wan", "mobile", "lossy"]
    assert all(faults.shaped for faults in NETWORKS.values())
