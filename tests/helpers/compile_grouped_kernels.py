# ruff: noqa: E402, PERF401
"""Compile every grouped kernel for an H100, without a GPU; prints what needs the stack."""

import json
import os
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import warnings

warnings.filterwarnings("ignore")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headsweep.engine.programs.grouped import product_kernels as products
from headsweep.engine.programs.grouped.activation_kernels import (
    activation_error_kernel,
    activation_kernel,
)
from headsweep.engine.programs.grouped.loss_kernels import loss_kernel
from headsweep.engine.programs.grouped.program import GROUPED_PROGRAMS
from headsweep.engine.programs.grouped.row_kernels import gather_kernel, scores_kernel, tick_kernel
from headsweep.engine.programs.grouped.vector_kernels import (
    clip_kernel,
    clipped_vector_kernel,
    vector_kernel,
)

TYPES = {
    **dict.fromkeys(("tiles", "kinds"), "*i32"),
    **dict.fromkeys(("maps", "clock", "order", "variants", "sums"), "*i64"),
    **dict.fromkeys(("rows", "row_tiles", "slots", "n_rows"), "i32"),
}


def compile_kernel(kernel: Any, constants: dict[str, object], options: dict[str, int]) -> str:
    """Compile one variant; returns its name."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else TYPES.get(n, "*fp32") for n in names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"]
    return f"{kernel.__name__} {constants.get('PRECISION', '')}".strip()


def main() -> None:
    """Compile all, and print their names as JSON."""
    done = []
    t = GROUPED_PROGRAMS["grouped_mlp"].tiles
    for precision in ("tf32x3", "tf32", "bf16"):
        precise = {"PRECISION": precision, "EMULATED": False}
        shape = {"ROWS": t.rows, "OUTPUTS": t.outputs, "DEPTH": t.depth}
        options = {"num_warps": t.warps, "num_stages": t.stages}
        for kernel in (products.product_kernel, products.input_error_kernel):
            done.append(compile_kernel(kernel, {**precise, **shape}, options))
        shape = {"UNITS": t.weight_rows, "COLUMNS": t.weight_columns, "DEPTH": t.update_depth}
        options = {"num_warps": t.update_warps, "num_stages": t.update_stages}
        if t.update_registers is not None:
            options["maxnreg"] = t.update_registers
        for kernel in (products.gradient_norm_kernel, products.update_kernel):
            done.append(compile_kernel(kernel, {**precise, **shape}, options))
    norm = {"ROWS": t.norm_rows, "COLUMNS": t.norm_columns}
    vectors = {"COLUMNS": t.vector_columns}
    losses = {"ROWS": t.loss_rows, "COLUMNS": t.loss_columns}
    for kernel, constants in (
        (gather_kernel, {"ROWS": t.gather_rows, "COLUMNS": t.gather_columns}),
        (activation_kernel, {"TRAIN": True, **norm}),
        (activation_kernel, {"TRAIN": False, **norm}),
        (activation_error_kernel, norm),
        (loss_kernel, {"MASKED": False, **losses}),
        (loss_kernel, {"MASKED": True, **losses}),
        (scores_kernel, losses),
        (vector_kernel, {"ROWS": t.vector_rows, **vectors}),
        (clip_kernel, {"BLOCK": 1024}),
        (clipped_vector_kernel, vectors),
        (tick_kernel, {}),
    ):
        done.append(compile_kernel(kernel, constants, {}))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
