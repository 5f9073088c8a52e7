"""Grouped programs under Triton's interpreter, and the same steps by autograd in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")  # interpreted: see tests/conftest.py

from headsweep.config.head_section import MLPConfig
from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.groups import new_slot
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.dropout_noise import uniforms
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.programs.base import GroupKey
from headsweep.engine.programs.grouped.lanes import TrainLane
from headsweep.engine.programs.grouped.program import GroupedMLPProgram, GroupedProgram
from headsweep.engine.slots import Slot
from headsweep.engine.tape import batch_bounds, permutation
from headsweep.heads.registry import build_head
from headsweep.metrics.masking import BLANK
from tests.helpers.plain_training import mean_loss, weights_of_positives

Steps = list[tuple[Tensor, int, float]]


class Grouped:
    """A grouped program, and the slots that were admitted to it."""

    def __init__(
        self,
        splits: tuple[Split, Split],
        program: type[GroupedProgram] = GroupedMLPProgram,
        precision: str = "float32",
        seed: int = 42,
    ) -> None:
        self.inputs = Inputs(*splits, torch.device("cpu"))
        self.program = program(GroupKey("grouped", seed, precision), self.inputs)  # type: ignore[arg-type]
        self.position = 0
        self.slots: list[Slot] = []

    def admit(self, *configs: Config) -> list[Slot]:
        """Let heads enter."""
        numbers = range(len(self.slots), len(self.slots) + len(configs))
        new = [
            new_slot(number, config, "grouped", self.inputs.n_train)
            for number, config in zip(numbers, configs, strict=True)
        ]
        for slot in new:
            self.program.admit(slot)
        self.slots += new
        return new

    @torch.no_grad()
    def epoch(self) -> None:
        """Train all slots for an epoch."""
        order = permutation(self.program.key.seed, self.position, self.inputs.n_train)
        self.program.train_epoch(order, self.position)
        self.position += 1
        for member in self.program.members.values():
            member.slot.epoch += 1

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Copies of a slot's tensors."""
        return {name: tensor.clone() for name, tensor in self.program.state(slot).items()}

    def scores(self) -> dict[int, Tensor]:
        """Logits `(c, n_valid)` by the slot's number."""
        slots, scores = self.program.validate()
        return {slot.number: part.clone() for slot, part in zip(slots, scores, strict=True)}

    def lane(self, slot: Slot) -> TrainLane:
        """The lane that trains a slot."""
        return self.program.lanes[slot.batch_size]


def steps_of_epoch(config: Config, n_train: int, position: int, epoch: int) -> Steps:
    """Rows, number on the tape and learning rate of every minibatch."""
    training = config.training
    order = permutation(training.seed, position, n_train)
    bounds = batch_bounds(n_train, min(training.batch_size, n_train))
    count = len(bounds)
    return [
        (order[a:b], position * count + i, learning_rate(training, epoch * count + i, count))
        for i, (a, b) in enumerate(bounds)
    ]


class Exact:
    """One head in float64: `nn.Module`, autograd and `torch.optim`."""

    def __init__(self, config: Config, inputs: Inputs) -> None:
        self.config, self.inputs = config, inputs
        head = build_head(config.head, inputs.shape(config), seed=config.training.seed)
        self.head = head.double()
        self.x = inputs.matrix(Variant.of(config), valid=False).double()
        self.x_valid = inputs.matrix(Variant.of(config), valid=True).double()
        self.targets = torch.tensor(inputs.train.targets, dtype=torch.float64)
        self.targets[self.targets == BLANK] = torch.nan
        self.pos_weight = weights_of_positives(self.targets)
        self.optimizer = _optimizer(self.head, config)

    def step(self, rows: Tensor, tape_step: int, rate: float) -> None:
        """One optimizer step."""
        training = self.config.training
        logits = self._logits(self.x[rows], tape_step)
        self.optimizer.zero_grad()
        mean_loss(logits, self.targets[rows], self.config, self.pos_weight).backward()
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.head.parameters(), training.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    @property
    def gradients(self) -> list[Tensor]:
        """Of the last step, clipped."""
        return [p.grad for p in self.head.parameters() if p.grad is not None]

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Logits `(c, n_valid)`."""
        self.head.eval()
        logits: Tensor = self.head(self.x_valid)
        return logits.T

    def _logits(self, x: Tensor, tape_step: int) -> Tensor:
        config = self.config.head
        self.head.train()
        if not isinstance(config, MLPConfig):
            logits: Tensor = self.head(x)
            return logits
        depth = 0
        for layer in self.head.hidden:
            if isinstance(layer, nn.Dropout):
                width = config.widths[depth - 1]
                seed = self.config.training.seed
                noise = uniforms(seed, tape_step, depth - 1, len(x) * width, x.device)
                x = x * (noise.view(len(x), width) > layer.p) / (1 - layer.p)
            else:
                depth += isinstance(layer, nn.Linear)
                x = layer(x)
        out: Tensor = self.head.output(x)
        return out


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The norm of the difference as a share of the norm, over all tensors together."""
    a = torch.cat([tensor.double().flatten() for tensor in found])
    b = torch.cat([tensor.double().flatten() for tensor in expected])
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def _optimizer(head: nn.Module, config: Config) -> torch.optim.Optimizer:
    t = config.training
    if t.optimizer == "sgd":
        return torch.optim.SGD(
            head.parameters(), lr=1.0, momentum=t.momentum, weight_decay=t.weight_decay
        )
    return torch.optim.AdamW(
        head.parameters(),
        lr=1.0,
        betas=t.adam_betas or (t.beta1, t.beta2),
        eps=t.adam_epsilon,
        weight_decay=t.weight_decay,
    )
