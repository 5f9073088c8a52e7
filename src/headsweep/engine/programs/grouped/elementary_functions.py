# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Elementary functions of kernels that stay accurate where the plain formula cancels."""

import triton
import triton.language as tl


@triton.jit
def sigmoids(z):
    """Return sigmoid(z), sigmoid(-z) and log(sigmoid(z)), each to full relative accuracy."""
    t = tl.exp(-tl.abs(z))
    p = tl.where(z >= 0, 1.0, t) / (1.0 + t)
    q = tl.where(z >= 0, t, 1.0) / (1.0 + t)
    return p, q, tl.where(z < 0, z, 0.0) - log1p(t)


@triton.jit
def log1p(t):
    """Return log(1 + t) for -1 < t <= 1 without losing a small t (Kahan)."""
    u = 1.0 + t
    d = u - 1.0
    return tl.where(d == 0, t, tl.log(u) * (t / tl.where(d == 0, 1.0, d)))


@triton.jit
def power(x, exponent):
    """Return `x ** exponent` for x in [0, 1] and an exponent of at least -1."""
    result = tl.exp(exponent * tl.log(tl.maximum(x, 1e-37)))
    at_zero = tl.where(exponent > 0, 0.0, result)
    return tl.where(exponent == 0, 1.0, tl.where(x <= 0, at_zero, result))


@triton.jit
def tanh(y):
    """Return the hyperbolic tangent, by a series where the exponential form would cancel."""
    t = tl.exp(-2.0 * tl.abs(y))
    large = tl.where(y >= 0, 1.0, -1.0) * (1.0 - t) / (1.0 + t)
    s = y * y
    small = y * (1.0 + s * (-0.3333333333 + s * (0.1333333333 - s * 0.05396825397)))
    return tl.where(tl.abs(y) < 0.2, small, large)
