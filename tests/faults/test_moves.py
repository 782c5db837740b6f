"""A client whose address changes in mid-answer, over real packets: what the cursor saves. Linux and root."""

from __future__ import annotations

import pytest

from compare.lines.packets.namespaces import NoPacketLine, why_not
from compare.measuring.packets.run import PacketPlan, measure


async def test_the_cursor_saves_an_answer_whose_client_changes_its_address() -> None:
    if reason := why_not():
        pytest.skip(reason)
    plan = PacketPlan(
        ways=[], losses=[], delay_s=0.005, streams=1, tokens=20, rate=40.0, rounds=1, move_rounds=1, seed=1
    )
    try:
        run = await measure(plan, lambda text: None)
    except NoPacketLine as error:
        pytest.skip(str(error))
    assert run.results.move_failures == []
    kept, asked = (run.results.moves[f"moved, {how} resume"] for how in ("with", "without"))
    for way in ("h1", "websocket", "grpc"):
        assert [kept[way][metric].median for metric in ("lost", "twice", "again")] == [0, 0, 0]
        assert asked[way]["again"].median == 60
        assert asked[way]["twice"].median > 0
