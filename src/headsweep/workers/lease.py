"""The thread that renews the leases of a worker's trials, and detects when they expired."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from headsweep.errors import StorageError, StudyDeletedError

RENEWALS_PER_LEASE = 4


class Lease:
    """Renews the leases of a worker's trials several times within the duration of a lease.

    A worker that was suspended, or disconnected from the database, for longer than a lease is
    fenced: other workers may run its trials by then, so it must not write results for them.

    Args:
        renew: writes one heartbeat for all these trials; may raise `StorageError`.
        lease_s: how long a lease is valid after a renewal, in seconds.
    """

    def __init__(self, renew: Callable[[Iterable[int]], None], lease_s: float) -> None:
        self._renew = renew
        self._lease_s = lease_s
        self._trial_ids: frozenset[int] = frozenset()
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

    def set_trials(self, trial_ids: frozenset[int], *, since: float | None = None) -> None:
        """Renew exactly these trials from now on.

        Args:
            trial_ids: the trials to renew.
            since: `time.monotonic()` at which the trials were claimed, if some were just now.
        """
        with self._changed:
            if since is not None and not self._trial_ids:
                self._renewed_at = since
            self._trial_ids = trial_ids

    def fenced(self) -> bool:
        """Return whether other workers may run these trials by now."""
        with self._changed:
            expired = time.monotonic() - self._renewed_at > self._lease_s
            self._fenced = self._fenced or (bool(self._trial_ids) and expired)
            return self._fenced

    def reset(self) -> None:
        """Remove all trials, and end the fencing."""
        with self._changed:
            self._trial_ids = frozenset()
            self._fenced = False
            self._renewed_at = time.monotonic()

    def _run(self) -> None:
        while not self._ending.wait(self._lease_s / RENEWALS_PER_LEASE):
            trial_ids = self._trial_ids
            # A renewal that comes too late must not hide that the lease had expired.
            if not trial_ids or self.fenced():
                continue
            started = time.monotonic()
            try:
                self._renew(trial_ids)
            except (StorageError, StudyDeletedError):
                continue
            with self._changed:
                self._renewed_at = max(self._renewed_at, started)
