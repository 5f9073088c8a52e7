"""Which storage of the inputs a gradient's product can read.

A slot's bits must not depend on its neighbours, so a BLAS must add up the rows of a minibatch in
one order, whatever the number of slots in the product. MKL was seen to do so if the inputs are
stored feature by feature and nothing is scaled inside the product. But that copy takes as long as
the products of a slot. Inputs stored row by row, as they are gathered, are read where they give
equal bits: on an AMD EPYC with AVX-512 for all widths from 30 on; elsewhere other bits were seen
from 16 slots, or from 1,024 rows, on.
"""

from __future__ import annotations

from functools import cache

import torch

from headsweep.config.training_section import Precision


def needs_features_first(n_outputs: int, length: int, width: int, precision: Precision) -> bool:
    """Return whether gradients have other bits if their inputs are stored row by row.

    Args:
        n_outputs: slots of the product times labels.
        length: rows of the minibatch, padding included.
        width: values of a row.
        precision: rounding of the factors, by which this function is called.
    """
    return _bits_differ(n_outputs, length, width, precision, torch.get_num_threads())


@cache
def _bits_differ(
    n_outputs: int, length: int, width: int, precision: Precision, n_threads: int
) -> bool:
    """Compute one product of random numbers both ways.

    If the order were another, about half of the sums would be rounded differently.

    Returns:
        Whether any bit differs.
    """
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(n_outputs, length, generator=generator).sub_(0.5)
    x = torch.rand(length, width, generator=generator).sub_(0.5)
    return not torch.mm(errors, x).equal(torch.mm(errors, x.T.contiguous().T))
