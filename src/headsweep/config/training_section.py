"""The section `training` of the config: how a head is optimised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from headsweep.config.section import (
    Epochs,
    Fraction,
    Momentum,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Rows,
    Section,
    Seed,
)

Precision = Literal["float32", "tf32", "bf16"]
ObjectiveMetric = Literal[
    "auprc_macro", "auroc_macro", "auprc_skill", "balanced_accuracy", "recall_at_10"
]
MOST_FOLDS = 100


class ResumeConfig(Section):
    """Whether a single run goes on from a saved state."""

    enabled: bool = False
    """Continue from `state.safetensors` in `paths.checkpoint_dir`, if there is one."""
    state_path: str | None = None
    """State to continue from, or its folder, instead of the one in `paths.checkpoint_dir`."""


class FoldsConfig(Section):
    """Folds of a single run: those of the trial of a study with `objective.folds`."""

    count: Annotated[int, Field(ge=2, le=MOST_FOLDS)]
    """Number of folds, by patient."""
    seed: Seed = 42
    """Seed of the division into folds, which in a study is that of the study."""
    include_valid: bool = False
    """Whether the validation rows are divided into the folds too."""
    refit: bool = False
    """Whether the result is one head trained on the rows of all folds, instead of the mean of their
    heads."""


class TrainingConfig(Section):
    """Optimisation of one head."""

    optimizer: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    """`lbfgs` solves a linear head as logistic regression to convergence, in one epoch; its
    penalty is `weight_decay` (scikit-learn's C = 1 / (rows · weight_decay))."""
    learning_rate: PositiveFloat = 1e-3
    """Largest step size, reached at the end of the warm-up or of the rise of `one_cycle`."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay, decoupled in `adamw`; in `sgd` and `lbfgs` a penalty on squared weights."""
    beta1: Momentum = 0.9
    """Decay of AdamW's mean of the gradients."""
    beta2: Momentum = 0.999
    """Decay of AdamW's mean of the squared gradients."""
    adam_betas: tuple[Momentum, Momentum] | None = None
    """Both decays as a pair, instead of `beta1` and `beta2`; null takes these."""
    adam_epsilon: PositiveFloat = 1e-8
    """Number that AdamW adds to the root of the mean of the squared gradients."""
    momentum: Momentum = 0.9
    """Momentum of `sgd`."""
    batch_size: Rows = 256
    """Rows of a minibatch."""
    max_epochs: Epochs = 50
    """Epochs after which training ends at the latest."""
    metric: ObjectiveMetric = "auprc_macro"
    """Metric on valid, higher is better, that chooses the epoch whose weights are used.
    `auprc_skill` is the mean over labels of (AUPRC - prevalence) / (1 - prevalence),
    `balanced_accuracy` has thresholds chosen on valid itself, and `recall_at_10` is the share of
    scans whose report a retrieval head ranks among the first 10. In a study file write
    `objective.metric`."""
    early_stopping_patience: Epochs | None = 10
    """Epochs without a better value of `early_stopping_metric` after which training ends; null
    never stops early. The weights are always those of the epoch of the best `metric`."""
    early_stopping_metric: Literal["auprc_macro", "auroc_macro", "loss"] | None = None
    """Validation metric that early stopping watches; null is `metric`. Of `loss`, the mean
    cross-entropy of all rows and labels, lower is better."""
    early_stopping_window: Epochs = 1
    """Epochs over whose mean the metric is watched: a moving average of the last so many."""
    early_stopping_start_epoch: Epochs = 1
    """First epoch whose value counts as the best so far; the patience begins then."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    """Course of the learning rate, step by step. `constant` and `cosine` begin with the warm-up;
    `cosine` then falls to 0 at `max_epochs`. `one_cycle` rises along a cosine from 1/25 of
    `learning_rate` and falls to 1/250,000 at `max_epochs`, as PyTorch's `OneCycleLR`; momentum and
    betas stay constant."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs, or a fraction of one, over which the learning rate rises linearly from 0; without
    effect in `one_cycle`."""
    one_cycle_rise: Fraction = 0.3
    """Share of all steps over which `one_cycle` rises."""
    clip_norm: PositiveFloat | None = None
    """Largest Euclidean norm of a minibatch's gradient; null does not clip."""
    loss: Literal["bce", "weighted_bce", "focal", "asymmetric"] = "bce"
    """Loss of a label; `bce` is binary cross-entropy."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How far targets are moved from 0 and 1 towards 1/2."""
    pos_weight_cap: PositiveFloat = 10.0
    """Largest weight of positives in `weighted_bce`, which weights them by negatives over
    positives."""
    focal_gamma: NonNegativeFloat = 2.0
    """Exponent by which the focal loss plays down easy rows."""
    focal_alpha: Fraction = 0.25
    """Weight of positives in the focal loss; negatives have 1 - alpha."""
    asymmetric_gamma_neg: NonNegativeFloat = 4.0
    """Exponent of the asymmetric loss for negatives."""
    asymmetric_gamma_pos: NonNegativeFloat = 1.0
    """Exponent of the asymmetric loss for positives."""
    asymmetric_clip: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Probability that the asymmetric loss subtracts from negatives, down to 0."""
    precision: Precision = "float32"
    """To what the inputs of matrix products are rounded in training (see `engine.precision`)."""
    seed: Seed = 42
    """Seed of the initial weights, of the order of rows and of dropout."""
    tape_position: NonNegativeInt = 0
    """Epoch of the shared tape of permutations at which training enters (see `engine.tape`)."""
    target_labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Label columns to train, in this order; null takes CT-RATE's labels or, where a manifest has
    none of them, every column that holds 0 and 1."""
    folds: FoldsConfig | None = None
    """Folds of a cross-validated run, such as `{count: 5, seed: 42}`, with `include_valid` and
    `refit` as in `objective`; its value is that of the pooled out-of-fold predictions. null trains
    on train and measures on valid. In a study file write `objective.folds`."""
    resume: ResumeConfig = ResumeConfig()
    """Whether a single run goes on from a saved state."""

    @property
    def betas(self) -> tuple[float, float]:
        """Both decays of AdamW; `adam_betas` wins over `beta1` and `beta2`."""
        return self.adam_betas if self.adam_betas is not None else (self.beta1, self.beta2)
