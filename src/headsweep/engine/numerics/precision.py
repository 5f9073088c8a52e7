"""Matrix products whose inputs are rounded: `training.precision`.

Weights, moments, sums and everything elementwise stay float32, and so does validation; only the
factors of products in training are rounded, to the format of the tensor cores of a GPU. Without
tensor cores they are rounded in software, so that the effect on a metric can be seen without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from headsweep.config.training_section import Precision

aten = torch.ops.aten

FIRST_FACTOR = {
    aten.mm.default: 0,
    aten.mm.out: 0,
    aten.bmm.default: 0,
    aten.bmm.out: 0,
    aten.addmm.default: 1,
    aten.addmm.out: 1,
    aten.addmm_.default: 1,
}
"""The products that programs use, and which of their arguments is the first factor."""


@contextmanager
def rounded_products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Round the factors of products in the context; sums are float32 everywhere."""
    if precision == "float32":
        yield
    elif device.type == "cuda":
        matmul = torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, True
        try:
            # Every bf16 number is a tf32 number too, so rounded factors are not changed.
            with _Rounding(to_bf16) if precision == "bf16" else nullcontext():
                yield
        finally:
            matmul.allow_tf32 = before
    else:
        with _Rounding(to_bf16 if precision == "bf16" else to_tf32):
            yield


@contextmanager
def exact_products() -> Iterator[None]:
    """Round no factors in the context, even inside `rounded_products`."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, _Rounding.paused
    matmul.allow_tf32, _Rounding.paused = False, True
    try:
        yield
    finally:
        matmul.allow_tf32, _Rounding.paused = before


def to_bf16(x: Tensor) -> Tensor:
    """Return float32 numbers rounded to 8 significant bits, ties to even."""
    return x.bfloat16().float()


def to_tf32(x: Tensor) -> Tensor:
    """Return float32 numbers rounded to 11 significant bits, ties away from zero."""
    bits = (x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return torch.where(x.isfinite(), bits.view(torch.float32), x)


class _Rounding(TorchDispatchMode):
    """Rounds the factors of every product, except while it is paused."""

    paused = False

    def __init__(self, rounded: Callable[[Tensor], Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounded = rounded

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in FIRST_FACTOR and not _Rounding.paused:
            i = FIRST_FACTOR[func]
            factors = [self.rounded(factor) for factor in args[i : i + 2]]
            args = (*args[:i], *factors, *args[i + 2 :])
        return func(*args, **(kwargs or {}))
