"""Where an engine's time goes, and how many slots share its steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Usage:
    """Counters of one engine, since it was made."""

    training_s: float = 0.0
    """Optimiser steps and validation scores."""
    metrics_s: float = 0.0
    """Ranking of validation scores."""
    fused_steps: int = 0
    """Steps of groups; one step trains every slot of its group."""
    slot_steps: int = 0
    """Steps of slots; divided by fused steps, the mean number of slots that share one."""
