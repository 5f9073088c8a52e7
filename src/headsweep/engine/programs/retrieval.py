"""Retrieval heads: projections trained by contrastive losses, with a hand-written backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from headsweep.config.head_section import RetrievalConfig
from headsweep.config.inputs import JOINER, Modality
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.programs.base import GroupKey
from headsweep.engine.programs.per_slot import SingleTrainer, SlotwiseProgram
from headsweep.engine.slots import Slot
from headsweep.engine.tape import permutation
from headsweep.heads.base import Head
from headsweep.heads.retrieval import RetrievalHead
from headsweep.metrics.retrieval import instance_ranks, recall_at

SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class RetrievalBatch:
    """A minibatch of pairs.

    Attributes:
        views: features `(b, d)` by variant.
        same: `(b, b)`, whether two different rows show one scan or share one report: such pairs
            are neither positives nor negatives of the instance loss. None where it is known that
            there is no such pair.
        affinity: `(b, b)`, Jaccard overlap of the label sets with each row summing to one; the
            diagonal is zero. Rows that are not comparable with any other one are zero.
        comparable: `(b, b)`, whether two different rows have a label that is known of both; other
            pairs are left out of the label loss. None where no label is blank.
    """

    views: Mapping[Variant, Tensor]
    same: Tensor | None
    affinity: Tensor
    comparable: Tensor | None = None


class RetrievalTrainer(SingleTrainer[RetrievalBatch]):
    """One retrieval head: (1 - w) · InfoNCE between the views + w · label loss."""

    def __init__(self, slot: Slot, inputs: Inputs) -> None:
        super().__init__(slot, inputs)
        assert isinstance(self.head, RetrievalHead)
        assert isinstance(slot.config.head, RetrievalConfig)
        self.retrieval = self.head
        self.config = slot.config.head
        self.modalities: tuple[Modality, ...] = tuple(self.head.sides)
        self.variants: dict[Modality, Variant] = {
            modality: Variant(JOINER.join(names), self.variant.normalization)
            for modality, names in self.head.sides.items()
        }
        self.train_views = {m: inputs.matrix(v, valid=False) for m, v in self.variants.items()}
        self.valid_views = {m: inputs.matrix(v, valid=True) for m, v in self.variants.items()}
        rows = self.config.gallery_rows
        self.gallery_rows: Tensor | None = None
        if rows is not None and rows < inputs.n_train:
            order = permutation(slot.config.training.seed, 0, inputs.n_train)
            self.gallery_rows = order[:rows].sort().values.to(inputs.device)

    @staticmethod
    def first_layers(head: Head) -> Sequence[nn.Parameter]:
        """Return the projections."""
        return list(head.parameters())

    def compute_gradients(self, batch: RetrievalBatch) -> None:
        """Gradients of the projections from those of the unit embeddings."""
        views = {m: batch.views[variant] for m, variant in self.variants.items()}
        raw = {
            modality: views[modality] @ weight.T
            for modality, weight in zip(self.modalities, self.params, strict=True)
        }
        inverse = {
            m: z.norm(dim=1, keepdim=True).clamp_min_(SMALLEST_NORM).reciprocal_()
            for m, z in raw.items()
        }
        unit = {m: raw[m].mul_(inverse[m]) for m in self.modalities}
        unit_grads = {m: torch.zeros_like(z) for m, z in unit.items()}
        if self.config.label_weight < 1:
            self._add_instance_gradient(unit, unit_grads, batch)
        if self.config.label_weight > 0:
            self._add_label_gradient(unit, unit_grads, batch)
        for modality, grad in zip(self.modalities, self.grads, strict=True):
            torch.mm(
                _through_unit_length_(unit_grads[modality], unit[modality], inverse[modality]).T,
                views[modality],
                out=grad,
            )

    def validate(self) -> Tensor:
        """Return label probabilities `(n_valid, c)` from the nearest training rows."""
        self._fill_gallery(self.retrieval)
        return self.retrieval.probabilities_of(self.valid_views)

    def recall_at_10(self, *, best: bool) -> float:
        """Return the share of validation scans whose own report is among the first 10."""
        weights = self.best if best else self.head.state_dict()
        visual, text = (
            functional.normalize(self.valid_views[m] @ weights[f"projections.{m}.weight"].T, dim=1)
            .cpu()
            .numpy()
            for m in ("visual", "text")
        )
        valid = self.inputs.valid
        return recall_at(instance_ranks(visual, text, valid.scans, valid.reports), 10)

    def weights(self) -> dict[str, Tensor]:
        """Return the projections; the gallery follows from them."""
        return {name: tensor.detach() for name, tensor in self.head.named_parameters()}

    def best_head(self) -> Head:
        """Return a retrieval head with the best projections and their gallery."""
        head = super().best_head()
        assert isinstance(head, RetrievalHead)
        head.to(self.inputs.device)
        self._fill_gallery(head)
        return head.cpu()

    def _fill_gallery(self, head: RetrievalHead) -> None:
        rows = self.gallery_rows
        views = {m: view if rows is None else view[rows] for m, view in self.train_views.items()}
        targets = self.inputs.targets
        if self.inputs.labelled is not None:
            targets = targets.masked_fill(self.inputs.labelled == 0, torch.nan)
        head.set_gallery(views, targets if rows is None else targets[rows])

    def _add_instance_gradient(
        self, unit: Mapping[Modality, Tensor], grads: dict[Modality, Tensor], batch: RetrievalBatch
    ) -> None:
        """Symmetric InfoNCE (van den Oord et al. 2018, as in CLIP) between the two views."""
        first, second = self.modalities
        similarity = _product(unit[first], unit[second].T, scale=1 / self.config.temperature)
        if batch.same is not None:
            similarity.masked_fill_(batch.same, -torch.inf)
        error = torch.softmax(similarity, dim=1).add_(torch.softmax(similarity, dim=0))
        error.diagonal().sub_(2)
        weight = (1 - self.config.label_weight) / (2 * len(error) * self.config.temperature)
        grads[first].addmm_(error, unit[second], alpha=weight)
        grads[second].addmm_(error.T, unit[first], alpha=weight)

    def _add_label_gradient(
        self, unit: Mapping[Modality, Tensor], grads: dict[Modality, Tensor], batch: RetrievalBatch
    ) -> None:
        """Soft supervised contrast on the embedding by which neighbours are found.

        Supervised contrast (Khosla et al. 2020) with label overlap as the target distribution.
        """
        chosen = self.retrieval.embedded
        # An embedding is its views side by side, brought to unit length: products of embeddings
        # are the means of those of the views.
        scale = 1 / (len(chosen) * self.config.temperature)
        first, *others = [unit[m] for m in chosen]
        similarity = _product(first, first.T, scale=scale)
        for view in others:
            similarity.addmm_(view, view.T, alpha=scale)
        similarity.fill_diagonal_(-torch.inf)
        if batch.comparable is not None:
            similarity.masked_fill_(~batch.comparable, -torch.inf)
        error = torch.softmax(similarity, dim=1).sub_(batch.affinity)
        alpha = self.config.label_weight * scale / len(error)
        if batch.comparable is not None:  # a row without comparable ones has no softmax
            error.masked_fill_(~batch.comparable, 0)
            error.mul_(len(error) / batch.comparable.any(dim=1).sum().clamp_min_(1))
        error = error + error.T
        for modality in chosen:
            grads[modality].addmm_(error, unit[modality], alpha=alpha)


class RetrievalProgram(SlotwiseProgram[RetrievalBatch, RetrievalTrainer]):
    """Slots of any input, width and temperature on one tape."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        split = inputs.train
        repeated = [keys for keys in (split.scans, split.reports) if keys and not _distinct(keys)]
        self.repeated = [_integer_keys(keys, inputs.device) for keys in repeated]
        """Numbers of scans and reports, if any of them has more than one row."""

    def trainer(self, slot: Slot) -> RetrievalTrainer:
        """Return a retrieval trainer."""
        return RetrievalTrainer(slot, self.inputs)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the scores, which are already probabilities: a retrieval head has no logits."""
        return scores

    def recall_at_10(self, slot: Slot, *, best: bool) -> float:
        """Return the recall@10 of the slot's present or best projections."""
        return self.members[slot.number].recall_at_10(best=best)

    def prepare_batch(
        self, rows: Tensor, tape_step: int, members: Sequence[RetrievalTrainer]
    ) -> RetrievalBatch:
        """Gather both views, and compare the rows' scans, reports and labels.

        Returns:
            The minibatch.
        """
        views = {
            member.variants[modality]: view
            for member in members
            for modality, view in member.train_views.items()
        }
        targets, comparable = self.inputs.targets.index_select(0, rows), None
        if self.inputs.labelled is None:
            affinity = label_affinity(targets)
        else:
            known = self.inputs.labelled.index_select(0, rows)
            affinity, comparable = masked_affinity(targets, known)
        return RetrievalBatch(
            views={name: view.index_select(0, rows) for name, view in views.items()},
            same=self._same(rows),
            affinity=affinity,
            comparable=comparable,
        )

    def _same(self, rows: Tensor) -> Tensor | None:
        """Return which pairs are neither positives nor negatives; see `RetrievalBatch`."""
        if not self.repeated:
            return None
        pairs = [
            keys.unsqueeze(0) == keys.unsqueeze(1) for keys in (k[rows] for k in self.repeated)
        ]
        same = torch.stack(pairs).any(dim=0).fill_diagonal_(False)
        if same.device.type == "cuda":
            return same  # masking nothing is cheaper there than asking whether there is a pair
        return same if same.any() else None


def label_affinity(targets: Tensor) -> Tensor:
    """Return Jaccard overlaps `(b, b)` of label sets `(b, c)`: no diagonal, rows sum to one.

    Two rows without any label agree fully; a row that shares no label with any other one is
    spread evenly.
    """
    # "No label" counts as one more label, so such rows agree and no union is empty.
    bare = ~targets.bool().any(dim=1, keepdim=True)
    labels = torch.cat([targets, bare], dim=1)
    count = labels.sum(dim=1)
    both = labels @ labels.T
    overlap = both.div_(count.unsqueeze(0) + count.unsqueeze(1) - both).fill_diagonal_(0)
    alone = overlap.sum(dim=1, keepdim=True) == 0
    overlap.add_(alone).fill_diagonal_(0)
    return overlap.div_(overlap.sum(dim=1, keepdim=True).clamp_min_(SMALLEST_NORM))


def masked_affinity(targets: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """Return `label_affinity` over the labels that are known of both rows, and comparable pairs.

    Args:
        targets: `(b, c)`, 0 where a label is blank.
        labelled: `(b, c)`, 1 where a label is known, else 0.

    Returns:
        Affinities `(b, b)`, and whether two different rows have a label that is known of both.
        Rows without a comparable one have no affinity.
    """
    comparable = (labelled @ labelled.T > 0).fill_diagonal_(False)
    both = targets @ targets.T
    present = targets @ labelled.T  # labels of the row, among those known of the other
    either = present + present.T - both
    overlap = torch.where(either > 0, both / either.clamp_min(1), 1.0) * comparable
    alone = overlap.sum(dim=1, keepdim=True) == 0
    overlap = overlap + alone * comparable
    return overlap.div_(overlap.sum(dim=1, keepdim=True).clamp_min_(SMALLEST_NORM)), comparable


def _product(a: Tensor, b: Tensor, *, scale: float) -> Tensor:
    """Return `scale * a @ b`, scaled within the product."""
    return torch.addmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _through_unit_length_(grad: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Convert the gradient by z / |z| to that by z, in place.

    Returns:
        The gradient.
    """
    along = torch.linalg.vecdot(grad, unit).unsqueeze(1)
    return grad.addcmul_(unit, along, value=-1).mul_(inverse)


def _distinct(keys: tuple[str, ...]) -> bool:
    return len(set(keys)) == len(keys)


def _integer_keys(keys: tuple[str, ...], device: torch.device) -> Tensor:
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], device=device)
