"""The load points from which ``python -m compare numbers`` computes any other load: servers as they are by default, on SQLite."""

from __future__ import annotations

import tempfile

from compare.measuring.experiments.run import Run
from compare.measuring.lanes import running_lanes
from compare.measuring.loads import measure_load

RATE = 20.0
LEAST_CPU_S = 0.4


async def loads(run: Run, rate: float = RATE) -> None:
    """Every transport at each point, one transport after the other."""
    words = [name for name in run.names if name != "rest-poll"]
    with tempfile.TemporaryDirectory(prefix="compare-loads-") as folder:
        for word in words:
            env = {"STORE_URL": f"sqlite:///{folder}/{word}.db"}
            async with running_lanes([word], rate=rate, relayed=True, env=env) as lanes:
                lane = lanes[word]
                for point in run.scale.load_points:
                    run.say(f"{word}, {point.users} answers of {point.tokens} tokens")
                    run.loads.append(
                        await measure_load(
                            word,
                            lane.server.address,
                            lane.pid,
                            users=point.users,
                            tokens=point.tokens,
                            rate=rate,
                            seconds=run.scale.load_s,
                            least_cpu_s=LEAST_CPU_S,
                        )
                    )
                assert lane.relay is not None
                async with run.clients(lane, 1):
                    opened = sum(one.state == "open" for one in lane.relay.connections)
                run.connections[word] = opened
