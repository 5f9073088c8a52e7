"""Groups: slots that share a program and read one tape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from headsweep.config import Config, MLPConfig
from headsweep.engine.inputs import Inputs
from headsweep.engine.programs.autograd import AutogradProgram
from headsweep.engine.programs.base import GroupKey, Program
from headsweep.engine.programs.linear import LinearProgram
from headsweep.engine.programs.logistic import LogisticProgram
from headsweep.engine.programs.mlp import MLPProgram
from headsweep.engine.programs.retrieval import RetrievalProgram
from headsweep.engine.slots import EpochReport, Slot
from headsweep.engine.tape import batch_bounds, batches
from headsweep.heads.base import Head
from headsweep.metrics.ranking import average_precision_and_auroc, macro

PROGRAMS: dict[str, type[Program]] = {
    "linear": LinearProgram,
    "logistic": LogisticProgram,
    "mlp": MLPProgram,
    "retrieval": RetrievalProgram,
    "autograd": AutogradProgram,
}


def group_key(config: Config, n_train: int) -> GroupKey:
    """The group that a config trains in; batches are at most the `n_train` rows there are."""
    training, features = config.training, config.features
    program = _program_name(config)
    return GroupKey(
        program=program,
        input=features.input,
        normalization=features.normalization,
        batch_size=n_train if program == "logistic" else min(training.batch_size, n_train),
        seed=training.seed,
    )


def _program_name(config: Config) -> str:
    if config.training.optimizer == "lbfgs":
        return "logistic"
    if isinstance(config.head, MLPConfig) and config.head.norm == "batch":
        return "autograd"
    return config.head.kind if config.head.kind in PROGRAMS else "autograd"


class Group:
    """Slots of one key at one position of their tape."""

    def __init__(self, key: GroupKey, inputs: Inputs, position: int) -> None:
        self.key, self.inputs = key, inputs
        self.position = position
        self.program = PROGRAMS[key.program](key, inputs)
        self.slots: dict[int, Slot] = {}
        self.steps_per_epoch = len(batch_bounds(inputs.n_train, key.batch_size))

    def admit(self, number: int, config: Config) -> None:
        """Let a trial enter at the tape's present position."""
        epochs = 1 if self.key.program == "logistic" else config.training.max_epochs
        slot = Slot(number, config, self.steps_per_epoch, epochs)
        self.program.admit(slot)
        self.slots[number] = slot

    def evict(self, number: int) -> None:
        """Free a trial's place."""
        self.program.evict(self.slots.pop(number))

    def best_head(self, number: int) -> Head:
        """A trial's head with its best weights."""
        return self.program.best_head(self.slots[number])

    def run_epoch(self) -> list[EpochReport]:
        """Train every slot on one epoch of the tape, then validate all of them at once."""
        tape_step = self.position * self.steps_per_epoch
        for rows in batches(self.key.seed, self.position, self.inputs.n_train, self.key.batch_size):
            self.program.train_batch(rows.to(self.inputs.device), tape_step)
            tape_step += 1
        self.position += 1
        slots, probabilities = self.program.validate()
        return self._report(slots, probabilities.to("cpu", torch.float32).numpy())

    def _report(self, slots: Sequence[Slot], scores: NDArray[np.float32]) -> list[EpochReport]:
        """Rank the scores `(K, c, n_valid)` and keep the best weights of slots that improved."""
        finite = np.asarray(np.isfinite(scores).all(axis=(1, 2)))
        ranked = np.where(finite[:, None, None], scores, 0.0).astype(np.float32).swapaxes(1, 2)
        auprc, auroc = average_precision_and_auroc(self.inputs.valid_targets, ranked)
        losses = _cross_entropy(self.inputs.valid_targets, scores)
        auprc_macro = np.where(finite, macro(auprc), np.nan)
        auroc_macro = np.where(finite, macro(auroc), np.nan)
        reports = []
        for k, slot in enumerate(slots):
            report = slot.finish_epoch(
                float(auprc_macro[k]), float(auroc_macro[k]), float(losses[k])
            )
            if report.best_epoch == report.epoch:
                self.program.keep_best(slot)
            reports.append(report)
        return reports


def _cross_entropy(targets: NDArray[np.uint8], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean binary cross-entropy `(K,)` of probabilities `(K, c, n)` against labels `(n, c)`."""
    hit = np.where(targets.T.astype(bool), scores, 1 - scores)
    losses: NDArray[np.float32] = (
        -np.log(np.maximum(hit, 1e-7)).reshape(len(scores), -1).mean(axis=1)
    )
    return losses
