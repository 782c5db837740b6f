"""Every formula with known arrivals. Nothing runs here, so every number is exact."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from compare.measuring.findings import findings
from compare.measuring.formulas import delays, gaps
from compare.measuring.goodput import Objectives, goodput
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, differ, figure, quantile
from compare.measuring.turns import Arrival, Sample, TurnRecord
from compare.measuring.verdicts import bunched, summarise, verdict


def chunk(ms: float, seq: int, logged_ms: float | None = None, text: str = "word ") -> Arrival:
    return Arrival(ms, "chunk", seq, logged_ms, len(text.encode()), text)


def mark(ms: float, type: str, logged_ms: float | None = None) -> Arrival:
    return Arrival(ms, type, 0, logged_ms, 0)


def made(*arrivals: Arrival, lane: str = "ndjson", tokens: int | None = None, **more: object) -> TurnRecord:
    count = sum(arrival.type == "chunk" for arrival in arrivals)
    return msgspec.convert(
        {
            "experiment": "test",
            "lane": lane,
            "round": 0,
            "stream": 0,
            "asked_at": 1_800_000_000_000.0,
            "tokens": count if tokens is None else tokens,
            "arrivals": list(arrivals),
            **more,
        },
        TurnRecord,
    )


# Five chunks after 100, 120, 150, 150.5 and 200 ms, logged 2, 4, 6, 8 and 10 ms before they arrived; an empty first one.
STREAM = made(
    mark(90, "turn_started", 80),
    chunk(100, 2, 98, ""),
    chunk(120, 3, 116),
    chunk(150, 4, 144),
    chunk(150.5, 5, 142.5),
    chunk(200, 6, 190),
    mark(210, "turn_completed", 205),
    up_bytes=300,
    down_bytes=1000,
)
REPLY = made(Arrival(500, "reply", 0, None, 40, "x" * 40), lane="rest", tokens=8, up_bytes=100, down_bytes=400)


def of(name: str, turn: TurnRecord) -> float | None:
    of_turn = METRICS[name].of_turn
    assert of_turn is not None
    return of_turn(turn)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttfe", 90),
        ("ttft", 120),  # the first that is not empty
        ("icl_p50", 25.0),  # of 20, 30, 0.5, 49.5
        ("icl_p90", 30 + 0.7 * 19.5),
        ("icl_p99", 30 + 0.97 * 19.5),
        ("jitter", 30 + 0.97 * 19.5 - 25.0),
        ("tpot", 25.0),  # (200 - 100) / 4
        ("e2e", 210),
        ("delay_p50", 6),
        ("delay_p99", 8 + 0.96 * 2),
        ("coalescing", 1 / 4),
        ("down_per_token", 200),
        ("up_bytes", 300),
        ("framing", 1 - 20 / 1000),
        ("lost", None),
        ("twice", None),
        ("again", None),
        ("detect", None),
        ("back", None),
    ],
)
def test_every_formula_on_a_stream(name: str, value: float | None) -> None:
    assert of(name, STREAM) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttfe", 500),
        ("ttft", 500),  # one whole reply: its first token is its last
        ("e2e", 500),
        ("icl_p50", None),
        ("tpot", None),
        ("delay_p50", None),  # a reply has no event times
        ("coalescing", None),
        ("down_per_token", 50),
        ("framing", 0.9),
    ],
)
def test_every_formula_on_a_whole_reply(name: str, value: float | None) -> None:
    assert of(name, REPLY) == (None if value is None else pytest.approx(value))


def test_every_metric_is_either_of_a_turn_or_a_sample_and_says_its_formula() -> None:
    tested = {"ttfe", "ttft", "icl_p50", "icl_p90", "icl_p99", "jitter", "tpot", "e2e", "delay_p50", "delay_p99"}
    tested |= {"coalescing", "down_per_token", "up_bytes", "framing", "lost", "twice", "again", "detect", "back"}
    # tests/test_phases.py measures these two.
    tested |= {"first_output", "tokens_per_chunk"}
    assert {name for name, metric in METRICS.items() if metric.of_turn is not None} == tested
    assert all(metric.formula and metric.points and metric.unit for metric in METRICS.values())


# Ten tokens. The line is cut after three tokens, at 30 ms; the client reports it 5 ms later.
RESUMED = made(
    chunk(10, 2, 9),
    chunk(20, 3, 19),
    chunk(30, 4, 29),
    mark(30, "cut"),
    mark(35, "lost"),
    mark(60, "resumed"),
    *(chunk(60 + i, 5 + i, 40 + 10 * i) for i in range(7)),
    mark(70, "turn_completed"),
    generated=10,
)
ASKED_AGAIN = made(
    chunk(10, 2, 9),
    chunk(20, 3, 19),
    chunk(30, 4, 29),
    mark(30, "cut"),
    mark(35, "asked"),
    *(chunk(50 + 10 * i, 2 + i, 49 + 10 * i) for i in range(10)),
    mark(145, "turn_completed"),
    tokens=10,
    generated=20,
    resume=False,
)
REST_RESUMED = made(
    mark(30, "cut"),
    mark(31, "lost"),
    mark(40, "resumed"),
    Arrival(100, "reply", 0, None, 50, "x" * 50),
    tokens=10,
    generated=10,
)
REST_AGAIN = made(
    mark(30, "cut"),
    mark(31, "asked"),
    Arrival(140, "reply", 0, None, 50, "x" * 50),
    tokens=10,
    generated=20,
    resume=False,
)


@pytest.mark.parametrize(
    ("turn", "lost", "twice", "again", "detect", "back"),
    [
        (RESUMED, 0, 0, 0, 5, 30),
        (ASKED_AGAIN, 7, 3, 10, 5, 50),  # the fourth token, new again, comes at 80
        (REST_RESUMED, 0, 0, 0, 1, 70),
        (REST_AGAIN, 10, 0, 10, 1, 110),
    ],
)
def test_what_a_cut_costs(
    turn: TurnRecord, lost: float, twice: float, again: float, detect: float, back: float
) -> None:
    found = {name: of(name, turn) for name in ("lost", "twice", "again", "detect", "back")}
    assert found == {"lost": lost, "twice": twice, "again": again, "detect": detect, "back": back}


def test_times_after_a_resume_are_left_out() -> None:
    assert delays(RESUMED) == [1, 1, 1]
    assert gaps(RESUMED) == [10, 10]
    assert of("e2e", RESUMED) == 70


def test_bytes_of_text_are_counted_once_though_shown_twice() -> None:
    turn = made(*ASKED_AGAIN.arrivals, tokens=10, down_bytes=500, resume=False)
    assert of("framing", turn) == pytest.approx(1 - 50 / 500)


def test_quantiles_are_interpolated() -> None:
    assert quantile([4, 1, 3, 2], 0.5) == 2.5
    assert quantile([1, 2, 3, 4, 5], 0.25) == 2
    assert quantile([1, 2], 0.99) == pytest.approx(1.99)
    assert quantile([7], 0.5) == 7
    assert quantile([], 0.5) is None


def test_the_interval_is_seeded_and_holds_the_median() -> None:
    dice = random.Random(7)
    values = [dice.gauss(100, 10) for _ in range(40)]
    first, second = figure(values), figure(values)
    assert first == second is not None
    assert first is not None
    assert first.low < first.median < first.high
    assert first.n == 40
    assert first.worst == max(values)
    assert figure([3.0]) == Figure(3.0, 3.0, 3.0, 1, 3.0)
    assert figure([]) is None


def test_the_interval_covers_as_often_as_it_says() -> None:
    dice = random.Random(11)
    hits = 0
    for trial in range(60):
        made_of = figure([dice.expovariate(1) for _ in range(20)], seed=trial)
        assert made_of is not None
        hits += made_of.low <= math.log(2) <= made_of.high
    assert 0.85 <= hits / 60 <= 1.0


def test_a_failed_turn_counts_in_no_figure() -> None:
    failed = made(chunk(1, 2, 0), error="the connection broke")
    assert summarise([failed]) == {}
    assert summarise([STREAM, failed])["ttft"].n == 1


def test_the_turns_of_one_round_are_one_value() -> None:
    rounds = [made(chunk(first, 2, 0), round=number) for number, first in ((0, 10), (0, 20), (0, 90), (1, 40))]
    found = summarise(rounds)["ttft"]
    assert (found.n, found.median) == (2, 30)


def figures(*medians: float, spread: float = 1.0, n: int = 20) -> dict[str, Figure]:
    names = ("rest", "ndjson", "sse", "websocket", "grpc")
    return {
        name: Figure(median, median - spread, median + spread, n, median + 2 * spread)
        for name, median in zip(names, medians, strict=False)
    }


def test_overlap_is_no_difference() -> None:
    found = figures(10.0, 11.5)
    assert not differ(*found.values())
    assert verdict(METRICS["ttft"], found) == "TTFT: no difference found between REST and NDJSON."


def test_a_difference_is_named_with_its_numbers() -> None:
    said = verdict(METRICS["ttft"], figures(100.0, 10.0, 11.0))
    assert said == (
        "TTFT: NDJSON and Server-Sent Events lower (10.0 ms), no difference found between them, than REST (100 ms)."
        " Cause: nothing is shown before the reply is whole (REST)."
    )
    assert (
        verdict(METRICS["goodput"], figures(5.0, 10.0))
        == "goodput: NDJSON higher (10.0 turns/s) than REST (5.00 turns/s)."
    )


def test_a_cost_is_credited_to_its_cause() -> None:
    names = ("ndjson", "websocket", "grpc")
    found = dict(zip(names, figures(15.0, 15.5, 53.0).values(), strict=True))
    assert verdict(METRICS["server_us"], found).endswith("Cause: grpcio's asyncio layer, not gRPC's wire (gRPC).")
    smaller = dict(zip(names, figures(128.0, 124.0, 79.0).values(), strict=True))
    assert verdict(METRICS["down_per_token"], smaller).endswith("Cause: protobuf, not HTTP/2 (gRPC).")


def test_less_than_a_tenth_is_not_ranked() -> None:
    said = verdict(METRICS["server_us"], figures(100.0, 109.0))
    assert said == "server CPU: no difference that matters between REST and NDJSON."


def test_gaps_are_not_ranked_above_20_percent_of_coalescing() -> None:
    shares = {lane: {"coalescing": figure} for lane, figure in figures(0.21, 0.19, spread=0.0).items()}
    assert set(bunched(shares)) == {"rest"}


def test_too_few_rounds_claim_nothing() -> None:
    found = figures(10.0, 100.0, n=ENOUGH_ROUNDS - 1)
    assert not differ(*found.values())
    assert "5 rounds a lane cannot tell a difference" in verdict(METRICS["ttft"], found)


def test_a_metric_that_is_neither_good_nor_bad_has_no_verdict() -> None:
    assert verdict(METRICS["coalescing"], figures(0.1, 0.9)) == ""
    assert verdict(METRICS["ttft"], figures(10.0)) == ""


def test_goodput_counts_turns_that_met_every_objective() -> None:
    objectives = Objectives(ttft_ms=130, icl_p99_ms=60, e2e_ms=300)
    late = made(chunk(140, 2, 1), chunk(150, 3, 2), mark(160, "turn_completed"))
    jumpy = made(chunk(10, 2, 1), chunk(110, 3, 2), mark(120, "turn_completed"))
    failed = made(chunk(10, 2, 1), mark(20, "turn_completed"), error="gone")
    whole = made(Arrival(100, "reply", 0, None, 4, "word"), lane="rest", tokens=1)
    assert goodput([STREAM, late, jumpy, failed, whole], objectives, 2.0) == 1.0


def path(delay_ms: float, *, every: int = 1, late: tuple[int, ...] = ()) -> TurnRecord:
    """40 tokens, 20 ms apart. ``every`` tokens arrive together; the ``late`` ones and all behind them come 200 ms late."""
    arrivals = []
    free_at = 0.0
    for i in range(40):
        logged = 20.0 * i
        due = 20.0 * (i // every * every + every - 1) if every > 1 else logged
        free_at = max(free_at, due + delay_ms + (200 if i in late else 0))
        arrivals.append(chunk(free_at + i * 0.001, i + 2, logged))
    return made(*arrivals, mark(arrivals[-1].ms, "turn_completed"))


def test_a_clear_path_has_nothing_to_say() -> None:
    assert findings([path(0.4), path(0.6)]) == []


def test_a_delay_is_seen_as_that_delay() -> None:
    assert findings([path(50)]) == ["a one-way delay of about 50 ms: no token was faster than that"]


def test_a_buffer_is_called_a_buffer() -> None:
    (said,) = findings([path(0.5, every=5)])
    assert said.startswith("a buffer on the path: 82% of the chunks")


def test_a_buffer_for_the_whole_answer_is_no_delay_of_the_line() -> None:
    assert [said.partition(":")[0] for said in findings([path(0.5, every=40)])] == ["a buffer on the path"]
    assert [said.partition(":")[0] for said in findings([path(50, every=40)])] == [
        "a buffer on the path",
        "a one-way delay of about 50 ms",
    ]


def test_late_packets_are_stalls_and_no_buffer() -> None:
    (said,) = findings([path(0.5, late=(5, 25))])
    assert said.startswith("stalls on the path")


def test_a_model_that_bunches_is_no_buffer() -> None:
    bunched = made(*(chunk(20.0 * (i // 5) + 0.01 * i, i + 2, 20.0 * (i // 5)) for i in range(40)))
    assert findings([bunched]) == []


def test_a_bandwidth_is_seen_in_a_picture() -> None:
    pieces = [Arrival(100.0 * (i + 1), "image_chunk", i + 3, 0.0, 65_536) for i in range(10)]
    turn = made(mark(1, "turn_started", 0), *pieces, tokens=0, down_bytes=655_360)
    assert findings([turn]) == ["a bandwidth of about 0.66 MB/s, as long as the picture came"]


def test_arrivals_survive_their_file() -> None:
    line = msgspec.json.encode(STREAM)
    assert msgspec.json.decode(line, type=TurnRecord) == STREAM
    sample = Sample(experiment="connect", lane="grpc", round=1, metric="connect_cold", value=2.5)
    assert msgspec.json.decode(msgspec.json.encode(sample), type=Sample) == sample
