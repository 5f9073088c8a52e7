"""Reading a study's trials in increments: only those that are new, or had not ended before."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial


class NewTrials:
    """Remembers which trials of a study were read as finished; these never change again."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, so that all trials are new."""
        self._n_read = 0
        """How many trials were read so far: the first ones of the study."""
        self._last_number = -1
        """The number of the last trial that was read."""
        self._unfinished: list[int] = []
        """Positions of the trials that had not ended when they were read."""

    def outdated(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether trials were deleted or hidden since, so that all must be read again."""
        n = self._n_read
        return n > len(trials) or bool(n and trials[n - 1].number != self._last_number)

    def read(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that are new or had not ended at the last call.

        The cost of a call does not grow with the study.

        Args:
            trials: all trials of the study, by number, not `outdated`.
        """
        unread = [(i, trials[i]) for i in (*self._unfinished, *range(self._n_read, len(trials)))]
        if unread:
            self._n_read, self._last_number = len(trials), trials[-1].number
        self._unfinished = [i for i, trial in unread if not trial.state.is_finished()]
        return [trial for _, trial in unread]
