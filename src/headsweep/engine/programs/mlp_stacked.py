"""MLP heads, stacked: one step of all slots, which a GPU takes without waiting for the host.

A step reads the epoch's rows, learning rates and noise keys from the device, at an index that the
device counts. It is therefore recorded once for a membership, and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.config.head_section import MLPConfig
from headsweep.config.schema import Config
from headsweep.engine.hardware.cuda_graphs import RecordedStep, Step, record_graph
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.dropout_noise import minibatch_key, signed
from headsweep.engine.numerics.losses import LossSettings, gradient_, loss_settings, stack_settings
from headsweep.engine.numerics.optimizers import make_optimizer
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.programs.base import GroupKey, Program, labelled_in_row, minibatches
from headsweep.engine.programs.mlp_stacked_layers import Layers
from headsweep.engine.programs.mlp_stacked_layout import Member, lay_out
from headsweep.engine.slots import Slot
from headsweep.engine.tape import batch_bounds
from headsweep.heads.base import Head
from headsweep.heads.registry import build_head, rebuild_head

ROWS_A_PASS = 1024
"""Validation rows scored at a time, which bounds the memory that their activations take."""

N_STREAMS = 16
"""Streams on which slots are updated; on an H200 they halve the time of a step."""


@dataclass(frozen=True)
class _Epoch:
    """Inputs of the steps of an epoch, by step, and how many steps have been taken."""

    rows: Tensor
    """`(s, b)`; a short minibatch is padded with its own first row."""
    weights: Tensor
    """`(s, b)`: one over rows times labels (labelled entries), 0 for padding."""
    rates: Tensor
    """Learning rates `(s, K)`."""
    keys: Tensor
    """int32 keys of the noise `(s, layers)`."""
    taken: Tensor

    def current(self, values: Tensor) -> Tensor:
        """Return the entry that the next step reads."""
        return values.index_select(0, self.taken).squeeze(0)

    def load(self, rows: Tensor, weights: Tensor, rates: Tensor, keys: Tensor) -> None:
        """Overwrite the first steps, and begin with them."""
        news = (rows, weights, rates, keys)
        for kept, new in zip((self.rows, self.weights, self.rates, self.keys), news, strict=True):
            kept[: len(new)].copy_(new)
        self.taken.zero_()


class _Stack:
    """All slots of one membership, in the order of their widths, laid out for a step."""

    def __init__(
        self,
        members: Sequence[Member],
        steps: int,
        batch_size: int,
        x: Tensor,
        targets: Tensor,
        labelled: Tensor | None,
        record: Callable[[Step], Step] | None,
    ) -> None:
        zeros = x.new_zeros
        self.x, self.targets, self.labelled = x, targets, labelled
        self.members = sorted(members, key=lambda m: (m.widths, m.slot.number))
        self.layers: Layers = lay_out(self.members, batch_size)
        self.losses = _by_kind([m.loss for m in self.members])
        self.epoch = _Epoch(
            rows=zeros(steps, batch_size, dtype=torch.int64),
            weights=zeros(steps, batch_size),
            rates=zeros(steps, len(self.members)),
            keys=zeros(steps, len(self.layers.hidden), dtype=torch.int32),
            taken=zeros(1, dtype=torch.int64),
        )
        self.counts = zeros(len(self.members))
        """Optimizer steps of every slot; float32, as the fused kernels require."""
        self.recorded = RecordedStep(record)
        self.streams = _streams(x.device)

    def step(self) -> None:
        """Run forward, backward and update; weights change only after the last allocation."""
        epoch, noise = self.epoch, self.layers.noise
        rows = epoch.current(epoch.rows)
        x, targets = self.x.index_select(0, rows), self.targets.index_select(0, rows)
        keep = None if noise is None else noise.keep(epoch.current(epoch.keys))
        traces, logits = self.layers.forward(x.T, keep)
        error = self._loss_gradient(logits, targets.T).mul_(epoch.current(epoch.weights))
        if self.labelled is not None:
            self._by_slot(error).mul_(self.labelled.index_select(0, rows).T)
        self.layers.backward(traces, error)
        for member in self.members:
            member.optimizer.clip()
        self.counts += 1
        self._update(epoch.current(epoch.rates))
        epoch.taken.add_(1)

    def _update(self, rates: Tensor) -> None:
        """Update all slots, on several streams: one slot's update fills a tenth of a GPU."""
        if not self.streams:
            for k, member in enumerate(self.members):
                member.optimizer.step(rates[k], self.counts[k])
            return
        present = torch.cuda.current_stream()
        for stream in self.streams:
            stream.wait_stream(present)
        for k, member in enumerate(self.members):
            with torch.cuda.stream(self.streams[k % N_STREAMS]):
                member.optimizer.step(rates[k], self.counts[k])
        for stream in self.streams:
            present.wait_stream(stream)

    def scores(self, x: Tensor) -> Tensor:
        """Return logits `(K, c, n)` of inputs `(n, d)`."""
        starts = range(0, len(x), ROWS_A_PASS)
        passes = [self.layers.forward(x[i : i + ROWS_A_PASS].T, None)[1] for i in starts]
        return self._by_slot(torch.cat(passes, dim=1))

    def _loss_gradient(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return derivatives of the losses, in the logits' place `(K * c, b)`."""
        by_slot = self._by_slot(logits)
        for slots, settings in self.losses:
            if len(self.losses) == 1:
                gradient_(by_slot, targets, settings)
            else:
                part = gradient_(by_slot.index_select(0, slots), targets, settings)
                by_slot.index_copy_(0, slots, part)
        return logits

    def _by_slot(self, logits: Tensor) -> Tensor:
        return logits.view(len(self.members), -1, logits.shape[1])


class StackedMLPProgram(Program):
    """Slots of any depth, width, activation, norm and dropout in one step.

    Stacks are rebuilt when slots were admitted or evicted. How a BLAS rounds depends on the shape
    of a product, so a slot's results are equal to the bit beside slots of the same widths, and
    within rounding beside others.
    """

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        variant, batch_size = key.also
        assert isinstance(variant, Variant)
        assert isinstance(batch_size, int)
        self.batch_size = batch_size
        self.x = inputs.matrix(variant, valid=False)
        self.x_valid = inputs.matrix(variant, valid=True)
        self.labelled_in_row = labelled_in_row(inputs)
        self.steps_per_epoch = len(batch_bounds(inputs.n_train, self.batch_size))
        self.members: dict[int, Member] = {}
        self.stack: _Stack | None = None
        self.record = record_graph if inputs.device.type == "cuda" else None

    @classmethod
    def cannot_mix(cls, config: Config, inputs: Inputs) -> tuple[Variant, int]:
        """Return input variant and batch size: a step is one gather and one product for all."""
        return Variant.of(config), min(config.training.batch_size, inputs.n_train)

    def admit(self, slot: Slot) -> None:
        """Build the slot's head; it is stacked before the next step."""
        config = slot.config
        assert isinstance(config.head, MLPConfig)
        head = build_head(config.head, self.inputs.shape(config), seed=config.training.seed)
        params = [p.detach().to(self.x.device) for p in head.parameters()]
        grads = [torch.empty(0)] * len(params)
        self.members[slot.number] = Member(
            slot=slot,
            config=config.head,
            names=[name for name, _ in head.named_parameters()],
            params=params,
            grads=grads,
            best=[p.clone() for p in params],
            optimizer=make_optimizer(params, grads, config.training),
            loss=loss_settings(config.training, self.inputs.pos_weight),
        )
        self.stack = None

    def evict(self, slot: Slot) -> None:
        """Forget the slot."""
        del self.members[slot.number]
        self.stack = None

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Put on the device what the steps will read, then take them."""
        slot = next(iter(self.members.values())).slot
        rows_of = minibatches(slot, order)
        if not rows_of:
            return
        stack = self._stacked()
        first = position * slot.steps_per_epoch + slot.taken
        stack.epoch.load(*self._tape(rows_of), *self._schedule(len(rows_of), first))
        stack.counts.copy_(torch.tensor([float(m.slot.step) for m in stack.members]))
        for _ in rows_of:
            stack.recorded(stack.step)
            for member in stack.members:
                member.slot.step += 1

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Return the logits of all slots, some rows at a time."""
        stack = self._stacked()
        return [member.slot for member in stack.members], stack.scores(self.x_valid)

    def keep_best(self, slot: Slot) -> None:
        """Copy the slot's weights."""
        member = self.members[slot.number]
        torch._foreach_copy_(member.best, member.params)

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Return the slot's weights, best weights and moments."""
        member = self.members[slot.number]
        weights = dict(zip(member.names, member.params, strict=True))
        best = {f"best.{n}": t for n, t in zip(member.names, member.best, strict=True)}
        return {**weights, **best, **member.optimizer.moments()}

    def best_head(self, slot: Slot) -> Head:
        """Return an `MLPHead` with the best weights."""
        member, config = self.members[slot.number], slot.config
        best = dict(zip(member.names, member.best, strict=True))
        return rebuild_head(config.head, self.inputs.shape(config), best)

    def _stacked(self) -> _Stack:
        """Return the stacks of the present members."""
        if self.stack is None:
            self.stack = _Stack(
                list(self.members.values()),
                self.steps_per_epoch,
                self.batch_size,
                self.x,
                self.inputs.targets,
                self.inputs.labelled,
                self.record,
            )
        return self.stack

    def _tape(self, rows_of: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return rows `(s, b)` of minibatches, all filled up to one size, and their weights."""
        size, n_labels = self.batch_size, self.inputs.targets.shape[1]
        filled = [torch.cat([rows, rows[:1].expand(size - len(rows))]) for rows in rows_of]
        lengths = torch.tensor([[len(rows)] for rows in rows_of])
        entries = lengths * n_labels
        if self.labelled_in_row is not None:
            known = [int(self.labelled_in_row[rows].sum()) for rows in rows_of]
            entries = torch.tensor(known).clamp_min(1).unsqueeze(1)
        return torch.stack(filled), (torch.arange(size) < lengths) / entries

    def _schedule(self, steps: int, tape_step: int) -> tuple[Tensor, Tensor]:
        """Return learning rates `(s, K)` and keys of the noise `(s, layers)`, int32."""
        stack = self._stacked()
        slots = [member.slot for member in stack.members]
        rates = [
            [learning_rate(s.config.training, s.step + i, s.steps_per_epoch) for s in slots]
            for i in range(steps)
        ]
        depths = range(len(stack.layers.hidden))
        keys = [
            [signed(minibatch_key(self.key.seed, tape_step + i, layer)) for layer in depths]
            for i in range(steps)
        ]
        return torch.tensor(rates), torch.tensor(keys, dtype=torch.int32)


def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """Return the streams of updates; none on a CPU."""
    if device.type != "cuda":
        return []
    return [torch.cuda.Stream(device) for _ in range(N_STREAMS)]  # type: ignore[no-untyped-call]


def _by_kind(losses: Sequence[LossSettings]) -> list[tuple[Tensor, LossSettings]]:
    """Return for every loss kind, the slots that have it, and their settings stacked."""
    device = losses[0].pos_weight.device
    places: dict[str, list[int]] = {}
    for place, settings in enumerate(losses):
        places.setdefault(settings.kind, []).append(place)
    return [
        (torch.tensor(slots, device=device), stack_settings([losses[i] for i in slots]))
        for slots in places.values()
    ]
