"""From the figures on the line to sentences: what a lost packet delays, and why; what a changed address costs."""

from __future__ import annotations

from collections.abc import Mapping

from compare.measuring.packets.jobs import SILENCE_S
from compare.measuring.packets.results import Cell, PacketResults
from compare.measuring.packets.ways import MOVED, WAYS
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, differ
from compare.measuring.verdicts import listed, number
from shared.client.text import plural

# With more late tokens than this on a line that loses nothing, the machine is too busy to tell what a loss does.
_CALM_SHARE = 0.02
_IN_ORDER = (
    "TCP hands on the bytes of a connection in order, so a lost packet holds back the tokens of all streams behind it"
)


def share(found: Figure) -> str:
    """``5.9 % (4.8–7.0)``."""
    if found.low == found.high:
        return f"{found.median * 100:.1f} %"
    return f"{found.median * 100:.1f} % ({found.low * 100:.1f}–{found.high * 100:.1f})"


def verdicts(results: PacketResults) -> list[str]:
    """What the run shows, each sentence with its cause."""
    said = [sentence for loss in _losses(results) for sentence in _of_loss(results, loss)]
    return [*said, *_of_moves(results), *_of_counters(results)]


def _losses(results: PacketResults) -> list[float]:
    return sorted({cell.loss for cell in results.cells if cell.loss})


def _of_loss(results: PacketResults, loss: float) -> list[str]:
    at = f"At {loss:.0%} loss"
    if 0 < results.rounds < ENOUGH_ROUNDS:
        rounds = "1 round" if results.rounds == 1 else f"{results.rounds} rounds"
        return [f"{at}: {rounds} cannot tell a difference; it takes {ENOUGH_ROUNDS}."]
    if busy := _busy(results):
        return [f"{at}: no claim. Without any loss {busy} of the tokens are late here, so the machine was too busy."]
    said = []
    for way in WAYS.values():
        one, many = results.cell(way.name, "one", loss), results.cell(way.name, "many", loss)
        if one is not None and many is not None:
            own = _without_loss(results, way.name)
            said.append(_one_or_many(at, way.title, one, many, own, tcp=way.tcp, streams=results.streams))
    quic, tcp = results.cell("h3", "one", loss), results.cell("h2", "one", loss)
    if quic is not None and tcp is not None:
        own = _without_loss(results, "h3")
        head = f"{at}, one connection: HTTP/3 makes {share(quic.figures['late'])}{own} of the tokens late, HTTP/2"
        behind = f"{share(tcp.figures['late'])}{_without_loss(results, 'h2')}"
        if not differ(quic.figures["late"], tcp.figures["late"]):
            said.append(f"{head} {behind}: no difference found.")
        else:
            said.append(
                f"{head} {behind}. Cause: QUIC orders the bytes of each stream by itself, TCP those of the"
                " whole connection."
            )
    return said


def _busy(results: PacketResults) -> str:
    """The largest share of late tokens on the line without loss, where it is too large; else empty.

    Many connections tell it, where they were measured: on one connection a single late start delays all streams together,
    also on a machine with nothing else to do. Sentences on one connection have this share beside theirs.
    """
    calm = [cell for cell in results.cells if cell.loss == 0 and cell.figures]
    calm = [cell for cell in calm if cell.connections == "many"] or calm
    worst = max((cell.figures["late"].median for cell in calm), default=0.0)
    return f"up to {worst:.1%}" if worst > _CALM_SHARE else ""


def _without_loss(results: PacketResults, way: str) -> str:
    """`` (3.0 % also without loss)``, where more than 2 % of the tokens are late on one connection without loss; else empty."""
    cell = results.cell(way, "one", 0.0)
    late = cell.figures["late"].median if cell is not None and cell.figures else 0.0
    return f" ({late * 100:.1f} % also without loss)" if late > _CALM_SHARE else ""


def _one_or_many(at: str, title: str, one: Cell, many: Cell, own: str, *, tcp: bool, streams: int) -> str:
    late_one, late_many = one.figures["late"], many.figures["late"]
    head = (
        f"{at}, {title}: {share(late_one)} of the tokens are late on one connection{own}, {share(late_many)} on"
        f" {streams} connections"
    )
    if not differ(late_one, late_many):
        return f"{head}: no difference found."
    together = (
        f"{_together(one)} of the late tokens came at the same moment as one of another stream, {_together(many)} on"
        f" {streams} connections"
    )
    if tcp and late_one.median > late_many.median:
        return f"{head}. Cause: {_IN_ORDER} ({together})."
    return f"{head} ({together})."


def _together(cell: Cell) -> str:
    found = cell.figures.get("together")
    return "0 %" if found is None else f"{found.median:.0%}"


def _of_moves(results: PacketResults) -> list[str]:
    """What the cursor saves when the client's address changes: a sentence for the protocols with the same costs."""
    kept, asked = (results.moves.get(f"moved, {how} resume", {}) for how in ("with", "without"))
    costs: dict[tuple[str, str], list[str]] = {}
    noticed = []
    for name, way in MOVED.items():
        with_cursor, without = kept.get(name, {}), asked.get(name, {})
        if "lost" in with_cursor and "lost" in without:
            costs.setdefault((_cost(with_cursor), _cost(without)), []).append(way.title)
        if "detect" in with_cursor:
            noticed.append(f"{way.title} after {_median(with_cursor, 'detect')} ms")
    rounds = min(
        (figure.n for ways in (kept, asked) for found in ways.values() for figure in found.values()), default=0
    )
    times = "" if rounds >= ENOUGH_ROUNDS else f"; {plural(rounds, 'round')}, so no more than an example"
    said = [
        f"The client's address changes in mid-answer ({listed(titles)}{times}): with the cursor {with_cursor}. Without it the"
        f" client asks again: {without}."
        for (with_cursor, without), titles in costs.items()
    ]
    if noticed:
        said.append(
            f"The clients noticed the change: {listed(noticed)}. Nothing tells an end of a TCP connection that its peer has"
            f" another address: only the silence does, and the client's own patience ({SILENCE_S:g} s here) decides how soon."
        )
    return said


def _cost(found: Mapping[str, Figure]) -> str:
    return listed(
        [
            f"{_median(found, 'lost')} tokens lost",
            f"{_median(found, 'twice')} shown twice",
            *([f"{_median(found, 'again')} paid twice"] if "again" in found else []),
        ]
    )


def _median(found: Mapping[str, Figure], name: str) -> str:
    median = found[name].median
    return f"{median:.0f}" if median == round(median) else number(median)


def _of_counters(results: PacketResults) -> list[str]:
    wrong = [cell for cell in results.cells if not cell.loss_as_asked]
    counted = sum(cell.packets for cell in results.cells)
    if wrong:
        cells = listed(
            [f"{WAYS[cell.way].title} at {cell.loss:.0%} ({cell.dropped} of {cell.packets})" for cell in wrong]
        )
        return [f"The line did not lose what it was asked to: {cells}. These figures say nothing."]
    said = f"The line dropped {results.dropped:,} of {counted:,} packets, as many as the asked shares let expect in each cell"
    if results.kernel_dropped == results.dropped:
        return [f"{said}; the counters of the kernel's devices say the same."]
    return [f"{said}; the counters of the kernel's devices say {results.kernel_dropped:,}."]
