"""Which processes are gone, judged by what one process sees: no other clock matters, and no lock costs a turn."""

from __future__ import annotations

from shared.store.sqlite.leases import Lease, LeaseWatch

LEASE_MS = 3000.0
STEP_MS = 500.0


class Observer:
    """A process that looks at the leases every half second."""

    def __init__(self) -> None:
        self.watch = LeaseWatch(LEASE_MS)
        self.now_ms = 100_000.0
        self.lock_trouble_at = 0.0

    def look(self, seconds: float, until: float, *, renewing: bool = False) -> bool:
        """Look at one other process, which renews or not. Returns whether the process counts as gone in the end."""
        for _ in range(int(seconds * 1000 / STEP_MS)):
            self.now_ms += STEP_MS
            until += STEP_MS if renewing else 0.0
            self.watch.look({"other": Lease(until, False)}, self.now_ms, self.now_ms)
            if self.watch.suspects:
                self.watch.wrote(self.lock_trouble_at)
        return "other" in self.watch.gone()


def test_a_process_that_stops_renewing_is_gone_after_its_lease() -> None:
    observer = Observer()
    assert not observer.look(10, 1.0, renewing=True)
    assert not observer.look(3, 2.0)
    assert observer.look(1, 2.0)


def test_a_clock_that_differs_costs_no_turn_and_holds_none() -> None:
    """With a clock an hour behind or ahead, a process that renews lives, and a process that stops is gone in time."""
    for hours in (-1, 1):
        observer = Observer()
        until = observer.now_ms + hours * 3_600_000
        assert not observer.look(10, until, renewing=True)
        assert observer.watch.clocks_differ
        assert observer.look(4.5, until)


def test_nobody_is_gone_because_everybody_waited_for_the_lock() -> None:
    observer = Observer()
    assert not observer.look(2.5, 1.0)
    observer.lock_trouble_at = 1.0
    assert not observer.look(3, 1.0)
    assert observer.look(1, 1.0)


def test_a_process_that_was_stopped_itself_judges_nobody() -> None:
    observer = Observer()
    observer.look(1, 1.0)
    observer.now_ms += 60_000
    assert not observer.look(3, 1.0)
    assert observer.look(1, 1.0)
