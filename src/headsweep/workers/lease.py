"""One thread that keeps all of a worker's trials alive, and knows when it could not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from headsweep.errors import StorageError, StudyDeletedError

RENEWALS_PER_LEASE = 4


class Lease:
    """Renews the trials it holds several times a lease.

    A worker that was stopped, or cut off from the database, for longer than a lease is fenced:
    others may run its trials by then, so it must tell nothing of them.

    Args:
        renew: writes one heartbeat for all these trials; may raise `StorageError`.
        lease_s: for how long one renewal holds.
    """

    def __init__(self, renew: Callable[[Iterable[int]], None], lease_s: float) -> None:
        self._renew = renew
        self._lease_s = lease_s
        self._held: frozenset[int] = frozenset()
        self._renewed_at = time.monotonic()
        self._fenced = False
        self._changed = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join(timeout=self._lease_s)

    def hold(self, trial_ids: frozenset[int], *, since: float | None = None) -> None:
        """Renew exactly these trials from now on.

        Args:
            trial_ids: the trials to renew.
            since: `time.monotonic()` at which the trials were claimed, if some were just now.
        """
        with self._changed:
            if since is not None and not self._held:
                self._renewed_at = since
            self._held = trial_ids

    def fenced(self) -> bool:
        """Return whether the trials held may be another worker's by now."""
        with self._changed:
            lapsed = time.monotonic() - self._renewed_at > self._lease_s
            self._fenced = self._fenced or (bool(self._held) and lapsed)
            return self._fenced

    def reset(self) -> None:
        """Hold nothing, and begin anew."""
        with self._changed:
            self._held = frozenset()
            self._fenced = False
            self._renewed_at = time.monotonic()

    def _run(self) -> None:
        while not self._ending.wait(self._lease_s / RENEWALS_PER_LEASE):
            held = self._held
            # A renewal that comes too late must not hide that the lease had run out.
            if not held or self.fenced():
                continue
            started = time.monotonic()
            try:
                self._renew(held)
            except (StorageError, StudyDeletedError):
                continue
            with self._changed:
                self._renewed_at = max(self._renewed_at, started)
