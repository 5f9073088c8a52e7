"""When a lease is renewed, and when its worker must stop writing; the test sets the clock."""

import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest

from headsweep.errors import StorageError
from headsweep.workers import lease as lease_module
from headsweep.workers.lease import Lease

LEASE_S = 10.0
FIRST, BOTH = frozenset({1}), frozenset({1, 2})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace `time.monotonic` of leases by `clock.now`, which starts at 100 s."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(lease_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def fenced_at(clock: SimpleNamespace, lease: Lease, now: float) -> bool:
    clock.now = now
    return lease.fenced()


def test_lease_of_claimed_trials_counts_from_the_claim(clock) -> None:
    lease = Lease(lambda _: None, LEASE_S)
    clock.now = 107.0
    lease.set_trials(FIRST, since=105.0)
    assert fenced_at(clock, lease, 115.0) is False
    assert fenced_at(clock, lease, 115.5) is True
    assert fenced_at(clock, lease, 105.0) is True  # stays fenced until `reset`
    lease.reset()
    assert fenced_at(clock, lease, 115.5) is False  # it holds nothing
    clock.now = 105.0
    lease.set_trials(FIRST)
    assert fenced_at(clock, lease, 115.0) is False
    assert fenced_at(clock, lease, 115.5) is True


def test_lease_with_later_claims_still_lapses_for_the_first(clock) -> None:
    lease = Lease(lambda _: None, LEASE_S)
    lease.set_trials(FIRST, since=100.0)
    lease.set_trials(BOTH, since=109.0)
    assert fenced_at(clock, lease, 110.5) is True


def test_lease_without_trials_is_not_fenced(clock) -> None:
    lease = Lease(lambda _: None, LEASE_S)
    assert fenced_at(clock, lease, 500.0) is False
    lease.set_trials(FIRST)
    assert lease.fenced() is True


class Waits:
    """Replaces the lease's stop event: each wait runs an action; after the last, it is set."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.acts = list(acts)
        self.waited_s: list[float] = []

    def wait(self, timeout_s: float) -> bool:
        self.waited_s.append(timeout_s)
        if not self.acts:
            return True
        self.acts.pop(0)()
        return False


def test_lease_renews_four_times_while_it_holds(clock) -> None:
    renewed: list[frozenset[int]] = []

    def renew(keys: Iterable[int]) -> None:
        renewed.append(frozenset(keys))
        clock.now += 1.0  # a renewal counts from its start
        if len(renewed) == 2:
            raise StorageError("away")

    lease = Lease(renew, LEASE_S)

    def at(now: float, held: frozenset[int]) -> Callable[[], None]:
        def act() -> None:
            clock.now = now
            lease.set_trials(held)

        return act

    lease._ending = Waits(
        *(at(100.0, frozenset()), at(102.0, FIRST), at(104.0, BOTH), at(106.0, BOTH))
    )
    lease._run()
    assert lease._ending.waited_s == [2.5] * 5
    assert renewed == [FIRST, BOTH, BOTH]
    assert fenced_at(clock, lease, 116.0) is False
    assert fenced_at(clock, lease, 116.5) is True


def test_lease_with_a_failed_or_late_renewal_is_fenced(clock):
    renewed: list[float] = []

    def renew(_: Iterable[int]) -> None:
        renewed.append(clock.now)
        raise StorageError("away")

    lease = Lease(renew, LEASE_S)
    lease.set_trials(FIRST, since=100.0)
    lease._ending = Waits(
        lambda: setattr(clock, "now", 109.0), lambda: setattr(clock, "now", 110.5)
    )
    lease._run()
    assert renewed == [109.0]
    assert lease.fenced() is True


def test_lease_thread_renews_from_entry_to_exit() -> None:
    renewals = threading.Semaphore(0)
    with Lease(lambda _: renewals.release(), 0.2) as lease:
        lease.set_trials(FIRST, since=1e12)  # never fenced, however slow the machine
        assert all(renewals.acquire(timeout=60) for _ in range(3))
        assert lease._thread.daemon
        lease._lease_s = 60.0  # the time that an exit waits for the thread
    assert not lease._thread.is_alive()
