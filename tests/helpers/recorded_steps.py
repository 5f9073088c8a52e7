"""CUDA graphs without a GPU: kernels of a step are recorded, and run again on their tensors."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kernel = tuple[Callable[..., object], tuple[object, ...], dict[str, object], object]


class Recorder(TorchDispatchMode):
    """Records the kernels of a step and their tensors, as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default, "the step asks the device"
        assert func is not torch.ops.aten.nonzero.default, "a shape depends on values"
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.kernels.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Run the kernels again on the same tensors and write results into the same memory."""
        for func, args, kwargs, result in self.kernels:
            news = tree_leaves(func(*args, **kwargs))
            for new, kept in zip(news, tree_leaves(result), strict=True):
                if new is not None and new.data_ptr() != kept.data_ptr():
                    kept.copy_(new)


def record(step: Callable[[], None]) -> Callable[[], None]:
    """Take a step and return a function that replays its kernels."""
    with Recorder() as recorder:
        step()
    return recorder.replay
