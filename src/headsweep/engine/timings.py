"""Where an engine's time goes, and how many slots share its steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Usage:
    """Counters of one engine, since it was made.

    A slot-step is one optimiser step of one slot. A fused step is one minibatch that the slots of
    one group and one batch size take together: they share the gathered rows of each input variant,
    and what the program can share of products, losses and updates. On a CPU, programs work through
    many slots in portions that fit a cache. Groups train in turn, and so do the batch sizes of a
    group; `slot_steps / fused_steps` is the mean number of slots that share a step. A solver's
    only step counts as one.
    """

    training_s: float = 0.0
    """Seconds of optimiser steps and validation scores."""
    metrics_s: float = 0.0
    """Seconds of ranking validation scores."""
    fused_steps: int = 0
    slot_steps: int = 0
