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

from headsweep.engine.programs.grouped import elementwise_kernels as elementwise
from headsweep.engine.programs.grouped import product_kernels as products
from headsweep.engine.programs.grouped.program import GROUPED_PROGRAMS

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
        (elementwise.gather_kernel, {"ROWS": t.gather_rows, "COLUMNS": t.gather_columns}),
        (elementwise.activation_kernel, {"TRAIN": True, **norm}),
        (elementwise.activation_kernel, {"TRAIN": False, **norm}),
        (elementwise.activation_error_kernel, norm),
        (elementwise.loss_kernel, {"MASKED": False, **losses}),
        (elementwise.loss_kernel, {"MASKED": True, **losses}),
        (elementwise.scores_kernel, losses),
        (elementwise.vector_kernel, {"ROWS": t.vector_rows, **vectors}),
        (elementwise.clip_kernel, {"BLOCK": 1024}),
        (elementwise.clipped_vector_kernel, vectors),
        (elementwise.tick_kernel, {}),
    ):
        done.append(compile_kernel(kernel, constants, {}))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
