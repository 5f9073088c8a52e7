"""How many slots a step any order of a study's trials could have reached.

Trials of one batch size share steps, and a trial takes its own steps one after another. So the
steps of one batch size are at least those of its longest trial, and at least all of its
trials' steps divided by how many run at once. The bound knows nothing of dependencies: a suggestion
that waits for the results of others begins later than it assumes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from headsweep.data.dataset import Dataset
from headsweep.engine.tape import batch_bounds
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import EPOCHS_TRAINED, trial_config


@dataclass(frozen=True)
class Trained:
    """What a trial took of the engine: its first epoch on the tape, and its epochs."""

    batch_size: int
    steps_per_epoch: int
    entered: int
    epochs: int

    @property
    def interval(self) -> range:
        """Return the epochs of the tape on which it trained."""
        return range(self.entered, self.entered + self.epochs)


@dataclass(frozen=True)
class Fusion:
    """Steps of a study by one worker, and the fewest in which its trials could be trained."""

    slot_steps: int
    fused_steps: int
    fewest_steps: int
    most_possible: float
    """Slots a step that no order of the same trials exceeds."""
    after_last_admission: float
    """Share of the fused steps taken after the last trial of the study had begun."""
    alone: float
    """Share of the fused steps that trained one slot."""

    @classmethod
    def of(cls, trials: Sequence[Trained], capacity: int) -> Self:
        """Return the steps of trials of which at most `capacity` run at once."""
        by_batch: dict[int, list[Trained]] = defaultdict(list)
        for trial in trials:
            by_batch[trial.batch_size].append(trial)
        last = max(trial.entered for trial in trials)
        fused, fewest, after, alone = 0, 0, 0, 0
        for alike in by_batch.values():
            steps = alike[0].steps_per_epoch
            slots: dict[int, int] = defaultdict(int)
            for trial in alike:
                for epoch in trial.interval:
                    slots[epoch] += 1
            fused += steps * len(slots)
            after += steps * sum(epoch > last for epoch in slots)
            alone += steps * sum(n == 1 for n in slots.values())
            n_epochs = sum(trial.epochs for trial in alike)
            longest = max(trial.epochs for trial in alike)
            fewest += steps * max(longest, math.ceil(n_epochs / capacity))
        slot_steps = sum(trial.epochs * trial.steps_per_epoch for trial in trials)
        most = slot_steps / fewest
        return cls(slot_steps, fused, fewest, most, after / fused, alone / fused)


def trained_trials(study: StoredStudy, data: Dataset) -> list[Trained]:
    """Return what the trials of a study took that one worker ran without interruption."""
    n_train = data.search_splits(data.apply_to(study.spec.config))[0].targets.shape[0]
    trained = []
    for trial in study.trials():
        if epochs := trial.user_attrs.get(EPOCHS_TRAINED, 0):
            training = trial_config(study.spec, trial).training
            batch_size = min(training.batch_size, n_train)
            steps = len(batch_bounds(n_train, batch_size))
            trained.append(Trained(batch_size, steps, training.tape_position, epochs))
    return trained
