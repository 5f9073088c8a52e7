"""Four ways to train heads on frozen features: headsweep's engine and three others.

(a) headsweep's engine; (b) one head at a time in a PyTorch loop as a good engineer writes it:
tensors in memory, fused AdamW, scikit-learn's metrics each epoch; (c) dinov2's way: many heads in
one ModuleDict on shared batches, losses summed, metrics head by head; (d) a static stack of equal
heads with a barrier (HFTA's way).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from headsweep.config.head_section import MLPConfig, RetrievalConfig
from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.engine import Engine
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.losses import loss, loss_settings
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.timings import Usage
from headsweep.heads.base import Head, LabelHead, join_views
from headsweep.heads.registry import build_head
from headsweep.heads.retrieval import RetrievalHead
from headsweep.settings import EngineSettings

Way = Callable[[Sequence[Config], Split, Split, torch.device, int], list[float]]
"""Configs, splits, device and slots to the best validation AUPRC of every config."""


def search_by_engine(
    configs: Sequence[Config], train: Split, valid: Split, device: torch.device, slots: int
) -> tuple[list[float], Usage]:
    """Train all configs as a worker does, refilling slots as they become free.

    Returns:
        The best validation AUPRC of each config, and the engine's counters.
    """
    engine = Engine(train, valid, EngineSettings(device=str(device), slots=slots))
    waiting, best = list(enumerate(configs))[::-1], [0.0] * len(configs)
    index_of: dict[int, int] = {}
    while waiting or index_of:
        while waiting and engine.free:
            index, config = waiting.pop()
            index_of[engine.replay(config).slot] = index
        for report in engine.run_epoch():
            best[index_of[report.slot]] = report.best_value
            if report.finished:
                del index_of[report.slot]
                engine.evict(report.slot)
    return best, engine.usage


def by_engine(
    configs: Sequence[Config], train: Split, valid: Split, device: torch.device, slots: int
) -> list[float]:
    """Return the results of (a) headsweep, used as a search uses it."""
    return search_by_engine(configs, train, valid, device, slots)[0]


def one_at_a_time(
    configs: Sequence[Config], train: Split, valid: Split, device: torch.device, slots: int
) -> list[float]:
    """Return the results of (b): a plain loop for each config."""
    inputs = Inputs(train, valid, device)
    return [train_one(config, inputs) for config in configs]


def summed_losses(
    configs: Sequence[Config], train: Split, valid: Split, device: torch.device, slots: int
) -> list[float]:
    """Return the results of (c): one ModuleDict per batch size and input, summed losses."""
    inputs = Inputs(train, valid, device)
    best = dict.fromkeys(range(len(configs)), 0.0)
    for members in _fusable(configs):
        for chunk in _chunks(members, slots):
            for i, value in zip(
                chunk, _train_summed([configs[i] for i in chunk], inputs), strict=True
            ):
                best[i] = value
    return [best[i] for i in range(len(configs))]


def static_stack(
    configs: Sequence[Config], train: Split, valid: Split, device: torch.device, slots: int
) -> list[float]:
    """Return the results of (d): stacks of heads of one shape, trained until the last ends."""
    inputs = Inputs(train, valid, device)
    best = dict.fromkeys(range(len(configs)), 0.0)
    shapes: dict[object, list[int]] = defaultdict(list)
    for members in _fusable(configs):
        for i in members:
            shapes[(members[0], _layer_shape(configs[i]))].append(i)
    for members in shapes.values():
        for chunk in _chunks(members, slots):
            for i, value in zip(
                chunk, _train_stack([configs[i] for i in chunk], inputs), strict=True
            ):
                best[i] = value
    return [best[i] for i in range(len(configs))]


def _chunks(members: Sequence[int], size: int) -> list[list[int]]:
    return [list(members[i : i + size]) for i in range(0, len(members), size)]


def _fusable(configs: Sequence[Config]) -> list[list[int]]:
    groups: dict[object, list[int]] = defaultdict(list)
    for i, config in enumerate(configs):
        groups[(config.training.batch_size, config.features, config.training.optimizer)].append(i)
    return list(groups.values())


def _layer_shape(config: Config) -> object:
    head = config.head
    return (head.widths, head.activation, head.norm) if isinstance(head, MLPConfig) else ()


def _optimizer(groups: list[dict[str, object]], config: Config) -> torch.optim.Optimizer:
    t = config.training
    if t.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=t.momentum, fused=True)
    return torch.optim.AdamW(groups, betas=(t.beta1, t.beta2), fused=True)


def _group(params: object, config: Config) -> dict[str, object]:
    t = config.training
    return {"params": params, "lr": t.learning_rate, "weight_decay": t.weight_decay}


def _views(config: Config, inputs: Inputs, *, valid: bool) -> dict[str, Tensor]:
    widths = inputs.shape(config).widths
    return {m: inputs.view(m, config.features.normalization, valid=valid) for m in widths}


def _batches(n: int, batch_size: int, device: torch.device) -> list[Tensor]:
    batches = list(torch.randperm(n, device=device).split(batch_size))
    return batches if len(batches[-1]) > 1 else batches[:-1]


def _macro(inputs: Inputs, scores: Tensor) -> float:
    targets, values = inputs.valid_targets, scores.cpu().numpy()
    return float(
        np.mean(
            [average_precision_score(targets[:, j], values[:, j]) for j in range(targets.shape[1])]
        )
    )


def _head_loss(
    head: Head, batch: dict[str, Tensor], targets: Tensor, config: Config, pos_weight: Tensor
) -> Tensor:
    if isinstance(head, RetrievalHead):
        return _contrastive(head, batch, targets, config)
    assert isinstance(head, LabelHead)
    logits = head(join_views(batch, config.features.input))
    return loss(logits, targets, loss_settings(config.training, pos_weight)).mean()


def _contrastive(
    head: RetrievalHead, batch: dict[str, Tensor], targets: Tensor, config: Config
) -> Tensor:
    assert isinstance(config.head, RetrievalConfig)
    weight, temperature = config.head.label_weight, config.head.temperature
    unit = head.project(batch)
    pairs = unit["visual"] @ unit["text"].T / temperature
    truth = torch.arange(len(pairs), device=pairs.device)
    cross_entropy = nn.functional.cross_entropy
    instance = (cross_entropy(pairs, truth) + cross_entropy(pairs.T, truth)) / 2
    embedding = nn.functional.normalize(join_views(unit, config.features.input), dim=1)
    diagonal = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    similarity = (embedding @ embedding.T / temperature).masked_fill(diagonal, -1e9)
    both = targets @ targets.T
    count = targets.sum(1)
    either = count[None] + count[:, None] - both
    overlap = (both / either.clamp_min(1)).masked_fill(diagonal, 0)
    affinity = overlap / overlap.sum(1, keepdim=True).clamp_min(1e-9)
    return (1 - weight) * instance + weight * cross_entropy(similarity, affinity)


def _validate(head: Head, config: Config, inputs: Inputs) -> float:
    head.eval()
    with torch.no_grad():
        if isinstance(head, RetrievalHead):
            scores = _votes(head, config, inputs)
        else:
            scores = head.probabilities(_views(config, inputs, valid=True))
    head.train()
    return _macro(inputs, scores)


def _votes(head: RetrievalHead, config: Config, inputs: Inputs) -> Tensor:
    """Return the labels of the nearest training rows, computed by plain PyTorch."""
    gallery = head.embed(_views(config, inputs, valid=False))
    queries = head.embed(_views(config, inputs, valid=True))
    votes = []
    for rows in queries.split(256):
        similarity, nearest = (rows @ gallery.T).topk(head.config.neighbours, dim=1)
        weights = torch.softmax(similarity / head.config.neighbour_temperature, dim=1)
        votes.append((weights.unsqueeze(1) @ inputs.targets[nearest]).squeeze(1))
    return torch.cat(votes)


def train_one(config: Config, inputs: Inputs) -> float:
    """Return the best validation AUPRC of one head in a plain loop."""
    return max(epochs_of_one(config, inputs))


def epochs_of_one(config: Config, inputs: Inputs) -> Iterator[float]:
    """Yield the validation AUPRC of every epoch of one head in a plain loop."""
    t = config.training
    head = build_head(config.head, inputs.shape(config), seed=t.seed).to(inputs.device)
    views = _views(config, inputs, valid=False)
    if isinstance(head, LabelHead):
        head.input, views = "visual", {"visual": join_views(views, config.features.input)}
        valid = join_views(_views(config, inputs, valid=True), config.features.input)
    optimizer = _optimizer([_group(head.parameters(), config)], config)
    step = 0
    for _ in range(t.max_epochs):
        batches = _batches(inputs.n_train, t.batch_size, inputs.device)
        for rows in batches:
            optimizer.param_groups[0]["lr"] = learning_rate(t, step, len(batches))
            batch = {m: view[rows] for m, view in views.items()}
            if isinstance(head, RetrievalHead):
                value = _contrastive(head, batch, inputs.targets[rows], config)
            else:
                settings = loss_settings(t, inputs.pos_weight)
                value = loss(head(batch["visual"]), inputs.targets[rows], settings).mean()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            step += 1
        if isinstance(head, RetrievalHead):
            yield _validate(head, config, inputs)
        else:
            head.eval()
            with torch.no_grad():
                reached = _macro(inputs, torch.sigmoid(head(valid)))
            head.train()
            yield reached


def _train_summed(configs: Sequence[Config], inputs: Inputs) -> list[float]:
    first = configs[0]
    heads = nn.ModuleDict(
        {
            str(k): build_head(c.head, inputs.shape(c), seed=c.training.seed)
            for k, c in enumerate(configs)
        }
    ).to(inputs.device)
    views = _views(first, inputs, valid=False)
    groups = [_group(heads[str(k)].parameters(), c) for k, c in enumerate(configs)]
    optimizer = _optimizer(groups, first)
    best, step = [0.0] * len(configs), 0
    for _ in range(first.training.max_epochs):
        batches = _batches(inputs.n_train, first.training.batch_size, inputs.device)
        for rows in batches:
            batch = {m: view[rows] for m, view in views.items()}
            targets = inputs.targets[rows]
            for group, config in zip(optimizer.param_groups, configs, strict=True):
                group["lr"] = learning_rate(config.training, step, len(batches))
            losses = [
                _head_loss(heads[str(k)], batch, targets, c, inputs.pos_weight)
                for k, c in enumerate(configs)
            ]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
            step += 1
        best = [
            max(value, _validate(heads[str(k)], c, inputs))
            for k, (value, c) in enumerate(zip(best, configs, strict=True))
        ]
    return best


def _train_stack(configs: Sequence[Config], inputs: Inputs) -> list[float]:
    """Return results with weights `(K, h_in, h_out)`, autograd and stacked AdamW."""
    first = configs[0]
    head = first.head
    if isinstance(head, RetrievalConfig):
        return _train_summed(configs, inputs)
    t = first.training
    x, x_valid = (inputs.matrix(Variant.of(first), valid=v) for v in (False, True))
    widths = head.widths if isinstance(head, MLPConfig) else ()
    sizes = list(itertools.pairwise([x.shape[1], *widths, inputs.targets.shape[1]]))
    k = len(configs)
    params = [
        p.to(x.device).requires_grad_()
        for a, b in sizes
        for p in (torch.randn(k, a, b) * a**-0.5, torch.zeros(k, 1, b))
    ]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    decay = torch.tensor([c.training.weight_decay for c in configs], device=x.device).view(k, 1, 1)
    dropout = [getattr(c.head, "dropout", 0.0) for c in configs]
    keep = 1 - torch.tensor(dropout, device=x.device).view(k, 1, 1)
    settings = [loss_settings(c.training, inputs.pos_weight) for c in configs]
    activation = getattr(nn.functional, getattr(head, "activation", "relu"))

    def forward(rows: Tensor, *, train: bool) -> Tensor:
        a = rows.expand(k, *rows.shape)
        for depth in range(len(sizes)):
            a = torch.baddbmm(params[2 * depth + 1], a, params[2 * depth])
            if depth < len(sizes) - 1:
                if getattr(head, "norm", "none") != "none":
                    a = nn.functional.layer_norm(a, a.shape[2:])
                a = activation(a)
                if train and max(dropout) > 0:
                    a = a * (torch.rand_like(a) < keep) / keep
        return a

    best, step = [0.0] * k, 0
    for _ in range(t.max_epochs):
        batches = _batches(inputs.n_train, t.batch_size, inputs.device)
        for rows in batches:
            targets = inputs.targets[rows]
            logits = forward(x[rows], train=True)
            total = torch.stack(
                [loss(logits[i], targets, s).mean() for i, s in enumerate(settings)]
            ).sum()
            grads = torch.autograd.grad(total, params)
            rate = torch.tensor(
                [learning_rate(c.training, step, len(batches)) for c in configs], device=x.device
            ).view(k, 1, 1)
            step += 1
            with torch.no_grad():
                for p, g, (m, v) in zip(params, grads, moments, strict=True):
                    m.lerp_(g, 0.1)
                    v.mul_(0.999).addcmul_(g, g, value=0.001)
                    p.mul_(1 - rate * decay)
                    update = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt_() + 1e-8)
                    p.sub_(rate * update)
        with torch.no_grad():
            scores = torch.sigmoid(forward(x_valid, train=False))
        best = [max(value, _macro(inputs, scores[i])) for i, value in enumerate(best)]
    return best


WAYS: dict[str, Way] = {
    "headsweep": by_engine,
    "one at a time": one_at_a_time,
    "summed losses (dinov2)": summed_losses,
    "static stack (HFTA)": static_stack,
}
