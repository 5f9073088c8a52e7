"""How an engine's time is spent, and how many slots share its steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Usage:
    """Counters of one engine, since it was created.

    A slot-step is one optimizer step of one slot. A fused step is one minibatch that the slots of
    one group and one batch size take together: they share the gathered rows of each input variant,
    and the products, losses and updates that the program can compute together. On a CPU, programs
    compute many slots in portions that fit a cache. Groups are trained one after another, and so
    are the batch sizes of a group; `slot_steps / fused_steps` is the mean number of slots that
    share a step. A solver's only step counts as one.
    """

    training_s: float = 0.0
    """Seconds of optimizer steps and validation scores."""
    metrics_s: float = 0.0
    """Seconds of ranking validation scores."""
    fused_steps: int = 0
    slot_steps: int = 0
