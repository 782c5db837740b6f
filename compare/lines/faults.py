"""What a relay does to a line, as data: cuts, stalls, delays, bandwidths, and the networks that are made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from compare.lines.capture import Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What happens to the connections of a relay; the default changes nothing.

    A position counts the payload of one connection in one direction, ``direction``. The cut, the stall and the black hole happen
    to the first ``times`` connections that reach their position; ``times=None`` means every connection.
    """

    cut_after_bytes: int | None = field(default=None, metadata={"help": "cut a connection after this many bytes"})
    cut_after_event: int | None = field(default=None, metadata={"help": "cut after this many whole events"})
    stall_after_bytes: int | None = field(
        default=None, metadata={"help": "pass nothing in either direction after this many bytes"}
    )
    black_hole_after_bytes: int | None = field(
        default=None, metadata={"help": "discard everything after this many bytes, the end of the connection too"}
    )
    times: int | None = field(
        default=1, metadata={"help": "how many connections are cut, stalled or discarded (default: 1)"}
    )
    direction: Direction = field(
        default="down",
        metadata={"option": "--way", "help": "direction in which positions count: down is to the client (default)"},
    )
    reset: bool = field(default=False, metadata={"help": "cut with RST instead of FIN"})
    stall_s: float | None = field(default=None, metadata={"help": "length of a stall in seconds (unset: for ever)"})
    refuse_s: float = field(
        default=0.0, metadata={"help": "reset new connections for this many seconds after a cut (default: 0)"}
    )
    delay_s: float = field(default=0.0, metadata={"help": "delay of each direction in seconds"})
    connect_s: float = field(
        default=0.0,
        metadata={"help": "time until a new connection is open, in seconds: what the client sends before that waits"},
    )
    bytes_per_s: float | None = field(default=None, metadata={"help": "bandwidth of each direction"})
    late_share: float = field(
        default=0.0, metadata={"help": "share of packets that are lost and sent again, from 0 to 1"}
    )
    late_s: float = field(
        default=0.25, metadata={"help": "delay of such a packet in seconds; the packets behind it wait (default: 0.25)"}
    )
    slice_bytes: int | None = field(default=None, metadata={"help": "largest write of the relay"})
    buffer_bytes: int | None = field(
        default=None, metadata={"help": "hold back bytes to the client until there are this many"}
    )
    buffer_s: float = field(
        default=0.25, metadata={"help": "or until the first of them has waited this many seconds (default: 0.25)"}
    )
    window_bytes: int | None = field(
        default=None, metadata={"help": "receive buffers of the relay; small ones let a server feel a stall soon"}
    )

    @property
    def shaped(self) -> bool:
        """Whether bytes need time to pass."""
        return max(self.delay_s, self.connect_s, self.late_share) > 0 or self.bytes_per_s is not None


# The networks that a comparison can run on. A late packet delays the packets behind it, as a lost packet does in TCP.
NETWORKS: dict[str, Faults] = {
    "lan": Faults(delay_s=0.000_25, bytes_per_s=125e6),
    "wan": Faults(delay_s=0.040, bytes_per_s=12.5e6),
    "mobile": Faults(delay_s=0.050, bytes_per_s=1.25e6, late_share=0.005, late_s=0.2),
    "lossy": Faults(delay_s=0.050, bytes_per_s=0.6e6, late_share=0.03, late_s=0.3),
}


def describe(faults: Faults | None) -> str:
    """A line in words; None is a line without a relay."""
    if faults is None:
        return "loopback"
    parts = ["loopback through the relay"]
    if faults.delay_s:
        parts.append(f"{faults.delay_s * 1000:g} ms each way")
    if faults.connect_s:
        parts.append(f"{faults.connect_s * 1000:g} ms to open a connection")
    if faults.bytes_per_s:
        parts.append(f"{faults.bytes_per_s * 8 / 1e6:g} Mbit/s")
    if faults.late_share:
        parts.append(f"{faults.late_share:.1%} of packets {faults.late_s * 1000:g} ms late")
    if faults.buffer_bytes:
        parts.append(f"a buffer of {faults.buffer_bytes} bytes or {faults.buffer_s * 1000:g} ms")
    return ", ".join(parts)
