"""The oracle: one head at a time, in plain PyTorch with autograd and `torch.optim`."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn import functional

from headsweep.config.head_section import MLPConfig, RetrievalConfig
from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.inputs import Inputs
from headsweep.engine.numerics.dropout_noise import uniforms
from headsweep.engine.numerics.losses import loss, loss_settings
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.programs.retrieval import label_affinity
from headsweep.engine.tape import batch_bounds, permutation
from headsweep.heads.base import Head, LabelHead, join_views
from headsweep.heads.registry import build_head
from headsweep.heads.retrieval import RetrievalHead
from headsweep.metrics.masking import BLANK


def train_plainly(config: Config, train: Split, valid: Split) -> tuple[list[float], Head]:
    """Validation macro AUPRC of every epoch, and the head after the last one."""
    training = config.training
    inputs = Inputs(train, valid, torch.device("cpu"))
    shape = inputs.shape(config)
    head = build_head(config.head, shape, seed=training.seed)
    views, valid_views = (
        {m: inputs.view(m, config.features.normalization, valid=v) for m in shape.widths}
        for v in (False, True)
    )
    targets = torch.tensor(train.targets, dtype=torch.float32)
    targets[targets == BLANK] = torch.nan
    pos_weight = weights_of_positives(targets)
    optimizer = _optimizer(head, config)
    batch_size = min(training.batch_size, inputs.n_train)
    bounds = batch_bounds(inputs.n_train, batch_size)
    values, step = [], 0
    for epoch in range(training.max_epochs):
        order = permutation(training.seed, training.tape_position + epoch, inputs.n_train)
        for i, (start, end) in enumerate(bounds):
            rows = order[start:end]
            tape_step = (training.tape_position + epoch) * len(bounds) + i
            batch = {m: view[rows] for m, view in views.items()}
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step, len(bounds))
            optimizer.zero_grad()
            _loss(head, batch, targets[rows], config, pos_weight, tape_step).backward()
            if training.clip_norm is not None:
                nn.utils.clip_grad_norm_(head.parameters(), training.clip_norm)
            optimizer.step()
            step += 1
        head.eval()
        with torch.no_grad():
            if isinstance(head, RetrievalHead):
                head.set_gallery(views, targets)
            logits = head.logits(valid_views)
            scores = (head.probabilities(valid_views) if logits is None else logits).numpy()
        values.append(macro_average_precision(valid.targets, scores))
    return values, head


def macro_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """scikit-learn's average precision, averaged over the labels that have both values."""
    by_label = []
    for label, score in zip(targets.T, scores.T, strict=True):
        known = label != BLANK
        if 0 < label[known].sum() < known.sum():
            by_label.append(average_precision_score(label[known], score[known]))
    return float(np.mean(by_label))


def weights_of_positives(targets: Tensor) -> Tensor:
    """Negatives over positives of every label, of the rows that are not NaN."""
    positives = (targets == 1).sum(dim=0)
    return torch.where(positives > 0, (targets == 0).sum(dim=0) / positives.clamp_min(1), 1.0)


def mean_loss(logits: Tensor, targets: Tensor, config: Config, pos_weight: Tensor) -> Tensor:
    """The mean over the entries that are not NaN; 0 without any."""
    known = ~targets.isnan()
    filled = targets.nan_to_num(0.5)
    losses = loss(logits, filled, loss_settings(config.training, pos_weight))
    return losses[known].mean() if known.any() else (logits * 0).sum()


def _optimizer(head: Head, config: Config) -> torch.optim.Optimizer:
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


def _loss(
    head: Head,
    batch: Mapping[str, Tensor],
    targets: Tensor,
    config: Config,
    pos_weight: Tensor,
    tape_step: int,
) -> Tensor:
    if isinstance(head, RetrievalHead):
        return _contrastive_loss(head, batch, targets, config)
    assert isinstance(head, LabelHead)
    x = join_views(batch, config.features.input)
    logits = _forward(head, x, config, tape_step)
    return mean_loss(logits, targets, config, pos_weight)


def _forward(head: LabelHead, x: Tensor, config: Config, tape_step: int) -> Tensor:
    """The head's own forward pass, with dropout layers drawing from the tape's noise."""
    head.train()
    if not isinstance(config.head, MLPConfig):
        return head(x)
    depth = 0
    for layer in head.hidden:
        if isinstance(layer, nn.Dropout):
            width = config.head.widths[depth - 1]
            noise = uniforms(config.training.seed, tape_step, depth - 1, len(x) * width, x.device)
            x = x * (noise.view(len(x), width) > layer.p) / (1 - layer.p)
        else:
            depth += isinstance(layer, nn.Linear)
            x = layer(x)
    return head.output(x)


def _masked_label_loss(similarity: Tensor, targets: Tensor) -> Tensor:
    """Row by row: cross-entropy with the overlaps of the labels that both rows know."""
    losses = []
    for i, mine in enumerate(targets):
        others, overlaps = [], []
        for j, theirs in enumerate(targets):
            known = ~(mine.isnan() | theirs.isnan())
            if i == j or not known.any():
                continue
            a, b = mine[known].bool(), theirs[known].bool()
            others.append(j)
            overlaps.append(float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0)
        if others:
            wanted = torch.tensor(overlaps) if sum(overlaps) else torch.ones(len(others))
            log_p = torch.log_softmax(similarity[i, others], dim=0)
            losses.append(-(wanted / wanted.sum() * log_p).sum())
    return torch.stack(losses).mean()


def _contrastive_loss(
    head: RetrievalHead, batch: Mapping[str, Tensor], targets: Tensor, config: Config
) -> Tensor:
    assert isinstance(config.head, RetrievalConfig)
    weight, temperature = config.head.label_weight, config.head.temperature
    unit = head.project(batch)
    pairs = unit["visual"] @ unit["text"].T / temperature
    truth = torch.arange(len(pairs))
    instance = (
        functional.cross_entropy(pairs, truth) + functional.cross_entropy(pairs.T, truth)
    ) / 2
    embedding = head.embed(batch)
    others = ~torch.eye(len(embedding), dtype=torch.bool)
    similarity = (embedding @ embedding.T / temperature).masked_fill(~others, -torch.inf)
    log_p = torch.log_softmax(similarity, dim=1)
    label = -(label_affinity(targets)[others] * log_p[others]).sum() / len(embedding)
    if targets.isnan().any():
        label = _masked_label_loss(embedding @ embedding.T / temperature, targets)
    return (1 - weight) * instance + weight * label
