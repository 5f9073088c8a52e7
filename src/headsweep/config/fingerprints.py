"""What fingerprints of a config, and comparisons of two configs, leave out.

A fingerprint must stay as it is when headsweep gets a new config key, so that studies and
leaderboards from before still verify: a key of `ADDED_KEYS` counts only where it differs from its
default.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

IRRELEVANT_SECTIONS = ("paths", "logging")
"""Sections that change no leaderboard number."""

IRRELEVANT_KEYS = ("training.resume",)
"""Keys of other sections that change no leaderboard number."""

ADDED_KEYS: Mapping[str, Any] = {
    "data.blank_labels": "refuse",
    "data.columns.patient": None,
    "data.columns.scan": None,
    "data.feature_key": None,
    "data.follow_links": False,
    "data.inputs": None,
    "data.label_maps": None,
    "data.shared_content": None,
    "data.zero_shot": None,
    "data.zero_shot_input": "visual",
    "features.partner": None,
    "training.metric": "auprc_macro",
    "head.init": "default",
    "training.adam_betas": None,
    "training.adam_epsilon": 1e-8,
    "training.early_stopping_metric": None,
    "training.early_stopping_start_epoch": 1,
    "training.early_stopping_window": 1,
    "training.folds": None,
    "training.one_cycle_rise": 0.3,
}
"""Default of every key that was added after the first leaderboards were written."""

HEADS_WITH_INIT = ("linear", "mlp")
"""Kinds of head whose `init` was added; in a head of another package the key is its own."""


WITHOUT_EFFECT: Mapping[str, Any] = {"data.shared_content": "refuse"}
"""Values that equal what headsweep did before there was the key, so they change no fingerprint."""


def without_irrelevant(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's plain data without what changes no leaderboard number."""
    relevant = copy.deepcopy({k: v for k, v in plain.items() if k not in IRRELEVANT_SECTIONS})
    for path in IRRELEVANT_KEYS:
        _drop(relevant, path)
    for path, value in WITHOUT_EFFECT.items():
        node, leaf = _parent(relevant, path)
        if node.get(leaf) == value:
            del node[leaf]
    return relevant


def without_added_defaults(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's plain data without the keys of `ADDED_KEYS` that have their default."""
    compact = copy.deepcopy(dict(plain))
    kind = compact.get("head", {}).get("kind")
    for path, default in ADDED_KEYS.items():
        if path == "head.init" and kind not in HEADS_WITH_INIT:
            continue
        node, leaf = _parent(compact, path)
        if node.get(leaf, default) == default:
            node.pop(leaf, None)
    return compact


def _drop(plain: dict[str, Any], path: str) -> None:
    node, leaf = _parent(plain, path)
    node.pop(leaf, None)


def _parent(plain: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds the leaf at a dotted path, and the leaf's key in it."""
    *sections, leaf = path.split(".")
    for name in sections:
        plain = plain.get(name, {})
    return plain, leaf
