"""Nearest rows of a gallery by cosine similarity, and the labels they vote for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

QUERY_ROWS = 256
"""Rows compared with the gallery at once: bounds memory at `QUERY_ROWS × gallery` floats."""

BLOCK = 8
"""Columns that are searched by their largest value first."""


def neighbour_probabilities(
    queries: Tensor, gallery: Tensor, targets: Tensor, *, neighbours: int, temperature: float
) -> Tensor:
    """Similarity-weighted labels of the nearest gallery rows (weighted k-NN of Wu et al. 2018).

    Args:
        queries: unit vectors `(n, e)`.
        gallery: unit vectors `(m, e)`.
        targets: labels `(m, c)` of the gallery; a row whose label is NaN does not vote for it.
        neighbours: how many of the nearest rows vote; at most `m` do.
        temperature: of the softmax over the neighbours' cosine similarities.

    Returns:
        Probabilities `(n, c)`; the label's share of the gallery where no neighbour votes.
    """
    queries, k = queries.detach(), min(neighbours, len(gallery))
    # In float64, so that rows whose neighbours all agree tie exactly at 0 or 1 in float32;
    # otherwise their order, and so their average precision, would be rounding noise.
    votes = targets.double()
    n_labels = votes.shape[1]
    known = ~votes.isnan()
    masked = not bool(known.all())
    if masked:  # votes, then voters
        share = votes.nansum(dim=0) / known.sum(dim=0).clamp_min(1)
        votes = torch.cat([votes.nan_to_num(), known.double()], dim=1)
    compared = queries.new_empty(min(QUERY_ROWS, len(queries)), len(gallery))
    scores = []
    for rows in torch.split(queries, QUERY_ROWS):
        similarity, nearest = largest(torch.mm(rows, gallery.T, out=compared[: len(rows)]), k)
        weights = torch.softmax(similarity.double() / temperature, dim=1)
        sums = embedding_bag(nearest, votes, per_sample_weights=weights, mode="sum")
        if masked:
            voters = sums[:, n_labels:]
            sums = torch.where(voters > 0, sums[:, :n_labels] / voters, share)
        scores.append(sums.float())
    return torch.cat(scores)


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest values of each row, in no order, and their columns, `(n, k)` both.

    On a CPU a row is first searched by the maxima of blocks: the `k` blocks with the largest ones
    hold what is looked for, and NumPy selects them with vector instructions. Among equal values
    those of any columns are taken.
    """
    blocks = values.shape[1] // BLOCK
    if values.device.type != "cpu" or blocks < 2 * k:
        return torch.topk(values, k, dim=1)
    whole = blocks * BLOCK
    # A block's members lie `blocks` columns apart, so that maxima are taken of whole vectors.
    maxima = values[:, :whole].view(-1, BLOCK, blocks).amax(dim=1)
    if not (maxima.sum() + values[:, whole:].sum()).isfinite():
        return torch.topk(values, k, dim=1)
    members = _largest_columns(maxima, k).unsqueeze(1) + torch.arange(0, whole, blocks).view(-1, 1)
    rest = torch.arange(whole, values.shape[1]).expand(len(values), -1)
    columns = torch.cat([members.flatten(1), rest], dim=1)
    candidates = values.gather(1, columns)
    chosen = _largest_columns(candidates, k)
    return candidates.gather(1, chosen), columns.gather(1, chosen)


def _largest_columns(values: Tensor, k: int) -> Tensor:
    """Return the columns `(n, k)`, ascending, of the `k` largest finite values of each row."""
    rows = values.numpy()
    n, m = rows.shape
    smallest = np.partition(rows, m - k, axis=1)[:, m - k, None]
    places = np.flatnonzero(rows >= smallest)
    if len(places) > n * k:  # ties with the smallest one: the first columns are taken
        above, tied = rows > smallest, rows == smallest
        room = k - above.sum(axis=1, keepdims=True)
        places = np.flatnonzero(above | (tied & (tied.cumsum(axis=1) <= room)))
    return torch.from_numpy(places.reshape(n, k) % m)
