"""Heads by name: the built-in ones, and other people's through an entry point group."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor, nn

from headsweep.config.head_section import (
    HEAD_ENTRY_POINTS,
    HeadConfig,
    Init,
    LinearConfig,
    MLPConfig,
)
from headsweep.errors import ConfigError
from headsweep.heads.base import Head, HeadShape
from headsweep.heads.linear import LinearHead
from headsweep.heads.mlp import MLPHead
from headsweep.heads.retrieval import RetrievalHead

BUILT_IN: dict[str, Any] = {"linear": LinearHead, "mlp": MLPHead, "retrieval": RetrievalHead}

NORMAL_STD = 0.01
"""Standard deviation of initial weights with `init: normal`."""


def build_head(config: HeadConfig, shape: HeadShape, *, seed: int) -> Head:
    """Return a new head on the CPU, its initial weights a function of config, shape and seed alone.

    Raises:
        ConfigError: no head of that kind is registered.
    """
    head_type = BUILT_IN.get(config.kind) or _plugin(config.kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head: Head = head_type(config, shape)
        if isinstance(config, LinearConfig | MLPConfig) and isinstance(head, LinearHead | MLPHead):
            _initialize(head.output, config.init)
    return head


def rebuild_head(config: HeadConfig, shape: HeadShape, tensors: Mapping[str, Tensor]) -> Head:
    """Return a head on the CPU that holds the tensors of an earlier head's `state_dict`.

    Raises:
        ConfigError: no head of that kind is registered.
    """
    head = build_head(config, shape, seed=0)
    if isinstance(head, RetrievalHead):  # its gallery has as many rows as it was trained on
        head.gallery, head.gallery_targets = tensors["gallery"], tensors["gallery_targets"]
    head.load_state_dict({name: tensor.cpu() for name, tensor in tensors.items()})
    return head


def _initialize(last: nn.Linear, init: Init) -> None:
    """Overwrite the last layer's initial weights as `head.init` says."""
    if init == "default":
        return
    nn.init.zeros_(last.bias)
    if init == "normal":
        nn.init.normal_(last.weight, std=NORMAL_STD)
    else:
        nn.init.zeros_(last.weight)


def _plugin(kind: str) -> Any:
    for entry in entry_points(group=HEAD_ENTRY_POINTS, name=kind):
        return entry.load()
    raise ConfigError(f"head.kind must name a registered head, found {kind!r}")
