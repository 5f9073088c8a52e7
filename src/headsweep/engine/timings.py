"""Where an engine's time goes, and how many slots share its steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Usage:
    """Counters of one engine, since it was made.

    A slot-step is one optimiser step of one slot. A fused step is what the slots of one group and
    one batch size do together on one minibatch: one gather of the rows for each input variant, one
    evaluation of losses and updates, and what products the program can share. Groups train in
    turn, and the batch sizes of a group do, so fused steps never overlap, and `slot_steps /
    fused_steps` is the mean number of slots that share a step. A solver's one step counts as one.
    """

    training_s: float = 0.0
    """Seconds of optimiser steps and validation scores."""
    metrics_s: float = 0.0
    """Seconds of ranking validation scores."""
    fused_steps: int = 0
    slot_steps: int = 0
