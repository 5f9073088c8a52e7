"""The fields of a record, as constants that Triton kernels may read (see `records`)."""

import triton.language as tl

from headsweep.engine.programs.grouped import records

WEIGHT = tl.constexpr(records.WEIGHT)
BIAS = tl.constexpr(records.BIAS)
WIDTH_IN = tl.constexpr(records.WIDTH_IN)
UNITS_OUT = tl.constexpr(records.UNITS_OUT)
WIDTH_OUT = tl.constexpr(records.WIDTH_OUT)
INPUT = tl.constexpr(records.INPUT)
LINEAR = tl.constexpr(records.LINEAR)
OUTPUT = tl.constexpr(records.OUTPUT)
ERROR = tl.constexpr(records.ERROR)
INPUT_ERROR = tl.constexpr(records.INPUT_ERROR)
NORMED = tl.constexpr(records.NORMED)
RECIPROCAL = tl.constexpr(records.RECIPROCAL)
VECTOR_GRADIENT = tl.constexpr(records.VECTOR_GRADIENT)
SCALE = tl.constexpr(records.SCALE)
SHIFT = tl.constexpr(records.SHIFT)
ACTIVATION = tl.constexpr(records.ACTIVATION)
LAYER = tl.constexpr(records.LAYER)
SLOT = tl.constexpr(records.SLOT)
PARTIAL = tl.constexpr(records.PARTIAL)
VECTOR_PARTIAL = tl.constexpr(records.VECTOR_PARTIAL)
LENGTH = tl.constexpr(records.LENGTH)
