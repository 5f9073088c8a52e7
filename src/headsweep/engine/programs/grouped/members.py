"""A slot of a grouped program: the offsets of its parameters, and its records in the tables."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsweep.config.head_section import HeadConfig, LinearConfig, MLPConfig
from headsweep.config.schema import Config
from headsweep.engine.inputs import Variant
from headsweep.engine.programs.grouped.arena import WeightArena
from headsweep.engine.programs.grouped.records import (
    LOSSES,
    OPTIMIZERS,
    UNIT,
    Records,
    relative_records,
    units,
)
from headsweep.engine.slots import Slot
from headsweep.heads.base import HeadShape
from headsweep.heads.registry import build_head

NEVER = -1.0
"""A dropout that drops nothing."""


@dataclass(frozen=True)
class Member:
    """One slot, and its part of the weight arena.

    Attributes:
        slot: the trial's clock.
        variant: how it reads the features.
        batch_size: rows of its minibatches.
        widths: of the input, the hidden layers and the logits.
        names: of its parameters.
        shapes: of its parameters.
        starts: of its parameters in its part, in units.
        offset: of its part in the arena, in units.
        size: of its part, in units.
        hypers: the 16 numbers that kernels read.
        kinds: numbers of loss and optimizer, and whether gradients are clipped.
    """

    slot: Slot
    variant: Variant
    batch_size: int
    widths: tuple[int, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    offset: int
    size: int
    hypers: NDArray[np.float32]
    kinds: NDArray[np.int32]
    _records: dict[tuple[int, bool], tuple[Records, int]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.widths) - 2

    @property
    def normed(self) -> bool:
        """Whether the hidden layers are normalized."""
        head = self.slot.config.head
        return isinstance(head, MLPConfig) and head.norm == "layer"

    def views(self, arena: Tensor) -> list[Tensor]:
        """Return the parameters, or the numbers at their offsets in another tensor of the arena."""
        views = []
        for start, shape in zip(self.starts, self.shapes, strict=True):
            floats = _padded_size(shape)
            part = arena.narrow(0, (self.offset + start) * UNIT, floats)
            views.append(part.view(*shape[:-1], -1)[..., : shape[-1]])
        return views

    def records(self, rows: int, *, train: bool) -> tuple[Records, int]:
        """Return the slot's records for minibatches of `rows`, and the units of activations."""
        if (rows, train) not in self._records:
            self._records[rows, train] = self._new_records(rows, train=train)
        return self._records[rows, train]

    def _new_records(self, rows: int, *, train: bool) -> tuple[Records, int]:
        head = self.slot.config.head
        per_layer = 4 if self.normed else 2
        starts = [self.offset + start for start in self.starts]
        offsets = []
        for i in range(self.depth + 1):
            w, b, *norm = starts[i * per_layer : (i + 1) * per_layer]
            scale, shift = norm if norm else (-1, -1)
            offsets.append((w, b, scale, shift))
        return relative_records(
            self.widths,
            normed=self.normed,
            activation=head.activation if isinstance(head, MLPConfig) else "relu",
            offsets=offsets,
            rows=rows,
            train=train,
        )


class InitialWeights:
    """Initial weights by shape and seed, as `build_head` draws them.

    They depend on nothing else, so trials of one study share them. They are laid out as in the
    weight arena, in pinned memory where there is a GPU: admitting a slot is one copy.
    """

    def __init__(self, capacity_bytes: int = 2**30) -> None:
        self.capacity_bytes = capacity_bytes
        self._kept: OrderedDict[object, Tensor] = OrderedDict()
        self._bytes = 0

    def of(self, config: HeadConfig, shape: HeadShape, seed: int, *, pinned: bool) -> Tensor:
        """Return all parameters of a new head, one after another, rows padded with zeros."""
        key = (_drawn_from(config), shape.input_width, shape.n_labels, seed, pinned)
        if key not in self._kept:
            head = build_head(config, shape, seed=seed)
            flat = torch.cat([_padded(p.detach()) for p in head.parameters()])
            self._kept[key] = flat.pin_memory() if pinned else flat
            self._bytes += flat.nbytes
            while self._bytes > self.capacity_bytes and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
        self._kept.move_to_end(key)
        return self._kept[key]


INITIAL_WEIGHTS = InitialWeights()


def new_member(slot: Slot, shape: HeadShape, batch_size: int, arena: WeightArena) -> Member:
    """Return memory for a slot, filled with initial weights and zero moments."""
    config = slot.config
    pinned = arena.device.type == "cuda"
    flat = INITIAL_WEIGHTS.of(config.head, shape, config.training.seed, pinned=pinned)
    parameters = parameter_shapes(config.head, shape)
    sizes = [_padded_size(s) // UNIT for s in parameters.values()]
    *starts, size = accumulate(sizes, initial=0)
    offset = arena.allocate(size)
    arena.part(arena.weights, offset, size).copy_(flat, non_blocking=True)
    arena.part(arena.best, offset, size).copy_(arena.part(arena.weights, offset, size))
    for moments in (arena.firsts, arena.seconds):
        arena.part(moments, offset, size).zero_()
    hidden = config.head.widths if isinstance(config.head, MLPConfig) else ()
    return Member(
        slot=slot,
        variant=Variant.of(config),
        batch_size=batch_size,
        widths=(shape.input_width, *hidden, shape.n_labels),
        names=tuple(parameters),
        shapes=tuple(parameters.values()),
        starts=tuple(starts),
        offset=offset,
        size=size,
        hypers=_hypers(config),
        kinds=_kinds(config),
    )


def parameter_shapes(config: HeadConfig, shape: HeadShape) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a head's parameters, in the order of `head.parameters()`."""
    shapes: dict[str, tuple[int, ...]] = {}
    width, module = shape.input_width, 0
    if isinstance(config, MLPConfig):
        normed = config.norm == "layer"
        for units_out in config.widths:
            shapes[f"hidden.{module}.weight"] = (units_out, width)
            shapes[f"hidden.{module}.bias"] = (units_out,)
            if normed:
                shapes[f"hidden.{module + 1}.weight"] = (units_out,)
                shapes[f"hidden.{module + 1}.bias"] = (units_out,)
            module += 2 + normed + (config.dropout > 0)
            width = units_out
    return {**shapes, "output.weight": (shape.n_labels, width), "output.bias": (shape.n_labels,)}


def _hypers(config: Config) -> NDArray[np.float32]:
    """Return the numbers that kernels read by position."""
    t, head = config.training, config.head
    dropout = head.dropout if isinstance(head, MLPConfig) and head.dropout > 0 else NEVER
    beta1, beta2 = t.betas
    numbers = [
        *(beta1, 1 - beta1, beta2, 1 - beta2),
        *(t.momentum if t.optimizer == "sgd" else t.adam_epsilon, t.weight_decay),
        *(dropout, 1 / (1 - dropout) if dropout > 0 else 1.0),
        *(t.label_smoothing, t.focal_gamma, t.focal_alpha, t.asymmetric_gamma_neg),
        *(t.asymmetric_gamma_pos, t.asymmetric_clip, t.pos_weight_cap, t.clip_norm or 0.0),
    ]
    return np.array(numbers, np.float32)


def _kinds(config: Config) -> NDArray[np.int32]:
    t = config.training
    clips = int(t.clip_norm is not None)
    return np.array([LOSSES.index(t.loss), OPTIMIZERS.index(t.optimizer), clips, 0], np.int32)


def _drawn_from(config: HeadConfig) -> object:
    """Return the fields on which initial weights depend, without activation and dropout."""
    if isinstance(config, MLPConfig):
        return config.kind, config.init, config.widths, config.norm
    assert isinstance(config, LinearConfig)
    return config.kind, config.init


def _padded(parameter: Tensor) -> Tensor:
    """Return the parameter's numbers, each row padded with zeros."""
    width = parameter.shape[-1]
    return torch.nn.functional.pad(parameter, (0, units(width) * UNIT - width)).view(-1)


def _padded_size(shape: Sequence[int]) -> int:
    return math.prod(shape[:-1]) * units(shape[-1]) * UNIT
